"""Parsers of options' values: text, numbers, sizes, modes, paths.

A parser gets the value from YAML or the command line (text, a number, a boolean) and returns the
option's value. It raises ValueError with a text that says what is wrong and what would be valid.
The text continues a sentence that begins with the value: "'x' is neither on nor off". It also knows
how valid values are described, in words and as JSON Schema, from which the reference is made
(reference/).
"""

import difflib
import errno
import grp
import ipaddress
import os
import pwd
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from vhost9p import path_patterns
from vhost9p.native.export import META_DIR
from vhost9p.native.sys import name_error

Function = Callable[[Any], Any]
Completion = Literal["", "directory", "file", "user", "group"]


@dataclass(frozen=True, slots=True, eq=False)
class Parser:
    """A parser, and what there is to say about the values that it accepts."""

    function: Function
    metavar: str
    """What stands for a value in the help of an option."""
    words: str
    """The values, in words: "a number from 1 to 32"."""
    schema: Mapping[str, Any]
    """The values in YAML, as JSON Schema. Where that cannot say all, it accepts more."""
    write: Callable[[Any], str] = str
    """Returns how a parsed value is written."""
    choices: tuple[str, ...] = ()
    """All values, if they are so many words."""
    completes: Completion = ""
    """What on the host a shell can complete a value from."""

    def __call__(self, value: Any) -> Any:
        """Returns the option's value. Raises ValueError."""
        return self.function(value)


def described(
    metavar: str, words: str, schema: Mapping[str, Any], **more: Any
) -> Callable[[Function], Parser]:
    """Makes a Parser of a function."""
    return lambda function: Parser(function, metavar, words, schema, **more)


TAG_SIZE_MAX = 254
"""Bytes of a mount tag: the configuration space has 256 bytes, and the length takes two of them."""
NAME_SIZE_MAX = 255
"""Bytes of a file's or an extended attribute's name (path_resolution(7), xattr(7))."""
ID_MAX = 2**32 - 2
"""The last user or group id; 2^32 - 1 stands for no id (chown(2))."""
CPUS_MAX = 1024
"""The number of CPUs in a cpu_set_t (sched_setaffinity(2))."""
COUNT_MAX = 2**62
"""Of what has no limit of its own."""
METADATA_DIR = os.fsdecode(META_DIR)
"""The directory in which QEMU's security model mapped-file stores metadata."""
CONTROLS = r"\u0000-\u001f\u007f"
"""Control characters, within brackets of a pattern."""
TEXT = {"type": "string", "pattern": f"^[^{CONTROLS}]*$"}


