"""What comes before a VM of a folder begins, or a VM is reloaded, in a child of main: each step may
hang. Its file is read, the host is checked, and sockets are bound in directories that others may
lock, or copies are made of directories that are to be mounted.

The child returns the result to main through a socket, as a pickle with the descriptors of the
listening sockets or the copies. Main waits for it as for any event, and kills it when its time is
up.
"""

import errno
import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from vhost9p.config import Config
from vhost9p.errors import UserError
from vhost9p.forking import without_stop_signals
from vhost9p.log_record import about
from vhost9p.native import sandbox
from vhost9p.native.process import close_others, end_with
from vhost9p.policy import state_dir
from vhost9p.reload import Plan
from vhost9p.sockets import listen
from vhost9p.stop_signals import STOP
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

FDS_MAX = 200
"""Descriptors of one message, fewer than the kernel allows (unix(7), SCM_MAX_FD)."""


@dataclass(frozen=True)
class Prepared:
    """What main takes up: what the file says, and with which configuration its VM is to begin, or
    how the VM that runs is to change. Or the `problems` instead."""

    read: Config = field(default=Config(()))
    config: Config | None = None
    plan: Plan | None = None
    problems: tuple[str, ...] = ()


class Preparation:
    """A child that prepares the VM `name` by `work`, which returns or raises UserError,
    ListenError or OSError."""

    def __init__(self, name: str, work: Callable[[], Prepared]) -> None:
        """Raises OSError."""
        self.name = name
        self._data = b""
        self._fds: list[int] = []
        self._is_whole = True
        """Whether there was room for all descriptors."""
        self._socket, theirs = socket.socketpair()
        with theirs, without_stop_signals():
            main = os.getpid()
            self._pid = os.fork()
            if self._pid == 0:
                _be_child(main, theirs, name, work)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._socket.fileno()

    def receive(self) -> bool:
        """Takes what has arrived. Returns whether that was all. Raises OSError."""
        try:
            data, fds, flags, _ = socket.recv_fds(
                self._socket, 65536, FDS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        self._data += data
        self._fds += fds
        self._is_whole &= not flags & socket.MSG_CTRUNC
        return not data

    def result(self) -> tuple[Prepared, list[Listener], list[int]]:
        """Returns what was prepared; the listeners of what is to begin; and the copies of what is
        to be mounted (reloading.py). Call it once, after `receive` has returned True."""
        self._socket.close()
        try:
            prepared: Prepared = pickle.loads(self._data)
        except (EOFError, pickle.UnpicklingError):  # it was killed, or met a fault, which it logged
            return self._failed("the check of its file has died")
        if not self._is_whole:
            why = f"{os.strerror(errno.EMFILE)}; raise ulimit -n (LimitNOFILE= in a service)"
            return self._failed(f"its file cannot be taken up: {why}")
        if prepared.plan:
            return prepared, [], self._fds
        devices = prepared.config.devices if prepared.config else ()
        sockets = [socket.socket(fileno=fd) for fd in self._fds]
        paths = [each.socket or "" for each in devices]
        listeners = [Listener(sock, path, path) for sock, path in zip(sockets, paths, strict=True)]
        return prepared, listeners, []

    def _failed(self, why: str) -> tuple[Prepared, list[Listener], list[int]]:
        self._close_all()
        return Prepared(problems=(f"{self.name}: {why}",)), [], []

    def kill(self) -> None:
        """Ends it, or leaves it to the kernel if it hangs; there is no result."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._socket.close()
        self._close_all()

    def _close_all(self) -> None:
        for fd in self._fds:
            os.close(fd)


def _be_child(main: int, out: socket.socket, name: str, work: Callable[[], Prepared]) -> NoReturn:
    """Runs the child. It is the caller of os.fork, and ends here."""
    try:
        for number in STOP:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # main's timer
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        end_with(main)
        close_others((0, 1, 2, out.fileno()))  # else the sockets of other VMs outlive these
        prepared, listeners = _prepare(name, work)
        fds = [each.fileno() for each in listeners]
        if prepared.plan:
            prepared, fds = _copy(name, prepared, prepared.plan)
        data = pickle.dumps(prepared)
        while fds:
            socket.send_fds(out, [data[:1]], fds[:FDS_MAX])
            data, fds = data[1:], fds[FDS_MAX:]
        out.sendall(data)
    except BaseException:
        log.critical(
            "%s: the check of its file ends by an error of its own: a bug, report it",
            name,
            exc_info=True,
            extra=about(vm=name),
        )
    finally:
        os._exit(0)


def _prepare(name: str, work: Callable[[], Prepared]) -> tuple[Prepared, list[Listener]]:
    try:
        prepared = work()
        return prepared, listen(prepared.config) if prepared.config else []
    except UserError as error:
        return Prepared(problems=tuple(error.problems)), []
    except ListenError as error:
        return Prepared(problems=(f"{name}: {error}",)), []
    except OSError as error:
        text = f"{name}: {error.filename or 'serving cannot begin'}: {error.strerror or error}"
        return Prepared(problems=(text,)), []


def _copy(name: str, prepared: Prepared, plan: Plan) -> tuple[Prepared, list[int]]:
    """Returns copies of the directories that are to be mounted."""
    try:
        for device in plan.config.devices:
            if device.keeps_state and any(each.source == device.state_dir for each in plan.added):
                with state_dir.opened(device.state_dir):
                    pass
        if plan.added:
            sandbox.enter_to_copy()
        return prepared, [sandbox.copy_tree(each) for each in plan.added]
    except UserError as error:
        return Prepared(problems=tuple(error.problems)), []
    except OSError as error:
        what = ", ".join(each.source for each in plan.added)
        text = (
            f"{name}: {what} cannot be mounted while the VM runs: {error.strerror}; restart VM and "
            "daemon instead"
        )
        return Prepared(problems=(text,)), []
