"""Where the time of the requests goes that Python answers: `python -m tests.bench.profile`.

Measures all of them (tests/bench/upcalls.py), and samples the daemon with perf(1) while it answers
them. Prints one table, a column for each request, in µs of a request. perf does not see Python's
own functions (as of 3.11): what runs in the interpreter is one row.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests.bench import driver, servers, upcalls
from tests.bench.driver import Driver, Point
from tests.bench.run import ROOT, Bench, measured_tree
from tests.bench.upcalls import Cost, Operation

DEPTH = upcalls.DEPTHS[-1]
SECONDS = 2.0
FREQUENCY = 4000
"""Samples a second."""
SETTLE = 0.3
"""Seconds that perf takes to begin."""
LEAST = 0.1
"""µs below which a row is among the others."""

OBJECTS = {
    "libpython": "Python: the interpreter",
    "python": "Python: the interpreter",
    "_native": "C: the ring, the fid table (csrc)",
    "_cffi_backend": "Python to C and back (cffi)",
    "_struct": "Python: struct",
    "libc": "C library: locks, memory, copies",
    "ld-linux": "C library: locks, memory, copies",
}
"""What code belongs to, by how its object's name begins."""
WAITING = {
    "futex": "kernel: threads sleep and wake each other (futex)",
    "epoll_wait": "kernel: the serving thread sleeps, is kicked (epoll)",
}
OTHERS = "the rest"


def kind(frames: Sequence[tuple[str, str]]) -> str:
    """What a sample belongs to: its frames are (symbol, object), innermost first."""
    for symbol, _ in frames:
        if match := re.match(r"(?:__(?:x64|arm64|se)_sys|ksys)_(\w+)", symbol):
            return WAITING.get(match[1], f"kernel: {match[1]}")
    name = Path(frames[0][1]).name
    if name == "[kernel.kallsyms]":
        return "kernel: entry, interrupts"
    return next((what for start, what in OBJECTS.items() if name.startswith(start)), OTHERS)


def samples(recording: Path) -> Iterator[str]:
    """The kind of each sample of a recording."""
    words = ["perf", "script", "-i", str(recording), "-F", "ip,sym,dso"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=True)
    for block in done.stdout.split("\n\n"):
        frames = re.findall(r"^\s*[0-9a-f]+ (.*) \((.*)\)$", block, re.MULTILINE)
        if frames:
            yield kind(frames)


def record(bench: Bench, operation: Operation, tmpfs: str, recording: Path) -> Counter[str]:
    """Samples a daemon that answers an operation; how many samples are of which kind."""
    with (
        measured_tree(bench.program, tmpfs) as tree,
        servers.VHOST9P.start(tree) as queue,
        closing(Driver(bench.program, tree, queue)) as made,
    ):
        words = ["perf", "record", "-q", "-g", "-F", str(FREQUENCY), "-o", str(recording)]
        words += ["-p", str(queue.pids[0]), "--", "sleep", str(SECONDS)]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as perf:
            time.sleep(SETTLE)
            length = int((SECONDS - SETTLE) * 1000)
            made.run(Point(operation.name, DEPTH, "poll"), length, 1)
        if perf.returncode:
            raise RuntimeError(f"{' '.join(words)} failed with status {perf.returncode}")
    return Counter(samples(recording))


def times(cost: Cost, counts: Counter[str]) -> dict[str, float]:
    """µs of one request by kind, of the server's CPU time as it is without perf."""
    whole = cost.server[-1] / cost.operation.requests
    spent = {what: whole * count / counts.total() for what, count in counts.items()}
    shown = {what: spent[what] for what in spent if spent[what] >= LEAST and what != OTHERS}
    return {**shown, OTHERS: whole - sum(shown.values())}


def table(costs: Sequence[Cost], columns: Sequence[dict[str, float]]) -> str:
    """As Markdown; the most expensive row first, the rest and the sum last."""
    sums: Counter[str] = Counter()
    for column in columns:
        sums.update(column)
    del sums[OTHERS]
    rows = [what for what, _ in sums.most_common()]
    lines = [f"| µs of a request | {' | '.join(cost.operation.title for cost in costs)} |"]
    lines.append("|---|" + "--:|" * len(costs))
    for what in [*rows, OTHERS]:
        cells = [f"{column[what]:.1f}" if what in column else "" for column in columns]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines.append(f"| sum | {' | '.join(f'{sum(column.values()):.1f}' for column in columns)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 for a wrong reply or a server that ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each point (default: 5)")
    parser.add_argument("--milliseconds", type=int, default=150, help="of a run (default: 150)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR")
    arguments = parser.parse_args(words)
    if not shutil.which("perf"):
        parser.error("perf(1) is not installed")
    bench = Bench(driver.build(arguments.out))
    costs = upcalls.measure(bench, arguments.rounds, arguments.milliseconds, arguments.tmpfs)
    if bench.failures:
        return 1
    costs.sort(key=lambda cost: cost.server[-1] / cost.operation.requests, reverse=True)
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for cost in costs:
            counts = record(bench, cost.operation, arguments.tmpfs, Path(folder) / "perf.data")
            columns.append(times(cost, counts))
    print(table(costs, columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
