"""How the keeper of another version of the code is replaced, while its VM runs.

To the VM it is one more death of its worker, which may die at any instant anyway; but the successor
belongs to a new keeper, which main forks. The old keeper takes no part in it, so it may be of any
version:

1. It is stopped (SIGSTOP), so that it starts no worker. Its worker is killed.
2. A new keeper is born where the old one is: in its user, mount, network and IPC namespaces, since
   the guest's directories cannot be mixed with those of other mounts in a rename. Its pid
   namespace is a new one, since the old one ends with its init.
3. The new keeper copies the old one's descriptors to the same numbers (pidfd_getfd(2)); files,
   positions and locks are the same. It maps the saved states at their addresses.
4. When it is ready to start a worker, the old keeper is killed.

Until the last step nothing has changed for the old keeper. Whatever fails, it is continued
(SIGCONT): it finds that its worker was killed, and starts the next one.

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
from itertools import count
from typing import Any, NoReturn

from vhost9p.keeper import open_own
from vhost9p.native import sandbox
from vhost9p.native.process import close_others, take_descriptor

END_PATIENCE_S = 3.0
"""How long the old keeper may take to stop, and its worker to die: which in an uninterruptible
sleep takes longer."""
START_PATIENCE_S = 10.0
"""How long a step of the new keeper may take, on a host with much to do."""
MESSAGE_MAX = 4096


class Failed(Exception):
    """The old keeper goes on; the text says why."""


def replace(pid: int, succeed: Callable[["Successor"], None]) -> tuple[int, int]:
    """Replaces a keeper, a child of this process. `succeed` runs in the new one, whose pid and
    pidfd are returned. Raises Failed, OSError: nothing has changed."""
    old = _OldKeeper(pid)
    try:
        old.freeze()
        old.end_worker()
        return _fork(old, succeed)
    except BaseException:
        old.thaw()
        raise


class _OldKeeper:
    """A keeper that is to be replaced."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def freeze(self) -> None:
        """Raises Failed."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + END_PATIENCE_S
        while time.monotonic() < deadline:
            end = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end and end.si_code == os.CLD_STOPPED:
                os.waitid(os.P_PID, self.pid, os.WSTOPPED)
                return
            if end:
                raise Failed("its keeper has just ended")
            time.sleep(0.001)
        raise Failed("its keeper cannot be stopped")

    def thaw(self) -> None:
        """It goes on."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def end_worker(self) -> None:
        """Kills its worker, if it has one. Raises Failed, OSError."""
        deadline = time.monotonic() + END_PATIENCE_S
        # The option that lets workers be cloned (server/process.c) brings this file along.
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            children = file.read().split()
        for pid in children:
            pidfd = os.pidfd_open(int(pid))
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not _is_ready(pidfd, deadline):
                    raise Failed("its worker hangs in a system call and does not die")
            finally:
                os.close(pidfd)

    def end(self) -> None:
        """The point of no return."""
        os.kill(self.pid, signal.SIGKILL)
        _reap(self.pid)


def _fork(old: _OldKeeper, succeed: Callable[["Successor"], None]) -> tuple[int, int]:
    """Creates the new keeper, and ends the old one when it is ready. Raises Failed, OSError."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as undo:
        undo.enter_context(here)
        between = os.fork()
        if between == 0:
            here.close()
            _be_between(old, there, succeed)
        there.close()
        try:
            pid = int(_receive(here)["pid"])
        finally:
            _kill(between)
        undo.callback(_kill, pid)
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        own = open_own(pid)
        try:
            socket.send_fds(here, [b"begin"], own)
        finally:
            for fd in own:
                os.close(fd)
        _receive(here)
        old.end()
        undo.pop_all()
        with here, suppress(OSError):  # if it has died, main hears of it like of any keeper's death
            here.send(b"go on")
        return pid, pidfd


def _be_between(
    old: _OldKeeper, out: socket.socket, succeed: Callable[["Successor"], None]
) -> NoReturn:
    """In the child: enters what the old keeper is in, and creates the new one."""
    successor = Successor(out)
    try:
        pidfd = os.pidfd_open(old.pid)
        numbers = [int(each) for each in os.listdir(f"/proc/{old.pid}/fd")]
        pid = sandbox.fork_beside(old.pid, pidfd)
        if pid:
            out.send(json.dumps({"pid": pid}).encode())
        else:
            successor.begin(pidfd, numbers)
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


def _is_ready(fd: int, deadline: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(deadline - time.monotonic(), 0) * 1000))


def _receive(channel: socket.socket) -> dict[str, Any]:
    """Raises Failed."""
    if not _is_ready(channel.fileno(), time.monotonic() + START_PATIENCE_S):
        raise Failed("the new keeper hangs")
    message = dict(json.loads(channel.recv(MESSAGE_MAX) or b'{"error": "the new keeper died"}'))
    if "error" in message:
        raise Failed(str(message["error"]))
    return message


def _kill(pid: int) -> None:
    """Ends a child, if it has not ended."""
    os.kill(pid, signal.SIGKILL)
    _reap(pid)


def _reap(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED)
