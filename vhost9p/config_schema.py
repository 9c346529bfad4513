"""Which keys there are, what their values look like, and what goes together.

The schema is data: a tree of shapes (config_shapes.py). Each reader of options (file, command
line) fills a plain tree of dictionaries and lists with parsed leaves (config_tree.py). The groups'
checks report each error with the keys that lead to it.

Each key says here what it means, and its parser which values it has. The help of the options, the
manual pages, the JSON Schema and the tables of the documents take it from here (reference/).
Defaults are those of the dataclasses.
"""

from collections.abc import Callable, Iterator

from vhost9p import config_checks as checks
from vhost9p import config_values as v
from vhost9p.config import (
    EXPORTS_MAX,
    LOG_FORMATS,
    LOG_TIMES,
    MULTIDEVS,
    SECURITY_MODELS,
    SOCKET_MODE,
    STATE_DIR,
    Config,
    DeviceConfig,
    ExportConfig,
    IdRange,
    Level,
    Limit,
    Quota,
    Seccomp,
    SecurityModel,
    Throttling,
    XattrRules,
    control_problem,
    directory_problem,
    socket_problem,
)
from vhost9p.config_checks import Path, Problem, Tree
from vhost9p.config_shapes import Group, Items, Leaf, Shape
from vhost9p.path_patterns import PATTERNS_MAX

MAPPED: tuple[SecurityModel, ...] = ("mapped-xattr", "mapped-file")
LOG_LEVELS = ("debug", "info", "warning", "error")
SECONDS_MAX = 2**32 - 1
_COUNT = v.parse_number(1, v.ID_MAX + 1)
_DEVICE, _EXPORT = DeviceConfig(()), ExportConfig("")
_LIMIT, _RULES, _QUOTA, _CONFIG = Limit(), XattrRules(), Quota(), Config(())
"""Where the defaults are read."""


def _id(text: str) -> Leaf:
    return Leaf(v.parse_number(0, v.ID_MAX), text)


def _flag(text: str, default: bool, more: str = "") -> Leaf:
    return Leaf(v.parse_bool, text, more, default, at_once=True)


_RATES = (
    (
        "bps",
        v.parse_size(0, checks.RATE_MAX),
        ("bytes per second", "bytes read per second", "bytes written per second"),
    ),
    (
        "iops",
        v.parse_number(0, checks.RATE_MAX),
        ("requests per second", "read requests per second", "write requests per second"),
    ),
)


def _rates() -> Iterator[tuple[str, Leaf]]:
    for unit, parse, texts in _RATES:
        for what, text in zip(("total", "read", "write"), texts, strict=True):
            key = f"{unit}-{what}"
            yield key, Leaf(parse, text, "0: no limit.", _LIMIT.avg)
            more = f"At least {key}. 0: no bursts."
            yield f"{key}-max", Leaf(parse, f"{text} in a burst", more, _LIMIT.max)
            seconds = v.parse_number(1, SECONDS_MAX, "seconds")
            length = f"how long a burst of {key}-max may last"
            yield f"{key}-max-length", Leaf(seconds, length, default=_LIMIT.length)


THROTTLING = Group(
    "a throttling",
    {
        **dict(_rates()),
        "iops-size": Leaf(
            v.parse_size(0, checks.RATE_MAX),
            "the size that counts as one request",
            "A larger request counts as its size divided by this. 0: each request counts as one.",
            Throttling().iops_size,
        ),
    },
    "how fast the guest may read and write",
    check=checks.throttling,
    absent="without limits",
    at_once=True,
)

ID_RANGE = Group(
    "a range of ids",
    {
        "guest": _id("the first id of the guest"),
        "host": _id("the first id of the host"),
        "count": Leaf(_COUNT, "how many ids", default=IdRange(0, 0).count),
    },
    needed=(("guest",), ("host",)),
    check=checks.id_range,
)
FORBIDDEN = Group(
    "a range of forbidden ids",
    {
        "guest": _id("the first id of the guest"),
        "count": Leaf(_COUNT, "how many ids", default=IdRange(0, 0).count),
    },
    needed=(("guest",),),
    check=checks.id_range,
)


