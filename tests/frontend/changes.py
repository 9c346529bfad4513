"""The ring of changes (vhost9p/changes/ring.py) of a running daemon, for tests that write lines."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.frontend.daemon import Daemon, children
from vhost9p.changes.ring import Ring
from vhost9p.native import process


@contextmanager
def ring_of(daemon: Daemon) -> Iterator[Ring]:
    """That of the daemon's only device, once the watcher has written its first line: while the host
    is at rest, nobody writes another one. Main opens the memory, which mmap(2) of Python
    duplicates, and then the bell."""
    folder = f"/proc/{daemon.pid}/fd"
    memory = min(fd for fd in map(int, os.listdir(folder)) if _is_memory(f"{folder}/{fd}"))
    pidfd = os.pidfd_open(daemon.pid)
    ring = Ring(*(process.take_descriptor(pidfd, memory + more) for more in (0, 1)))
    os.close(pidfd)
    if os.geteuid() == 0:  # others have no watcher
        daemon.wait_until(lambda: ring.end > 0, "nobody watches")
    yield ring
    ring.close()


@contextmanager
def ring_alone(daemon: Daemon) -> Iterator[Ring]:
    """The same, and nobody else writes, whatever happens on the host: the watcher is ended, and the
    next one waits for its turn. An export's file system is rarely the test's own, and what is done
    elsewhere on it may become an overflow."""
    with ring_of(daemon) as ring:
        while os.geteuid() == 0 and not _takes_turn(ring):
            for watcher in children(daemon.pid, "vhost9p-watcher"):
                with suppress(ProcessLookupError):
                    os.kill(watcher, signal.SIGKILL)
            time.sleep(0.01)
        yield ring


def _takes_turn(ring: Ring) -> bool:
    with suppress(BlockingIOError, PermissionError):
        fcntl.lockf(ring.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_memory(path: str) -> bool:
    try:
        return "memfd:vhost9p-changes" in os.readlink(path)
    except FileNotFoundError:
        return False  # it was closed meanwhile
