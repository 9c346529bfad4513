"""What of a reply has to be the same when a request is repeated, and how long requests take.

The same are errnos, counts, the types of qids, sizes and modes of files, targets of symlinks and
sizes of attributes. Numbers of files, times and ids are the host's, and may differ. Directories
are compared by how many bytes all of their entries have, since their order is the host's, too.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vhost9p.p9.codec import Qid
from vhost9p.trace.events import error_name
from vhost9p.trace.notation import Message

COMPARED = frozenset({"count", "status", "target", "size", "version", "mode"})
"""Fields of replies whose values are compared. A qid is compared by its type."""
S_IFMT, S_IFREG = 0o170000, 0o100000
PERMISSIONS_U = 0x000D0FFF
"""Of a mode of 9P2000.u, with set-id and sticky bits: what it has of a regular file."""


def difference(recorded: Message, now: Message, *, is_list: bool = False) -> str:
    """Says how a reply differs from the recorded one; empty if it does not. One that `is_list`, of
    a directory's entries, has other ones."""
    if recorded.error != now.error:
        return f"{_outcome(recorded)} when recorded, {_outcome(now)} now"
    if recorded.error:
        return ""
    if recorded.type != now.type:
        return f"{recorded.name} when recorded, {now.name} now"
    before, after = _fields(recorded), _fields(now)
    for name in before:
        if is_list and name == "count":
            continue
        one, other = _comparable(before, name), _comparable(after, name)
        if one is not None and one != other:
            return f"{_words(name, one)} when recorded, {_words(name, other)} now"
    return ""


def _fields(reply: Message) -> dict[str, Any]:
    """The fields, as those of Rgetattr if it is its counterpart in 9P2000.u."""
    if reply.name != "Rstat" or not (stat := reply.fields.get("stat")):
        return reply.fields
    is_regular = not stat["mode"] & ~PERMISSIONS_U
    mode = stat["mode"] | S_IFREG if is_regular else stat["mode"] & ~S_IFMT
    return {"qid": stat["qid"], "mode": mode, "size": stat["length"]}


def _outcome(reply: Message) -> str:
    return error_name(reply.error) if reply.error else "success"


def _comparable(fields: dict[str, Any], name: str) -> Any:
    """What of a field is compared; None: nothing."""
    value, mode = fields.get(name), fields.get("mode")
    if isinstance(value, Qid):
        return value.type
    if name == "qids" and value is not None:
        return tuple(qid.type for qid in value)
    if name not in COMPARED:
        return None
    if name == "mode" and mode is not None and mode & S_IFMT != S_IFREG:
        return mode & S_IFMT
    if name == "size" and mode is not None and mode & S_IFMT != S_IFREG:
        return None
    return value


def _words(name: str, value: Any) -> str:
    if name == "mode" and value is not None:
        return f"mode {value:04o}"
    return f"{'types of qids' if name == 'qids' else name} {value!r}"


@dataclass
class _Row:
    recorded: list[int] = field(default_factory=list)
    now: list[int] = field(default_factory=list)
    differences: int = 0
    skipped: int = 0


class Table:
    """Counts and times of requests, by type."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = defaultdict(_Row)

    def add(self, name: str, recorded: int, now: int, *, differs: bool) -> None:
        """A request was repeated, which has taken so many nanoseconds each time."""
        row = self._rows[name]
        row.recorded.append(recorded)
        row.now.append(now)
        row.differences += differs

    def skip(self, name: str) -> None:
        """A request was not repeated."""
        self._rows[name].skipped += 1

    @property
    def differences(self) -> int:
        """How many replies differ."""
        return sum(row.differences for row in self._rows.values())

    @property
    def repeated(self) -> int:
        """How many requests were repeated."""
        return sum(len(row.now) for row in self._rows.values())

    @property
    def skipped(self) -> int:
        """How many were not."""
        return sum(row.skipped for row in self._rows.values())

    def lines(self) -> Iterator[str]:
        """The table as text. Times are medians in microseconds."""
        heads = "request", "repeated", "skipped", "differ", "recorded us", "now us"
        yield "{:<12} {:>9} {:>9} {:>9} {:>12} {:>9}".format(*heads)
        for name, row in sorted(self._rows.items()):
            times = (_median(row.recorded), _median(row.now))
            counts = f"{len(row.now):>9} {row.skipped:>9} {row.differences:>9}"
            yield f"{name:<12} {counts} {times[0]:>12} {times[1]:>9}"


def _median(times: list[int]) -> str:
    return f"{statistics.median(times) / 1000:.0f}" if times else "-"
