"""Trees of options: what they lack by the schema, and the dataclasses that they describe.

A tree is what a reader of options fills: dictionaries and lists, with parsed values as leaves, by
the keys of config_schema.py. `make_device` turns it into a DeviceConfig.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

from vhost9p import config_checks as checks
from vhost9p.config import (
    DeviceConfig,
    ExportConfig,
    IdMap,
    IdRange,
    Limit,
    Quota,
    Throttling,
    XattrRule,
    XattrRules,
)
from vhost9p.config_checks import Path, Problem, Tree
from vhost9p.config_export import exports_of
from vhost9p.config_schema import OWN_KEYS
from vhost9p.config_shapes import Group, Items, Shape


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
            **{
                field: tree[f"{unit}-{what}{suffix}"]
                for field, suffix in (("avg", ""), ("max", "-max"), ("length", "-max-length"))
                if f"{unit}-{what}{suffix}" in tree
            }
        )
        for unit in ("bps", "iops")
        for what in ("total", "read", "write")
    }
    return Throttling(**limits, iops_size=tree.get("iops-size", Throttling().iops_size))


def _make_id_map(tree: Tree) -> IdMap:
    squash, forbid = tree.get("squash_to", {}), tree.get("forbid", {})

    def ranges(kind: str) -> tuple[IdRange, ...]:
        return tuple(IdRange(**each) for each in tree.get(kind, ()))

    def forbidden(kind: str) -> tuple[tuple[int, int], ...]:
        spans = (IdRange(**each, host=0) for each in forbid.get(kind, ()))
        return tuple((each.guest, each.count) for each in spans)

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
