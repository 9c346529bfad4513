"""Workers that die while a test does something else."""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.frontend.daemon import Daemon


def kill(pid: int) -> None:
    """Kills a process, and waits for its end."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], 60)[0]
    finally:
        os.close(pidfd)


@contextmanager
def deaths(daemon: Daemon, count: int, longest: float = 0.1) -> Iterator[threading.Thread]:
    """Meanwhile so many workers are killed, each at most `longest` seconds after it was found; the
    thread then ends."""

    def kill_workers() -> None:
        for _ in range(count):
            worker = daemon.worker
            time.sleep(random.uniform(longest / 10, longest))
            with suppress(ProcessLookupError):
                kill(worker)

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        yield killer
    finally:
        killer.join()
