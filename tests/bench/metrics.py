"""What metrics cost: `python -m tests.bench.metrics`.

Prints the server's CPU time for an operation without metrics, with them, and, with `--against
DIR`, of another checkout that is built, such as one without counters. The rounds of all are
interleaved, and each figure is the least of its rounds: what else runs on the machine makes CPU
time longer and never shorter.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import driver, placement, servers
from tests.bench.driver import Point, Queue, RefusedError
from tests.bench.run import ROOT, Bench, measured_tree
from tests.bench.servers import Server

OPERATIONS = {"getattr": "Tgetattr", "read4k": "Tread, 4 KiB", "write4k": "Twrite, 4 KiB"}
DEPTH = 32
"""Requests at a time: no thread sleeps, so nothing but requests is measured."""


@contextmanager
def _with_metrics(directory: Path) -> Iterator[Queue]:
    with (
        TemporaryDirectory(prefix="v9-metrics-") as folder,
        servers.vhost9p(directory, options=("--metrics", f"{folder}/s")) as queue,
    ):
        yield queue


def _servers(against: Path | None) -> list[Server]:
    found = [
        Server("without", servers.vhost9p, lambda: ""),
        Server("with", _with_metrics, lambda: ""),
    ]
    if against:
        other = against.resolve()
        found.append(
            Server("the other", lambda path: servers.vhost9p(path, checkout=other), lambda: "")
        )
    return found


def measure(
    bench: Bench, compared: Sequence[Server], rounds: int, milliseconds: int, tmpfs: str
) -> dict[str, dict[str, float]]:
    """Returns the CPU time in µs by operation and server; what fails is in bench.failures. Raises
    RefusedError."""
    where = placement.choose(os.sched_getaffinity(0))
    least: dict[str, dict[str, float]] = {name: {} for name in OPERATIONS}
    with (
        measured_tree(bench.program, tmpfs) as tree,
        bench.drivers(tree, [*compared], where) as drivers,
    ):
        for _ in range(rounds):
            for name, found in least.items():
                for server in compared:
                    point = Point(name, DEPTH, "poll")
                    sample = bench.run(drivers, server.name, point, milliseconds)
                    if sample is None:
                        return least
                    time = sample.cpu_ns / sample.ops / 1000
                    found[server.name] = min(found.get(server.name, time), time)
    return least


def table(least: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """As Markdown."""
    lines = [f"| operation | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for name, title in OPERATIONS.items():
        values = " | ".join(f"{least[name].get(server, 0):.3f}" for server in names)
        lines.append(f"| {title} | {values} |")
    return "\n".join(["CPU time of the server in µs for each request, metrics:", "", *lines])


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 for a wrong reply or a server that ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each (default: 15)")
    parser.add_argument("--milliseconds", type=int, default=200, help="of a run (default: 200)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, built")
    arguments = parser.parse_args(words)
    bench = Bench(driver.build(arguments.out))
    compared = _servers(arguments.against)
    try:
        least = measure(bench, compared, arguments.rounds, arguments.milliseconds, arguments.tmpfs)
    except RefusedError as error:
        print(f"{arguments.tmpfs} does not allow what is measured: {error}", file=sys.stderr)
        return 1
    print(table(least, [each.name for each in compared]))
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
