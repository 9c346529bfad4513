"""The options of the command line: their names, help and values. cli_device.py has the device that
they describe."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from vhost9p import __version__, virtfs
from vhost9p import config_values as v
from vhost9p.cli_parser import Parser, typed
from vhost9p.config import MULTIDEVS, SECURITY_MODELS, XATTR_ACTIONS, Level, Seccomp
from vhost9p.config_checks import Tree
from vhost9p.config_schema import (
    DEVICE,
    EXPORT,
    FLAG,
    FORBIDDEN,
    ID_RANGE,
    LOG_LEVELS,
    THROTTLING,
    TOP_KEYS,
    YES,
    Group,
    Leaf,
    Shape,
)

FD_MAX = 2**31 - 1


def _leaf(*path: str) -> Callable[[str], Any]:
    """Returns the parser of a device's key, as argparse wants it."""
    shape: Shape = DEVICE
    for key in path:
        assert isinstance(shape, Group)
        shape = shape.keys[key]
    assert isinstance(shape, Leaf)
    return typed(shape.parse)


# ---- values with several parts -------------------------------------------------------------------


def _descriptor(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or not 3 <= int(text) <= FD_MAX:
        raise ValueError("is no inherited descriptor: a number from 3")
    return int(text)


def _numbers(group: Group) -> Callable[[str], Tree]:
    """Returns a parser of the numbers of a group's keys, separated by colons."""

    def parse(text: str) -> Tree:
        tree: Tree = {}
        parts = text.split(":")
        if len(parts) != len(group.keys):
            raise ValueError(f"is not of the form {':'.join(group.keys).upper()}")
        for key, part in zip(group.keys, parts, strict=True):
            fill(tree, group, key, part)
        return tree

    return parse


def _xattr_rule(text: str) -> Tree:
    match, equals, action = text.rpartition("=")
    word, _, prefix = action.partition(":")
    if not equals or word not in XATTR_ACTIONS:
        raise ValueError(
            "is not of the form MATCH=ACTION, with store:PREFIX, refuse, hide or keep for ACTION"
        )
    if (word == "store") != bool(prefix):
        raise ValueError(
            "is no rule: store needs a prefix, as in security.=store:user.s.; others have none"
        )
    return {"match": match, word: prefix or True}


def fill(tree: Tree, shape: Group, key: str, text: str) -> None:
    """Sets a key in a tree from text. The key may be in a group (throttling.bps-total). Raises
    ValueError; its text begins with the key."""
    *groups, last = key.split(".")
    for name in groups:
        inner = shape.keys.get(name)
        if not isinstance(inner, Group):
            raise ValueError(_unknown(key, shape))
        shape, tree = inner, tree.setdefault(name, {})
    leaf = shape.keys.get(last)
    if not isinstance(leaf, Leaf):
        raise ValueError(_unknown(key, shape))
    if last in tree:
        raise ValueError(f"{key}: is given twice")
    try:
        tree[last] = leaf.parse(v.parse_switch(text) if leaf in (FLAG, YES) else text)
    except ValueError as error:
        raise ValueError(f"{key}: {text!r} {error}") from None


def _unknown(key: str, shape: Group) -> str:
    prefix = key.rpartition(".")[0]
    dot = f"{prefix}." if prefix else ""
    known = [dot + each for each, shape in shape.keys.items() if isinstance(shape, Leaf)]
    return f"unknown key {key!r}; valid are {', '.join(known)}{v.guess(key, known)}"


def _fill_by(shape: Group) -> Callable[[str], tuple[str, str]]:
    """Returns a parser of KEY=VALUE, for the keys of a group. It returns both as text."""

    def parse(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError("is not of the form KEY=VALUE")
        fill({}, shape, key, value)
        return key, value

    return parse


def _export(text: str) -> Tree:
    """Parses an export, written as key=value,key=value."""
    tree: Tree = {}
    wrong: list[str] = []
    for key, value in v.split_commas(text):
        try:
            fill(tree, EXPORT, key, value)
        except ValueError as error:
            wrong += error.args
    if wrong:
        raise ValueError(*wrong)
    return tree


# ---- the options ---------------------------------------------------------------------------------


def build_parser() -> Parser:
    """Returns the parser of all options. Options that describe the device are None if not given."""
    parser = Parser(
        prog="vhost9p",
        description="Serves virtio-9p to a virtual machine over a vhost-user socket.",
        epilog="With --socket alone: reads the configuration named after the socket (for 9p.sock: "
        "9p.yaml in ~/.config/vhost9p or /etc/vhost9p), or exports the current directory if there "
        "is none. `vhost9p upgrade` replaces running daemons by the version that is installed now.",
        allow_abbrev=False,
    )
    _add_where(parser)
    _add_what(parser)
    _add_files(parser)
    _add_ids(parser)
    _add_limits(parser)
    _add_how(parser)
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="print the backend's type as JSON, as management tools expect, and exit",
    )
    parser.add_argument(
        "--print-limits",
        action="store_true",
        help="print what a guest of this configuration can take at most, and exit",
    )
    parser.add_argument("--version", action="version", version=f"vhost9p {__version__}")
    return parser


def _add_where(parser: Parser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument(
        "--socket",
        "--socket-path",
        metavar="PATH",
        type=_leaf("socket"),
        help="listen on this unix socket",
    )
    where.add_argument(
        "--fd", metavar="N", type=typed(_descriptor), help="take this inherited unix socket instead"
    )
    where.add_argument(
        "--socket-mode",
        metavar="MODE",
        type=_leaf("socket_mode"),
        help="permissions of the socket (default: 0600); connecting needs the right to write",
    )
    for what, noun in (("owner", "user"), ("group", "group")):
        where.add_argument(
            f"--socket-{what}",
            metavar=noun.upper(),
            type=_leaf(f"socket_{what}"),
            help=f"the socket's {noun}, by name or number (default: the daemon's)",
        )
    where.add_argument(
        "--config",
        metavar="FILE",
        type=typed(v.parse_path),
        help="read the configuration from this YAML file",
    )
    where.add_argument(
        "--config-dir",
        metavar="DIR",
        type=typed(v.parse_path),
        help="serve each VM that a file *.yaml in this directory describes; SIGHUP looks again",
    )


def _add_what(parser: Parser) -> None:
    what = parser.add_argument_group("what (instead of --config)")
    what.add_argument(
        "--path",
        metavar="DIR",
        type=_leaf("path"),
        help="the directory to export (default: the current one)",
    )
    what.add_argument(
        "--export",
        metavar="name=NAME,path=DIR[,KEY=VALUE…]",
        dest="exports",
        action="append",
        type=typed(_export, ": "),
        help="show this directory under a name in the mount's root; may be given several times. "
        "KEY: an export's key in the configuration file, as in readonly=on or quota.bytes=1GiB; "
        "double a comma within a value. The options below apply to each export without its own",
    )
    what.add_argument(
        "--virtfs",
        metavar="local,path=…,mount_tag=…,…",
        type=typed(virtfs.parse, ": "),
        help="the argument of QEMU's -virtfs or -fsdev, unchanged: "
        f"{', '.join(virtfs.PLAIN)}, throttling.…; "
        f"{' and '.join(virtfs.MEANINGLESS)} are allowed and ignored",
    )
    what.add_argument("--tag", type=_leaf("tag"), help="the mount tag (default: host0)")
    what.add_argument(
        "--multidevs",
        metavar="POLICY",
        type=_leaf("multidevs"),
        help=" | ".join(MULTIDEVS) + ": how files of several host devices are treated (default: "
        "warn; remap with --export)",
    )
    _add_service(what)


def _add_service(what: argparse._ArgumentGroup) -> None:
    _add_bounds(what)
    _add_threads(what)
    what.add_argument(
        "--ring",
        metavar="LAYOUT",
        type=_leaf("ring"),
        help="packed | split: the newest layout of the virtqueue to offer (default: packed)",
    )


def _add_bounds(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--msize-max",
        metavar="SIZE",
        type=_leaf("msize_max"),
        help="the largest msize that a guest may negotiate (default: 1MiB)",
    )
    what.add_argument(
        "--max-fids",
        metavar="N",
        type=_leaf("max_fids"),
        help="fids that a guest may hold at a time (default: 1000000)",
    )
    what.add_argument(
        "--max-xattr",
        metavar="N",
        type=_leaf("max_xattr"),
        help="values of extended attributes that a guest may hold open (default: 1024)",
    )
    what.add_argument(
        "--max-guest-memory",
        metavar="SIZE",
        type=_leaf("max_guest_memory"),
        help="the most of the guest's memory that is mapped (default: no limit but addresses)",
    )


def _add_threads(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--threads",
        metavar="N",
        type=_leaf("threads"),
        help="requests served at a time (default: 1)",
    )
    what.add_argument(
        "--cpus",
        metavar="LIST",
        type=_leaf("cpus"),
        help="CPUs that serving threads may run on, as 0,4-7 (default: all)",
    )
    what.add_argument(
        "--poll-us",
        metavar="US",
        type=_leaf("poll_us"),
        help="an idle serving thread polls for up to this many microseconds, as long as experience "
        "says that it pays; 0: it sleeps at once (default: 50)",
    )


def _add_files(parser: Parser) -> None:
    files = parser.add_argument_group("files (instead of --config)")
    files.add_argument(
        "--security-model",
        metavar="MODEL",
        type=_leaf("security_model"),
        help=" | ".join(SECURITY_MODELS) + " (default: passthrough where the daemon may set "
        "owners, else none)",
    )
    files.add_argument("--readonly", action="store_true", default=None, help="refuse all changes")
    for key, default, what in (("fmode", "0600", "files"), ("dmode", "0700", "directories")):
        files.add_argument(
            f"--{key}",
            metavar="MODE",
            type=_leaf(key),
            help=f"permissions, on the host, of {what} that a mapped model creates "
            f"(default: {default})",
        )
    files.add_argument(
        "--writeout",
        metavar="immediate",
        type=_leaf("writeout"),
        help="start writing data to disk at once",
    )
    files.add_argument(
        "--xattr-rule",
        metavar="MATCH=ACTION",
        action="append",
        type=typed(_xattr_rule),
        help="how extended attributes whose names begin with MATCH are treated: store:PREFIX "
        "(stored with PREFIX in place of MATCH) | refuse | hide | keep; the first match counts",
    )


def _add_ids(parser: Parser) -> None:
    ids = parser.add_argument_group("users and groups (instead of --config)")
    for kind in ("uid", "gid"):
        ids.add_argument(
            f"--map-{kind}",
            metavar="GUEST:HOST:COUNT",
            action="append",
            type=typed(_numbers(ID_RANGE)),
            help=f"map COUNT {kind}s of the guest, from GUEST on, to the host's from HOST on",
        )
        ids.add_argument(
            f"--squash-{kind}",
            metavar="HOST",
            type=_leaf("id_map", "squash_to", kind),
            help=f"the host's {kind} for all other {kind}s of the guest",
        )
        ids.add_argument(
            f"--forbid-{kind}",
            metavar="FIRST:COUNT",
            action="append",
            type=typed(_numbers(FORBIDDEN)),
            help=f"{kind}s that the guest may not use",
        )


def _add_limits(parser: Parser) -> None:
    limits = parser.add_argument_group("limits (instead of --config)")
    limits.add_argument(
        "--throttling",
        metavar="KEY=VALUE",
        action="append",
        type=typed(_fill_by(THROTTLING), ": "),
        help="bytes (bps) or requests (iops) per second: {bps,iops}-{total,read,write}, each with "
        "-max (rate of a burst) and -max-length (seconds of a burst), and iops-size",
    )
    limits.add_argument(
        "--quota-bytes",
        metavar="SIZE",
        type=_leaf("quota", "bytes"),
        help="the space that an export's files may use",
    )
    limits.add_argument(
        "--quota-inodes",
        metavar="N",
        type=_leaf("quota", "inodes"),
        help="the number of files that an export may have",
    )
    limits.add_argument(
        "--quota-error",
        metavar="ERROR",
        type=_leaf("quota", "error"),
        help="ENOSPC | EDQUOT: the error if the quota is exceeded (default: ENOSPC)",
    )
    limits.add_argument(
        "--quota-rescan",
        action="store_true",
        default=None,
        help="count the export's files again at start",
    )


def _add_how(parser: Parser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--once", action="store_true", help="exit after the first VMM disconnects")
    how.add_argument(
        "--force",
        action="store_true",
        help="serve exports that overlap, contain the daemon's own files, or are not writable",
    )
    how.add_argument(
        "--state-dir",
        metavar="DIR",
        type=typed(v.parse_path),
        help="directory for identities (default: /var/lib/vhost9p, ~/.local/state/vhost9p)",
    )
    for name, metavar, values, default, what in (
        ("sandbox", "LEVEL", Level, Level.AUTO, "how the daemon confines itself"),
        ("seccomp", "ACTION", Seccomp, Seccomp.KILL, "what becomes of other system calls"),
    ):
        how.add_argument(
            f"--{name}",
            metavar=metavar,
            type=typed(TOP_KEYS[name].parse),
            help=f"{' | '.join(values)}: {what} (default: {default})",
        )
    how.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=typed(TOP_KEYS["log_level"].parse),
        help=" | ".join(LOG_LEVELS) + " (default: info)",
    )
