"""The benchmark's command: `python -m tests.bench.run`.

Belongs here: which servers run where, the order of the runs, and what the options say.

All servers run beside one another, each with a driver in session; a run is a fraction of a second,
and each round of a point goes over all servers, beginning with another one each time. So whatever
else the machine does, it does to all of them. Which CPUs they have is placement.py's business.
Nothing fails for being slow: the exit status is 1 for a wrong reply or a server that ended, 2 for
options.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.bench import driver, options, placement, plan, report, servers
from tests.bench.driver import Driver, DriverError, Point, RefusedError, Sample
from tests.bench.placement import ANYWHERE, Placement
from tests.bench.plan import Effort, Workload
from tests.bench.report import HOST, Row
from tests.bench.servers import Server, ServerError
from tests.guest.apt import FetchError

ROOT = Path(__file__).resolve().parents[2]
PEERS = (servers.QEMU, servers.VIRTIOFSD, servers.VHOST9P)
MAPPED = (servers.QEMU_MAPPED, servers.VHOST9P_MAPPED)
UNPINNED = ", unpinned"


class Bench:
    """One benchmark: a driver program, the rows so far, and what went wrong."""

    def __init__(self, program: Path, quiet: bool = False) -> None:
        self.program = program
        self.rows: list[Row] = []
        self.failures: list[str] = []
        self.left_out: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._quiet = quiet
        self._serials = itertools.count(1)

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def drivers(
        self, directory: Path, wanted: Sequence[Server], where: Placement
    ) -> Iterator[dict[str, Driver]]:
        """A driver for each server that can be had, and one for the host's system calls."""
        with ExitStack() as stack:
            found = {HOST: stack.enter_context(closing(Driver(self.program, directory, None)))}
            for server in wanted:
                try:
                    self.versions[server.name] = server.version()
                    queue = stack.enter_context(server.start(directory))
                except (FetchError, ServerError, OSError) as error:
                    self.left_out[server.name] = str(error)
                    self.say(f"{server.name} is left out: {error}")
                    continue
                try:
                    made = Driver(self.program, directory, queue)
                except DriverError as error:
                    self.fail(server.name, error)
                    continue
                found[server.name] = stack.enter_context(closing(made))
                for pid in queue.pids:
                    placement.pin(pid, where.server)
            for made in found.values():
                placement.pin(made.pid, where.driver)
            yield found

    def fail(self, server: str, error: Exception) -> None:
        self.failures.append(f"{server}: {error}")
        self.say(self.failures[-1])

    def measure(
        self,
        medium: str,
        drivers: dict[str, Driver],
        workloads: Sequence[Workload],
        effort: Effort,
    ) -> None:
        """Runs the workloads on all drivers; one that fails is left out from there on."""
        for workload in workloads:
            started = time.monotonic()
            for point in effort.points(workload):
                row = Row(medium, workload, point)
                self.rows.append(row)
                for turn in range(effort.rounds):
                    self._round(row, turn, drivers, effort.milliseconds)
            self.say(f"{medium}: {workload.title} ({time.monotonic() - started:.1f} s)")

    def _round(self, row: Row, turn: int, drivers: dict[str, Driver], milliseconds: int) -> None:
        names = list(drivers)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if name == HOST and row.point[1:3] != (1, "poll"):
                continue  # depth and waiting mean nothing there
            if name in row.refused:
                continue
            try:
                sample = self.run(drivers, name, row.point, milliseconds)
            except RefusedError as error:
                row.refused[name] = error.errno
                continue
            if sample:
                row.samples.setdefault(name, []).append(sample)

    def run(
        self, drivers: dict[str, Driver], name: str, point: Point, milliseconds: int
    ) -> Sample | None:
        """Runs a point once on one driver; one that fails is taken out of `drivers`.

        Raises RefusedError.
        """
        try:
            return drivers[name].run(point, milliseconds, next(self._serials))
        except DriverError as error:
            self.fail(name, error)
            del drivers[name]
            return None


