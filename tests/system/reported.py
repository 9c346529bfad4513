"""What a daemon reports of the host's changes, read from the memory that its processes share."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from tests.frontend import PATIENCE
from tests.frontend.daemon import Daemon, children
from vhost9p.changes.lines import OVERFLOW
from vhost9p.changes.ring import Ring

RING = "/memfd:vhost9p-changes (deleted)"


class Reported:
    """The lines of one ring, from where it was at the beginning."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.lines: list[bytes] = []
        self._position = ring.end

    def read(self) -> list[bytes]:
        """Returns all lines so far, without their ends."""
        data, self._position = self.ring.read(self._position, 1 << 20)
        self.lines += data.splitlines()
        return self.lines

    def until(self, *wanted: bytes) -> list[bytes]:
        """Waits until these lines are there, in any order. Returns all so far."""
        deadline = time.monotonic() + PATIENCE
        while not {*wanted} <= {*self.read()}:
            assert time.monotonic() < deadline, (wanted, self.lines)
            time.sleep(0.01)
        return self.lines

    def forget(self) -> None:
        """What there was counts no more."""
        self.read()
        self.lines = []


def rings_of(daemon: Daemon) -> list[Ring]:
    """The rings of a daemon's devices, in their order."""
    return rings_in(daemon.pid)


def rings_in(pid: int) -> list[Ring]:
    """The same, of a process that has them open."""
    folder = f"/proc/{pid}/fd"
    found: dict[int, str] = {}
    for name in sorted(os.listdir(folder), key=int):
        with suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{name}") == RING:
                found.setdefault(os.stat(f"{folder}/{name}").st_ino, f"{folder}/{name}")
    return [Ring(os.open(path, os.O_RDWR | os.O_CLOEXEC)) for path in found.values()]


def watchers(daemon: Daemon) -> list[int]:
    """The processes that watch."""
    return children(daemon.pid, "vhost9p-watcher")


def watcher_of(daemon: Daemon) -> int:
    """The process that watches; waits until it alone is left, since another one follows where
    mounts have changed. Raises DaemonError."""
    daemon.wait_until(lambda: len(watchers(daemon)) == 1, "not one process watches")
    return watchers(daemon)[0]


def wait_until_watched(rings: Collection[Ring]) -> None:
    """Returns when changes are reported to all of these: who watches begins with an overflow."""
    deadline = time.monotonic() + PATIENCE
    while not all(ring.end >= len(OVERFLOW) for ring in rings):
        assert time.monotonic() < deadline, "nobody watches"
        time.sleep(0.01)


@contextmanager
def reported(daemon: Daemon) -> Iterator[list[Reported]]:
    """What is reported of each device with notify, from when it is watched."""
    rings = rings_of(daemon)
    wait_until_watched(rings)
    try:
        yield [Reported(ring) for ring in rings]
    finally:
        for ring in rings:
            ring.close()
