"""Locks of the host: what others hold, and a process that holds some.

A child process, because a POSIX lock belongs to a process: a test that closed any descriptor of
the file would lose it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from contextlib import suppress
from types import TracebackType

HOST_PROCESS = """
import fcntl, struct, sys
file = open(sys.argv[1], "r+b")
kinds = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}
print("ready", flush=True)
for line in sys.stdin:
    how, kind, start, length = line.split()
    nonblocking = 0 if kind == "u" else fcntl.LOCK_NB
    try:
        if how == "flock":
            fcntl.flock(file, kinds[kind] | nonblocking)
        else:
            fcntl.lockf(file, kinds[kind] | nonblocking, int(length), int(start))
        print("yes", flush=True)
    except BlockingIOError:
        print("no", flush=True)
"""


class HostProcess:
    """A process of the host that locks a file when it is told to, without waiting."""

    def __init__(self, path: bytes) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST_PROCESS, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def __enter__(self) -> HostProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _ask(self, how: str, kind: str, start: int, length: int) -> bool:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{how} {kind} {start} {length}\n")
        self.process.stdin.flush()
        answer = self._line()
        assert answer in ("yes", "no"), answer
        return answer == "yes"

    def fcntl(self, kind: str, start: int = 0, length: int = 0) -> bool:
        """A POSIX lock: r, w or u; says whether it was granted."""
        return self._ask("fcntl", kind, start, length)

    def flock(self, kind: str) -> bool:
        return self._ask("flock", kind, 0, 0)

    def free(self, start: int = 0, length: int = 0) -> bool:
        """Whether a write lock would be granted now; keeps none."""
        granted = self.fcntl("w", start, length)
        if granted:
            self.fcntl("u", start, length)
        return granted


_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux


def is_locked(fd: int, start: int, length: int) -> bool:
    """Whether another process has a lock in this range of a file."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)


def is_locked_by_flock(fd: int) -> bool:
    """Whether another process keeps this one from locking a file with flock(2)."""
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False
    return True
