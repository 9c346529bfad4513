"""The options of the command line: their names, help and values. cli_device.py has the device that
they describe."""

import re
from collections.abc import Callable
from typing import Any

from vhost9p import __version__, virtfs
from vhost9p import config_values as v
from vhost9p.cli_parser import Once, Parser, typed
from vhost9p.config import XATTR_ACTIONS
from vhost9p.config_checks import Tree
from vhost9p.config_export import EXPORT, FORBIDDEN, ID_RANGE, QUOTA, THROTTLING
from vhost9p.config_schema import DEVICE, TOP_KEYS
from vhost9p.config_shapes import Group, Items, Leaf, Shape, shape_at, without

Function = Callable[[str], Any]
FD_MAX = 2**31 - 1
NAMES = {
    "socket": ("--socket", "--socket-path"),
    "exports": ("--export",),
    "xattrs.rules": ("--xattr-rule",),
    **{
        f"id_map.{key}{kind}": (f"--{word}-{kind}",)
        for key, word in (("", "map"), ("squash_to.", "squash"), ("forbid.", "forbid"))
        for kind in ("uid", "gid")
    },
}
"""Options of keys with names of their own."""
SERVED = frozenset({"socket", "path"})
"""Keys that say what is served, and where. Of other options the last one counts."""


def names_of(path: str) -> tuple[str, ...]:
    """Returns the options that a key of the file has, or would have: --quota-bytes for
    quota.bytes. Those of a throttling share one."""
    if path.startswith("throttling"):
        return ("--throttling",)
    return NAMES.get(path) or (f"--{path}".replace("_", "-").replace(".", "-"),)


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
    """Sets a key in a tree from text, or adds to its list. The key may be in a group
    (throttling.bps-total). Raises ValueError; its text begins with the key."""
    *groups, last = key.split(".")
    for name in groups:
        inner = shape.keys.get(name)
        if not isinstance(inner, Group):
            raise ValueError(_unknown(key, shape))
        shape, tree = inner, tree.setdefault(name, {})
    known = shape.keys.get(last)
    leaf = known.item if isinstance(known, Items) else known
    if not isinstance(leaf, Leaf):
        raise ValueError(_unknown(key, shape))
    if last in tree and leaf is known:
        raise ValueError(f"{key}: is given twice")
    try:
        is_switch = leaf.parse in (v.parse_bool, v.parse_true)
        value = leaf.parse(v.parse_switch(text) if is_switch else text)
    except ValueError as error:
        raise ValueError(f"{key}: {text!r} {error}") from None
    tree[last] = value if leaf is known else [*tree.get(last, ()), value]


def _is_plain(shape: Shape) -> bool:
    """Whether a value is one text, or a list of them."""
    return isinstance(shape.item if isinstance(shape, Items) else shape, Leaf)


def _unknown(key: str, shape: Group) -> str:
    prefix = key.rpartition(".")[0]
    dot = f"{prefix}." if prefix else ""
    known = [dot + each for each, one in shape.keys.items() if _is_plain(one)]
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


def _help(shape: Shape, note: str = "") -> str:
    """Returns the help of an option from the text of its key. `note` says how it is written."""
    choices = shape.parse.choices if isinstance(shape, Leaf) else ()
    text = f"{shape.text}: {' | '.join(choices)}" if len(choices) > 1 else shape.text
    default = "" if _is_flag(shape) else without(shape)
    return f"{text}{note and f'; {note}'}{default and f' (default: {default})'}".replace("%", "%%")


def _is_flag(shape: Shape) -> bool:
    return isinstance(shape, Leaf) and shape.parse is v.parse_bool