def _about(bench: Bench, arguments: argparse.Namespace) -> dict[str, object]:
    with open("/proc/cpuinfo") as info:
        models = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "kernel": platform.release(),
        "processor": f"{len(models)} x {models[0] if models else platform.machine()}",
        "rounds": arguments.rounds,
        "milliseconds": arguments.milliseconds,
        "placement": str(arguments.where),
        "versions": bench.versions,
        "left_out": bench.left_out,
        "failures": bench.failures,
    }


def _file_system(directory: Path) -> str:
    command = ("stat", "-f", "-c", "%T", str(directory))
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def measured_tree(program: Path, below: str) -> Iterator[Path]:
    """A tree of files for the driver, in a directory `below` another."""
    path = Path(tempfile.mkdtemp(prefix="vhost9p-bench-", dir=below))
    try:
        path.chmod(0o755)
        driver.make_tree(program, path)
        yield path
    finally:
        shutil.rmtree(path)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.run", description="Measures vhost9p beside its peers."
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each point (default: 5)")
    parser.add_argument("--milliseconds", type=int, default=150, help="of a run (default: 150)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="'' leaves it out")
    parser.add_argument("--disk", default=None, metavar="DIR", help="default: --out; '' likewise")
    parser.add_argument(
        "--workload", action="append", help="only this one, by the driver's name; repeatable"
    )
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with another checkout, which is built"
    )
    parser.add_argument("--no-mapped", action="store_true", help="passthrough alone")
    parser.add_argument("--no-options", action="store_true", help="not what options cost")
    parser.add_argument("--short", action="store_true", help="a few seconds, to check replies")
    arguments = parser.parse_args(words)
    names = {workload.name for workload in plan.WORKLOADS}
    for name in arguments.workload or ():
        if name not in names:
            parser.error(f"no workload is called {name}; there are {', '.join(sorted(names))}")
    if arguments.against and not (arguments.against / ".venv" / "bin" / "python").exists():
        parser.error(f"--against: {arguments.against} is no checkout in which make build has run")
    if arguments.rounds < 1 or arguments.milliseconds < 1:
        parser.error("--rounds and --milliseconds are at least 1")
    if arguments.short:
        arguments.rounds, arguments.milliseconds = 1, 10
    if arguments.disk is None:
        arguments.disk = str(arguments.out)
    arguments.parts = _parts(arguments)
    arguments.where = placement.choose(os.sched_getaffinity(0))
    return arguments


def _parts(arguments: argparse.Namespace) -> list[str]:
    """The options by which not everything is measured."""
    found = {
        "--short": arguments.short,
        "--workload": arguments.workload,
        "--no-mapped": arguments.no_mapped,
        "--no-options": arguments.no_options,
        "--tmpfs ''": not arguments.tmpfs,
        "--disk ''": not arguments.disk,
    }
    return [option for option, given in found.items() if given]


def _effort(arguments: argparse.Namespace, medium: str) -> Effort:
    depths = plan.SHORT if arguments.short else plan.FULL[medium]
    return Effort(depths, arguments.rounds, arguments.milliseconds)


def _measure_on(
    bench: Bench,
    arguments: argparse.Namespace,
    medium: str,
    wanted: Sequence[Server],
    workloads: Sequence[Workload],
    where: Placement,
    how: str = "",
) -> str:
    """Measures workloads on servers in a tree of their own; the rows' medium is `medium` and
    `how`. Returns what the file system is called."""
    with (
        measured_tree(bench.program, getattr(arguments, medium)) as tree,
        bench.drivers(tree, wanted, where) as drivers,
    ):
        bench.measure(medium + how, drivers, workloads, _effort(arguments, medium))
        return _file_system(tree)


