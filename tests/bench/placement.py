"""Which CPUs the driver and the servers run on.

Belongs here: the choice, its effect, and the sentence about it in the report.

Where the kernel puts two threads decides what it costs to wake one from the other; that can be
more than the request itself, and it differs from server to server and from run to run. So the
driver has a CPU to itself, and all servers, which take turns, have another one. With one CPU there
is nothing to choose; with more than two the report has the figures without a choice as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Placement:
    """The driver's CPU and the servers'; None where nothing is pinned."""

    driver: int | None = None
    server: int | None = None
    spare: bool = False
    """There are more CPUs than these two."""

    def __str__(self) -> str:
        if self.driver is None:
            return "nothing is pinned: driver and servers share one CPU"
        return f"pinned: the driver to CPU {self.driver}, each server to CPU {self.server}"


ANYWHERE = Placement()


def siblings(cpu: int) -> set[int]:
    """The CPUs that are one core with this one."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    found: set[int] = set()
    for part in path.read_text().split(",") if path.exists() else ():
        first, _, last = part.strip().partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def choose(allowed: set[int], siblings: Callable[[int], set[int]] = siblings) -> Placement:
    """Two of the allowed CPUs, of different cores if there are any."""
    first, *others = sorted(allowed)
    if not others:
        return ANYWHERE
    same_core = siblings(first)
    server = min(others, key=lambda cpu: (cpu in same_core, cpu))
    return Placement(first, server, len(others) > 1)


def pin(pid: int, cpu: int | None) -> None:
    """Moves all threads of a process to a CPU; those that they start later stay there, too.

    A server is moved once it runs, so that what it makes of the machine when it starts (how many
    threads there may be, which of them may poll) is what it makes of it anywhere.
    """
    while cpu is not None and any(affinity != {cpu} for affinity in affinities(pid).values()):
        for thread in affinities(pid):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, {cpu})


def affinities(pid: int) -> dict[int, set[int]]:
    """The CPUs that each thread of a process may run on."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            found[int(name)] = os.sched_getaffinity(int(name))
    return found
