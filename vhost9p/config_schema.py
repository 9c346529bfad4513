"""Which keys there are, what their values look like, and what goes together. Those of an export are
in config_export.py.

The schema is data: a tree of shapes (config_shapes.py). Each reader of options (file, command
line) fills a plain tree of dictionaries and lists with parsed leaves (config_tree.py). The groups'
checks report each error with the keys that lead to it.

Each key says here what it means, and its parser which values it has. The help of the options, the
manual pages, the JSON Schema and the tables of the documents take it from here (reference/).
Defaults are those of the dataclasses.
"""

from collections.abc import Iterator

from vhost9p import config_values as v
from vhost9p.config import (
    EXPORTS_MAX,
    LOG_FORMATS,
    LOG_TIMES,
    MSIZE_MAX,
    MULTIDEVS,
    SOCKET_MODE,
    STATE_DIR,
    Config,
    DeviceConfig,
    Level,
    Seccomp,
    SecurityModel,
    control_problem,
    socket_problem,
)
from vhost9p.config_checks import Path, Problem, Tree
from vhost9p.config_export import EXPORT, EXPORT_KEYS, exports_of, flag
from vhost9p.config_shapes import Group, Items, Leaf
from vhost9p.path_patterns import PATTERNS_MAX

MAPPED: tuple[SecurityModel, ...] = ("mapped-xattr", "mapped-file")
LOG_LEVELS = ("debug", "info", "warning", "error")
_DEVICE, _CONFIG = DeviceConfig(()), Config(())
"""Where the defaults are read."""


def _check_device(tree: Tree) -> Iterator[Problem]:
    """What a device and its exports say."""
    yield from _check_modes(tree)
    yield from _check_patterns(tree)
    for key in ("notify_name", "notify_listed"):
        if key in tree and not tree.get("notify"):
            yield Problem((key,), "is for a device with notify only; set notify, or leave it out")
    if "exports" not in tree:
        return
    if (count := len(tree["exports"])) > EXPORTS_MAX:
        yield Problem(("exports",), f"has {count}; a device has at most {EXPORTS_MAX}")
    if "path" in tree:
        yield Problem(("path",), "goes with each of the exports; the device itself has none")
    if tree.get("multidevs", "remap") != "remap":
        yield Problem(
            ("multidevs",),
            "must be remap with exports, since files of several exports need identities of their "
            "own; leave it out",
        )
    seen: set[str] = set()
    notices = tree.get("notify_name", _DEVICE.notify_name) if tree.get("notify") else None
    for i, each in enumerate(tree["exports"]):
        if each["name"] == notices:
            text = f"{notices!r} is where notify reports changes; choose another notify_name"
            yield Problem(("exports", i, "name"), text)
        if each["name"] in seen:
            yield Problem(("exports", i, "name"), f"{each['name']!r} is another export's already")
        seen.add(each["name"])