def _measure(bench: Bench, arguments: argparse.Namespace) -> str:
    """Measures everything; returns the report."""
    wanted = arguments.workload or [workload.name for workload in plan.WORKLOADS]
    workloads = [workload for workload in plan.WORKLOADS if workload.name in wanted]
    peers, mapped = [*PEERS], [*MAPPED]
    if arguments.against:
        checkout = arguments.against.resolve()
        peers.append(servers.other(checkout))
        mapped.append(servers.other(checkout, "mapped-xattr"))
    where, texts = arguments.where, []
    if arguments.tmpfs:
        kind = _measure_on(bench, arguments, "tmpfs", peers, workloads, where)
        texts.append(f"tmpfs is {kind}.")
    if arguments.disk and not arguments.short:
        here = [workload for workload in workloads if not workload.tmpfs_only]
        texts.append(f"disk is {_measure_on(bench, arguments, 'disk', peers, here, where)}.")
    if arguments.tmpfs and where.spare:
        _measure_on(bench, arguments, "tmpfs", peers, workloads, ANYWHERE, UNPINNED)
    texts += _report(bench, where)
    if arguments.tmpfs and not arguments.no_mapped:
        kept = [w for w in workloads if w.name in plan.MAPPED and not w.think_us]
        rows = len(bench.rows)
        _measure_on(bench, arguments, "tmpfs", mapped, kept, where, ", mapped-xattr")
        ours, theirs = MAPPED[1].name, MAPPED[0].name
        texts.append("Under mapped-xattr, on tmpfs:")
        texts.append(report.pair_table(bench.rows[rows:], ours, theirs))
    if arguments.tmpfs and not arguments.no_options:
        texts += _measure_options(bench, arguments, workloads)
    if arguments.against:
        texts += ["Beside the other checkout:", report.other_table(bench.rows)]
    return "\n\n".join(filter(None, texts)) + "\n"


def _measure_options(
    bench: Bench, arguments: argparse.Namespace, workloads: Sequence[Workload]
) -> list[str]:
    kept = [w for w in workloads if w.name in options.WORKLOADS and not w.think_us]
    effort = arguments.where, arguments.rounds, arguments.milliseconds
    texts: list[str] = []
    for option in options.OPTIONS if kept else ():
        with measured_tree(bench.program, arguments.tmpfs) as tree:
            rows = options.measure(bench, option, tree, kept, *effort)
        texts += [option.title, report.pair_table(rows, options.ON, options.OFF)]
    bench.say("tmpfs: options")
    return texts


def _report(bench: Bench, where: Placement) -> list[str]:
    """The tables that have all servers; the headline first."""
    texts = [report.summary(bench.rows, "tmpfs"), report.footnotes(bench.rows)]
    if where.spare:
        texts += ["On tmpfs, nothing pinned:", report.summary(bench.rows, "tmpfs" + UNPINNED)]
    table = report.table(bench.rows, [HOST, *(server.name for server in PEERS)])
    return [*texts, "Everything:", table]


def _head(bench: Bench, arguments: argparse.Namespace, about: dict[str, object]) -> str:
    """What was measured, where and how; and why it is not everything."""
    lines = [f"{about['processor']}, Linux {about['kernel']}, {about['date']} UTC"]
    lines += [f"{arguments.where}; medians of {arguments.rounds} x {arguments.milliseconds} ms"]
    lines += [f"{name}: {version}" for name, version in bench.versions.items()]
    if arguments.parts:
        lines.append(f"PARTS: {', '.join(arguments.parts)}")
    lines += [f"{name} was left out: {why}" for name, why in bench.left_out.items()]
    lines += [f"FAILED {what}" for what in bench.failures]
    return "\n".join(f"- {line}" for line in lines)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    arguments = _arguments(words)
    bench = Bench(driver.build(arguments.out))
    text = _measure(bench, arguments)
    about = _about(bench, arguments)
    text = f"{_head(bench, arguments, about)}\n\n{text}"
    report.write(arguments.out, bench.rows, text, about)
    print(text)
    print(f"Also in {os.path.relpath(arguments.out)}: bench.md, bench.json, bench-*.svg")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
