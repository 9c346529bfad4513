"""What is served, and how: the options and what each means.

This module has the dataclasses that the rest of the daemon uses, and their default folders.
config_values.py parses values; config_schema.py defines the keys and their combinations. The YAML
file (config_file.py), the command line (cli.py) and QEMU's option string (virtfs.py) are three
syntaxes for them.
"""

import os
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, get_args

SecurityModel = Literal["passthrough", "none", "mapped-xattr", "mapped-file"]
"""Where the guest's owners and modes are stored (docs/security-models.md)."""
SECURITY_MODELS: tuple[SecurityModel, ...] = get_args(SecurityModel)
Multidevs = Literal["warn", "forbid", "remap"]
"""How files of several host devices are treated (policy/multidevs.py)."""
MULTIDEVS: tuple[Multidevs, ...] = get_args(Multidevs)
XattrAction = Literal["store", "refuse", "hide", "keep"]
"""What a rule for extended attributes does (policy/xattrs.py)."""
XATTR_ACTIONS: tuple[XattrAction, ...] = get_args(XattrAction)
LogFormat = Literal["auto", "text", "journald", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)
LogTime = Literal["auto", "always", "never"]
"""How lines of the log are written (log_format.py)."""
LOG_TIMES: tuple[LogTime, ...] = get_args(LogTime)


class Level(StrEnum):
    """How the daemon confines itself (docs/threat-model.md)."""

    AUTO = "auto"
    """As far as the host allows."""
    NAMESPACE = "namespace"
    """With all of it, or not at all."""
    CHROOT = "chroot"
    """Without namespaces."""
    NONE = "none"


class Seccomp(StrEnum):
    """What becomes of a system call that serving does not take."""

    KILL = "kill"
    """The process ends."""
    LOG = "log"
    """It is carried out, and the kernel logs it."""


SOCKET_SIZE_MAX = 107
"""Bytes of a unix socket's path (unix(7))."""
SOCKET_MODE = 0o600
"""Of a socket of which nothing else is said."""
MSIZE_MAX = 16 * 1024 * 1024
"""Bytes; the most that msize_max can be."""
EXPORTS_MAX = 255
"""Named exports of a device; V9_EXPORTS_MAX (csrc/export/api.h) counts what they appear in, too."""
OFF = "off"
"""Instead of a path, of what there shall not be."""
STATE_DIR = "/var/lib/vhost9p"
"""Where root's daemons keep identities."""


def default_state_dir() -> str:
    """Where identities are kept: of the service, of the system for root, else of the user."""
    if folder := service_folder("STATE_DIRECTORY"):
        return folder
    home = xdg_folder("XDG_STATE_HOME", "" if os.geteuid() == 0 else "~/.local/state")
    return os.path.join(home, "vhost9p") if home else STATE_DIR


def xdg_folder(variable: str, default: str) -> str | None:
    """A base folder of the XDG specification, which has relative ones ignored; None where neither
    the variable nor a home directory is known."""
    for folder in (os.environ.get(variable, ""), os.path.expanduser(default)):
        if os.path.isabs(folder):
            return folder
    return None


def service_folder(variable: str) -> str | None:
    """The first directory of a kind that a service manager has made for this service, as its
    environment names them (systemd.exec(5), RuntimeDirectory=); None if there is none."""
    folder = os.environ.get(variable, "").partition(":")[0]
    return folder if os.path.isabs(folder) else None


def absolute(path: str, base: str) -> str:
    """The path below `base`, made short where that cannot change its meaning: behind a symlink,
    `..` is not where the text has it."""
    joined = os.path.join(base, path)
    return joined if ".." in joined.split("/") else os.path.normpath(joined)


def socket_problem(path: str) -> str | None:
    """What is wrong with an absolute path of a socket."""
    if (size := len(os.fsencode(path))) > SOCKET_SIZE_MAX:
        return f"{path} has {size} bytes; a socket's path has at most {SOCKET_SIZE_MAX} bytes"
    return None


def control_problem(path: str) -> str | None:
    """What is wrong with the place of the control socket."""
    return None if path == OFF else socket_problem(path)


def directory_problem(path: str) -> str | None:
    """Why a directory cannot be exported: it is missing, none, or not readable."""
    try:
        with os.scandir(path):
            return None
    except OSError as error:
        return f"{path} cannot be exported: {error.strerror}; it must be a readable directory"