def _of_both(make: Callable[[str], Shape]) -> dict[str, Shape]:
    return {kind: make(kind) for kind in ("uid", "gid")}


def _ranges(kind: str) -> Items:
    text = f"ranges of {kind}s of the guest, and where they begin on the host"
    return Items("ranges", ID_RANGE, text)


ID_MAP = Group(
    "an id_map",
    {
        **_of_both(_ranges),
        "squash_to": Group(
            "a squash_to",
            _of_both(lambda kind: _id(f"the host's {kind} for all other {kind}s of the guest")),
            "the host's ids for those in no range",
        ),
        "forbid": Group(
            "a forbid",
            _of_both(
                lambda kind: Items(
                    "ranges", FORBIDDEN, f"{kind}s that the guest may not use (EPERM)"
                )
            ),
            "ids that the guest may not use",
        ),
    },
    "how ids of the guest and of the host correspond",
    check=checks.id_map,
    more="Each id of the guest is in one range, squashed or forbidden.",
    absent="ids are the same",
)

RULE = Group(
    "a rule",
    {
        "match": Leaf(v.parse_prefix(0), "what the guest's names begin with"),
        "store": Leaf(v.parse_prefix(1), "what takes the place of match in the host's name"),
        "refuse": Leaf(v.parse_true, "there are none (ENODATA), and none can be set (EPERM)"),
        "hide": Leaf(v.parse_true, "the file system does not support such names (EOPNOTSUPP)"),
        "keep": Leaf(v.parse_true, "the host has them under the same name"),
    },
    needed=(("match",),),
    check=checks.xattr_rule,
    more="A rule has one of store, refuse, hide and keep.",
)
XATTRS = Group(
    "an xattrs",
    {
        "rules": Items(
            "rules",
            RULE,
            "what becomes of extended attributes, by the beginning of their names",
            "The first rule that matches counts.",
            "names are the same",
        ),
        "max_value": Leaf(v.parse_size(1, 65536), "bytes of one value", default=_RULES.max_value),
        "max_names": Leaf(
            v.parse_number(1, 65536), "attributes of one file", default=_RULES.max_names
        ),
        "max_total": Leaf(
            v.parse_size(1, 64 * 1024**2),
            "bytes of the names and values of one file",
            default=_RULES.max_total,
        ),
    },
    "which extended attributes there are, and under which names",
    more="Its limits apply only to exports that have this key.",
    absent="names are the same, without limits",
)

QUOTA = Group(
    "a quota",
    {
        "bytes": Leaf(v.parse_size(1, v.COUNT_MAX), "the space that the export's files may use"),
        "inodes": Leaf(
            v.parse_number(1, v.COUNT_MAX), "the number of files that the export may have"
        ),
        "error": Leaf(
            v.parse_choice("ENOSPC", "EDQUOT", metavar="ERROR"),
            "the guest's error beyond the quota",
            default=_QUOTA.error,
        ),
        "rescan": _flag(
            "count the export's files again at start, even if the usage is known",
            _QUOTA.rescan,
        ),
    },
    "what the export may hold",
    needed=(("bytes", "inodes"),),
    absent="no limit",
    at_once=True,
)


def _mode(what: str, default: int) -> Leaf:
    text = f"permissions, on the host, of {what} that a mapped model creates"
    return Leaf(v.parse_mode, text, default=default, as_text=True, at_once=True)


EXPORT_KEYS: dict[str, Shape] = {
    "path": Leaf(
        v.path_of("directory"),
        "the directory to export",
        absent="the current one, with options alone",
        is_path=True,
        check=directory_problem,
    ),
    "security_model": Leaf(
        v.parse_choice(*SECURITY_MODELS, metavar="MODEL", mapped="mapped-xattr"),
        "who owns what the guest creates, and where its owners and modes are stored",
        "mapped is another name of mapped-xattr.",
        absent="passthrough where the daemon may set owners, or with an id_map; else none",
    ),
    "readonly": _flag("refuse all changes (EROFS)", _EXPORT.readonly),
    "fmode": _mode("files", _EXPORT.fmode),
    "dmode": _mode("directories", _EXPORT.dmode),
    "writeout": Leaf(
        v.parse_choice("immediate", metavar="WHEN"),
        "start writing the guest's data to disk at once",
        "Little of it then stays in the host's page cache.",
        absent="the host's kernel decides",
        at_once=True,
    ),
    "throttling": THROTTLING,
    "id_map": ID_MAP,
    "xattrs": XATTRS,
    "quota": QUOTA,
    "hide": Items(
        "patterns",
        Leaf(v.parse_pattern, "what is hidden, and all below it"),
        "hide what a pattern matches, and all below it, from the guest",
        ".env or *.key at any depth, .git/config from the export's root on. Nothing that is hidden "
        "is listed, reached or made.",
        at_once=True,
    ),
}
EXPORT = Group(
    "an export",
    {"name": Leaf(v.parse_name, "the directory that the guest sees"), **EXPORT_KEYS},
    needed=(("name",), ("path",)),
    more="What an export does not set, it has from the device.",
)


