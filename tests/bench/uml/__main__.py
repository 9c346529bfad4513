"""The benchmark in a native guest: `python -m tests.bench.uml`.

Belongs here: vhost9p and virtiofsd under Linux's own clients in User Mode Linux, in turns. Each run
has a server, an export and a guest of its own, and does all jobs (jobs.py): round after round, each
beginning with another server. The guest has one CPU, the server another one. The last round counts
the requests, and samples the server, for the tables that say where the time goes; its times are not
among the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench import placement
from tests.bench.placement import Placement
from tests.bench.uml import jobs, report
from tests.bench.uml.jobs import Job
from tests.bench.uml.report import Counted, Samples
from tests.bench.uml.setup import PAIRS, Setup, served
from tests.guest import uml_kernel
from tests.guest.apt import FetchError
from tests.guest.channel import CommandFailed

ROOT = Path(__file__).resolve().parents[3]


def measure(setup: Setup, cache: str, work: Sequence[Job], rounds: int) -> Samples:
    """Does all jobs on each server, round after round."""
    names = setup.servers
    samples: Samples = {job.title: {name: [] for name in names} for job in work}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            _say(f"cache={cache}, round {turn + 1} of {rounds}, {name}")
            with served(setup, name, cache) as running:
                for job in work:
                    samples[job.title][name].append(running.run(job))
    return samples


def count(setup: Setup, cache: str, work: Sequence[Job]) -> Counted:
    """Does all jobs once on each server, and counts."""
    counted: Counted = {job.title: {} for job in work}
    for name in setup.servers:
        _say(f"cache={cache}, counting, {name}")
        with served(setup, name, cache) as running:
            for job in work:
                counted[job.title][name] = running.traced(job)
    return counted


def main(words: Sequence[str] | None = None) -> int:
    """Runs the jobs; returns the exit status."""
    arguments = _arguments(words)
    size = jobs.SHORT if arguments.short else jobs.FULL
    with tempfile.TemporaryDirectory(prefix="vhost9p-bench-", dir=arguments.tmpfs) as shared:
        try:
            jobs.prepare(Path(shared), size)
            where = placement.choose(os.sched_getaffinity(0))
            options = shlex.split(arguments.options)
            setup = Setup(arguments.tmpfs, where, Path(shared), options, arguments.against)
            text = _all(setup, size, arguments)
        except (CommandFailed, FetchError) as error:
            print(f"FAILED {error}", file=sys.stderr)
            return 1
    (arguments.out / "uml.md").write_text(text)
    print(text)
    return 0


def _all(setup: Setup, size: jobs.Size, arguments: argparse.Namespace) -> str:
    """Measures and counts; returns the report, and writes what it is made from."""
    parts = {"tree": jobs.tree(size), "programs": jobs.real(size)}
    wanted = [job for part in arguments.jobs for job in parts[part]]
    left_out = jobs.left_out(wanted)
    work = [job for job in wanted if job.title not in left_out]
    release = uml_kernel.version(uml_kernel.kernel())
    lines = [f"User Mode Linux {release}; {_placed(setup.where)}; medians of {arguments.rounds}"]
    lines += [f"{title} was left out: {why}" for title, why in left_out.items()]
    texts = ["\n".join(f"- {line}" for line in lines)]
    found: dict[str, object] = {}
    for cache in arguments.cache:
        samples = measure(setup, cache, work, arguments.rounds)
        texts += [report.title(cache), report.times(samples)]
        counted: Counted = {} if arguments.no_count else count(setup, cache, work)
        if counted:
            texts += [report.requests(counted)]
        found[cache] = {
            "times": {
                title: {name: [asdict(s) for s in runs] for name, runs in by_name.items()}
                for title, by_name in samples.items()
            },
            "requests": {
                title: {name: asdict(requests) for name, (_, requests) in by_name.items()}
                for title, by_name in counted.items()
            },
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "uml.json").write_text(json.dumps(found, indent=1) + "\n")
    return "\n\n".join(texts) + "\n"


def _placed(where: Placement) -> str:
    if where.driver is None:
        return "nothing is pinned: guest and servers share one CPU"
    return f"pinned: the guest to CPU {where.driver}, each server to CPU {where.server}"


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
    parser.add_argument(
        "--jobs", action="append", choices=("tree", "programs"), help="only these; repeatable"
    )
    parser.add_argument("--no-count", action="store_true", help="times alone")
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
    arguments.jobs = arguments.jobs or ["tree", "programs"]
    return arguments


if __name__ == "__main__":
    sys.exit(main())
