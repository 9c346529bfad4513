"""The keys of an export, and of what goes with it: throttling, ids, extended attributes, quota.

What keys there are beside, and how all of them are read, is in config_schema.py.
"""

from collections.abc import Callable, Iterator

from vhost9p import config_checks as checks
from vhost9p import config_values as v
from vhost9p.config import (
    SECURITY_MODELS,
    ExportConfig,
    IdRange,
    Limit,
    Quota,
    Throttling,
    XattrRules,
    directory_problem,
)
from vhost9p.config_checks import Path, Tree
from vhost9p.config_shapes import Group, Items, Leaf, Shape

SECONDS_MAX = 2**32 - 1
_COUNT = v.parse_number(1, v.ID_MAX + 1)
_EXPORT, _LIMIT, _RULES, _QUOTA = ExportConfig(""), Limit(), XattrRules(), Quota()
"""Where the defaults are read."""


def _id(text: str) -> Leaf:
    return Leaf(v.parse_number(0, v.ID_MAX), text)


def flag(text: str, default: bool, more: str = "") -> Leaf:
    """Returns the shape of what is or is not so, and changes at once."""
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
    at_once=True,
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
    at_once=True,
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
        "rescan": flag(
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
        fixed="the guest has mounted that directory; give other ones names, as exports",
    ),
    "security_model": Leaf(
        v.parse_choice(*SECURITY_MODELS, metavar="MODEL", mapped="mapped-xattr"),
        "who owns what the guest creates, and where its owners and modes are stored",
        "mapped is another name of mapped-xattr.",
        absent="passthrough where the daemon may set owners, or with an id_map; else none",
        fixed="owners and modes of the files that there are stay where it has put them; add the "
        "directory as an export of another name",
    ),
    "readonly": flag("refuse all changes (EROFS)", _EXPORT.readonly),
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