def exports_of(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    """A device's exports: where each stands, and all that holds for it."""
    shared = {key: tree[key] for key in EXPORT_KEYS if key in tree}
    if "exports" in tree:
        for i, each in enumerate(tree["exports"]):
            yield ("exports", i), {**shared, **each}
    else:
        yield (), shared


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
    ),
    "socket_owner": Leaf(
        v.parse_user,
        "the user that the socket belongs to",
        "Another user than the daemon's needs CAP_CHOWN.",
        absent="the daemon's",
        as_text=True,
    ),
    "socket_group": Leaf(
        v.parse_group,
        "the group that the socket belongs to",
        "Without CAP_CHOWN the daemon has to be in it.",
        absent="the daemon's",
        as_text=True,
    ),
    "tag": Leaf(
        v.parse_tag, "the mount tag that the guest names", "Each device has its own.", _DEVICE.tag
    ),
    "multidevs": Leaf(
        v.parse_choice(*MULTIDEVS, metavar="POLICY"),
        "how files of several file systems in one export are distinguished",
        "remap gives each file a number of its own, warn logs the first file on another file "
        "system, forbid refuses such files (ENODEV). With exports it is always remap.",
        _DEVICE.multidevs,
    ),
    "msize_max": Leaf(
        v.parse_size(4096, 16 * 1024 * 1024),
        "the largest msize that a guest may negotiate",
        default=_DEVICE.msize_max,
    ),
    "max_fids": Leaf(
        v.parse_number(16, 16_000_000),
        "fids that a guest may hold at a time",
        default=_DEVICE.max_fids,
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
    ),
    "notify": Leaf(
        v.parse_bool,
        "report to the guest what the host changes",
        "The guest's kernel learns nothing by itself: an agent in the guest reads the reports.",
        _DEVICE.notify,
    ),
    "notify_name": Leaf(
        v.parse_name,
        "the directory in the mount's root through which notify does that",
        "It is not on the host, and the guest cannot change it.",
        _DEVICE.notify_name,
    ),
    "notify_listed": Leaf(
        v.parse_bool,
        "list that directory, too",
        "Without, only who knows its name finds it.",
        _DEVICE.notify_listed,
        at_once=True,
    ),
    "once": _flag("exit after the first VMM has left", _DEVICE.once),
    "force": _flag(
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
    ),
    "log_time": Leaf(
        v.parse_choice(*LOG_TIMES, metavar="WHEN"),
        "whether lines of the log begin with the time",
        "auto: in JSON, and as text in a file; who reads a pipe can add it. journald adds it "
        "itself, whatever this says. --config-dir has one for all its VMs.",
        _CONFIG.log_time,
    ),
    "log_failures": _flag(
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
    ),
    "control_socket": Leaf(
        v.parse_control,
        "answer commands such as vhost9p status on this unix socket",
        "Only root and the daemon's user can connect. Commands find it by themselves.",
        absent="PID.sock in RUNTIME_DIRECTORY, XDG_RUNTIME_DIR/vhost9p, or /run/vhost9p of root",
        check=control_problem,
    ),
    "metrics": Leaf(
        v.parse_metrics,
        "serve metrics for Prometheus on this unix socket, or port of the loopback interface",
        "Needs prometheus_client. How long requests take is counted only with it.",
        absent="off",
        check=control_problem,
    ),
}
