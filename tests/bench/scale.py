"""Whether a request costs the same however much there is: `python -m tests.bench.scale`.

Each axis is something that there may be little or much of: live fids, devices, entries of a
directory, requests in flight. For each of its sizes a daemon runs, all beside one another, and the
runs go round over them; so whatever else the machine does, it does to all. What is judged is the
server's CPU time, in medians, and its ratio to the smallest size's: wall clock time depends on who
else wants the processors. Each row says how many requests its operation takes; a cost is of one
operation, or of one entry.

Beyond the axes: what a fid takes in memory, and how evenly many VMs share a machine (crowd.py),
and what one's worst requests cost another (isolation.py).
Nothing fails for being slow: the exit status is 1 for a wrong reply or a server that ended.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import crowd, driver, flushes, isolation, servers
from tests.bench.driver import Driver, DriverError, Point, Sample
from tests.bench.flushes import FlushError
from tests.bench.run import ROOT
from vhost9p.native.qidmap import QidMap
from vhost9p.policy.remap import MAX_GROUPS
from vhost9p.policy.state import RECORD_SIZE
from vhost9p.policy.suffix import suffix

FEW_FILES = 256
SPARE_FIDS = 1000  # beside those that are counted: roots, the lanes' own
DEPTH = 32
FLOOD = 64
VM_ROUNDS = 3
LOUD_ROUNDS = 3
FILL_MS = 100_000
EVICTION_LIMIT = 10_000
"""RLIMIT_NOFILE of the daemons that have to evict."""
OWN_DESCRIPTORS = 1000  # which a daemon keeps for itself, and more


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    fids: tuple[int, ...]
    evicted: tuple[int, ...]
    devices: tuple[int, ...]
    entries: tuple[int, ...]
    depths: tuple[int, ...]
    flushes: tuple[int, ...]
    loud: isolation.Size
    vms: int
    rounds: int
    milliseconds: int


FULL = Effort(
    (10, 1000, 100_000, 1_000_000),
    (1000, 100_000, 1_000_000),
    (1, 10, 100, 1000),
    (10, 1000, 100_000, 1_000_000),
    (1, 2, 4, 8, 16, 32, 64, 128),
    (10, 100, flushes.MOST_WAITING),
    isolation.Size(100_000, 1980, 256),
    20,
    7,
    150,
)
SHORT = Effort(
    (10, 600),
    (10, 600),
    (1, 3),
    (10, 2000),
    (1, 128),
    (10, 300),
    isolation.Size(300, 10, 1),
    3,
    1,
    10,
)


@dataclass
class Table:
    """Costs in µs by operation and size; each a list, of which the median counts."""

    title: str
    sizes: tuple[int, ...]
    rows: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def add(self, row: str, size: int, cost: float) -> None:
        """Notes what one run has cost, in µs."""
        self.rows.setdefault(row, {}).setdefault(size, []).append(cost)

    def __str__(self) -> str:
        """As Markdown: each cost, and how many times the smallest size's it is."""
        lines = [["CPU time in µs", *(f"{size:,}" for size in self.sizes)]]
        lines.append(["---"] + ["--:"] * len(self.sizes))
        for title, costs in self.rows.items():
            medians = {size: statistics.median(costs[size]) for size in self.sizes}
            least = medians[self.sizes[0]]
            cells = (
                f"{medians[size]:.2f}" + (f" ({medians[size] / least:.2f})" if least else "")
                for size in self.sizes
            )
            lines.append([title, *cells])
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"**{self.title}**\n\n{table}"


def cost(sample: Sample) -> float:
    """CPU time of the server, in µs, for one operation."""
    return sample.cpu_ns / sample.ops / 1000


class Scale:
    """One run of the whole: the driver's program, the tree, and what there is to say."""

    def __init__(self, program: Path, effort: Effort, say: Callable[[str], None]) -> None:
        self.program = program
        self.effort = effort
        self.say = say
        self.tree = Path()
        self._serials = itertools.count(1)

    def run(self, made: Driver, point: Point, milliseconds: int | None = None) -> Sample:
        """Runs a point. Raises DriverError."""
        return made.run(point, milliseconds or self.effort.milliseconds, next(self._serials))

    @contextmanager
    def drivers(
        self,
        sizes: Sequence[int],
        options: Sequence[str] = (),
        wrapper: Callable[[int], Sequence[str]] = lambda size: (),
    ) -> Iterator[dict[int, tuple[Driver, int]]]:
        """For each size a daemon on the tree: its driver and its pid."""
        with ExitStack() as stack:
            found = {}
            for size in sizes:
                served = servers.vhost9p(self.tree, options=options, wrapper=wrapper(size))
                queue = stack.enter_context(served)
                made = stack.enter_context(closing(Driver(self.program, self.tree, queue)))
                found[size] = made, queue.pids[0]
            yield found

    def rounds(self, sizes: Sequence[int]) -> Iterator[int]:
        """The sizes in turn, each round beginning with another one."""
        for turn in range(self.effort.rounds):
            shift = turn % len(sizes)
            yield from (*sizes[shift:], *sizes[:shift])


# ---- live fids


