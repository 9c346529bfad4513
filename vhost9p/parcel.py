"""All descriptors of a keeper, as another main process gets them: in the queues of sockets.

A service manager keeps some hundred descriptors, and compares each with all others; a keeper may
have as many thousands. But a descriptor that is on its way through a socket (SCM_RIGHTS of unix(7))
stays open, also when its sender has ended, as long as somebody has the other end. So that is what
the manager gets: a few ends of sockets.

A message has up to FDS_MAX descriptors, and their numbers in the keeper; they come in ascending
order. A parcel is empty once it was unpacked, so nobody finds in it what has become old.
"""

import errno
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from vhost9p.birth import Newborn
from vhost9p.copies import close
from vhost9p.forking import without_stop_signals
from vhost9p.native.process import close_others, take_descriptor

FDS_MAX = 250
"""Descriptors of a message: below the kernel's limit (SCM_MAX_FD, 253)."""
MESSAGES_MAX = 64
"""Messages of a socket: they fit where nobody has made the usual buffers smaller (socket(7))."""
_NUMBER = struct.Struct("=i")
_FLAGS = socket.MSG_CMSG_CLOEXEC


@dataclass(frozen=True)
class Parcel:
    """Sockets with so many descriptors in their queues, all below `end`."""

    fds: Sequence[int]
    count: int
    end: int

    def written_down(self) -> dict[str, Any]:
        """What another process has to know, for JSON."""
        return {"fds": [*self.fds], "count": self.count, "end": self.end}


class Packing:
    """Has a child of this process pack the descriptors of a keeper, which is stopped and has no
    worker: a copy may hang when it is closed, and is closed there."""

    def __init__(self, pid: int, pidfd: int) -> None:
        """`pidfd` is the keeper's. Raises OSError."""
        with os.scandir(f"/proc/{pid}/fd") as entries:
            numbers = sorted(int(each.name) for each in entries)
        self._numbers = [number for number in numbers if number > 2]
        count = 1 + len(self._numbers) // (FDS_MAX * MESSAGES_MAX)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        self._done, done = os.pipe2(os.O_CLOEXEC)
        try:
            with without_stop_signals():
                self._child = os.fork()
                if self._child == 0:
                    _pack(pidfd, self._numbers, [sender for sender, _ in pairs], done)
        finally:
            os.close(done)
            for sender, _ in pairs:
                sender.close()
        self._fds = [receiver.detach() for _, receiver in pairs]

    def fileno(self) -> int:
        """The descriptor that becomes readable when the child has packed all, or has failed."""
        return self._done

    def result(self) -> Parcel | None:
        """Returns what was packed; None if that has failed, or takes longer: then nothing of it
        stays on its way, since the kernel lets an ordinary user have only so much there."""
        os.set_blocking(self._done, False)
        data = b""
        with suppress(BlockingIOError):
            data = os.read(self._done, _NUMBER.size)
        os.close(self._done)
        if data:
            (count,) = _NUMBER.unpack(data)
            return Parcel(self._fds, count, max(self._numbers, default=2) + 1)
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        close(self._fds)
        return None


def _pack(
    pidfd: int, numbers: Sequence[int], senders: Sequence[socket.socket], done: int
) -> NoReturn:
    """The child. It makes room for what a keeper may have open, and closes none of that before it
    has done all."""
    try:
        close_others((0, 1, 2, pidfd, done, *(sender.fileno() for sender in senders)))
        for sender in senders:
            sender.setblocking(False)
        taken = [pair for number in numbers if (pair := _take(pidfd, number))]
        for i, batch in enumerate(_batches(taken)):
            _send(senders[i // MESSAGES_MAX], batch)
        os.write(done, _NUMBER.pack(len(taken)))
    finally:
        os._exit(0)


def _take(pidfd: int, number: int) -> tuple[int, int] | None:
    """Returns a descriptor's number in the keeper, and a copy; None if the keeper has none of that
    number. Raises OSError."""
    try:
        return number, take_descriptor(pidfd, number)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise


def _batches(taken: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(taken), FDS_MAX):
        yield taken[start : start + FDS_MAX]


def _send(sender: socket.socket, batch: Sequence[tuple[int, int]]) -> None:
    """Raises OSError, also if there is no room."""
    text = b"".join(_NUMBER.pack(number) for number, _ in batch)
    socket.send_fds(sender, [text], [copy for _, copy in batch])


class Heir(Newborn):
    """In a new keeper: what the one of another main process leaves to it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[int] = []
        """The numbers of the descriptors."""

    def unpack(self, parcel: Parcel, own: Sequence[int]) -> list[int]:
        """Receives all descriptors under the numbers that they had. All others of this process are
        closed, save `own`, which get new numbers that are returned. Raises OSError: some are
        missing."""
        kept = (self._out.detach(), *self.own, *parcel.fds, *own)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, parcel.end) for fd in kept]
        self._out = socket.socket(fileno=moved[0])
        self.own = moved[1], moved[2], moved[3]
        close_others({0, 1, 2, *moved})
        rest = 4 + len(parcel.fds)
        for fd in moved[4:rest]:
            with socket.socket(fileno=fd) as sock:
                self._receive(sock)
        if len(self.left) != parcel.count:
            raise OSError(errno.ENODATA, "descriptors of its keeper are missing")
        return moved[rest:]

    def _receive(self, sock: socket.socket) -> None:
        """Raises OSError."""
        sock.setblocking(False)
        size = FDS_MAX * _NUMBER.size
        while text := (message := socket.recv_fds(sock, size, FDS_MAX, _FLAGS))[0]:
            numbers = [number for (number,) in _NUMBER.iter_unpack(text)]
            # What was free was used from the lowest number on, so each has its own or a lower one.
            for number, fd in sorted(zip(numbers, message[1], strict=False), reverse=True):
                if fd != number:
                    os.dup2(fd, number, inheritable=False)
                    os.close(fd)
                self.left.append(number)
