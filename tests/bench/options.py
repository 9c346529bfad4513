"""What an option costs a guest's requests, `notify` and the sandbox: sections of `make bench`.

There is one server at a time, without the option and with it in turn. Two side by side would both
pay: the kernel makes an event of a change for each group that has marked the file system, whichever
server has made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import servers
from tests.bench.driver import Point, Queue
from tests.bench.placement import Placement
from tests.bench.plan import Workload
from tests.bench.report import Row
from tests.bench.servers import Server
from tests.system.reported import rings_in, wait_until_watched

if TYPE_CHECKING:
    from tests.bench.run import Bench

WORKLOADS = ("stat", "open", "write4k", "write512k", "create", "chmod", "rename", "link")
"""By the driver's names: those that change nothing, those that write, those that change names and
attributes."""
DEPTH = 32
"""Requests at a time: no thread sleeps, so nothing but requests is measured."""
OFF, ON = "without", "with"


@dataclass(frozen=True)
class Option:
    """One of them: what the table is called, and servers without it and with it."""

    title: str
    off: Server
    on: Server


Start = Callable[[Path], AbstractContextManager[Queue]]


def _option(title: str, off: Start, on: Start) -> Option:
    version = servers.VHOST9P.version
    return Option(title, Server(OFF, off, version), Server(ON, on, version))


@contextmanager
def _with_notify(directory: Path) -> Iterator[Queue]:
    with servers.vhost9p(directory, options=("--notify",)) as queue:
        rings = rings_in(queue.pids[0])
        wait_until_watched(rings)
        for ring in rings:
            ring.close()
        yield queue


@contextmanager
def _without_sandbox(directory: Path) -> Iterator[Queue]:
    with servers.vhost9p(directory, options=("--sandbox=none",)) as queue:
        yield queue


OPTIONS = (
    _option(
        "Without `notify` and with it, on tmpfs, when the host changes nothing:",
        servers.vhost9p,
        _with_notify,
    ),
    _option("Without the sandbox and with it, on tmpfs:", _without_sandbox, servers.vhost9p),
)


def measure(
    bench: Bench,
    option: Option,
    tree: Path,
    workloads: Sequence[Workload],
    where: Placement,
    rounds: int,
    milliseconds: int,
) -> list[Row]:
    """Measures each workload on both servers of an option, in a tree. What fails is in
    bench.failures. Raises RefusedError."""
    rows = [Row("tmpfs", each, Point(each.name, DEPTH, "poll")) for each in workloads]
    for turn in range(rounds):
        for server in (option.off, option.on) if turn % 2 else (option.on, option.off):
            with bench.drivers(tree, [server], where) as drivers:
                for row in rows:
                    if server.name in drivers:
                        sample = bench.run(drivers, server.name, row.point, milliseconds)
                        row.samples.setdefault(server.name, []).extend([sample] if sample else [])
    return rows
