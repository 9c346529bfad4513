"""A thread that is stopped before and after each of its system calls (ptrace(2)), to kill its
process there."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

EPOLL_WAIT = "232"
"""Its number on x86-64: a serving thread that has no request is in it."""
SEIZE, INTERRUPT, SYSCALL = 0x4206, 0x4207, 24
TRACESYSGOOD, WALL = 1, 0x40000000


class Traced:
    """The serving thread of a worker. As a context manager it kills the worker at the end of the
    block, wherever the thread is then. All of it is for one thread of this process."""

    def __init__(self, worker: int, until: float) -> None:
        """Stops the thread that waits for requests. TimeoutError if there is none until then."""
        self._worker = worker
        self._signal = 0
        self._tid = self._serving(until)
        self._ptrace(SEIZE, TRACESYSGOOD)
        self._ptrace(INTERRUPT)
        self._wait(until)

    def __enter__(self) -> Traced:
        return self

    def __exit__(self, *_: object) -> None:
        pidfd = os.pidfd_open(self._worker)
        os.kill(self._worker, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._tid, WALL)  # its process ends after that
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)

    def step(self, until: float) -> str:
        """Has the thread go on to its next stop; the number of the system call there.
        TimeoutError."""
        self._ptrace(SYSCALL, self._signal)
        return self._wait(until)

    def _serving(self, until: float) -> int:
        while time.monotonic() < until:
            for tid in map(int, os.listdir(f"/proc/{self._worker}/task")):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if self._call(tid) == EPOLL_WAIT:
                        return tid
            time.sleep(0.001)
        raise TimeoutError

    def _call(self, tid: int) -> str:
        text = Path(f"/proc/{self._worker}/task/{tid}/syscall").read_text(encoding="ascii")
        return text.split()[0]

    def _wait(self, until: float) -> str:
        while not (found := os.waitpid(self._tid, WALL | os.WNOHANG))[0]:
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.0001)
        number = os.WSTOPSIG(found[1]) & 0x7F
        self._signal = 0 if number in (signal.SIGTRAP, signal.SIGSTOP) else number
        return self._call(self._tid)

    def _ptrace(self, request: int, data: int = 0) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        words = (ctypes.c_long(self._tid), ctypes.c_void_p(0), ctypes.c_void_p(data))
        if libc.ptrace(ctypes.c_long(request), *words):
            raise OSError(ctypes.get_errno(), "ptrace")