def mapped_bytes(pid: int | str, name: str) -> int:
    """What a process's mappings of files of a name (below /) take of memory."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    pattern = rf"^.*/{name}.*\n(?:\w+:.*\n)*?Rss:\s+(\d+) kB$"
    return sum(int(kib) << 10 for kib in re.findall(pattern, text, re.MULTILINE))


SHARED = "memfd:vhost9p-state"
"""Memory that workers share: the fid table is in it."""
OPERATIONS = (
    ("fids-getattr", "getattr of any fid"),
    ("fids-clone", "clone of any fid, clunk"),
    ("fids-walk", "walk to any of their files, clunk"),
)


@dataclass(frozen=True)
class Population:
    """Fids to be made: for each size as many, of that many files."""

    title: str
    sizes: tuple[int, ...]
    files: Callable[[int], int]
    wrapper: tuple[str, ...] = ()
    host: bool = False
    """Measure the host's own statx on as many descriptors, too."""


def live_fids(scale: Scale, population: Population) -> tuple[Table, float]:
    """Costs, and bytes of the arena for each fid beyond the smallest size's."""
    sizes, entries = population.sizes, max(scale.effort.entries)
    table = Table(population.title, sizes)
    options = ("--max-fids", str(max(sizes) + SPARE_FIDS))

    def point(name: str, size: int, depth: int = DEPTH) -> Point:
        return Point(name, depth, "rest", 0, (size, population.files(size), entries))

    def fill(made: Driver, size: int, depth: int = DEPTH) -> float:
        sample = scale.run(made, point("fids-fill", size, depth), FILL_MS)
        if sample.ops != size:
            raise DriverError(f"{sample.ops:,} of {size:,} fids in {FILL_MS} ms")
        return cost(sample)

    with scale.drivers(sizes, options, lambda size: population.wrapper) as found, ExitStack() as st:
        hosts = {}
        for size, (made, _) in found.items():
            table.add("walk to a new fid", size, fill(made, size))
            if population.host:
                hosts[size] = st.enter_context(closing(Driver(scale.program, scale.tree, None)))
                fill(hosts[size], size, 1)
        for size in scale.rounds(sizes):
            for name, title in OPERATIONS:
                table.add(title, size, cost(scale.run(found[size][0], point(name, size))))
            if hosts:
                sample = scale.run(hosts[size], point("fids-getattr", size, 1))
                table.add("(statx by the host alone)", size, cost(sample))
        taken = [mapped_bytes(found[size][1], SHARED) for size in (sizes[0], sizes[-1])]
    return table, (taken[1] - taken[0]) / (sizes[-1] - sizes[0])


def fid_axes(scale: Scale) -> Iterator[str]:
    """Live fids of few and of many files, evicted ones, and what they take in memory."""
    sizes = scale.effort.fids
    few = Population(f"Live fids, {FEW_FILES} files", sizes, lambda size: min(size, FEW_FILES))
    room = raise_limit() - OWN_DESCRIPTORS
    held = tuple(size if size < room else room for size in sizes if size / 10 < room)
    many = Population("Live fids, each of a file of its own", held, lambda size: size, host=True)
    evicted = Population(
        f"Fids of a file each, RLIMIT_NOFILE {EVICTION_LIMIT:,}: most are evicted",
        scale.effort.evicted,
        lambda size: size,
        ("prlimit", f"--nofile={EVICTION_LIMIT}"),
    )
    taken = {}
    for population in (few, many, evicted):
        table, taken[population] = live_fids(scale, population)
        yield str(table)
    yield "\n".join(
        (
            "**Memory of the fid table, in bytes**\n",
            f"- each fid: {taken[few]:.0f}",
            f"- each file beside its fid: {taken[many] - taken[few]:.0f}",
            f"- each file that is evicted, beyond that: {taken[evicted] - taken[many]:.0f}",
        )
    )


def group_axis(scale: Scale) -> Iterator[str]:
    """What groups of inodes take in memory, in a qid map that has all there can be."""
    qidmap = QidMap()
    before = mapped_bytes("self", "memfd:v9_qidmap")
    for number in range(1, MAX_GROUPS + 1):
        bits, value = suffix(number)
        qidmap.add_group(0, bits, number % (1 << bits), value)
    each = (mapped_bytes("self", "memfd:v9_qidmap") - before) / MAX_GROUPS
    qidmap.close()
    yield "\n".join(
        (
            f"**Memory of the qid map, in bytes, with {MAX_GROUPS:,} groups**\n",
            f"- each group: {each:.0f}, and {RECORD_SIZE} in the state file",
        )
    )


# ---- devices, entries, depth, flushes


def device_axis(scale: Scale) -> Iterator[str]:
    """Files on few and many devices."""
    sizes = scale.effort.devices
    table = Table("Host devices (Twalk of 3 names across the mount, Tgetattr, Tclunk)", sizes)

    def wrapper(size: int) -> Sequence[str]:
        return (sys.executable, "-m", "tests.bench.many_mounts", str(scale.tree), str(size))

    def point(name: str, size: int) -> Point:
        return Point(name, 1 if name == "devices-first" else DEPTH, "rest", 0, (size, 0, 0))

    with scale.drivers(sizes, wrapper=wrapper) as found:
        for size, (made, _) in found.items():
            sample = scale.run(made, point("devices-first", size), FILL_MS)
            table.add("each device's first", size, cost(sample))
        for size in scale.rounds(sizes):
            sample = scale.run(found[size][0], point("devices-stat", size))
            table.add("any of them, later", size, cost(sample))
    yield str(table)


