"""The benchmark in a native guest: `python -m tests.bench.uml`.

Belongs here: vhost9p and virtiofsd under Linux's own clients in User Mode Linux. In each round all
servers have an export and a guest of their own, and do each job (jobs.py) right after one another,
beginning with another one each time: a machine that is slow for a while is so for all. All guests
have one CPU, all servers another one. The last round counts the requests, and samples the server,
for the tables that say where the time goes; its times are not among the others.

With `--agent` vhost9p takes turns with itself instead: with `notify` and an agent in the guest, and
without. Their exports are file systems of their own, since the kernel makes events for all who
change one that is watched. Nothing is counted then.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

from tests.bench import placement
from tests.bench.placement import Placement
from tests.bench.uml import counting, jobs, report
from tests.bench.uml.jobs import Job
from tests.bench.uml.report import Counted, Samples
from tests.bench.uml.setup import PAIRS, Setup, served
from tests.guest import uml_kernel
from tests.guest.apt import FetchError
from tests.guest.channel import CommandFailed, CommandTimeout, GuestLost

ROOT = Path(__file__).resolve().parents[3]


def measure(setup: Setup, cache: str, work: Sequence[Job], rounds: int) -> Samples:
    """Does all jobs on each server, round after round."""
    names = setup.servers
    samples: Samples = {job.title: {name: [] for name in names} for job in work}
    for turn in range(rounds):
        _say(f"cache={cache}, round {turn + 1} of {rounds}")
        with ExitStack() as stack:
            running = {name: stack.enter_context(served(setup, name, cache)) for name in names}
            for i, job in enumerate(work):
                first = (turn + i) % len(names)
                for name in names[first:] + names[:first]:
                    samples[job.title][name].append(running[name].run(job))
    return samples


def count(setup: Setup, cache: str, work: Sequence[Job]) -> Counted:
    """Does all jobs once on each server, and counts; vhost9p does not poll."""
    setup = replace(setup, options=[*setup.options, "--poll-us", "0"])
    counted: Counted = {job.title: {} for job in work}
    for name in setup.servers:
        _say(f"cache={cache}, counting, {name}")
        with served(setup, name, cache) as running:
            for job in work:
                counted[job.title][name] = counting.count(running, job)
    return counted


def main(words: Sequence[str] | None = None) -> int:
    """Runs the jobs; returns the exit status."""
    arguments = _arguments(words)
    try:
        with tempfile.TemporaryDirectory(prefix="vhost9p-bench-", dir=arguments.tmpfs) as shared:
            _measure_all(arguments, Path(shared))
    except (CommandFailed, CommandTimeout, FetchError, GuestLost) as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    return 0


def _measure_all(arguments: argparse.Namespace, shared: Path) -> None:
    """Prints and writes the report, and what it is made from."""
    size = jobs.SHORT if arguments.short else jobs.FULL
    jobs.prepare(shared, size)
    where = placement.choose(os.sched_getaffinity(0))
    options = shlex.split(arguments.options)
    against = arguments.against.resolve() if arguments.against else None
    setup = Setup(arguments.tmpfs, where, shared, options, against, arguments.agent)
    parts = {"tree": jobs.tree(size), "programs": jobs.real(size)}
    wanted = [job for part in arguments.jobs for job in parts[part]]
    left_out = jobs.left_out(wanted)
    work = [job for job in wanted if job.title not in left_out]
    samples, counted = {}, {}
    for cache in arguments.cache:
        samples[cache] = measure(setup, cache, work, arguments.rounds)
        if not arguments.no_count:
            counted[cache] = count(setup, cache, work)
    about = [f"{_placed(where)}; medians of {arguments.rounds}", *_parts(arguments)]
    about += [f"{title} was left out: {why}" for title, why in left_out.items()]
    head = "\n".join(f"- {line}" for line in (_kernel(), *about))
    if arguments.agent:
        _write_agent(arguments.out, head, samples)
    else:
        _write(arguments.out, head, samples, counted)


def _write_agent(folder: Path, head: str, samples: dict[str, Samples]) -> None:
    """agent.md has the times."""
    texts = [head]
    for cache, found in samples.items():
        texts += [report.agent_title(cache), report.times(found)]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(texts) + "\n"
    (folder / "agent.md").write_text(text)
    print(text)


def _write(
    folder: Path, head: str, samples: dict[str, Samples], counted: dict[str, Counted]
) -> None:
    """uml.md has the times, uml-requests.md the requests, uml.json both."""
    texts = [head, report.summary(samples)]
    for cache, found in samples.items():
        texts += [report.title(cache), report.times(found)]
    requests = [head]
    for cache, counts in counted.items():
        requests += [report.title(cache), report.round_trips(samples[cache], counts)]
        requests += [report.requests(counts)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in (("uml.md", texts), ("uml-requests.md", requests)):
        text = "\n\n".join(parts) + "\n"
        (folder / name).write_text(text)
        print(text)
    data = {"samples": _plain(samples), "counted": _plain(counted)}
    (folder / "uml.json").write_text(json.dumps(data, indent=1) + "\n")


def _plain(value: object) -> object:
    """Without the dataclasses."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _kernel() -> str:
    return f"User Mode Linux {uml_kernel.version(uml_kernel.kernel())}"


def _parts(arguments: argparse.Namespace) -> list[str]:
    """A line with the options by which not everything is measured, if there are any."""
    found = {
        "--short": arguments.short,
        "--cache": len(arguments.cache) < len(PAIRS) and not arguments.agent,
        "--jobs": len(arguments.jobs) < 2 and not arguments.agent,
        "--no-count": arguments.no_count and not arguments.agent,
        "--options": arguments.options,
    }
    given = [option for option, is_given in found.items() if is_given]
    return [f"PARTS: {', '.join(given)}"] if given else []


def _placed(where: Placement) -> str:
    if where.driver is None:
        return "nothing is pinned: guests and servers share one CPU"
    return f"pinned: the guests to CPU {where.driver}, the servers to CPU {where.server}"


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
    parser.add_argument(
        "--agent",
        action="store_true",
        help="with `notify` and the agent, beside `--against` (default: this tree) without",
    )
    parser.add_argument("--no-count", action="store_true", help="times alone")
    parser.add_argument("--options", default="", metavar="WORDS", help="more of vhost9p's options")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with another checkout, which is built"
    )
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    if arguments.against and not (arguments.against / ".venv" / "bin" / "python").exists():
        parser.error(f"--against: {arguments.against} is no checkout in which make build has run")
    if arguments.short:
        arguments.rounds = 1
    if arguments.agent:
        arguments.no_count = True
        arguments.against = arguments.against or ROOT
    arguments.cache = arguments.cache or list(PAIRS)
    arguments.jobs = arguments.jobs or ["tree", "programs"]
    return arguments


if __name__ == "__main__":
    sys.exit(main())