def _parts(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    """Where keys of exports are said."""
    yield (), tree
    for i, each in enumerate(tree.get("exports", ())):
        yield ("exports", i), each


def _check_modes(tree: Tree) -> Iterator[Problem]:
    """fmode and dmode mean something where the guest's own modes are kept beside the files."""
    mapped = {path for path, each in exports_of(tree) if each.get("security_model") in MAPPED}
    for path, part in _parts(tree):
        for key in ("fmode", "dmode"):
            if key in part and path not in mapped and (path or not mapped):
                text = "is for security_model mapped-xattr and mapped-file only"
                yield Problem((*path, key), text)


def _check_patterns(tree: Tree) -> Iterator[Problem]:
    for path, part in _parts(tree):
        if (count := len(part.get("hide", ()))) > PATTERNS_MAX:
            text = f"has {count} patterns; an export has at most {PATTERNS_MAX}"
            yield Problem((*path, "hide"), text)


_SOCKET = Leaf(
    v.parse_socket,
    "listen for the VMM on this unix socket",
    "Each device has its own. A stale socket is replaced, a live one refused.",
    is_path=True,
    check=socket_problem,
    fixed="the VMM is connected there",
)
OWN_KEYS: dict[str, Leaf] = {
    "socket": _SOCKET,
    "socket_mode": Leaf(
        v.parse_mode,
        "permissions of the socket",
        "Connecting needs the right to write. Permissions, owner and group apply before anybody "
        "can connect, and are refused with --fd.",
        absent=v.parse_mode.write(SOCKET_MODE),
        as_text=True,
        fixed="the socket is there already; chmod changes it",
    ),
    "socket_owner": Leaf(
        v.parse_user,
        "the user that the socket belongs to",
        "Another user than the daemon's needs CAP_CHOWN.",
        absent="the daemon's",
        as_text=True,
        fixed="the socket is there already; chown changes it",
    ),
    "socket_group": Leaf(
        v.parse_group,
        "the group that the socket belongs to",
        "Without CAP_CHOWN the daemon has to be in it.",
        absent="the daemon's",
        as_text=True,
        fixed="the socket is there already; chgrp changes it",
    ),
    "tag": Leaf(
        v.parse_tag,
        "the mount tag that the guest names",
        "Each device has its own.",
        _DEVICE.tag,
        fixed="the guest's driver has read it when it found the device",
    ),
    "multidevs": Leaf(
        v.parse_choice(*MULTIDEVS, metavar="POLICY"),
        "how files of several file systems in one export are distinguished",
        "remap gives each file a number of its own, warn logs the first file on another file "
        "system, forbid refuses such files (ENODEV). With exports it is always remap.",
        _DEVICE.multidevs,
        fixed="the guest knows files by the numbers that follow from it",
    ),
    "msize_max": Leaf(
        v.parse_size(4096, MSIZE_MAX),
        "the largest msize that a guest may negotiate",
        "A reload changes it for the next mount.",
        _DEVICE.msize_max,
        at_once=True,
    ),
    "max_fids": Leaf(
        v.parse_number(16, 16_000_000),
        "fids that a guest may hold at a time",
        default=_DEVICE.max_fids,
        fixed="the memory for fids is as large as it said when the VM began",
    ),
    "max_xattr": Leaf(
        v.parse_number(0, 2**32 - 1),
        "values of extended attributes that a guest may hold open",
        "0: as many as fit into 64 MiB.",
        _DEVICE.max_xattr,
        at_once=True,
    ),
    "max_guest_memory": Leaf(
        v.parse_size(1, v.COUNT_MAX),
        "the most of the guest's memory that is mapped",
        "A VMM that shares more is refused. What the daemon writes to is the host's memory, even "
        "if the VMM has not touched it.",
        absent="as much as there are addresses for",
        at_once=True,
    ),
    "threads": Leaf(
        v.parse_number(1, 32),
        "requests that are served at a time, while none hangs",
        default=_DEVICE.threads,
        at_once=True,
    ),
    "cpus": Leaf(
        v.parse_cpus,
        "CPUs that the serving threads may run on",
        absent="all that the daemon may run on",
        at_once=True,
    ),
    "poll_us": Leaf(
        v.parse_number(0, 1000, "microseconds"),
        "microseconds that an idle serving thread polls at most, before it sleeps",
        "It polls as long as experience says that it pays, if a wake-up is worth five eighths of "
        "this. 0: it sleeps at once.",
        _DEVICE.poll_us,
        at_once=True,
    ),
    "ring": Leaf(
        v.parse_choice("packed", "split", metavar="LAYOUT"),
        "the newest layout of the virtqueue to offer",
        "Every guest knows split. User Mode Linux starts a packed ring at base 0; the daemon "
        "understands that.",
        _DEVICE.ring,
        fixed="the guest's driver has taken one of the layouts that were offered",
    ),
    "notify": Leaf(
        v.parse_bool,
        "report to the guest what the host changes",
        "The guest's kernel learns nothing by itself: an agent in the guest reads the reports.",
        _DEVICE.notify,
        fixed="all directories have another version (qid.version) by it",
    ),
    "notify_name": Leaf(
        v.parse_name,
        "the directory in the mount's root through which notify does that",
        "It is not on the host, and the guest cannot change it.",
        _DEVICE.notify_name,
        fixed="programs of the guest use it by that name",
    ),
    "notify_listed": Leaf(
        v.parse_bool,
        "list that directory, too",
        "Without, only who knows its name finds it.",
        _DEVICE.notify_listed,
        at_once=True,
    ),
    "once": flag("exit after the first VMM has left", _DEVICE.once),
    "force": flag(
        "serve exports that overlap, contain the daemon's own files, or are not writable",
        _DEVICE.force,
    ),
}
DEVICE = Group(
    "a device",
    {
        **OWN_KEYS,
        **EXPORT_KEYS,
        "exports": Items(
            "exports",
            EXPORT,
            "several directories instead of path, each under a name in the mount's root",
            at_once=True,
        ),
    },
    needed=(("path", "exports"),),
    check=_check_device,
    together=frozenset(
        {"path", "exports", "security_model", "multidevs", "fmode", "dmode", "hide"}
        | {"notify", "notify_name", "notify_listed"}
    ),
)
TOP_KEYS: dict[str, Leaf] = {
    "log_level": Leaf(
        v.parse_choice(*LOG_LEVELS, metavar="LEVEL"),
        "the least important messages that are logged",
        default=_CONFIG.log_level,
        at_once=True,
    ),
    "log_format": Leaf(
        v.parse_choice(*LOG_FORMATS, metavar="FORM"),
        "how the log is written",
        "auto: to journald if standard error leads there, else text on standard error. json: an "
        "object per line. --config-dir has one for all its VMs.",
        _CONFIG.log_format,
        at_once=True,
    ),
    "log_time": Leaf(
        v.parse_choice(*LOG_TIMES, metavar="WHEN"),
        "whether lines of the log begin with the time",
        "auto: in JSON, and as text in a file; who reads a pipe can add it. journald adds it "
        "itself, whatever this says. --config-dir has one for all its VMs.",
        _CONFIG.log_time,
        at_once=True,
    ),
    "log_failures": flag(
        "log each request of a guest that fails, and why",
        _CONFIG.log_failures,
        "As a warning; log_level debug does so, too.",
    ),
    "sandbox": Leaf(
        v.parse_member(Level, "LEVEL"),
        "how the daemon confines itself",
        "auto: as far as the host allows. namespace: with all of it, or the daemon does not "
        "start. chroot: without namespaces. none: not at all.",
        _CONFIG.sandbox,
        fixed="the VM's processes are confined already, or not",
    ),
    "seccomp": Leaf(
        v.parse_member(Seccomp, "ACTION"),
        "what becomes of a system call that serving does not take",
        "kill: the process ends. log: the kernel logs it.",
        _CONFIG.seccomp,
        at_once=True,
    ),
    "state_dir": Leaf(
        v.path_of("directory"),
        "where identities of files and the usage of quotas are kept",
        "With XDG_STATE_HOME it is vhost9p in there, in a service of systemd its StateDirectory.",
        absent=f"{STATE_DIR} of root, ~/.local/state/vhost9p of others",
        is_path=True,
        fixed="the state of this VM is in use there",
    ),
    "control_socket": Leaf(
        v.parse_control,
        "answer commands such as vhost9p status on this unix socket",
        "Only root and the daemon's user can connect. Commands find it by themselves.",
        absent="PID.sock in RUNTIME_DIRECTORY, XDG_RUNTIME_DIR/vhost9p, or /run/vhost9p of root",
        check=control_problem,
        fixed="it is the main process's, which goes on",
    ),
    "metrics": Leaf(
        v.parse_metrics,
        "serve metrics for Prometheus on this unix socket, or port of the loopback interface",
        "Needs prometheus_client. How long requests take is counted only with it.",
        absent="off",
        check=control_problem,
        fixed="they are the main process's, which goes on",
    ),
}
OF_THE_DAEMON = "log_format", "log_time", "control_socket", "metrics"
"""Of TOP_KEYS: those that a daemon with several VMs has once, by its options."""
