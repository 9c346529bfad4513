"""A keeper that another one follows while it lives: how main stops it, and ends its worker.

The worker may be an attacker's, and resist: a stop signal is undone by SIGCONT, which a process may
send to itself. So it is killed whether it has stopped or not, unless one of its threads hangs in
the kernel: in an uninterruptible sleep, without having run at all for a while. Such a worker would
not die, and serves what does not hang. An attacker needs a file system that hangs for that
(csrc/sandbox/system_calls.c forbids other long sleeps of that kind).
"""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from vhost9p.birth import Failed, Waits

END_PATIENCE_S = 3.0
"""How long the keeper may take to stop, and its worker to die: which in an uninterruptible sleep
takes longer."""
_SWITCHES = re.compile(rb"ctxt_switches:\t([0-9]+)")


class OldKeeper:
    """A keeper of main, a child of this process."""

    def __init__(self, pid: int, pidfd: int, waits: Waits) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._waits = waits

    def freeze(self) -> None:
        """It starts no worker any more. Raises Failed."""
        os.kill(self.pid, signal.SIGSTOP)
        if not self._waits.true(END_PATIENCE_S, self._has_stopped):
            raise Failed("its keeper cannot be stopped")

    def _has_stopped(self) -> bool:
        """Raises Failed."""
        end = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end and end.si_code != os.CLD_STOPPED:
            raise Failed("its keeper has just ended")
        return bool(end and os.waitid(os.P_PID, self.pid, os.WSTOPPED))

    def thaw(self) -> None:
        """It goes on."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def end_worker(self) -> None:
        """Kills its worker, if it has one that does not hang. Raises Failed, OSError: the worker
        goes on, unless it was killed already."""
        for pidfd, pid in self._workers():
            try:
                self._end(pid, pidfd)
            except BaseException:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                raise

    def kill_worker(self, seconds: float) -> bool:
        """Kills its worker, whatever it does. Returns whether it has ended within so many seconds.
        Raises Failed, OSError."""
        ended = True
        for pidfd, _ in self._workers():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ended &= self._waits.readable(seconds, pidfd)
        return ended

    def _workers(self) -> Iterator[tuple[int, int]]:
        """Yields a pidfd, and the pid, of each child of the keeper."""
        # The option that lets workers be cloned (server/process.c) brings this file along.
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            children = file.read().split()
        for pid in map(int, children):
            pidfd = os.pidfd_open(pid)
            try:
                yield pidfd, pid
            finally:
                os.close(pidfd)

    def _end(self, pid: int, pidfd: int) -> None:
        """Raises Failed: the worker is stopped, unless it was killed already."""
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        if not self._stops(pid) and self._hangs(pid):
            raise Failed("its worker hangs in a system call")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not self._waits.readable(END_PATIENCE_S, pidfd):
            raise Failed("its worker hangs in a system call and does not die")

    def _stops(self, pid: int) -> bool:
        """Raises Failed."""
        return self._waits.true(END_PATIENCE_S / 2, partial(_are_stopped, pid))

    def _hangs(self, pid: int) -> bool:
        """Whether a thread that has not stopped sleeps on in the kernel. Raises Failed."""
        before = _asleep(pid)
        if self._stops(pid):
            return False
        return bool(before & _asleep(pid))

    def end(self) -> None:
        """The point of no return."""
        os.kill(self.pid, signal.SIGKILL)


def _are_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped, or ended."""
    return all(state in b"tTZX" for _, state in _threads(pid))


def _asleep(pid: int) -> set[tuple[str, bytes]]:
    """The threads of a process in an uninterruptible sleep, each with how often it has run
    (proc_pid_status(5))."""
    found = set()
    for thread, state in _threads(pid):
        if state == b"D":
            with suppress(OSError), open(f"{thread}/status", "rb") as file:
                found.add((thread, b" ".join(_SWITCHES.findall(file.read()))))
    return found


def _threads(pid: int) -> Iterator[tuple[str, bytes]]:
    """Yields the folder and the state of each thread of a process (proc_pid_stat(5))."""
    folder = f"/proc/{pid}/task"
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(folder):
            with open(f"{folder}/{thread}/stat", "rb") as file:
                yield f"{folder}/{thread}", file.read().rpartition(b") ")[2][:1]
