"""What `notify` costs a guest's requests: a section of `make bench`.

The kernel makes an event of a change for each group that has marked the file system, whichever
server has made it: two servers side by side would both pay. So there is one at a time, without and
with `notify` in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def _with_notify(directory: Path) -> Iterator[Queue]:
    with servers.vhost9p(directory, options=("--notify",)) as queue:
        rings = rings_in(queue.pids[0])
        wait_until_watched(rings)
        for ring in rings:
            ring.close()
        yield queue


SERVERS = (
    Server(OFF, servers.vhost9p, servers.VHOST9P.version),
    Server(ON, _with_notify, servers.VHOST9P.version),
)


def measure(
    bench: Bench,
    tree: Path,
    workloads: Sequence[Workload],
    where: Placement,
    rounds: int,
    milliseconds: int,
) -> list[Row]:
    """Measures each workload on both servers, in a tree. What fails is in bench.failures. Raises
    RefusedError."""
    rows = [Row("tmpfs", each, Point(each.name, DEPTH, "poll")) for each in workloads]
    for turn in range(rounds):
        for server in SERVERS if turn % 2 else SERVERS[::-1]:
            with bench.drivers(tree, [server], where) as drivers:
                for row in rows:
                    if server.name in drivers:
                        sample = bench.run(drivers, server.name, row.point, milliseconds)
                        row.samples.setdefault(server.name, []).extend([sample] if sample else [])
    return rows
