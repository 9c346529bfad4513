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
from tests.frontend.traced import EPOLL_WAIT, Traced


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Kills a process, and waits for its end."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert select.select([pidfd], [], [], 60)[0]
    finally:
        os.close(pidfd)


STOPS = 24
"""More than most requests have."""


def kill_inside(worker: int, seconds: float = 5.0) -> None:
    """Kills a worker before or after a system call of a request that it has taken; anywhere, if
    there is none for so long."""
    until = time.monotonic() + seconds
    # A thread that has nothing to do may end.
    with suppress(TimeoutError, FileNotFoundError), Traced(worker, until) as thread:
        left = random.randrange(1, STOPS)
        while left:
            left = left - 1 if thread.step(until) != EPOLL_WAIT else random.randrange(1, STOPS)
        return
    with suppress(ProcessLookupError):
        kill(worker)


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


@contextmanager
def no_worker(daemon: Daemon, seconds: float = 1.0) -> Iterator[threading.Event]:
    """The worker is killed, and its keeper starts no other one for so long. The event is set when
    it may again."""
    (keeper,) = daemon.keepers
    may = threading.Event()

    def go_on() -> None:
        may.set()
        os.kill(keeper, signal.SIGCONT)

    os.kill(keeper, signal.SIGSTOP)
    kill(daemon.worker)
    timer = threading.Timer(seconds, go_on)
    timer.start()
    try:
        yield may
    finally:
        timer.join()