def either(*schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema of what one of these accepts."""
    return {"anyOf": [*schemas]}


def whole_numbers(low: int, high: int) -> dict[str, Any]:
    """Returns the schema of whole numbers."""
    return {"type": "integer", "minimum": low, "maximum": high}


def parse_text(value: Any) -> str:
    """Parses text without control characters that can be a file name's."""
    if not isinstance(value, str):
        raise ValueError("is no text in YAML; quote it if text is meant")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("contains control characters")
    try:
        os.fsencode(value)
    except UnicodeError:
        raise ValueError("contains a character that no file name can have") from None
    return value


def parse_choice(*choices: str, metavar: str = "WORD", **others: str) -> Parser:
    """Returns a parser of one of several words; it returns the value of one of the `others`."""
    words = choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"

    metavar = metavar if len(choices) > 1 else choices[0]

    @described(metavar, words, {"enum": [*choices, *others]}, choices=choices)
    def parse(value: Any) -> str:
        if value not in choices and value not in others:
            raise ValueError(f"is not one of {', '.join(choices)}{guess(value, choices)}")
        return others.get(value, str(value))

    return parse


def parse_member(words: type[StrEnum], metavar: str) -> Parser:
    """Returns a parser of the values of an enumeration."""
    word = parse_choice(*words, metavar=metavar)
    return replace(word, function=lambda value: words(word(value)))


def guess(value: Any, choices: Iterable[str]) -> str:
    """Returns the end of a message that suggests a similar choice; empty if there is none."""
    found = closest(value, choices)
    return f"; did you mean {found!r}?" if found else ""


def closest(value: Any, choices: Iterable[str]) -> str:
    """Returns the choice whose spelling is closest to a value; empty if none is close."""
    return next(iter(difflib.get_close_matches(str(value), list(choices), 1)), "")


def _write_bool(value: bool) -> str:
    return "true" if value else "false"


@described("BOOL", "true or false", {"type": "boolean"}, write=_write_bool)
def parse_bool(value: Any) -> bool:
    """Parses true or false."""
    if isinstance(value, str):
        raise ValueError("is text; true or false is expected, without quotes")
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


@described("true", "true", {"const": True}, write=_write_bool)
def parse_true(value: Any) -> bool:
    """Parses true, the only value of a key whose presence is its meaning."""
    if parse_bool(value) is False:
        raise ValueError("has no effect; write true, or leave the key out")
    return True


def parse_switch(text: str) -> bool:
    """Parses on or off, in options within an option (`--export …,readonly=on`)."""
    for value, words in ((True, ("on", "yes", "true", "y")), (False, ("off", "no", "false", "n"))):
        if text in words:
            return value
    raise ValueError("is neither on nor off")


def split_commas(text: str, alone: str | None = None) -> list[tuple[str, str]]:
    """Splits `key=value,key=value` into keys and values. A doubled comma stands for a comma in a
    value. A key without a value gets `alone`; if that is None, raises ValueError."""
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
            raise ValueError(f"contains {part!r}, where key=value is expected")
        found.append((key, value if equals else str(alone)))
    return found


def path_of(completes: Completion) -> Parser:
    """Returns a parser of paths."""
    return replace(
        parse_path,
        metavar="DIR" if completes == "directory" else "FILE",
        words=f"the path of a {completes}",
        completes=completes,
    )


@described("PATH", "a path", {**TEXT, "minLength": 1}, completes="file")
def parse_path(value: Any) -> str:
    """Parses a path, and expands ~. The caller makes it absolute."""
    if not parse_text(value):
        raise ValueError("is no path")
    return os.path.expanduser(str(value))


_SOCKET = {"type": "string", "pattern": f"^[^{CONTROLS}]*[^{CONTROLS}/]$"}


@described("PATH", "the path of a socket", _SOCKET, completes="file")
def parse_socket(value: Any) -> str:
    """Parses the path of a socket."""
    path = str(parse_path(value))
    if path.endswith("/"):
        raise ValueError("is the name of a directory; a socket's is expected")
    return path


_CONTROL = either(
    {"type": "string", "pattern": f"^[/~][^{CONTROLS}]*[^{CONTROLS}/]$"}, {"enum": ["off", False]}
)


@described("PATH", "the path of a socket from the root on, or off", _CONTROL, completes="file")
def parse_control(value: Any) -> str:
    """Parses the path of the control socket, or "off", which YAML takes for a truth value."""
    if value is False or value == "off":
        return "off"
    if isinstance(value, str) and not value.startswith(("/", "~")):
        raise ValueError("is neither the path of a socket from the root on, nor off")
    return str(parse_socket(value))


_METRICS = either(
    {"type": "string", "pattern": f"^[/~][^{CONTROLS}]*[^{CONTROLS}/]$"},
    {"type": "string", "pattern": r"^(127(\.[0-9]{1,3}){3}|\[::1\]):[0-9]{1,5}$"},
    {"enum": ["off", False]},
)


@described("PLACE", "the path of a socket from the root on, 127.0.0.1:PORT, or off", _METRICS)
def parse_metrics(value: Any) -> str:
    """Parses where metrics are served."""
    if value is False or value == "off":
        return "off"
    if isinstance(value, str) and value.startswith(("/", "~")):
        return str(parse_socket(value))
    found = isinstance(value, str) and re.fullmatch(
        r"(127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})", value
    )
    if not found or not 1 <= int(found[2]) <= 65535 or not _is_address(found[1].strip("[]")):
        raise ValueError(
            "is neither the path of a socket, nor 127.0.0.1:PORT or [::1]:PORT, nor off"
        )
    return str(value)


def _is_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


_TAG = {"type": "string", "pattern": f"^[^{CONTROLS}/]+$", "maxLength": TAG_SIZE_MAX}


@described("TAG", f"1 to {TAG_SIZE_MAX} bytes without /", _TAG)
def parse_tag(value: Any) -> str:
    """Parses a mount tag."""
    if not 0 < len(os.fsencode(parse_text(value))) <= TAG_SIZE_MAX or "/" in value:
        raise ValueError(f"is no mount tag, which has 1 to {TAG_SIZE_MAX} bytes and no /")
    return str(value)


_NAME = {
    "type": "string",
    "pattern": f"^[^{CONTROLS}/]+$",
    "maxLength": NAME_SIZE_MAX,
    "not": {"enum": [".", "..", METADATA_DIR]},
}


@described("NAME", f"1 to {NAME_SIZE_MAX} bytes without /", _NAME)
def parse_name(value: Any) -> str:
    """Parses the name of a directory in the mount's root: an export's, or that of notices."""
    if name_error(os.fsencode(parse_text(value)), errno.EEXIST) or value == METADATA_DIR:
        raise ValueError(
            f"is no name for a directory, which has 1 to {NAME_SIZE_MAX} bytes without /, and is "
            f"not ., .. or {METADATA_DIR}"
        )
    return str(value)


def parse_prefix(low: int) -> Parser:
    """Returns a parser of a prefix of extended attributes' names, of `low` bytes at least."""
    schema = {**TEXT, "minLength": low, "maxLength": NAME_SIZE_MAX}

    @described("PREFIX", f"{low} to {NAME_SIZE_MAX} bytes", schema)
    def parse(value: Any) -> str:
        if not low <= len(os.fsencode(parse_text(value))) <= NAME_SIZE_MAX:
            raise ValueError(
                f"is no prefix of attributes' names, which has {low} to {NAME_SIZE_MAX} bytes"
            )
        return str(value)

    return parse


@described("PATTERN", "a pattern", {**TEXT, "minLength": 1})
def parse_pattern(value: Any) -> str:
    """Parses a pattern of hidden paths."""
    path_patterns.parse(os.fsencode(parse_text(value)))
    return str(value)


def parse_number(low: int, high: int, unit: str = "") -> Parser:
    """Returns a parser of a whole number from `low` to `high`, of a unit (in the plural)."""
    words = f"a number{unit and f' of {unit}'} from {low}{_to(high, str)}"

    @described("N", words, whole_numbers(low, high))
    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"is no whole number from {low} to {high}")
        return value

    return parse