def cpus_problem(cpus: tuple[int, ...]) -> str | None:
    """Which of the CPUs the daemon may not run on (sched_getaffinity(2))."""
    allowed = os.sched_getaffinity(0)
    if wrong := sorted(set(cpus) - allowed):
        return (
            f"the daemon may not run on CPU {', '.join(map(str, wrong))}, "
            f"but on {', '.join(map(str, sorted(allowed)))}"
        )
    return None


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate: of bytes or of requests."""

    avg: int = 0
    """Per second, over time; 0: no limit."""
    max: int = 0
    """Per second, in a burst; 0: none is allowed beyond `avg`."""
    length: int = 1
    """Seconds that a burst at `max` may last."""


@dataclass(frozen=True, slots=True)
class Throttling:
    """How fast a guest may read and write an export; with QEMU's meaning (docs/throttle.txt)."""

    bps_total: Limit = Limit()
    bps_read: Limit = Limit()
    bps_write: Limit = Limit()
    iops_total: Limit = Limit()
    iops_read: Limit = Limit()
    iops_write: Limit = Limit()
    iops_size: int = 0
    """Bytes; a larger request counts as size / iops_size requests. 0: every request counts once."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` ids of the guest from `guest` on are those of the host from `host` on."""

    guest: int
    host: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class IdMap:
    """Which ids of the host those of the guest are. Ranges do not overlap, and each id of the guest
    is in one, forbidden, or squashed."""

    uid: tuple[IdRange, ...] = ()
    gid: tuple[IdRange, ...] = ()
    squash_uid: int | None = None
    """The host's id for all of the guest that are in no range."""
    squash_gid: int | None = None
    forbid_uid: tuple[tuple[int, int], ...] = ()
    """First id and number of ids of the guest that it may not use."""
    forbid_gid: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class XattrRule:
    """What becomes of the guest's attributes whose names begin with `match`."""

    match: str
    action: XattrAction
    store: str = ""
    """What takes the place of `match` in the host's name."""


