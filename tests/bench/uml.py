"""The benchmark in a native guest: `python -m tests.bench.uml`.

Belongs here: vhost9p and virtiofsd under Linux's own clients in User Mode Linux, and the tables of
what their jobs took. Each run has a server, an export and a guest of its own, and does all jobs
(uml_jobs.py); the servers take turns, round after round. The guest has one CPU, the server another
one. Beside the time by the guest's clock, the table has the server's CPU time, which is that of all
its threads, polling included.

The cache modes stand beside those of the other client that promise the same to programs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import placement, servers, uml_jobs
from tests.bench.placement import Placement
from tests.bench.report import OTHER, OURS, PEER
from tests.bench.uml_jobs import Job, Size
from tests.guest.apt import FetchError
from tests.guest.channel import CommandFailed
from tests.guest.uml import NINEP, VIRTIOFS, Device, Uml

ROOT = Path(__file__).resolve().parents[2]
PAIRS = {"none": "never", "mmap": "auto", "loose": "always"}
"""A 9p client's cache mode, and virtiofsd's that promises as much."""
MOUNT = "/tmp/export"
NINEP_OPTIONS = "trans=virtio,version=9p2000.L,msize=512000"
ENVIRONMENT = {"HOME": "/tmp/home"}


@dataclass(frozen=True)
class Sample:
    """One run of a job; times in µs."""

    elapsed: float
    cpu: float


Samples = dict[str, dict[str, list[Sample]]]
"""By job and server."""


@dataclass(frozen=True)
class Served:
    """A guest with an export mounted, and its server."""

    guest: Uml
    pid: int

    def run(self, job: Job) -> Sample:
        """Does a job. Raises CommandFailed where it goes wrong."""
        before = f"{uml_jobs.COLD if job.cold else ''}\n{job.before}"
        self.guest.run(("/bin/bash", "-ec", before), cwd=MOUNT, env=ENVIRONMENT)
        start = cpu_time(self.pid)
        command = ("/bin/bash", "-ec", job.script)
        said = self.guest.run(command, cwd=MOUNT, env=ENVIRONMENT, timeout=600).text
        return Sample(float(said.splitlines()[-1]), cpu_time(self.pid) - start)


def cpu_time(pid: int) -> float:
    """CPU time of a process (clock_getcpuclockid(3)), in µs."""
    return time.clock_gettime_ns(~pid << 3 | 2) / 1000


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    tmpfs: str
    where: Placement
    size: Size
    options: Sequence[str] = ()
    """Of vhost9p."""
    against: Path | None = None
    """Another checkout of it."""

    @property
    def servers(self) -> list[str]:
        return [PEER, *([OTHER] if self.against else []), OURS]

    def process(
        self, server: str, export: Path, cache: str
    ) -> AbstractContextManager[tuple[Path, int]]:
        """A server on a directory."""
        if server == PEER:
            return servers.virtiofsd_process(export, PAIRS[cache])
        checkout = self.against if server == OTHER and self.against else servers.ROOT
        return servers.vhost9p_process(export, options=self.options, checkout=checkout)


@contextmanager
def served(setup: Setup, server: str, cache: str, folder: Path) -> Iterator[Served]:
    """A server on a directory of `folder`, and a guest that has it mounted; `cache` is one of
    PAIRS."""
    export, shared = folder / "export", folder / "shared"
    export.mkdir(mode=0o755)
    shared.mkdir()
    uml_jobs.prepare(shared)
    mount = f"mount -t 9p -o {NINEP_OPTIONS},cache={cache} host0 {MOUNT}"
    if server == PEER:
        mount = f"mount -t virtiofs fs {MOUNT}"
    with setup.process(server, export, cache) as (socket, pid):
        placement.pin(pid, setup.where.server)
        device = Device(socket, VIRTIOFS if server == PEER else NINEP)
        with Uml([device], shared, cpu=setup.where.driver) as guest:
            guest.run(f"mkdir {MOUNT} {ENVIRONMENT['HOME']}; {mount}")
            yield Served(guest, pid)


def measure(
    setup: Setup, cache: str, work: Sequence[Job], rounds: int, say: Callable[[str], None]
) -> Samples:
    """Does all jobs on each server, round after round."""
    samples: Samples = {job.title: {name: [] for name in setup.servers} for job in work}
    names = setup.servers
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            say(f"cache={cache}, round {turn + 1}, {name}")
            with (
                tempfile.TemporaryDirectory(prefix="vhost9p-bench-", dir=setup.tmpfs) as folder,
                served(setup, name, cache, Path(folder)) as running,
            ):
                for job in work:
                    samples[job.title][name].append(running.run(job))
    return samples


def table(samples: Samples) -> str:
    """Medians in ms: the time, and the server's CPU time; and the ratios of the times, above 1
    where vhost9p is ahead."""
    names = list(next(iter(samples.values())))
    others = [name for name in names if name != OURS]
    head = ["job, ms", *names, *(f"{name}/{OURS}" for name in others)]
    lines = [[*head, *(f"CPU: {name}" for name in names)]]
    for title, found in samples.items():
        times = {name: statistics.median(s.elapsed for s in found[name]) for name in names}
        cells = [title, *(f"{times[name] / 1000:,.1f}" for name in names)]
        cells += [f"{times[name] / times[OURS]:.2f}" for name in others]
        cells += [f"{statistics.median(s.cpu for s in found[n]) / 1000:,.1f}" for n in names]
        lines.append(cells)
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the jobs; returns the exit status."""
    arguments = _arguments(words)
    setup = Setup(
        arguments.tmpfs,
        placement.choose(os.sched_getaffinity(0)),
        uml_jobs.SHORT if arguments.short else uml_jobs.FULL,
        shlex.split(arguments.options),
        arguments.against,
    )
    found = {}
    try:
        for cache in arguments.cache:
            found[cache] = measure(setup, cache, uml_jobs.tree(setup.size), arguments.rounds, _say)
            print(f"\ncache={cache} ~ {PAIRS[cache]}:\n\n{table(found[cache])}", flush=True)
    except (CommandFailed, FetchError) as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(f"uml: {text}", file=sys.stderr, flush=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.uml", description="Measures in a native guest."
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each job (default: 3)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="where the exports are")
    parser.add_argument("--short", action="store_true", help="one small round, to check replies")
    parser.add_argument("--cache", action="append", choices=PAIRS, help="only this; repeatable")
    parser.add_argument("--options", default="", metavar="WORDS", help="more of vhost9p's options")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with another checkout, which is built"
    )
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    if arguments.short:
        arguments.rounds = 1
    arguments.cache = arguments.cache or list(PAIRS)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
