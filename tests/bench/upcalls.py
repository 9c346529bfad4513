"""What the requests cost that Python answers: `python -m tests.bench.upcalls`.

Prints one table: the server's CPU time for an operation, that of the system calls that the handlers
make (by a loop in C), and the difference for each request: what the way from C to Python and back
costs. Two depths: with one request at a time every thread sleeps and is woken for each of them;
with 32 they find the next one waiting.

Every figure is the least of its rounds: what else runs on a processor's other half, or between two
slices, makes CPU time longer and never shorter.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import driver, placement, servers
from tests.bench.driver import Point, RefusedError
from tests.bench.report import HOST
from tests.bench.run import ROOT, Bench, measured_tree

DEPTHS = (1, 32)


class Operation(NamedTuple):
    """One workload of the driver, and how many requests of it Python answers."""

    name: str
    title: str
    requests: int


OPERATIONS = (
    Operation("lock", "Tlock, Tlock (unlock)", 2),
    Operation("attach", "Tattach, Tclunk", 1),
)


class Cost(NamedTuple):
    """CPU time of an operation in µs: the server's at each depth, and of the system calls alone."""

    operation: Operation
    server: tuple[float, ...]
    host: float

    @property
    def beyond(self) -> tuple[float, ...]:
        """Per request of Python's, what the server takes more."""
        return tuple((each - self.host) / self.operation.requests for each in self.server)


def measure(bench: Bench, rounds: int, milliseconds: int, tmpfs: str) -> list[Cost]:
    """Runs every operation; a driver that fails is in bench.failures. Raises RefusedError."""
    costs: list[Cost] = []
    where = placement.choose(os.sched_getaffinity(0))
    with (
        measured_tree(bench.program, tmpfs) as tree,
        bench.drivers(tree, [servers.VHOST9P], where) as drivers,
    ):
        for operation in OPERATIONS:
            points = [(HOST, 1), *((servers.VHOST9P.name, depth) for depth in DEPTHS)]
            found: list[list[float]] = [[] for _ in points]
            for _ in range(rounds):
                for (name, depth), values in zip(points, found, strict=True):
                    sample = bench.run(
                        drivers, name, Point(operation.name, depth, "poll"), milliseconds
                    )
                    if sample is None:
                        return costs
                    values.append(sample.cpu_ns / sample.ops / 1000)
            host, *server = map(min, found)
            costs.append(Cost(operation, tuple(server), host))
    return costs


def table(costs: Sequence[Cost]) -> str:
    """As Markdown."""
    whole = " | ".join(f"depth {depth}" for depth in DEPTHS)
    beyond = " | ".join(f"beyond, a request, depth {depth}" for depth in DEPTHS)
    head = f"| operation | system calls | {whole} | {beyond} |"
    rule = "|---|" + "--:|" * (1 + 2 * len(DEPTHS))
    lines = [
        " | ".join(
            [
                f"| {cost.operation.title}",
                f"{cost.host:.2f}",
                *(f"{each:.1f}" for each in cost.server),
                *(f"{each:.1f}" for each in cost.beyond),
            ]
        )
        + " |"
        for cost in costs
    ]
    return "\n".join(["CPU time in µs.", "", head, rule, *lines])


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 for a wrong reply or a server that ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.upcalls")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each point (default: 5)")
    parser.add_argument("--milliseconds", type=int, default=200, help="of a run (default: 200)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR")
    arguments = parser.parse_args(words)
    bench = Bench(driver.build(arguments.out))
    try:
        costs = measure(bench, arguments.rounds, arguments.milliseconds, arguments.tmpfs)
    except RefusedError as error:
        print(f"{arguments.tmpfs} does not allow what is measured: {error}", file=sys.stderr)
        return 1
    print(table(costs))
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