@dataclass(frozen=True, slots=True)
class XattrRules:
    """Rules, of which the first that matches counts, and limits."""

    rules: tuple[XattrRule, ...] = ()
    max_value: int = 65536
    """Bytes of one value."""
    max_names: int = 256
    """Attributes of one file."""
    max_total: int = 256 * 1024
    """Bytes of names and values of one file."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What an export may hold."""

    bytes: int | None = None
    inodes: int | None = None
    error: Literal["ENOSPC", "EDQUOT"] = "ENOSPC"
    """The guest's error beyond it."""
    rescan: bool = False
    """Count the export's files again when the daemon starts, whatever is known of them."""


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """A directory of the host and how it is served."""

    path: str
    """Absolute, on the host."""
    name: str = ""
    """Of the directory that the guest sees; empty where the export is the root of its mount."""
    security_model: SecurityModel | None = None
    """None until preflight has looked at what the daemon may do."""
    readonly: bool = False
    fmode: int = 0o600
    """Permission bits, on the host, of files that a mapped model makes."""
    dmode: int = 0o700
    """Likewise of directories."""
    writeout: Literal["", "immediate"] = ""
    """immediate: what is written goes out to the disk at once."""
    throttling: Throttling | None = None
    id_map: IdMap | None = None
    xattrs: XattrRules | None = None
    quota: Quota | None = None
    hide: tuple[str, ...] = ()
    """Patterns of paths that the guest neither sees nor uses (path_patterns.py)."""
    place: str = ""
    """Where the directory is if the daemon's root directory is not the host's any more."""
    index: int | None = None
    """Which one it is to the guest's files, for as long as the VM runs; None: by its position."""
    mount: int | None = None
    """Which one of the VM's mounts it is (confinement.py); None: by its position."""
    origin: str = ""
    """Where a file has the export, for messages: "vm.yaml:3:5: "; empty for the command line."""

    @property
    def model(self) -> SecurityModel:
        """The security model; none, which takes no rights, where nothing has decided."""
        return self.security_model or "none"


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device: a socket and what is served on it."""

    exports: tuple[ExportConfig, ...]
    """One without a name, or any number with names of their own."""
    socket: str | None = None
    """Where the VMM connects; None with `fd`, unless that was found by this path."""
    fd: int | None = None
    """An inherited socket, listening or connected."""
    socket_mode: int | None = None
    """Permission bits of the socket; None: SOCKET_MODE."""
    socket_owner: int | None = None
    """The user that the socket belongs to; None: the daemon's."""
    socket_group: int | None = None
    tag: str = "host0"
    """The mount tag that the guest sees."""
    multidevs: Multidevs = "warn"
    msize_max: int = 1024 * 1024
    """Bytes; what a guest may ask for at most."""
    max_fids: int = 1_000_000
    max_xattr: int = 1024
    """Values of attributes that a guest may hold open; 0: as many as memory is set aside for."""
    max_guest_memory: int | None = None
    """Bytes of the guest's memory that the daemon maps; None: as many as there are addresses."""
    threads: int = 1
    """Requests that are served at a time, while none hangs."""
    cpus: tuple[int, ...] = ()
    """CPUs that the threads that serve may run on; empty: all that the daemon may."""
    poll_us: int = 50
    """Microseconds that an idle thread polls at most, before it sleeps."""
    ring: Literal["packed", "split"] = "packed"
    """The newest layout of the virtqueue that the guest is offered; split always is."""
    notify: bool = False
    """Report to the guest what the host changes."""
    notify_name: str = ".vhost9p"
    """The directory in the mount's root through which that is done."""
    notify_listed: bool = False
    """Have it in the guest's listings, too."""
    once: bool = False
    """End after the first VMM has left."""
    force: bool = False
    """Serve although an export overlaps another, or contains the daemon's own files."""
    state_dir: str = field(default_factory=default_state_dir)
    """Where identities outlive the daemon (multidevs=remap)."""
    state_key: str = ""
    """The name of its state there; empty: that of its exports (exports.py)."""
    origin: str = ""
    """Where a file has the device, for messages: "vm.yaml:3:5: "; empty for the command line."""

    @property
    def place(self) -> str:
        """Where the VMM connects, for messages."""
        if self.socket is not None:
            return self.socket
        return f"the device {self.tag!r}" if self.fd is None else f"--fd {self.fd}"

    @property
    def place_is_open(self) -> bool:
        """Whether nothing says where the VMM connects."""
        return self.socket is None and self.fd is None

    @property
    def indexed(self) -> dict[int, ExportConfig]:
        """The exports by their index. With names, 0 is the directory in which they appear."""
        return {
            (i if each.name else 0) if each.index is None else each.index: each
            for i, each in enumerate(self.exports, 1)
        }

    @property
    def keeps_state(self) -> bool:
        """Whether something of it is kept in the state directory."""
        named = any(each.name or each.quota for each in self.exports)
        return self.multidevs == "remap" or named or self.notify


@dataclass(frozen=True, slots=True)
class Config:
    """A VM's devices."""

    devices: tuple[DeviceConfig, ...]
    log_level: str = "info"
    sandbox: Level = Level.AUTO
    seccomp: Seccomp = Seccomp.KILL
    log_failures: bool = False
    """Log each request of a guest that fails, and why (failures.py)."""
    log_format: LogFormat = "auto"
    log_time: LogTime = "auto"
    control_socket: str | None = None
    """Of the daemon, not of one VM (control/place.py); None: the default place, "off": none."""
    metrics: str | None = None
    """Of the daemon, too: where metrics are served (metrics/); None or "off": nowhere."""
    file: str | None = None
    """Where it was read from."""

    @property
    def serves_metrics(self) -> bool:
        """Whether there are metrics."""
        return self.metrics not in (None, OFF)


def as_read(config: Config) -> Config:
    """The same without what a VM that runs has made of it, and without places in the file."""
    devices = (
        replace(
            device,
            exports=tuple(
                replace(each, index=None, mount=None, origin="")
                for each in sorted(device.exports, key=lambda each: each.name)
            ),
            fd=None,
            state_key="",
            origin="",
        )
        for device in config.devices
    )
    return replace(config, devices=tuple(devices))


def with_overrides(config: Config, **changes: Any) -> Config:
    """The same, with some of its own values changed; None changes nothing."""
    return replace(config, **{key: value for key, value in changes.items() if value is not None})
