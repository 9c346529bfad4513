"""How the keeper of another version of the code is replaced, while its VM runs.

To the VM it is one more death of its worker, which may die at any instant anyway; but the successor
belongs to a new keeper, which main forks. The old keeper takes no part in it, so it may be of any
version:

1. It is stopped (SIGSTOP), so that it starts no worker. So is its worker, and then killed: a
   thread that does not stop hangs in the kernel, and would not die either.
2. A new keeper is born where the old one is: in its user, mount, network and IPC namespaces, since
   the guest's directories cannot be mixed with those of other mounts in a rename. Its pid
   namespace is a new one, since the old one ends with its init.
3. The new keeper copies the old one's descriptors to the same numbers (pidfd_getfd(2)); files,
   positions and locks are the same. It maps the saved states at their addresses.
4. When it is ready to start a worker, the old keeper is killed.

Until the last step nothing has changed for the old keeper. Whatever fails, it is continued
(SIGCONT): it finds that its worker was killed, and starts the next one.

Main waits for nobody without end. A killed process runs no code of its own any more, so nothing
has to wait until the kernel has closed its files, which hangs where a file system does: main reaps
it later, like any child that it does not know. A signal to stop ends each wait.

One process is in between: main forks a child that enters the namespaces and creates the keeper as a
child of main (CLONE_PARENT), since a process gets into a pid namespace by birth, and main itself
must not enter anything.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from typing import Any, NoReturn

from vhost9p.forking import without_stop_signals
from vhost9p.keeper import open_own
from vhost9p.native import sandbox
from vhost9p.native.process import close_others, take_descriptor

END_PATIENCE_S = 3.0
"""How long the old keeper may take to stop, and its worker to die: which in an uninterruptible
sleep takes longer."""
START_PATIENCE_S = 10.0
"""How long a step of the new keeper may take, on a host with much to do."""
LEAVE_PATIENCE_S = 0.5
"""How long the end of the old keeper is waited for, so that mostly the upgrade is over when it is
reported."""
PAUSE_S = 0.001
MESSAGE_MAX = 4096
ASKED_TO_END = "the daemon was told to end"


class Failed(Exception):
    """The old keeper goes on; the text says why."""


def replace(
    pid: int, pidfd: int, stop_fd: int, succeed: Callable[["Successor"], None]
) -> tuple[int, int]:
    """Replaces a keeper, a child of this process. `succeed` runs in the new one, whose pid and
    pidfd are returned. Raises Failed, OSError: nothing has changed. It fails as soon as `stop_fd`
    is readable."""
    waits = _Waits(stop_fd)
    old = _OldKeeper(pid, pidfd, waits)
    try:
        old.freeze()
        old.end_worker()
        return _fork(old, waits, succeed)
    except BaseException:
        old.thaw()
        raise


class _Waits:
    """Waits of main, which a signal to stop ends."""

    def __init__(self, stop_fd: int) -> None:
        self._stop_fd = stop_fd

    def readable(self, seconds: float, fd: int | None = None) -> bool:
        """Waits so long until a descriptor is readable. Returns whether it is. Raises Failed."""
        poller = select.poll()
        for each in (self._stop_fd, *([] if fd is None else [fd])):
            poller.register(each, select.POLLIN)
        ready = {each for each, _ in poller.poll(seconds * 1000)}
        if self._stop_fd in ready:
            raise Failed(ASKED_TO_END)
        return fd in ready

    def true(self, seconds: float, condition: Callable[[], bool]) -> bool:
        """Waits so long for a condition. Returns whether it is met. Raises Failed."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self.readable(PAUSE_S)
        return True


class _OldKeeper:
    """A keeper that is to be replaced."""

    def __init__(self, pid: int, pidfd: int, waits: _Waits) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._waits = waits

    def freeze(self) -> None:
        """Raises Failed."""
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
        """Kills its worker, if it has one. Raises Failed, OSError."""
        # The option that lets workers be cloned (server/process.c) brings this file along.
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            children = file.read().split()
        for pid in map(int, children):
            pidfd = os.pidfd_open(pid)
            try:
                self._end(pid, pidfd)
            except BaseException:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                raise
            finally:
                os.close(pidfd)

    def _end(self, pid: int, pidfd: int) -> None:
        """Raises Failed: the worker is stopped, unless it was killed already."""
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        if not self._waits.true(END_PATIENCE_S, partial(_are_stopped, pid)):
            raise Failed("its worker hangs in a system call")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not self._waits.readable(END_PATIENCE_S, pidfd):
            raise Failed("its worker hangs in a system call and does not die")

    def end(self) -> None:
        """The point of no return."""
        os.kill(self.pid, signal.SIGKILL)


