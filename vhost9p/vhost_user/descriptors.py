"""Descriptors that a frontend sends: checking their kind, and closing them.

A frontend may send any descriptor. Using or closing its file may block: a page fault in memory on a
FUSE file system lasts until the file system's server answers, and closing a TCP socket may wait for
SO_LINGER. If the backend kept the frontend's own end of the connection, the connection would never
end. So the backend keeps only known kinds of files, and closes all but harmless ones on separate
threads.

The kernel reports the kind. The target of /proc/self/fd/N begins with a slash for every file that
has a path, whatever its name; F_GET_SEALS works only on shmem and hugetlbfs files (the kernel's
mm/memfd.c).
"""

import errno
import fcntl
import os
import socket
import threading
from collections import deque
from contextlib import suppress

from vhost9p import threads
from vhost9p.procfs import proc_path
from vhost9p.vhost_user.messages import VhostUserError

_EVENTFD = "anon_inode:[eventfd]"
MAX_THREADS = 8
"""Threads of one Closer."""
MAX_PENDING = 64
"""Descriptors that wait to be closed; beyond that the backend receives no further message."""
THREAD_IDLE_S = 5.0
"""Seconds after which an idle thread ends."""


def _target(fd: int) -> str:
    """Returns the kernel's name for the descriptor's file. If the kernel cannot report it, the file
    has a path that is too long or no longer exists, so it is none of the kinds sought here."""
    try:
        return os.readlink(proc_path(fd))
    except OSError as error:
        return f"a file whose name cannot be read ({error.strerror})"


def _is_event(target: str) -> bool:
    return target == _EVENTFD or target.startswith("pipe:[")


def _is_memory(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def check_event(fd: int) -> None:
    """Checks that a descriptor, such as a kick, is an eventfd or a pipe. Raises VhostUserError.

    A named pipe is refused: using it could block on its file system."""
    target = _target(fd)
    if not _is_event(target):
        raise VhostUserError(f"its descriptor is {target}; an eventfd or a pipe would be valid")


def adopt_notified(fd: int) -> None:
    """Checks that a descriptor can be notified (call, err): an eventfd, a pipe, or a unix stream
    socket, which User Mode Linux uses as a pipe. A socket is prepared as by `adopt_channel`. Raises
    VhostUserError."""
    if not _is_event(_target(fd)):
        _adopt_socket(fd, "an eventfd, a pipe or a connected unix stream socket")


def check_memory(fd: int) -> None:
    """Checks that a descriptor is memory whose page faults cannot hang: a memfd, or a file on tmpfs
    or hugetlbfs. Raises VhostUserError."""
    if not _is_memory(fd):
        raise VhostUserError(
            f"guest memory is a memfd, or a file on tmpfs or hugetlbfs; this is {_target(fd)}"
        )


def adopt_channel(fd: int) -> None:
    """Prepares the socket of SET_BACKEND_REQ_FD to be kept open. Raises VhostUserError if it is no
    connected unix stream socket."""
    _adopt_socket(fd, "a connected unix stream socket")


def _adopt_socket(fd: int, valid: str) -> None:
    """Prepares a socket to be kept open: discards received data, which may hold descriptors, and
    shuts down reception, so that no more arrive. Raises VhostUserError.

    If it is the frontend's end of this connection, the backend's end can no longer send
    (`Channel._check_other_end`).
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


def is_eventfd(fd: int) -> bool:
    """Whether a descriptor is an eventfd. Never blocks."""
    return _target(fd) == _EVENTFD


def is_harmless(fd: int) -> bool:
    """Whether the close of a descriptor cannot hang. Never blocks."""
    return _is_event(_target(fd)) or _is_memory(fd)


def is_of_session(fd: int) -> bool:
    """Whether a descriptor is of a kind that a session may keep, so that the close of a copy cannot
    hang as long as another one is open: the kernel asks file systems only. Never blocks."""
    return is_harmless(fd) or _target(fd).startswith("socket:[")


class Closer:
    """Closes descriptors; those whose close may block, on threads of its own. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()
        self._pending = 0  # those waiting and those being closed
        self._threads = 0
        self._idle = 0

    def close(self, fd: int) -> None:
        """Closes a descriptor, at once if it is of a harmless kind. Never blocks."""
        if is_harmless(fd):
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
        """Whether so few descriptors are pending that more may be received."""
        return self._pending < MAX_PENDING

    def wait_room(self) -> None:
        """Waits until `has_room`."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_room)

    def settle(self, timeout: float) -> bool:
        """Waits at most `timeout` seconds until all are closed; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def _start(self) -> None:
        with suppress(OSError):  # the others continue
            threads.start(threading.Thread(target=self._run, name="close", daemon=True))
            self._threads += 1

    def _next(self) -> int | None:
        """Waits for the next descriptor; returns None after THREAD_IDLE_S, when the thread ends."""
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
