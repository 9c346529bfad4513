"""What is measured, in which unit it is told, and what is aimed at.

The goals are ratios to virtiofsd in one run, since absolute figures move with the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.bench.driver import Point, Sample

THINK_US = 30


@dataclass(frozen=True)
class Workload:
    """A row of the table. `name` is the driver's."""

    name: str
    title: str
    unit: str = "ops/s"
    per_op: float = 1  # units in an operation
    goal: float | None = None  # times virtiofsd
    goal_depth: int | None = None  # the only one that the goal is for
    beats_qemu: bool = False  # a second goal, at every depth
    think_us: int = 0
    tmpfs_only: bool = False
    """Each run needs a tree of its own, whose making takes a disk too long."""

    def value(self, sample: Sample) -> float:
        """What is told of a run: a rate in `unit`, or where there is think time the median
        latency in µs."""
        if self.think_us:
            return sample.p50_ns / 1000
        return sample.ops * self.per_op * 1e9 / sample.ns

    def ratio(self, value: float, other: float) -> float:
        """How many times as fast as the other."""
        return other / value if self.think_us else value / other

    def goal_at(self, depth: int) -> float | None:
        """The goal with as many requests in flight, in times virtiofsd."""
        return self.goal if self.goal_depth in (None, depth) else None


def _setattr(name: str, what: str) -> Workload:
    return Workload(name, f"setattr: {what}", goal=1.5, goal_depth=32, beats_qemu=True)


WORKLOADS = (
    Workload("getattr", "getattr on a fid", goal=2),
    Workload("stat", "stat (walk 1, getattr, clunk)", goal=1.3),
    Workload("walk8", "walk of 8 names", goal=2),
    Workload("open", "walk, open, close", goal=1.7),
    Workload("read4k", "random read, 4 KiB", goal=1.5),
    Workload("write4k", "write, 4 KiB", goal=1.5),
    Workload("read512k", "read, 512 KiB", "MB/s", 0.524288, 1.2),
    Workload("write512k", "write, 512 KiB", "MB/s", 0.524288, 1.1),
    Workload("list", "list 10,000 entries", "entries/s", 10000, 1),
    Workload("create", "create, unlink", goal=1.5),
    _setattr("chmod", "mode"),
    _setattr("truncate", "size"),
    _setattr("utimens", "times"),
    Workload("rename", "rename", beats_qemu=True),
    Workload("link", "link, unlink", beats_qemu=True),
    Workload("mkdir", "mkdir, rmdir"),
    Workload("symlink", "symlink, unlink"),
    Workload("readlink", "readlink"),
    Workload("xattr-get", "xattr get", beats_qemu=True),
    Workload("xattr-none", "xattr get, of none", beats_qemu=True),
    Workload("xattr-list", "xattr list", beats_qemu=True),
    Workload("xattr-set", "xattr set", beats_qemu=True),
    Workload("lock", "lock, unlock", beats_qemu=True),
    Workload("getlock", "lock asked for", beats_qemu=True),
    Workload("fsync", "fsync", beats_qemu=True),
    Workload("statfs", "statfs"),
    Workload("fresh-stat", "stat, never looked up", goal=1, tmpfs_only=True),
    Workload("fresh-walk8", "walk of 8, never looked up", goal=1.5, tmpfs_only=True),
    Workload("stat", f"stat after {THINK_US} µs", "µs", goal=27 / 20, think_us=THINK_US),
)

MAPPED = ("stat", "open", "create")
"""The workloads that are measured under mapped-xattr as well."""

Wait = Literal["poll", "call"]


@dataclass(frozen=True)
class Effort:
    """How much is measured: depths for each way of waiting, rounds, and a run's length."""

    depths: tuple[tuple[Wait, tuple[int, ...]], ...]
    rounds: int
    milliseconds: int

    def points(self, workload: Workload) -> list[Point]:
        """The points of a workload. Think time makes sense with one request at a time only."""
        return [
            Point(workload.name, depth, wait, workload.think_us)
            for wait, depths in self.depths
            for depth in (depths[:1] if workload.think_us else depths)
        ]


FULL: dict[str, tuple[tuple[Wait, tuple[int, ...]], ...]] = {
    "tmpfs": (("poll", (1, 32)), ("call", (1, 32))),
    "disk": (("poll", (1, 32)), ("call", (1,))),
}
SHORT: tuple[tuple[Wait, tuple[int, ...]], ...] = (("poll", (1,)), ("call", (8,)))

HEADLINE: tuple[tuple[str, Wait, int], ...] = (
    ("32 in flight", "poll", 32),
    ("one at a time", "call", 1),
)
"""What the documents show first: what the work costs, and what one program feels that waits for
each of its requests. One request at a time of a driver that looks at the ring without a pause is
not among them, since no guest does that."""
