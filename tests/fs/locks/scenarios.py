"""Requests that are cut off by a death, each with what came before it and what comes after it."""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.fs.locks.processes import Host, Process, Table
from vhost9p.fs import lock_recovery
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Cancel
from vhost9p.fs.ranges import WHOLE, Range

REQUEST = 77


class Locked(NamedTuple):
    """What a lock table and the kernel know of a file that locks something."""

    holders: tuple[int, ...]
    former: frozenset[int]
    fids: frozenset[int]
    shares: frozenset[int]
    how: tuple[int, bool, bool, bool]
    """flock, only_flock, whether several share it, bare."""
    ranges: tuple[tuple[Range, int], ...]
    kernel: tuple[int, tuple[tuple[Range, int], ...]]
    """Its flock and ranges."""


class World:
    """Guest processes 1 to 4 with fids of their own, 11 to 14 (and more: `process`), on one file,
    another file, and a process of the host."""

    def __init__(self, folder: Path) -> None:
        self.path, self.other_path = folder / "file", folder / "other"
        for path in (self.path, self.other_path):
            path.write_bytes(bytes(100))
        self.table = Table()
        self.host = Host(self.path)
        self.waits: list[Step] = []
        """What happens while a request waits; then it is cancelled."""

    def close(self) -> None:
        self.table.clear()
        self.host.close()

    def process(
        self, pid: int, fid: int | None = None, access: int = os.O_RDWR, *, other: bool = False
    ) -> Process:
        path = self.other_path if other else self.path
        return Process(self.table, path, pid, access, fid=10 + pid if fid is None else fid)

    def wait(self) -> None:
        """A request waits."""
        if not self.waits:
            raise InterruptedError(errno.EINTR, "the wait was cancelled")
        self.waits.pop(0)(self)

    def restart(self) -> None:
        """The next process takes the place of one that was killed."""
        self.table = Table(self.table)

    def sweep(self) -> None:
        """Closes what nobody owns, as a keeper does."""
        owned = {*self.table.descriptors(), self.host.fileno()}
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")
                if Path(target) in (self.path, self.other_path) and int(name) not in owned:
                    os.close(int(name))

    def state(self) -> set[Locked]:
        """All files that lock something."""
        return locked_in(self.table)


def locked_in(table: Table, inode: int | None = None) -> set[Locked]:
    """What a table and the kernel know of all files that lock something, or of one host file."""
    found = set()
    for file in {id(file): file for file in table._files.values()}.values():
        if inode is not None and file.file_id[1] != inode:
            continue
        held = lock_recovery.held(file.fd)
        ranges = tuple(each for each in file.ranges.within(WHOLE) if each[1] != UNLCK)
        kernel = held.flock, tuple(sorted(held.ranges))
        if file.holds_something or kernel != (UNLCK, ()):
            found.add(
                Locked(
                    tuple(holder[3] for holder in file.holders),
                    frozenset(holder[3] for holder in file.former),
                    frozenset(file.fids),
                    frozenset(file.shares),
                    (file.flock, file.only_flock, file.several, file.bare),
                    ranges,
                    kernel,
                )
            )
    return found


def is_between(state: set[Locked], before: set[Locked], after: set[Locked]) -> bool:
    """Whether each file is locked as before a request, or as after it. Two things may be in
    between: the request may have used its fid; and the ranges of a whole lock may be unlocked, and
    its flock not yet. Run again, it unlocks that, too."""
    state, before, after = _fidless(state), _fidless(before), _fidless(after)
    cut = {each._replace(ranges=(), kernel=(each.kernel[0], ())) for each in before - after}
    fewest, most = sorted((len(before), len(after)))
    return fewest <= len(state) <= most and before & after <= state <= before | after | cut


def _fidless(state: set[Locked]) -> set[Locked]:
    return {each._replace(fids=frozenset()) for each in state}


SAMPLES = (0, 3, 5, 9, 10, 14, 15, 19, 20, 50, 1 << 40)
"""Offsets of bytes."""
STRENGTH = {UNLCK: 0, RDLCK: 1, WRLCK: 2}
View = tuple[int, ...]
"""How strongly a file is locked: by flock, and at each of SAMPLES."""


def view(kernel: Iterable[tuple[int, Sequence[tuple[Range, int]]]]) -> View:
    """What another process sees of flocks and ranges."""
    flock, bytes_ = 0, [0] * len(SAMPLES)
    for kind, ranges in kernel:
        flock = max(flock, STRENGTH[kind])
        for span, range_kind in ranges:
            for i, at in enumerate(SAMPLES):
                if span.start <= at < span.end:
                    bytes_[i] = max(bytes_[i], STRENGTH[range_kind])
    return flock, *bytes_


def view_of(table: Table) -> View:
    """The same of all descriptors that the records of a table have."""
    held = [lock_recovery.held(fd) for fd in table.descriptors()]
    return view((each.flock, each.ranges) for each in held)


Step = Callable[[World], object]


@dataclass
class Scenario:
    """What comes before a request, the request, and what comes after it."""

    name: str
    before: tuple[Step, ...]
    request: Step
    after: tuple[Step, ...] = ()
    waits: tuple[Step, ...] = ()
    has_gap: bool = False
    """flock(2) gives up what it cannot exchange, and it is taken again."""


