"""Workers that die while a test does something else."""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.frontend.daemon import Daemon


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Kills a process, and waits for its end."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert select.select([pidfd], [], [], 60)[0]
    finally:
        os.close(pidfd)


class Traced:
    """A thread that is stopped before and after each of its system calls (ptrace(2))."""

    SEIZE, INTERRUPT, SYSCALL = 0x4206, 0x4207, 24
    TRACESYSGOOD, WALL = 1, 0x40000000

    def __init__(self, pid: int, tid: int) -> None:
        self._tid = tid
        self._call = f"/proc/{pid}/task/{tid}/syscall"
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._ptrace(self.SEIZE, self.TRACESYSGOOD)
        self._ptrace(self.INTERRUPT)

    def _ptrace(self, request: int, data: int = 0) -> None:
        words = (ctypes.c_long(self._tid), ctypes.c_void_p(0), ctypes.c_void_p(data))
        if self._libc.ptrace(ctypes.c_long(request), *words):
            raise OSError(ctypes.get_errno(), "ptrace")

    def wait(self, until: float) -> str:
        """Waits for the next stop; the number of its system call. TimeoutError."""
        while not (found := os.waitpid(self._tid, self.WALL | os.WNOHANG))[0]:
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.0001)
        self._signal = os.WSTOPSIG(found[1])
        return Path(self._call).read_text(encoding="ascii").split()[0]

    def go_on(self) -> None:
        """To the next stop."""
        signals = signal.valid_signals() - {signal.SIGTRAP, signal.SIGSTOP}
        self._ptrace(self.SYSCALL, self._signal if self._signal in signals else 0)

    def reap(self) -> None:
        """Once its process is killed."""
        with suppress(ChildProcessError):
            os.waitpid(self._tid, self.WALL)


EPOLL_WAIT = "232"
"""Its number on x86-64: a serving thread that has no request is in it."""
STOPS = 24
"""More than most requests have."""


def kill_inside(worker: int, seconds: float = 5.0) -> None:
    """Kills a worker before or after a system call of a request that it has taken; anywhere, if
    there is none for so long."""
    until, pidfd = time.monotonic() + seconds, os.pidfd_open(worker)
    thread = None
    try:
        thread = Traced(worker, _serving(worker, until))
        left = random.randrange(1, STOPS)
        while left:
            left = left - 1 if thread.wait(until) != EPOLL_WAIT else random.randrange(1, STOPS)
            thread.go_on()
    except TimeoutError:
        pass
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    if thread:
        thread.reap()
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)


def _serving(worker: int, until: float) -> int:
    """A thread that waits for requests. TimeoutError."""
    while time.monotonic() < until:
        for tid in map(int, os.listdir(f"/proc/{worker}/task")):
            with suppress(FileNotFoundError, ProcessLookupError):
                call = Path(f"/proc/{worker}/task/{tid}/syscall").read_text(encoding="ascii")
                if call.split()[0] == EPOLL_WAIT:
                    return tid
        time.sleep(0.001)
    raise TimeoutError


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
