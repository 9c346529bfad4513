"""What is served, and how: the values, their limits, and the YAML file that states them.

A file describes one VM: a list of devices, or one device at the top level. Every option is one row
of OPTIONS, which the command line uses too. All mistakes of a file are collected, each with its
line, column and key, before any of them is told; nothing is served from a file with a mistake.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import yaml

from vhost9p.errors import UserError

FILE_SIZE_MAX = 1024 * 1024
TAG_SIZE_MAX = 254
"""Bytes: the frontend's configuration space has 256, two of which hold the length."""
SOCKET_SIZE_MAX = 107
"""Bytes of a unix socket's path (unix(7))."""

SECURITY_MODELS = ("passthrough", "none")
MULTIDEVS = ("warn", "forbid", "remap")
LOG_LEVELS = ("debug", "info", "warning", "error")


def default_state_dir() -> str:
    """Where identities are kept: of the system for root, else of the user."""
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return "/var/lib/vhost9p"
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "vhost9p")


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device: a socket and what is served on it."""

    path: str
    """The exported directory, absolute."""
    socket: str | None = None
    """Where the VMM connects; None with `fd`."""
    fd: int | None = None
    """An inherited socket, listening or connected."""
    tag: str = "host0"
    """The mount tag that the guest sees."""
    security_model: str = "passthrough"
    multidevs: str = "warn"
    readonly: bool = False
    msize_max: int = 1024 * 1024
    """Bytes; what a guest may ask for at most."""
    max_fids: int = 1_000_000
    threads: int = 1
    """Requests that are served at a time, while none hangs."""
    once: bool = False
    """End after the first VMM has left."""
    force: bool = False
    """Serve although the export overlaps another, or contains the daemon's own files."""
    state_dir: str = field(default_factory=default_state_dir)


@dataclass(frozen=True, slots=True)
class Config:
    """A VM's devices."""

    devices: tuple[DeviceConfig, ...]
    log_level: str = "info"
    file: str | None = None
    """Where it was read from."""


# ---- values --------------------------------------------------------------------------------------
# A parser takes what YAML or the command line has and returns the value; ValueError says what would
# be valid.

Parser = Callable[[Any], Any]


def parse_choice(*choices: str) -> Parser:
    """One of some words."""

    def parse(value: Any) -> str:
        if value not in choices:
            guess = difflib.get_close_matches(str(value), choices, 1)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}{hint}")
        return str(value)

    return parse


