"""What is served, and how: the options, their values and limits.

Every option is one row of OPTIONS or TOP_OPTIONS, which the YAML file (config_file.py) and the
command line (cli.py) share.
"""

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

TAG_SIZE_MAX = 254
"""Bytes: the frontend's configuration space has 256, two of which hold the length."""
SOCKET_SIZE_MAX = 107
"""Bytes of a unix socket's path (unix(7))."""

SECURITY_MODELS = ("passthrough", "none", "mapped-xattr", "mapped-file")
MULTIDEVS = ("warn", "forbid", "remap")
LOG_LEVELS = ("debug", "info", "warning", "error")


def default_state_dir() -> str:
    """Where identities are kept: of the system for root, else of the user."""
    home = xdg_folder("XDG_STATE_HOME", "" if os.geteuid() == 0 else "~/.local/state")
    return os.path.join(home or "/var/lib", "vhost9p")


def xdg_folder(variable: str, default: str) -> str | None:
    """A base folder of the XDG specification, which has relative ones ignored; None where neither
    the variable nor a home directory is known."""
    for folder in (os.environ.get(variable, ""), os.path.expanduser(default)):
        if os.path.isabs(folder):
            return folder
    return None


def absolute(path: str, base: str) -> str:
    """The path below `base`, made short where that cannot change its meaning: behind a symlink,
    `..` is not where the text has it."""
    joined = os.path.join(base, path)
    return joined if ".." in joined.split("/") else os.path.normpath(joined)


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
    fmode: int = 0o600
    """Permission bits, on the host, of files that a mapped model makes."""
    dmode: int = 0o700
    """Likewise of directories."""
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
    """Where identities outlive the daemon (multidevs=remap)."""
    origin: str = ""
    """Where a file has the device, for messages: "vm.yaml:3:5: "; empty for the command line."""


@dataclass(frozen=True, slots=True)
class Config:
    """A VM's devices."""

    devices: tuple[DeviceConfig, ...]
    log_level: str = "info"
    file: str | None = None
    """Where it was read from."""


# ---- values --------------------------------------------------------------------------------------
# A parser takes what YAML or the command line has (text, a number, a truth value) and returns the
# option's value. ValueError says what is wrong with it and what would be valid, as the end of a
# sentence that begins with the value.

Parser = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text in YAML; quote it if it is meant")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("has control characters in it")
    try:
        os.fsencode(value)
    except UnicodeError:
        raise ValueError("has a character that no file name can have") from None
    return value


def parse_choice(*choices: str) -> Parser:
    """One of some words."""

    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}{guess(value, choices)}")
        return str(value)

    return parse


def guess(value: Any, choices: tuple[str, ...]) -> str:
    """The end of a message that says which of the choices may have been meant, if any."""
    found = difflib.get_close_matches(str(value), choices, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def parse_bool(value: Any) -> bool:
    """true or false."""
    if isinstance(value, str):
        raise ValueError("is text; true or false is expected, without quotes")
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def parse_path(value: Any) -> str:
    """A path; relative to what, the caller knows."""
    if not _text(value):
        raise ValueError("is no path")
    return os.path.expanduser(str(value))


def parse_socket(value: Any) -> str:
    """A path that a socket can have."""
    path = parse_path(value)
    if path.endswith("/"):
        raise ValueError("is a folder's name; a socket's is expected")
    return path


def socket_problem(path: str) -> str | None:
    """What is wrong with an absolute path of a socket."""
    if (size := len(os.fsencode(path))) > SOCKET_SIZE_MAX:
        return f"{path} has {size} bytes; a socket's path has at most {SOCKET_SIZE_MAX} bytes"
    return None


def parse_tag(value: Any) -> str:
    """A mount tag."""
    if not 0 < len(os.fsencode(_text(value))) <= TAG_SIZE_MAX or "/" in value:
        raise ValueError(f"is no mount tag, which has 1 to {TAG_SIZE_MAX} bytes and no /")
    return str(value)


def parse_number(low: int, high: int) -> Parser:
    """A whole number."""

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"is no whole number from {low} to {high}")
        return value

    return parse


_UNITS = {"": 1, "k": 1024, "kib": 1024, "m": 1024**2, "mib": 1024**2}


def parse_size(low: int, high: int) -> Parser:
    """Bytes, with K, KiB, M or MiB behind them if so wished."""

    def parse(value: Any) -> int:
        match = re.fullmatch("([0-9]{1,12}) ?([a-z]*)", str(value).lower())
        size = int(match[1]) * _UNITS.get(match[2], -1) if match else -1
        if not low <= size <= high:
            raise ValueError(
                f"is no size from {low} to {high} bytes; write it as 512000, 512KiB or 1MiB"
            )
        return size

    return parse


def directory_problem(path: str) -> str | None:
    """Why a directory cannot be exported: it is missing, none, or not readable."""
    try:
        with os.scandir(path):
            return None
    except OSError as error:
        return f"{path} cannot be exported: {error.strerror}; it must be a directory to be read"


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
PATH_CHECKS: dict[str, Callable[[str], str | None]] = {
    "socket": socket_problem,
    "path": directory_problem,
}
TOP_OPTIONS: dict[str, Parser] = {
    "log_level": parse_choice(*LOG_LEVELS),
    "state_dir": parse_path,
}


def with_overrides(config: Config, **changes: Any) -> Config:
    """The same, with some of its own values changed; None changes nothing."""
    return replace(config, **{key: value for key, value in changes.items() if value is not None})