def _are_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped, or ended (proc_pid_stat(5))."""
    folder = f"/proc/{pid}/task"
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(folder):
            with open(f"{folder}/{thread}/stat", "rb") as file:
                if file.read().rpartition(b") ")[2][:1] not in b"TtZX":
                    return False
    return True


def _fork(
    old: _OldKeeper, waits: _Waits, succeed: Callable[["Successor"], None]
) -> tuple[int, int]:
    """Creates the new keeper, and ends the old one when it is ready. Raises Failed, OSError."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as undo:
        undo.enter_context(here)
        with there, without_stop_signals():
            between = os.fork()
            if between == 0:
                here.close()
                _be_between(old, there, succeed)
        try:
            pid = int(_receive(here, waits)["pid"])
        finally:
            os.kill(between, signal.SIGKILL)
        undo.callback(os.kill, pid, signal.SIGKILL)
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        own = open_own(pid)
        try:
            socket.send_fds(here, [b"begin"], own)
        finally:
            for fd in own:
                os.close(fd)
        _receive(here, waits)
        old.end()
        undo.pop_all()
    with here, suppress(OSError):  # if it has died, main hears of it like of any keeper's death
        here.send(b"go on")
    with suppress(Failed):
        waits.readable(LEAVE_PATIENCE_S, old.pidfd)
    return pid, pidfd


def _be_between(
    old: _OldKeeper, out: socket.socket, succeed: Callable[["Successor"], None]
) -> NoReturn:
    """In the child: enters what the old keeper is in, and creates the new one."""
    successor = Successor(out)
    try:
        numbers = [int(each) for each in os.listdir(f"/proc/{old.pid}/fd")]
        pid = sandbox.fork_beside(old.pid, old.pidfd)
        if pid:
            out.send(json.dumps({"pid": pid}).encode())
        else:
            successor.begin(old.pidfd, numbers)
            succeed(successor)
    except Exception as error:
        successor.fail(error)
    finally:
        os._exit(1)


class Successor:
    """In the new keeper: what the old one leaves to it."""

    def __init__(self, out: socket.socket) -> None:
        """`out` leads to main."""
        self._out = out
        self._old = -1
        self._numbers: Collection[int] = ()
        self.own = -1, -1, -1
        """See keeper.open_own."""
        self.left: list[int] = []
        """The copies."""

    def begin(self, old: int, numbers: Collection[int]) -> None:
        """Waits until main knows of this process. `old` is a pidfd of the old keeper, whose
        descriptors have these numbers."""
        self._old = old
        self._numbers = numbers
        data, fds, _, _ = socket.recv_fds(self._out, MESSAGE_MAX, 3)
        if not data:
            os._exit(1)
        self.own = fds[0], fds[1], fds[2]

    @property
    def channel(self) -> int:
        """A descriptor that is needed until `take_leave`."""
        return self._out.fileno()

    def copy(self, kept: Collection[int], log_fd: int) -> int:
        """Copies the old keeper's descriptors to the same numbers, but for those in `kept`. All
        others of this process are closed, save `log_fd`, which is returned with a new number.
        Raises OSError."""
        kept = {0, 1, 2, *kept}
        self.left = sorted(set(self._numbers) - kept)
        mine = (self._out.detach(), self._old, log_fd, *self.own)
        close_others({*kept, *mine})
        free = _numbers_but({*kept, *self.left, *mine})
        moved = [os.dup2(fd, next(free), inheritable=False) for fd in mine]
        close_others({*kept, *moved})
        self._out = socket.socket(fileno=moved[0])
        self._old, log_fd = moved[1:3]
        self.own = moved[3], moved[4], moved[5]
        for number in self.left:
            # The lowest free number is this one, or below all that are yet to come.
            fd = take_descriptor(self._old, number)
            if fd != number:
                os.dup2(fd, number, inheritable=False)
                os.close(fd)
        os.close(self._old)
        return log_fd

    def take_leave(self) -> None:
        """From here on the old keeper is no more."""
        self._out.send(b"{}")
        if not self._out.recv(MESSAGE_MAX):
            os._exit(1)
        self._out.close()

    def fail(self, error: Exception) -> NoReturn:
        """The old keeper goes on, and this process ends."""
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        with suppress(OSError):
            self._out.send(json.dumps({"error": text or type(error).__name__}).encode())
        os._exit(1)


def _numbers_but(taken: Collection[int]) -> Iterator[int]:
    return (number for number in count(3) if number not in taken)


def _receive(channel: socket.socket, waits: _Waits) -> dict[str, Any]:
    """Raises Failed."""
    if not waits.readable(START_PATIENCE_S, channel.fileno()):
        raise Failed("the new keeper hangs")
    message = dict(json.loads(channel.recv(MESSAGE_MAX) or b'{"error": "the new keeper died"}'))
    if "error" in message:
        raise Failed(str(message["error"]))
    return message