def parse_bool(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def parse_path(value: Any) -> str:
    """A path; relative to what, the caller knows."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is no path")
    return os.path.expanduser(value)


def parse_socket(value: Any) -> str:
    """A path that fits a socket's address."""
    path = parse_path(value)
    if len(os.fsencode(path)) > SOCKET_SIZE_MAX:
        raise ValueError(f"a socket's path has at most {SOCKET_SIZE_MAX} bytes")
    return path


def parse_tag(value: Any) -> str:
    """A mount tag."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; quote it")
    size = len(os.fsencode(value))
    if not 0 < size <= TAG_SIZE_MAX or "\0" in value or "/" in value:
        raise ValueError(f"a tag has 1 to {TAG_SIZE_MAX} bytes, without / and NUL")
    return value


def parse_number(low: int, high: int) -> Parser:
    """A whole number."""

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{value!r} is no number from {low} to {high}")
        return value

    return parse


_UNITS = {"": 1, "k": 1024, "kib": 1024, "m": 1024**2, "mib": 1024**2}


def parse_size(low: int, high: int) -> Parser:
    """Bytes, with K, KiB, M or MiB behind them if so wished."""

    def parse(value: Any) -> int:
        match = re.fullmatch(r"(\d{1,12})\s*([a-z]*)", str(value).lower())
        size = int(match[1]) * _UNITS.get(match[2], -1) if match else -1
        if isinstance(value, bool) or not low <= size <= high:
            raise ValueError(f"{value!r} is no size from {low} to {high} bytes (512000, 1MiB)")
        return size

    return parse


OPTIONS: dict[str, Parser] = {
    "socket": parse_socket,
    "path": parse_path,
    "tag": parse_tag,
    "security_model": parse_choice(*SECURITY_MODELS),
    "multidevs": parse_choice(*MULTIDEVS),
    "readonly": parse_bool,
    "msize_max": parse_size(4096, 16 * 1024 * 1024),
    "max_fids": parse_number(16, 16_000_000),
    "threads": parse_number(1, 32),
    "once": parse_bool,
    "force": parse_bool,
}
PATHS = ("socket", "path", "state_dir")
TOP_OPTIONS: dict[str, Parser] = {
    "log_level": parse_choice(*LOG_LEVELS),
    "state_dir": parse_path,
}


# ---- the file ------------------------------------------------------------------------------------


class _Reader:
    """Reads one file and collects what is wrong with it."""

    def __init__(self, file: str, *, socket_needed: bool) -> None:
        self.file = file
        self.needed = ("socket", "path") if socket_needed else ("path",)
        self.problems: list[tuple[int, str]] = []

    def complain(self, mark: Any, text: str) -> None:
        """Notes a mistake at a place in the file."""
        self.problems.append((mark.line, f"{self.file}:{mark.line + 1}:{mark.column + 1}: {text}"))

    def compose(self) -> yaml.Node | None:
        """The file's nodes; raises UserError where it is no YAML."""
        try:
            with open(self.file, "rb") as stream:
                data = stream.read(FILE_SIZE_MAX + 1)
        except OSError as error:
            raise UserError(f"{self.file}: {error.strerror}") from None
        if len(data) > FILE_SIZE_MAX:
            raise UserError(f"{self.file}: larger than {FILE_SIZE_MAX} bytes")
        try:
            text = data.decode()
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    self.complain(event.start_mark, "aliases (*name) are not supported")
                    return None
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.file}: not UTF-8 (byte {error.start})") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
            raise UserError(f"{self.file}{where}: {error.problem or error.context}") from None
        except (yaml.YAMLError, RecursionError) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.file}: no YAML: {line}") from None

    def pairs(self, node: yaml.MappingNode, known: tuple[str, ...]) -> Iterator[Any]:
        """Keys and value nodes of a mapping, without unknown and repeated ones."""
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key not in known:
                guess = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {guess[0]!r}? " if guess else ""
                self.complain(
                    key_node.start_mark,
                    f"unknown key {key!r}; {hint}valid are {', '.join(known)}",
                )
            elif key in seen:
                self.complain(key_node.start_mark, f"{key}: set in line {seen[key]} already")
            else:
                seen[key] = key_node.start_mark.line + 1
                yield key, value_node

    def value(self, key: str, node: yaml.Node, parser: Parser) -> Any:
        """A parsed value; None where it is wrong."""
        try:
            if not isinstance(node, yaml.ScalarNode):
                raise ValueError("one value is expected, not a list or a mapping")
            loader = yaml.SafeLoader("")
            raw = loader.construct_object(node)
            value = parser(raw)
        except (ValueError, OverflowError, yaml.YAMLError) as error:
            self.complain(node.start_mark, f"{key}: {error}")
            return None
        if key in PATHS:
            value = os.path.normpath(os.path.join(os.path.dirname(self.file), value))
        return value

    def device(self, node: yaml.Node, top: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """One device's options, with the keys `top` left to the caller."""
        if not isinstance(node, yaml.MappingNode):
            self.complain(node.start_mark, "a device is a mapping of options")
            return None
        before = len(self.problems)
        found: dict[str, Any] = {"_mark": node.start_mark}
        for key, value_node in self.pairs(node, (*OPTIONS, *top)):
            if key in OPTIONS:
                found[key] = self.value(key, value_node, OPTIONS[key])
        for key in self.needed:
            if key not in found:
                self.complain(node.start_mark, f"the device has no {key!r}")
        return found if len(self.problems) == before else None


def _devices_of(reader: _Reader, root: yaml.MappingNode) -> list[dict[str, Any]]:
    """The devices: a list under `devices`, or the file itself."""
    lists = [value for key, value in root.value if getattr(key, "value", None) == "devices"]
    if not lists:
        one = reader.device(root, tuple(TOP_OPTIONS))
        return [one] if one else []
    for _ in reader.pairs(root, (*TOP_OPTIONS, "devices")):
        pass
    if not isinstance(lists[0], yaml.SequenceNode) or not lists[0].value:
        reader.complain(lists[0].start_mark, "devices: a list of one device or more is expected")
        return []
    return [found for node in lists[0].value if (found := reader.device(node))]


def _check_distinct(reader: _Reader, devices: list[dict[str, Any]]) -> None:
    for key in ("socket", "tag"):
        seen: dict[str, int] = {}
        for device in devices:
            value = device.get(key, "host0" if key == "tag" else None)
            if value is None:
                continue
            line = device["_mark"].line + 1
            if value in seen:
                reader.complain(
                    device["_mark"],
                    f"{key}: {value!r} is the device's in line {seen[value]} too; each needs one "
                    "of its own",
                )
            seen.setdefault(value, line)


def load(file: str, *, socket_needed: bool = True) -> Config:
    """Reads a configuration; raises UserError with every mistake of it. Devices may lack a socket
    where the caller has one for them."""
    reader = _Reader(os.path.abspath(file), socket_needed=socket_needed)
    root = reader.compose()
    devices: list[dict[str, Any]] = []
    top: dict[str, Any] = {}
    if root is None and not reader.problems:
        raise UserError(f"{reader.file}: is empty; it needs at least socket and path")
    if isinstance(root, yaml.MappingNode):
        devices = _devices_of(reader, root)
        for key_node, value_node in root.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in TOP_OPTIONS and key not in top:
                top[key] = reader.value(key, value_node, TOP_OPTIONS[key])
        _check_distinct(reader, devices)
    elif root is not None:
        reader.complain(root.start_mark, "a mapping of options is expected")
    if reader.problems:
        raise UserError(*(text for _, text in sorted(reader.problems)))
    state = {"state_dir": top.pop("state_dir")} if "state_dir" in top else {}
    names = {each.name for each in fields(DeviceConfig)}
    return Config(
        tuple(
            DeviceConfig(**{k: v for k, v in device.items() if k in names}, **state)
            for device in devices
        ),
        file=reader.file,
        **top,
    )


def with_overrides(config: Config, **changes: Any) -> Config:
    """The same, with some of its own values changed; None changes nothing."""
    return replace(config, **{key: value for key, value in changes.items() if value is not None})
