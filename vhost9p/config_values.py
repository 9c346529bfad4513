"""How an option's value is written: text, numbers, sizes, modes, paths.

A parser takes what YAML or the command line has (text, a number, a truth value) and returns the
option's value. ValueError says what is wrong with it and what would be valid, as the end of a
sentence that begins with the value.
"""

import difflib
import errno
import grp
import os
import pwd
import re
from collections.abc import Callable, Iterable
from typing import Any

from vhost9p.native.export import META_DIR
from vhost9p.native.sys import name_error

Parser = Callable[[Any], Any]

TAG_SIZE_MAX = 254
"""Bytes: the frontend's configuration space has 256, two of which hold the length."""
NAME_SIZE_MAX = 255
"""Bytes of a file's or an attribute's name (path_resolution(7), xattr(7))."""
ID_MAX = 2**32 - 2
"""The last user or group id; 2^32-1 is none (chown(2))."""
CPUS_MAX = 1024
"""CPUs that a thread may be bound to (cpu_set_t of sched_setaffinity(2))."""
METADATA_DIR = os.fsdecode(META_DIR)
"""Where QEMU's model mapped-file keeps what it knows of a directory's files."""


def parse_text(value: Any) -> str:
    """Text that a file name can have, without control characters."""
    if not isinstance(value, str):
        raise ValueError("is no text in YAML; quote it if it is meant")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("has control characters in it")
    try:
        os.fsencode(value)
    except UnicodeError:
        raise ValueError("has a character that no file name can have") from None
    return value


def parse_choice(*choices: str, **others: str) -> Parser:
    """One of some words; `others` are read as what they stand for."""

    def parse(value: Any) -> str:
        if value not in choices and value not in others:
            raise ValueError(f"is not one of {', '.join(choices)}{guess(value, choices)}")
        return others.get(value, str(value))

    return parse


def guess(value: Any, choices: Iterable[str]) -> str:
    """The end of a message that says which of the choices may have been meant, if any."""
    found = closest(value, choices)
    return f"; did you mean {found!r}?" if found else ""


def closest(value: Any, choices: Iterable[str]) -> str:
    """The choice that is spelled most like a value; empty where none is."""
    return next(iter(difflib.get_close_matches(str(value), list(choices), 1)), "")


def parse_bool(value: Any) -> bool:
    """true or false."""
    if isinstance(value, str):
        raise ValueError("is text; true or false is expected, without quotes")
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def parse_true(value: Any) -> bool:
    """true: a key that says something by being there."""
    if parse_bool(value) is False:
        raise ValueError("says nothing; write true, or leave the key out")
    return True


def parse_switch(text: str) -> bool:
    """on or off, as options within an option have it."""
    for value, words in ((True, ("on", "yes", "true", "y")), (False, ("off", "no", "false", "n"))):
        if text in words:
            return value
    raise ValueError("is neither on nor off")


def split_commas(text: str, alone: str | None = None) -> list[tuple[str, str]]:
    """The keys and values of `key=value,key=value`; a doubled comma is one within a value. A key
    `alone` has that value. Raises ValueError."""
    parts = [""]
    for piece in re.findall(",,|,|[^,]+", text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += "," if piece == ",," else piece
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    found = []
    for part in parts:
        key, equals, value = part.partition("=")
        if not key or not (equals or alone):
            raise ValueError(f"has {part!r} in it, where key=value is expected")
        found.append((key, value if equals else str(alone)))
    return found


def parse_path(value: Any) -> str:
    """A path; relative to what, the caller knows."""
    if not parse_text(value):
        raise ValueError("is no path")
    return os.path.expanduser(str(value))


def parse_socket(value: Any) -> str:
    """A path that a socket can have."""
    path = parse_path(value)
    if path.endswith("/"):
        raise ValueError("is a folder's name; a socket's is expected")
    return path


def parse_tag(value: Any) -> str:
    """A mount tag."""
    if not 0 < len(os.fsencode(parse_text(value))) <= TAG_SIZE_MAX or "/" in value:
        raise ValueError(f"is no mount tag, which has 1 to {TAG_SIZE_MAX} bytes and no /")
    return str(value)


def parse_name(value: Any) -> str:
    """The name of a directory that an export appears as."""
    if name_error(os.fsencode(parse_text(value)), errno.EEXIST) or value == METADATA_DIR:
        raise ValueError(
            f"is no name for an export: one of a directory is expected, of 1 to {NAME_SIZE_MAX} "
            f"bytes without /, and not ., .. or {METADATA_DIR}"
        )
    return str(value)


def parse_prefix(low: int) -> Parser:
    """What names of attributes begin with."""

    def parse(value: Any) -> str:
        if not low <= len(os.fsencode(parse_text(value))) <= NAME_SIZE_MAX:
            raise ValueError(
                f"is no prefix of attributes' names, which has {low} to {NAME_SIZE_MAX} bytes"
            )
        return str(value)

    return parse


def parse_number(low: int, high: int) -> Parser:
    """A whole number."""

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"is no whole number from {low} to {high}")
        return value

    return parse


def parse_cpus(value: Any) -> tuple[int, ...]:
    """Numbers of CPUs, as taskset(1) takes them: 0,4-7."""
    numbers: set[int] = set()
    for part in str(value).split(","):
        match = re.fullmatch("([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if isinstance(value, bool) or not first <= last < CPUS_MAX:
            raise ValueError(
                f"is no list of CPUs; write it as 0,4-7, with numbers below {CPUS_MAX}"
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


_UNITS = {
    "": 1,
    **{unit: 1024**i for i, letter in enumerate("kmgt", 1) for unit in (letter, f"{letter}ib")},
}


def parse_size(low: int, high: int) -> Parser:
    """Bytes, with K, KiB, M, MiB, G, GiB, T or TiB behind them if so wished."""

    def parse(value: Any) -> int:
        match = re.fullmatch("([0-9]{1,18}) ?([a-z]*)", str(value).lower())
        size = int(match[1]) * _UNITS.get(match[2], -1) if match else -1
        if not low <= size <= high:
            raise ValueError(
                f"is no size from {low} to {high} bytes; write it as 512000, 512KiB or 1MiB"
            )
        return size

    return parse


def parse_mode(value: Any) -> int:
    """Permission bits, as text: in octal, and so that nobody can take them for decimal."""
    if not isinstance(value, str) or not re.fullmatch("0|0o?[0-7]{1,3}", value):
        raise ValueError("is no mode from 0 to 0777; write it in octal with a 0 in front, as 0640")
    return int(value.removeprefix("0o"), 8)


def _parse_id(noun: str, find: Callable[[str], int], names: Callable[[], Iterable[str]]) -> Parser:
    def parse(value: Any) -> int:
        if not isinstance(value, str) or not value:
            raise ValueError(f"is neither the name nor the number of a {noun}")
        if re.fullmatch("[0-9]+", value):
            return int(parse_number(0, ID_MAX)(value))
        try:
            return find(value)
        except KeyError:
            raise ValueError(f"is no {noun} of this host{guess(value, names())}") from None

    return parse


parse_user = _parse_id(
    "user", lambda name: pwd.getpwnam(name).pw_uid, lambda: (each[0] for each in pwd.getpwall())
)
"""A user of the host, by name or number."""
parse_group = _parse_id(
    "group", lambda name: grp.getgrnam(name).gr_gid, lambda: (each[0] for each in grp.getgrall())
)
"""A group of the host, by name or number."""
