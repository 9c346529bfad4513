"""Checks of options that depend on each other.

A check gets a part of the options as a plain tree whose values are valid one by one. It yields a
Problem for each combination that is not allowed, with the path of the key from that part on. The
reader of a syntax (config_file.py, cli.py) knows the line or option of that key.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from vhost9p.config import XATTR_ACTIONS, XattrAction
from vhost9p.config_values import ID_MAX

Tree = dict[str, Any]
Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """An error: the keys and indices that lead to the option, and a text that follows its name."""

    path: Path
    text: str

    def __str__(self) -> str:
        return ": ".join([*(each for each in self.path if isinstance(each, str)), self.text])


Check = Callable[[Tree], Iterator[Problem]]


def nothing(tree: Tree) -> Iterator[Problem]:
    """Accepts every combination."""
    yield from ()


# ---- throttling ----------------------------------------------------------------------------------

RATE_MAX = 10**15
"""The largest rate, and the most that one burst may transfer, as in QEMU (docs/throttle.txt)."""


def throttling(tree: Tree) -> Iterator[Problem]:
    """Refuses the combinations of limits that QEMU refuses (util/throttle.c)."""
    for unit in ("bps", "iops"):
        for suffix in ("", "-max"):
            given = [
                what for what in ("total", "read", "write") if tree.get(f"{unit}-{what}{suffix}")
            ]
            if "total" in given and len(given) > 1:
                yield Problem(
                    (f"{unit}-total{suffix}",),
                    f"excludes {unit}-{given[1]}{suffix}: limit either the total, or reads and "
                    "writes separately",
                )
        for what in ("total", "read", "write"):
            yield from _burst(tree, f"{unit}-{what}")
    if tree.get("iops-size") and not any(
        tree.get(f"iops-{what}") for what in ("total", "read", "write")
    ):
        yield Problem(("iops-size",), "needs iops-total, iops-read or iops-write")


def _burst(tree: Tree, key: str) -> Iterator[Problem]:
    rate, burst, length = (
        tree.get(key, 0),
        tree.get(f"{key}-max", 0),
        tree.get(f"{key}-max-length", 1),
    )
    if length > 1 and not burst:
        yield Problem((f"{key}-max-length",), f"needs {key}-max, the rate of the burst")
    if burst and not rate:
        yield Problem((f"{key}-max",), f"needs {key}, the rate that a burst may exceed")
    elif 0 < burst < rate:
        yield Problem((f"{key}-max",), f"{burst} is lower than {key}, which is {rate}")
    if burst and burst * length > RATE_MAX:
        yield Problem(
            (f"{key}-max-length",), f"a burst of {burst} for {length} s is more than {RATE_MAX}"
        )


# ---- ids -----------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """Ids from `first` to `last`, and where the options have them."""

    first: int
    last: int
    path: Path

    def __str__(self) -> str:
        return _ids(self.first, self.last)


def _ids(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def id_range(tree: Tree) -> Iterator[Problem]:
    """Refuses a range beyond the last valid id."""
    count = tree.get("count", 1)
    for side in ("guest", "host"):
        if side in tree and tree[side] + count - 1 > ID_MAX:
            yield Problem(
                ("count",) if "count" in tree else (),
                f"{count} ids from {side} {tree[side]} on go beyond {ID_MAX}, the last valid id",
            )


def id_map(tree: Tree) -> Iterator[Problem]:
    """Requires that each id of the guest has exactly one meaning, and each id of the host at most
    one."""
    mapped = [kind for kind in ("uid", "gid") if _is_mapped(tree, kind)]
    for kind, other in (("uid", "gid"), ("gid", "uid")):
        if kind in mapped:
            yield from _check_kind(tree, kind)
        elif other in mapped:
            yield Problem((), f"maps {other} only; map {kind}, too")
    if not mapped:
        yield Problem((), "is empty; give ranges, squash_to or forbid for uid and gid")


def _is_mapped(tree: Tree, kind: str) -> bool:
    return any(kind in part for part in (tree, tree.get("squash_to", {}), tree.get("forbid", {})))


def _spans(tree: Tree, side: str, *path: str) -> Iterator[_Span]:
    part: Any = tree
    for key in path:
        part = part.get(key, {})
    for i, each in enumerate(part):
        yield _Span(each[side], each[side] + each.get("count", 1) - 1, (*path, i))


def _check_kind(tree: Tree, kind: str) -> Iterator[Problem]:
    guest = sorted([*_spans(tree, "guest", kind), *_spans(tree, "guest", "forbid", kind)])
    host = sorted(_spans(tree, "host", kind))
    overlaps = [*_overlaps("guest", guest), *_overlaps("host", host)]
    yield from overlaps
    if overlaps or kind in tree.get("squash_to", {}):
        return
    missing = [_ids(first, last) for first, last in _gaps(guest)]
    if missing:
        more = f" (and {len(missing) - 3} more ranges)" if len(missing) > 3 else ""
        yield Problem(
            (kind,),
            f"guest ids {', '.join(missing[:3])}{more} are not mapped; add a range, squash_to or "
            "forbid",
        )


def _overlaps(side: str, spans: list[_Span]) -> Iterator[Problem]:
    for one, other in pairwise(spans):
        if other.first <= one.last:
            shared = _ids(other.first, min(one.last, other.last))
            yield Problem(
                other.path, f"{side} ids {other} overlap {one}; {shared} would mean two things"
            )


def _gaps(spans: list[_Span]) -> Iterator[tuple[int, int]]:
    """Yields the ranges of ids that are in no span. The spans are sorted and do not overlap."""
    following = 0
    for each in spans:
        if each.first > following:
            yield following, each.first - 1
        following = each.last + 1
    if following <= ID_MAX:
        yield following, ID_MAX


# ---- attributes ----------------------------------------------------------------------------------


def xattr_rule(tree: Tree) -> Iterator[Problem]:
    """Requires that a rule has exactly one action."""
    found = [action for action in XATTR_ACTIONS if action in tree]
    if len(found) != 1:
        what = f"has {' and '.join(found)}" if found else "has no action"
        yield Problem((), f"{what}; give one of store, refuse, hide and keep")


def action_of(tree: Tree) -> XattrAction:
    """Returns the action of a valid rule."""
    return next(action for action in XATTR_ACTIONS if action in tree)