def lock(
    pid: int, kind: int, span: Range | tuple[int, int] = WHOLE, *, fid: int | None = None,
    access: int = os.O_RDWR, writable: bool = True,
) -> Step:  # fmt: skip
    return lambda w: w.process(pid, fid, access).lock(kind, span, writable=writable)


def wait(pid: int, kind: int, span: Range | tuple[int, int] = WHOLE) -> Step:
    def request(w: World) -> bool:
        with suppress(InterruptedError):
            return w.process(pid).lock(kind, span, cancel=Cancel())
        return False

    return request


def unlock(
    pid: int, span: Range | tuple[int, int] = WHOLE, *, fid: int | None = None,
    flock: bool = True, keep: bool = False,
) -> Step:  # fmt: skip
    return lambda w: w.process(pid, fid).unlock(span, flock=flock, keep=keep, request=REQUEST)


def clunk(fid: int) -> Step:
    return lambda w: w.table.remove(fid)


def clear(w: World) -> None:
    """As a new session does: first all fids, then their locks."""
    w.table._opens.clear()
    w.table.clear()


def host_range(kind: int, span: Range | tuple[int, int] = WHOLE) -> Step:
    return lambda w: w.host.fcntl(kind, span)


def host_flock(kind: int) -> Step:
    return lambda w: w.host.flock(kind)


def read_only(pid: int, kind: int = WRLCK) -> Step:
    return lock(pid, kind, access=os.O_RDONLY, writable=False)


R, W = RDLCK, WRLCK
LOW, MIDDLE, HIGH = Range(0, 10), Range(5, 10), Range(10, 10)
TWO_READERS = lock(1, R), lock(1, R, fid=21)
INHERITED = lock(1, W), lock(2, W, fid=11)
"""A child has locked through its parent's fid."""
BOTH = lock(1, R), lock(2, R, fid=11)


def host_changes(w: World) -> None:
    """What was locked as a range is locked as flock now."""
    assert w.host.fcntl(UNLCK)
    assert w.host.flock(W)


WAITS = (
    Scenario("wait for a range", (host_range(W, LOW),), wait(1, W, LOW), (), (host_range(UNLCK),)),
    Scenario("wait for a range, in vain", (host_range(W, LOW),), wait(1, W, LOW)),
    Scenario("wait for flock", (host_flock(W),), wait(1, W), (), (host_flock(UNLCK),)),
    Scenario("wait for the whole", (host_range(W),), wait(1, W), (), (host_range(UNLCK),)),
    Scenario(
        "wait for one after the other",
        (host_range(W),),
        wait(1, W),
        (),
        (host_changes, host_flock(UNLCK)),
    ),
    Scenario(
        "wait for one and the other, in vain", (host_range(W),), wait(1, R), (), (host_changes,)
    ),
    Scenario(
        "wait for more",
        (lock(1, R), host_flock(R)),
        wait(1, W),
        waits=(host_flock(UNLCK),),
        has_gap=True,
    ),
    Scenario("wait for more, in vain", (lock(1, R), host_flock(R)), wait(1, W), has_gap=True),
    Scenario(
        "wait with ranges",
        (lock(1, R, LOW), lock(1, W, HIGH), host_range(W, Range(50, 5))),
        wait(1, R),
        (),
        (lambda w: None, host_range(UNLCK)),
    ),
    Scenario(
        "wait with ranges, in vain",
        (lock(1, R, LOW), lock(1, W, HIGH), host_range(W, Range(50, 5))),
        wait(1, R),
    ),
)