def entry_axis(scale: Scale) -> Iterator[str]:
    """Listings of small and large directories."""
    sizes = scale.effort.entries
    table = Table("Entries of a directory (Treaddir, for each entry)", sizes)
    whole: dict[int, list[float]] = {size: [] for size in (0, *sizes)}
    with scale.drivers((0,)) as found, closing(Driver(scale.program, scale.tree, None)) as host:
        for size in scale.rounds((0, *sizes)):
            shape = (0, 0, size)
            sample = scale.run(found[0][0], Point("entries-list", 8, "rest", 0, shape))
            whole[size].append(cost(sample))
            if size:
                sample = scale.run(host, Point("entries-list", 1, "rest", 0, shape))
                table.add("(getdents64 by the host alone)", size, cost(sample) / size)
    empty = statistics.median(whole[0])
    for size in sizes:
        each = statistics.median(whole[size])
        table.add("an entry", size, (each - empty) / size)
        table.add("an entry, with what an empty directory takes", size, each / size)
    yield str(table)


def depth_axis(scale: Scale) -> Iterator[str]:
    """Few and many requests in flight."""
    sizes = scale.effort.depths
    table = Table("Requests in flight", sizes)
    with scale.drivers((0,)) as found:
        for size in scale.rounds(sizes):
            for name in ("getattr", "stat", "read4k"):
                table.add(name, size, cost(scale.run(found[0][0], Point(name, size, "rest"))))
    yield str(table)


def flush_axis(scale: Scale) -> Iterator[str]:
    """Requests that wait while others are flushed."""
    sizes = scale.effort.flushes
    table = Table("Requests that wait while they are flushed one by one", sizes)
    for size, found in flushes.costs(scale.tree, sizes, scale.effort.rounds).items():
        for each in found:
            table.add("Tflush, with the end of what it names", size, each)
    yield str(table)


# ---- VMs


def vm_axis(scale: Scale) -> Iterator[str]:
    """Many guests at once, and one that floods its daemon."""
    trees = crowd.make_trees(scale.program, scale.tree, scale.effort.vms)
    milliseconds = 8 * scale.effort.milliseconds
    yield crowd.many_vms(scale.program, trees, milliseconds, min(scale.effort.rounds, VM_ROUNDS))
    milliseconds = 2 * scale.effort.milliseconds
    yield crowd.flooded(scale.program, trees, milliseconds, scale.effort.rounds, FLOOD)


def isolation_axis(scale: Scale) -> Iterator[str]:
    """A guest beside another one's worst requests."""
    below = scale.tree / "isolation"
    below.mkdir(mode=0o755)
    trees = crowd.make_trees(scale.program, below, 2)
    milliseconds, rounds = 8 * scale.effort.milliseconds, min(scale.effort.rounds, LOUD_ROUNDS)
    yield isolation.isolation(scale.program, trees, milliseconds, rounds, scale.effort.loud)


# ---- the command


def raise_limit() -> int:
    """Lets this process and those that it starts open as many files as they may; how many."""
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError):  # a container that lacks the privilege
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def _tree(scale: Scale, below: str) -> Iterator[None]:
    scale.tree = Path(tempfile.mkdtemp(prefix="vhost9p-scale-", dir=below))
    try:
        scale.tree.chmod(0o755)
        driver.make_tree(scale.program, scale.tree)
        for count in (0, *scale.effort.entries):
            driver.grow_tree(scale.program, scale.tree, count)
        yield
    finally:
        subprocess.run(["rm", "-rf", str(scale.tree)], check=True)  # a million files


AXES: dict[str, Callable[[Scale], Iterator[str]]] = {
    "fids": fid_axes,
    "groups": group_axis,
    "devices": device_axis,
    "entries": entry_axis,
    "depth": depth_axis,
    "flush": flush_axis,
    "vms": vm_axis,
    "isolation": isolation_axis,
}


def main(words: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="where the files are")
    parser.add_argument("--axis", action="append", choices=AXES, help="only this; repeatable")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {FULL.rounds}")
    parser.add_argument("--short", action="store_true", help="a few seconds, to check replies")
    arguments = parser.parse_args(words)
    if os.geteuid():
        parser.error("it has to be root: descriptors by the million, mounts by the thousand")
    effort = SHORT if arguments.short else FULL
    effort = dataclasses.replace(effort, rounds=arguments.rounds or effort.rounds)
    scale = Scale(driver.build(arguments.out), effort, lambda text: print(text, file=sys.stderr))
    with _tree(scale, arguments.tmpfs):
        for name in arguments.axis or AXES:
            try:
                for text in AXES[name](scale):
                    print(text, end="\n\n", flush=True)
            except (DriverError, FlushError) as error:
                print(f"FAILED {name}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