class _Section:
    """A part of the help, with the options in it."""

    def __init__(self, parser: Parser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def add(self, name: str, metavar: str, parse: Function, help: str, between: str = " ") -> None:
        """Adds an option that no key of the file has."""
        self._group.add_argument(
            name, metavar=metavar, type=typed(parse, between), action=Once, help=help
        )

    def keys(self, *paths: str) -> None:
        """Adds the options of keys with one value."""
        for path in paths:
            leaf = TOP_KEYS.get(path) or shape_at(DEVICE, path)
            assert isinstance(leaf, Leaf)
            if _is_flag(leaf):
                self._group.add_argument(
                    *names_of(path), action="store_true", default=None, help=_help(leaf)
                )
            else:
                self._group.add_argument(
                    *names_of(path),
                    metavar=leaf.parse.metavar,
                    type=typed(leaf.parse),
                    action=Once if path in SERVED else "store",
                    help=_help(leaf),
                )

    def parts(
        self, path: str, metavar: str, parse: Function, note: str = "", between: str = " "
    ) -> None:
        """Adds the option of a key with several values, each given by an option of its own."""
        self._group.add_argument(
            *names_of(path),
            metavar=metavar,
            action="append",
            dest=path if path == "exports" else None,
            type=typed(parse, between),
            help=_help(shape_at(DEVICE, path), note),
        )


def build_parser(end: Callable[[], str] = str) -> Parser:
    """Returns the parser of the daemon's options. Options are None if not given. `end` returns what
    the help ends with."""
    parser = Parser(
        end,
        prog="vhost9p",
        description="Serves virtio-9p to a virtual machine over a vhost-user socket.",
        epilog="With --socket alone: reads the configuration named after the socket (for 9p.sock: "
        "9p.yaml in ~/.config/vhost9p or /etc/vhost9p), or exports the current directory if there "
        "is none.",
    )
    _add_where(_Section(parser, "where"))
    _add_what(_Section(parser, "what (instead of --config)"))
    _add_files(_Section(parser, "files (instead of --config)"))
    _add_ids(_Section(parser, "users and groups (instead of --config)"))
    _add_limits(_Section(parser, "limits (instead of --config)"))
    how = _Section(parser, "how")
    how.keys("once", "force", "state_dir", "sandbox", "seccomp")
    how.keys("log_level", "log_format", "log_time", "log_failures")
    how.keys("control_socket", "metrics")
    for name, what in (
        ("capabilities", "the backend's type as JSON, as management tools expect"),
        ("limits", "what a guest of this configuration can take at most"),
        ("schema", "the JSON Schema of the configuration file, for editors"),
    ):
        parser.add_argument(f"--print-{name}", action="store_true", help=f"print {what}, and exit")
    parser.add_argument(
        "--version", action="version", version=f"vhost9p {__version__}", help="print the version"
    )
    return parser


def _add_where(where: _Section) -> None:
    where.keys("socket")
    where.add("--fd", "N", _descriptor, "take this inherited unix socket instead")
    where.keys("socket_mode", "socket_owner", "socket_group")
    where.add(
        "--config",
        "FILE",
        v.path_of("file"),
        "read the configuration from this YAML file",
    )
    where.add(
        "--config-dir",
        "DIR",
        v.path_of("directory"),
        "serve each VM that a file *.yaml in this directory describes; SIGHUP looks again",
    )


def _add_what(what: _Section) -> None:
    what.keys("path")
    what.parts(
        "exports",
        "name=NAME,path=DIR[,KEY=VALUE…]",
        _export,
        "may be given several times. KEY: an export's key in the configuration file, as in "
        "readonly=on or quota.bytes=1GiB; double a comma within a value. The options below apply "
        "to each export without its own",
        between=": ",
    )
    what.add(
        "--virtfs",
        "local,path=…,mount_tag=…,…",
        virtfs.parse,
        "the argument of QEMU's -virtfs or -fsdev, unchanged: "
        f"{', '.join(virtfs.PLAIN)}, throttling.…; "
        f"{' and '.join(virtfs.MEANINGLESS)} are allowed and ignored",
        between=": ",
    )
    what.keys("tag", "multidevs", "msize_max", "max_fids", "max_xattr", "max_guest_memory")
    what.keys("threads", "cpus", "poll_us", "ring", "notify", "notify_name", "notify_listed")


def _add_files(files: _Section) -> None:
    files.keys("security_model", "readonly", "fmode", "dmode", "writeout")
    files.parts("hide", "PATTERN", v.parse_pattern, "may be given several times")
    files.parts(
        "xattrs.rules",
        "MATCH=ACTION",
        _xattr_rule,
        "ACTION: store:PREFIX | refuse | hide | keep; the first match counts",
    )


def _add_limits(limits: _Section) -> None:
    limits.parts(
        "throttling",
        "KEY=VALUE",
        _fill_by(THROTTLING),
        "bytes (bps) or requests (iops) per second: {bps,iops}-{total,read,write}, each with -max "
        "(in a burst) and -max-length (seconds of a burst), and iops-size",
        between=": ",
    )
    limits.keys(*(f"quota.{key}" for key in QUOTA.keys))


def _add_ids(ids: _Section) -> None:
    for kind in ("uid", "gid"):
        ids.parts(f"id_map.{kind}", "GUEST:HOST:COUNT", _numbers(ID_RANGE))
        ids.keys(f"id_map.squash_to.{kind}")
        ids.parts(f"id_map.forbid.{kind}", "FIRST:COUNT", _numbers(FORBIDDEN))
