"""How evenly VMs share a machine, and the daemon that serves them.

Belongs here: many guests at work at once, each a driver process with a device of its own; in one
daemon, or each in a daemon of its own. They wait on their call descriptors, as VMs do.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.bench import servers
from tests.bench.driver import Driver, Point, Queue, Sample, make_tree
from tests.frontend.daemon import Daemon

_serials = itertools.count(1 << 32)  # of no other run


class Shares(NamedTuple):
    """What each of several guests that worked at the same time got, in operations per second."""

    rates: tuple[float, ...]

    @property
    def fairness(self) -> float:
        """Jain's index: 1 where all got the same, 1/n where one got everything."""
        squares = sum(rate * rate for rate in self.rates)
        return sum(self.rates) ** 2 / (len(self.rates) * squares)

    def __str__(self) -> str:
        low, high = min(self.rates), max(self.rates)
        middle = statistics.median(self.rates)
        return (
            f"{low:,.0f} / {middle:,.0f} / {high:,.0f} | {low / middle:.2f} | {high / middle:.2f} "
            f"| {self.fairness:.3f}"
        )


def _rate(sample: Sample) -> float:
    return sample.ops * 1e9 / sample.ns


def at_once(work: Sequence[tuple[Driver, Point]], milliseconds: int) -> list[Sample]:
    """Runs each driver's point, all at the same time. Raises DriverError."""

    def run(one: tuple[Driver, Point]) -> Sample:
        return one[0].run(one[1], milliseconds, next(_serials))

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def make_trees(program: Path, below: Path, count: int) -> list[Path]:
    """A tree for each of several guests: some workloads write."""
    trees = [below / f"vm{number}" for number in range(count)]
    for tree in trees:
        tree.mkdir(mode=0o755)
        make_tree(program, tree)
    return trees


@contextmanager
def in_one_daemon(
    program: Path, trees: Sequence[Path], extra: Sequence[str] = ()
) -> Iterator[list[Driver]]:
    """Drivers of as many devices of one daemon as there are trees."""
    with TemporaryDirectory(prefix="v9b-") as name, ExitStack() as stack:
        sockets = [f"{name}/{number}.sock" for number in range(len(trees))]
        lines = ["devices:"]
        for path, tree in zip(sockets, trees, strict=True):
            lines += [f"  - socket: {path}", f"    path: {tree}", "    multidevs: remap"]
            lines += ["    security_model: passthrough", f"    tag: {tree.name}"]
            lines += [f"    {line}" for line in extra]
        config = Path(name) / "config.yaml"
        config.write_text("\n".join(lines) + "\n")
        daemon = stack.enter_context(Daemon("--config", str(config), socket=False))
        queues = [stack.enter_context(servers.connected(path, daemon.worker)) for path in sockets]
        yield _drivers(stack, program, trees, queues)


@contextmanager
def in_daemons(program: Path, trees: Sequence[Path]) -> Iterator[list[Driver]]:
    """Drivers of as many daemons."""
    with ExitStack() as stack:
        queues = [stack.enter_context(servers.vhost9p(tree)) for tree in trees]
        yield _drivers(stack, program, trees, queues)


def _drivers(
    stack: ExitStack, program: Path, trees: Sequence[Path], queues: Sequence[Queue]
) -> list[Driver]:
    made = (Driver(program, *each) for each in zip(trees, queues, strict=True))
    return [stack.enter_context(closing(driver)) for driver in made]


def many_vms(program: Path, trees: Sequence[Path], milliseconds: int, rounds: int) -> str:
    """Guests that all do the same: what each of them got, in the round of middling fairness."""
    rows = []
    for title, started in (("one daemon", in_one_daemon), ("a daemon each", in_daemons)):
        with started(program, trees) as drivers:
            for name, depth in (("stat", 4), ("rename", 4)):
                work = [(driver, Point(name, depth, "call")) for driver in drivers]
                found = [
                    Shares(tuple(map(_rate, at_once(work, milliseconds)))) for _ in range(rounds)
                ]
                found.sort(key=lambda shares: shares.fairness)
                rows.append(f"| {title}, {name} at depth {depth} | {found[rounds // 2]} |")
    head = f"| {len(trees)} VMs at once | ops/s: min / median / max "
    head += "| min/median | max/median | Jain's index |"
    return "\n".join(["**VMs at once**\n", head, "| --- | --- | --: | --: | --: |", *rows])


def flooded(
    program: Path, trees: Sequence[Path], milliseconds: int, rounds: int, depth: int
) -> str:
    """A guest's upcalls while another one of the same daemon makes `depth` at a time."""
    alone, beside, flood = [], [], []
    with in_one_daemon(program, trees[:2]) as (quiet, loud):
        one, many = Point("attach", 1, "call"), Point("attach", depth, "call")
        for _ in range(rounds):
            alone.append(at_once([(quiet, one)], milliseconds)[0])
            with ThreadPoolExecutor(1) as pool:
                late = pool.submit(loud.run, many, 3 * milliseconds, next(_serials))
                time.sleep(milliseconds / 1000)  # it takes a while to begin
                beside.append(quiet.run(one, milliseconds, next(_serials)))
                flood.append(late.result())

    def row(title: str, samples: Sequence[Sample]) -> str:
        rate = statistics.median(map(_rate, samples))
        p50, p99 = (
            statistics.median(each) / 1000
            for each in zip(*((sample.p50_ns, sample.p99_ns) for sample in samples), strict=True)
        )
        return f"| {title} | {rate:,.0f} | {p50:,.0f} | {p99:,.0f} |"

    return "\n".join(
        (
            f"**Upcalls (Tattach) beside a guest that makes {depth} at a time**\n",
            "| guest | ops/s | p50 µs | p99 µs |",
            "| --- | --: | --: | --: |",
            row("one at a time, alone", alone),
            row("one at a time, beside the flood", beside),
            row("the flood", flood),
        )
    )
