"""The ring of changes (vhost9p/changes/ring.py) of a running daemon, for tests that write lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.frontend.daemon import Daemon
from vhost9p.changes.ring import Ring
from vhost9p.native import process


@contextmanager
def ring_of(daemon: Daemon) -> Iterator[Ring]:
    """That of the daemon's only device: main's bell has the number after the memory's."""
    folder = Path(f"/proc/{daemon.pid}/fd")
    memory = min(
        int(fd.name) for fd in folder.iterdir() if "memfd:vhost9p-changes" in os.readlink(fd)
    )  # mmap(3) of Python has another one
    pidfd = os.pidfd_open(daemon.pid)
    ring = Ring(*(process.take_descriptor(pidfd, memory + more) for more in (0, 1)))
    os.close(pidfd)
    yield ring
    ring.close()