_CPU_LIST = "[0-9]{1,4}(-[0-9]{1,4})?"
_CPUS = either(
    whole_numbers(0, CPUS_MAX - 1),
    {"type": "string", "pattern": f"^{_CPU_LIST}(,{_CPU_LIST})*$"},
)


@described("LIST", f"CPUs below {CPUS_MAX}, as 0,4-7", _CPUS)
def parse_cpus(value: Any) -> tuple[int, ...]:
    """Parses a list of CPUs in the syntax of taskset(1): 0,4-7."""
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


_SIZE = {"type": "string", "pattern": "^[0-9]{1,18} ?([KkMmGgTt]([Ii][Bb])?)?$"}


def write_size(size: int) -> str:
    """Returns a size as it is written, in the largest unit that leaves a whole number: 512KiB."""
    for i, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        count, rest = divmod(size, 1024**i)
        if 0 < count < 1024**2 and not rest:
            return f"{count}{unit}"
    return str(size)


def _to(high: int, write: Callable[[int], str]) -> str:
    """The end of a range in words."""
    return f" to {write(high)}" if high < COUNT_MAX else ""


def parse_size(low: int, high: int) -> Parser:
    """Returns a parser of a size in bytes, from `low` to `high`. The number may be followed by K,
    KiB, M, MiB, G, GiB, T or TiB, all powers of 1024."""
    words = f"a size from {write_size(low)}{_to(high, write_size)}"

    @described("SIZE", words, either(whole_numbers(low, high), _SIZE), write=write_size)
    def parse(value: Any) -> int:
        match = re.fullmatch("([0-9]{1,18}) ?([a-z]*)", str(value).lower())
        size = int(match[1]) * _UNITS.get(match[2], -1) if match else -1
        if not low <= size <= high:
            raise ValueError(
                f"is no size from {low} to {high} bytes; write it as 512000, 512KiB or 1MiB"
            )
        return size

    return parse


_MODE = either(
    {"type": "string", "pattern": "^(0|0o?[0-7]{1,3})$"},
    whole_numbers(0, 777),  # 0640 without quotes: 640 in YAML 1.2, 416 in YAML 1.1
)


@described("MODE", "0 to 0777, octal with a leading 0", _MODE, write=lambda mode: f"{mode:04o}")
def parse_mode(value: Any) -> int:
    """Parses permission bits in octal. The text must begin with 0, so that it cannot be taken for a
    decimal number."""
    if not isinstance(value, str) or not re.fullmatch("0|0o?[0-7]{1,3}", value):
        raise ValueError("is no mode from 0 to 0777; write it in octal with a 0 in front, as 0640")
    return int(value.removeprefix("0o"), 8)


def _parse_id(
    noun: Literal["user", "group"],
    find: Callable[[str], int],
    names: Callable[[], Iterable[str]],
) -> Parser:
    schema = either({"type": "string", "minLength": 1}, whole_numbers(0, ID_MAX))

    @described(noun.upper(), f"name or number of a {noun}", schema, completes=noun)
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
