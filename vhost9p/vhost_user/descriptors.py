"""Descriptors that a frontend sends: which kind of file they are, and how they are closed.

A frontend may send any descriptor it has, and its file may be one that does harm when it is used or
closed: memory on a FUSE file system faults until its server answers, the close of a TCP socket
waits as SO_LINGER says, and the frontend's own end of its connection, kept here, would keep the
connection from ever ending. So whatever is kept is of a known kind, and what is not of a harmless
one is closed on threads that nobody else needs.

The kind is what the kernel says. The target of /proc/self/fd/N begins with a slash for every file
that has a path, whatever its name; F_GET_SEALS works on shmem and hugetlbfs files alone (the
kernel's mm/memfd.c).
"""

import errno
import fcntl
import os
import socket
import threading
from collections import deque
from contextlib import suppress

from vhost9p.procfs import proc_path
from vhost9p.vhost_user.messages import VhostUserError

MAX_THREADS = 8
MAX_PENDING = 64
THREAD_IDLE_S = 5.0


def _target(fd: int) -> str:
    """What the descriptor leads to. Where the kernel cannot say it the name is too long, or gone
    with what it was on: a file with a name is none that is looked for here."""
    try:
        return os.readlink(proc_path(fd))
    except OSError as error:
        return f"a file whose name cannot be read ({error.strerror})"


def _is_event(target: str) -> bool:
    return target == "anon_inode:[eventfd]" or target.startswith("pipe:[")


def _is_memory(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def check_event(fd: int) -> None:
    """The descriptor is an eventfd or a pipe, as for kicks. VhostUserError.

    A named pipe is none: its file system would be touched."""
    target = _target(fd)
    if not _is_event(target):
        raise VhostUserError(f"its descriptor is {target}; an eventfd or a pipe would be valid")


def adopt_notified(fd: int) -> None:
    """The descriptor is to be notified: as for kicks, or a unix stream socket, which is what User
    Mode Linux's "pipes" are. That is kept like a channel for requests. VhostUserError."""
    if not _is_event(_target(fd)):
        _adopt_socket(fd, "an eventfd, a pipe or a connected unix stream socket")


def check_memory(fd: int) -> None:
    """The descriptor is memory, whose faults end: memfd, tmpfs or hugetlbfs. VhostUserError."""
    if not _is_memory(fd):
        raise VhostUserError(
            f"guest memory is a memfd, or a file on tmpfs or hugetlbfs; this is {_target(fd)}"
        )


def adopt_channel(fd: int) -> None:
    """Makes a socket for requests of the backend one that may be kept. VhostUserError."""
    _adopt_socket(fd, "a connected unix stream socket")


def _adopt_socket(fd: int, valid: str) -> None:
    """Makes a socket one that may be kept: nothing that was sent to it, or will be, stays in it,
    since that may be descriptors.

    Where the other end of it is the backend's own end of the connection, that cannot send any more.
    """
    target = _target(fd)
    problem = f"its descriptor is {target}; {valid} would be valid"
    if not target.startswith("socket:["):
        raise VhostUserError(problem)
    sock = socket.socket(fileno=fd)
    try:
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            raise VhostUserError(problem)
        sock.getpeername()
        sock.shutdown(socket.SHUT_RD)
        with suppress(BlockingIOError):
            while sock.recv(65536, socket.MSG_DONTWAIT):
                pass
    except OSError as error:
        raise VhostUserError(problem, error.errno or errno.EINVAL) from error
    finally:
        sock.detach()


class Closer:
    """Closes descriptors, without letting the caller wait for those whose close may block."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()
        self._pending = 0  # waiting, or being closed
        self._threads = 0
        self._idle = 0

    def close(self, fd: int) -> None:
        """Closes a descriptor, at once where it is of a harmless kind."""
        if _is_event(_target(fd)) or _is_memory(fd):
            os.close(fd)
            return
        with self._changed:
            self._waiting.append(fd)
            self._pending += 1
            if len(self._waiting) > self._idle and self._threads < MAX_THREADS:
                self._start()
            self._changed.notify_all()

    @property
    def has_room(self) -> bool:
        """Whether few enough are pending for more to be received."""
        return self._pending < MAX_PENDING

    def wait_room(self) -> None:
        """Waits until `has_room`."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_room)

    def settle(self, timeout: float) -> bool:
        """Waits until all are closed, for so many seconds at most; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def _start(self) -> None:
        with suppress(RuntimeError):  # the host's limit of threads: those that there are go on
            threading.Thread(target=self._run, name="close", daemon=True).start()
            self._threads += 1

    def _next(self) -> int | None:
        """The next descriptor; None: there has been none for a while, and the thread ends."""
        with self._changed:
            self._idle += 1
            found = self._changed.wait_for(lambda: self._waiting, THREAD_IDLE_S)
            self._idle -= 1
            if found:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _run(self) -> None:
        while (fd := self._next()) is not None:
            with suppress(OSError):
                os.close(fd)
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()
