"""Which keys there are, what their values look like, and what goes together.

The schema is data: a tree of `Leaf`, `Group` and `Items`. Each reader of options (file, command
line) fills a plain tree of dictionaries and lists with parsed leaves. The groups' checks report
each error with the keys that lead to it. `make_device` turns the tree into a DeviceConfig.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from vhost9p import config_checks as checks
from vhost9p import config_values as v
from vhost9p.config import (
    EXPORTS_MAX,
    MULTIDEVS,
    SECURITY_MODELS,
    DeviceConfig,
    ExportConfig,
    IdMap,
    IdRange,
    Level,
    Limit,
    Quota,
    Seccomp,
    SecurityModel,
    Throttling,
    XattrRule,
    XattrRules,
    directory_problem,
    socket_problem,
)
from vhost9p.config_checks import Check, Path, Problem, Tree

MAPPED: tuple[SecurityModel, ...] = ("mapped-xattr", "mapped-file")
LOG_LEVELS = ("debug", "info", "warning", "error")


class Leaf(NamedTuple):
    """One value."""

    parse: v.Parser
    is_path: bool = False
    """Made absolute, from the folder of the file or the current directory."""
    check: Callable[[str], str | None] | None = None
    """What is wrong with an absolute path."""
    as_text: bool = False
    """A number is parsed as it is written."""


@dataclass(frozen=True, slots=True)
class Group:
    """Named values."""

    noun: str
    """What it is, for messages."""
    keys: "Mapping[str, Shape]"
    needed: tuple[tuple[str, ...], ...] = ()
    """Of each of these, one key at least."""
    check: Check = checks.nothing
    """Looks at a tree whose values are right in themselves."""
    together: frozenset[str] | None = None
    """The keys that it looks at; None: all."""

    def can_be_checked(self, wrong: Set[str]) -> bool:
        """Whether the check ignores the keys in `wrong`, which are left out."""
        return not (wrong if self.together is None else wrong & self.together)


@dataclass(frozen=True, slots=True)
class Items:
    """One value of a shape or more."""

    noun: str
    item: "Shape"


Shape = Leaf | Group | Items

SECONDS_MAX = 2**32 - 1
COUNT_MAX = 2**62
_SIZES = v.parse_size(0, checks.RATE_MAX)
_NUMBERS = v.parse_number(0, checks.RATE_MAX)
_ID = Leaf(v.parse_number(0, v.ID_MAX))
_ID_COUNT = Leaf(v.parse_number(1, v.ID_MAX + 1))
FLAG = Leaf(v.parse_bool)
YES = Leaf(v.parse_true)


def _rates() -> Iterator[tuple[str, Leaf]]:
    for unit, parse in (("bps", _SIZES), ("iops", _NUMBERS)):
        for what in ("total", "read", "write"):
            yield f"{unit}-{what}", Leaf(parse)
            yield f"{unit}-{what}-max", Leaf(parse)
            yield f"{unit}-{what}-max-length", Leaf(v.parse_number(1, SECONDS_MAX))


THROTTLING = Group(
    "a throttling",
    {**dict(_rates()), "iops-size": Leaf(_SIZES)},
    check=checks.throttling,
)

ID_RANGE = Group(
    "a range of ids",
    {"guest": _ID, "host": _ID, "count": _ID_COUNT},
    needed=(("guest",), ("host",)),
    check=checks.id_range,
)
FORBIDDEN = Group(
    "a range of forbidden ids",
    {"guest": _ID, "count": _ID_COUNT},
    needed=(("guest",),),
    check=checks.id_range,
)
ID_MAP = Group(
    "an id_map",
    {
        "uid": Items("ranges", ID_RANGE),
        "gid": Items("ranges", ID_RANGE),
        "squash_to": Group("a squash_to", {"uid": _ID, "gid": _ID}),
        "forbid": Group(
            "a forbid", {"uid": Items("ranges", FORBIDDEN), "gid": Items("ranges", FORBIDDEN)}
        ),
    },
    check=checks.id_map,
)

RULE = Group(
    "a rule",
    {
        "match": Leaf(v.parse_prefix(0)),
        "store": Leaf(v.parse_prefix(1)),
        "refuse": YES,
        "hide": YES,
        "keep": YES,
    },
    needed=(("match",),),
    check=checks.xattr_rule,
)
XATTRS = Group(
    "an xattrs",
    {
        "rules": Items("rules", RULE),
        "max_value": Leaf(v.parse_size(1, 65536)),
        "max_names": Leaf(v.parse_number(1, 65536)),
        "max_total": Leaf(v.parse_size(1, 64 * 1024**2)),
    },
)

QUOTA = Group(
    "a quota",
    {
        "bytes": Leaf(v.parse_size(1, COUNT_MAX)),
        "inodes": Leaf(v.parse_number(1, COUNT_MAX)),
        "error": Leaf(v.parse_choice("ENOSPC", "EDQUOT")),
        "rescan": FLAG,
    },
    needed=(("bytes", "inodes"),),
)

EXPORT_KEYS: dict[str, Shape] = {
    "path": Leaf(v.parse_path, is_path=True, check=directory_problem),
    "security_model": Leaf(v.parse_choice(*SECURITY_MODELS, mapped="mapped-xattr")),
    "readonly": FLAG,
    "fmode": Leaf(v.parse_mode, as_text=True),
    "dmode": Leaf(v.parse_mode, as_text=True),
    "writeout": Leaf(v.parse_choice("immediate")),
    "throttling": THROTTLING,
    "id_map": ID_MAP,
    "xattrs": XATTRS,
    "quota": QUOTA,
}
EXPORT = Group(
    "an export",
    {"name": Leaf(v.parse_name), **EXPORT_KEYS},
    needed=(("name",), ("path",)),
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
    for i, each in enumerate(tree["exports"]):
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


OWN_KEYS: dict[str, Leaf] = {
    "socket": Leaf(v.parse_socket, is_path=True, check=socket_problem),
    "socket_mode": Leaf(v.parse_mode, as_text=True),
    "socket_owner": Leaf(v.parse_user, as_text=True),
    "socket_group": Leaf(v.parse_group, as_text=True),
    "tag": Leaf(v.parse_tag),
    "multidevs": Leaf(v.parse_choice(*MULTIDEVS)),
    "msize_max": Leaf(v.parse_size(4096, 16 * 1024 * 1024)),
    "max_fids": Leaf(v.parse_number(16, 16_000_000)),
    "max_xattr": Leaf(v.parse_number(0, 2**32 - 1)),
    "max_guest_memory": Leaf(v.parse_size(1, COUNT_MAX)),
    "threads": Leaf(v.parse_number(1, 32)),
    "cpus": Leaf(v.parse_cpus),
    "poll_us": Leaf(v.parse_number(0, 1000)),
    "ring": Leaf(v.parse_choice("packed", "split")),
    "once": FLAG,
    "force": FLAG,
}
DEVICE = Group(
    "a device",
    {**OWN_KEYS, **EXPORT_KEYS, "exports": Items("exports", EXPORT)},
    needed=(("path", "exports"),),
    check=_check_device,
    together=frozenset({"path", "exports", "security_model", "multidevs", "fmode", "dmode"}),
)
TOP_KEYS: dict[str, Leaf] = {
    "log_level": Leaf(v.parse_choice(*LOG_LEVELS)),
    "sandbox": Leaf(v.parse_member(Level)),
    "seccomp": Leaf(v.parse_member(Seccomp)),
    "state_dir": Leaf(v.parse_path, is_path=True),
}


def missing(shape: Group, given: Container[str]) -> Iterator[str]:
    """Yields messages about required keys that are missing."""
    for keys in shape.needed:
        if not any(key in given for key in keys):
            yield f"{' or '.join(keys)}: is missing; {shape.noun} needs it"


def find_problems(shape: Shape, tree: Any, path: Path = ()) -> Iterator[Problem]:
    """What a tree lacks by a shape, and what the checks of all within it say."""
    if isinstance(shape, Group):
        inner = [*_problems_within(((key, shape.keys[key], tree[key]) for key in tree), path)]
        inner += [Problem(path, text) for text in missing(shape, tree)]
        yield from inner
        if shape.can_be_checked({str((*each.path[len(path) :], "")[0]) for each in inner}):
            yield from (Problem((*path, *each.path), each.text) for each in shape.check(tree))
    elif isinstance(shape, Items):
        yield from _problems_within(((i, shape.item, each) for i, each in enumerate(tree)), path)


def sound(tree: Tree, problems: Iterable[Problem]) -> Tree:
    """Returns a tree without its invalid parts. The device made from it is not served, but its
    places on the host can be checked."""
    tree = (
        {**tree, "exports": [{**each} for each in tree["exports"]]} if "exports" in tree else tree
    )
    tree = {**tree}
    for path, _ in problems:
        part: Any = tree
        for key in path:
            if isinstance(part, dict) and key in MAKERS:
                part.pop(key, None)
                break
            part = part[key] if isinstance(key, int) or key in part else {}
    return tree


def _problems_within(
    parts: Iterator[tuple[str | int, Shape, Any]], path: Path
) -> Iterator[Problem]:
    for key, shape, tree in parts:
        yield from find_problems(shape, tree, (*path, key))


# ---- from a tree to dataclasses ------------------------------------------------------------------


def make_device(
    tree: Tree, origin: Callable[[Path], str] = lambda path: "", **more: Any
) -> DeviceConfig:
    """Returns the device that a tree describes. `origin` returns the place of a path in it; `more`
    are fields that no tree has. An export without a path is left out: its error is reported
    already."""
    own = {key: tree[key] for key in OWN_KEYS if key in tree}
    if "exports" in tree:
        own.setdefault("multidevs", "remap")
    exports = tuple(
        _make_export({**each, "origin": origin(path)})
        for path, each in exports_of(tree)
        if "path" in each
    )
    return DeviceConfig(**own, **more, exports=exports, origin=origin(()))


def _make_export(tree: Tree) -> ExportConfig:
    return ExportConfig(
        **{key: MAKERS[key](value) if key in MAKERS else value for key, value in tree.items()}
    )


def _make_throttling(tree: Tree) -> Throttling:
    limits = {
        f"{unit}_{what}": Limit(
            tree.get(f"{unit}-{what}", 0),
            tree.get(f"{unit}-{what}-max", 0),
            tree.get(f"{unit}-{what}-max-length", 1),
        )
        for unit in ("bps", "iops")
        for what in ("total", "read", "write")
    }
    return Throttling(**limits, iops_size=tree.get("iops-size", 0))


def _make_id_map(tree: Tree) -> IdMap:
    squash, forbid = tree.get("squash_to", {}), tree.get("forbid", {})

    def ranges(kind: str) -> tuple[IdRange, ...]:
        return tuple(
            IdRange(each["guest"], each["host"], each.get("count", 1))
            for each in tree.get(kind, ())
        )

    def forbidden(kind: str) -> tuple[tuple[int, int], ...]:
        return tuple((each["guest"], each.get("count", 1)) for each in forbid.get(kind, ()))

    return IdMap(
        uid=ranges("uid"),
        gid=ranges("gid"),
        squash_uid=squash.get("uid"),
        squash_gid=squash.get("gid"),
        forbid_uid=forbidden("uid"),
        forbid_gid=forbidden("gid"),
    )


def _make_xattrs(tree: Tree) -> XattrRules:
    rules = tuple(
        XattrRule(each["match"], checks.action_of(each), each.get("store", ""))
        for each in tree.get("rules", ())
    )
    return XattrRules(**{**tree, "rules": rules})


MAKERS: dict[str, Callable[[Tree], Any]] = {
    "throttling": _make_throttling,
    "id_map": _make_id_map,
    "xattrs": _make_xattrs,
    "quota": lambda tree: Quota(**tree),
}