SCENARIOS = (
    *WAITS,
    Scenario("first write lock", (), lock(1, W)),
    Scenario("first read lock", (), lock(1, R)),
    Scenario("first range", (), lock(1, W, LOW)),
    Scenario("flock alone", (), read_only(1)),
    Scenario("flock alone, again as both", (read_only(1),), lock(1, W, fid=21)),
    Scenario("both, then flock alone", (lock(1, R, access=os.O_RDONLY),), read_only(1)),
    Scenario("read to write", (lock(1, R),), lock(1, W)),
    Scenario("write to read", (lock(1, W),), lock(1, R)),
    Scenario("write to read, ranges", (lock(1, W), unlock(1, LOW)), lock(1, R)),
    Scenario("whole over ranges", (lock(1, R, LOW), lock(1, W, HIGH)), lock(1, W)),
    Scenario("read lock over ranges", (lock(1, R, LOW), lock(1, W, HIGH)), lock(1, R)),
    Scenario("range over ranges", (lock(1, R, LOW), lock(1, W, HIGH)), lock(1, W, MIDDLE)),
    Scenario("read to write, range", (lock(1, R, LOW),), lock(1, W, LOW)),
    Scenario("in the way: flock", (host_flock(W),), lock(1, W)),
    Scenario("in the way: range", (host_range(W, LOW),), lock(1, W)),
    Scenario("in the way: range, range", (host_range(W, LOW),), lock(1, W, MIDDLE)),
    Scenario("in the way of more: flock", (lock(1, R), host_flock(R)), lock(1, W), has_gap=True),
    Scenario("in the way of more: range", (lock(1, R), host_range(R)), lock(1, W)),
    Scenario("in the way of less", (read_only(1), host_range(W)), lock(1, R, fid=21)),
    Scenario(
        "in the way, ranges held",
        (lock(1, R, LOW), lock(1, W, HIGH), host_range(R, Range(50, 5))),
        lock(1, W),
    ),
    Scenario("in the way: a guest", (lock(2, R), lock(1, R)), lock(1, W)),
    Scenario("in the way: a guest's range", (lock(2, R, HIGH),), lock(1, W)),
    Scenario("another fid", (lock(1, R, LOW),), lock(1, R, HIGH, fid=21)),
    Scenario("whole, another fid", (lock(1, R),), lock(1, R, fid=21)),
    Scenario(
        "three share",
        (*TWO_READERS, lock(1, R, fid=31)),
        lock(1, R, fid=41),
        (unlock(1), unlock(1, fid=41), unlock(1, fid=31), unlock(1, fid=21)),
    ),
    Scenario("unlock", (lock(1, W),), unlock(1)),
    Scenario("unlock, kept open", (lock(1, W),), unlock(1, keep=True)),
    Scenario("unlock flock alone", (read_only(1),), unlock(1)),
    Scenario("unlock a range", (lock(1, W, LOW), lock(1, R, HIGH)), unlock(1, LOW)),
    Scenario("unlock the middle", (lock(1, W, LOW),), unlock(1, Range(3, 2))),
    Scenario("unlock a part of both", (lock(1, W),), unlock(1, LOW)),
    Scenario("unlock the last part of both", (lock(1, W), unlock(1, Range(10, 0))), unlock(1, LOW)),
    Scenario("unlock nothing", (), unlock(1)),
    Scenario("lock after unlock", (lock(1, W), unlock(1, keep=True)), lock(1, R)),
    Scenario(
        "lock after unlock, another fid",
        (lock(1, W), unlock(1, keep=True)),
        lock(1, R, fid=21),
        (clunk(11),),
    ),
    Scenario("unlock one of two shares", TWO_READERS, unlock(1), (unlock(1, fid=21),)),
    Scenario("unlock the other share", TWO_READERS, unlock(1, fid=21), (unlock(1),)),
    Scenario("unlock the last share", (*TWO_READERS, unlock(1, fid=21)), unlock(1)),
    Scenario("shares end with a write lock", TWO_READERS, lock(1, W), (unlock(1, fid=21),)),
    Scenario(
        "and begin again",
        (*TWO_READERS, unlock(1), unlock(1, fid=21)),
        lock(1, R, fid=21),
        (unlock(1, fid=21),),
    ),
    Scenario("take over", (lock(1, W),), lock(2, W, fid=11), (unlock(1), unlock(2, fid=11))),
    Scenario("take over and back", INHERITED, lock(1, W), (unlock(2, fid=11), unlock(1))),
    Scenario("unlock what was taken over", INHERITED, unlock(1), (unlock(2, fid=11),)),
    Scenario("a child joins", (lock(1, R),), lock(2, R, fid=11), (unlock(1), unlock(2, fid=11))),
    Scenario("one of two unlocks", BOTH, unlock(2, fid=11), (unlock(1),)),
    Scenario("the first of two unlocks", BOTH, unlock(1), (unlock(2, fid=11),)),
    Scenario(
        "one of two locks more",
        (*BOTH, lock(3, R, fid=11)),
        lock(2, W, fid=11),
        (unlock(1), unlock(2, fid=11)),
    ),
    Scenario("LOCK_UN of another's", (lock(1, W),), unlock(2, fid=11)),
    Scenario(
        "a parent has a range", (lock(1, W, HIGH), lock(2, R, LOW), lock(2, R, fid=11)), unlock(1)
    ),
    Scenario(
        "a parent has a share",
        (lock(1, R, HIGH), lock(2, R, LOW), lock(2, R, fid=11), lock(1, R)),
        unlock(1),
        (unlock(2, fid=11),),
    ),
    Scenario("clunk", (lock(1, W),), clunk(11)),
    Scenario(
        "clunk one of two", (lock(1, W, LOW), lock(1, W, HIGH, fid=21)), clunk(11), (clunk(21),)
    ),
    Scenario("clunk one of two shares", TWO_READERS, clunk(11), (unlock(1, fid=21),)),
    Scenario("clunk the other share", TWO_READERS, clunk(21), (unlock(1),)),
    Scenario("clunk the last share", (*TWO_READERS, unlock(1)), clunk(21)),
    Scenario(
        "clunk the only share",
        (lock(1, R), lock(1, R, LOW, fid=21)),
        clunk(11),
        (lock(1, R, fid=21), unlock(1, fid=21)),
    ),
    Scenario("clunk what holds nothing", (lock(1, W), unlock(1, keep=True)), clunk(11)),
    Scenario("clunk what several hold", BOTH, clunk(11)),
    Scenario("clear", (*TWO_READERS, lock(2, R, LOW), lock(3, R, HIGH)), clear),
)
