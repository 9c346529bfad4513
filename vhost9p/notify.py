"""What a service manager such as systemd is told, and what it has kept (sd_notify(3),
sd_listen_fds(3)).

It names a socket for datagrams in the environment, and how often it wants to hear of a service that
is alive. It hands descriptors over under names: of sockets that it listens on for the service
(sockets_of_service.py), and what the process before has had it keep (fd_store.py). None of that is
inherited by children: the variables are removed.
"""

import errno
import os
import select
import socket
from collections.abc import Collection
from contextlib import suppress
from itertools import zip_longest
from typing import NamedTuple

SOCKET = "NOTIFY_SOCKET"
FIRST = 3
"""The first descriptor that is handed over (SD_LISTEN_FDS_START)."""
HANDED_OVER_MAX = 65536
PATIENCE_MS = 20
"""How long the manager may take to receive what was sent before, so that there is room again."""
_HANDED_OVER = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_WATCHDOG = ("WATCHDOG_PID", "WATCHDOG_USEC")


class HandedOver(NamedTuple):
    """A descriptor, and the name that the manager has for it; empty if it has none."""

    name: str
    fd: int


class Manager:
    """The service manager at an address; at none, everything is sent to nobody."""

    def __init__(self, address: str, watchdog_s: float = 0) -> None:
        """Raises OSError."""
        self.address = address
        self.watchdog_s = watchdog_s
        """Seconds without WATCHDOG=1 after which it takes the process for hung; 0: never."""
        self._socket: socket.socket | None = None
        if address:
            name = "\0" + address[1:] if address.startswith("@") else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            with suppress(OSError):
                self._socket.connect(name)

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    def send(self, text: str, fds: Collection[int] = ()) -> bool:
        """Sends assignments, one a line. Returns whether there was room within PATIENCE_MS.
        What nobody receives is taken for sent. Raises OSError if the kernel sends none of these
        descriptors for now, since too many are on their way, or below one of them."""
        if not self._socket:
            return True
        return self._try(text, fds) or (self._has_room() and self._try(text, fds))

    def wait_for_barrier(self, seconds: float) -> bool:
        """Waits until the manager has taken all that was sent before (sd_notify_barrier(3)), so
        many seconds at most. Returns whether it has. Raises OSError."""
        here, there = os.pipe2(os.O_CLOEXEC)
        try:
            sent = self.send("BARRIER=1", [there])
            os.close(there)
            poller = select.poll()
            poller.register(here, 0)
            return sent and bool(poller.poll(seconds * 1000))
        finally:
            os.close(here)

    def _has_room(self) -> bool:
        assert self._socket, "the caller has looked"
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        return bool(poller.poll(PATIENCE_MS))

    def _try(self, text: str, fds: Collection[int]) -> bool:
        assert self._socket, "the caller has looked"
        try:
            socket.send_fds(self._socket, [text.encode()], [*fds])
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise
            return error.errno not in (errno.EAGAIN, errno.ENOBUFS)
        return True


def take_manager() -> Manager:
    """Returns the manager that the environment names, from which it is removed. Raises OSError."""
    pid, usec = (os.environ.pop(name, "") for name in _WATCHDOG)
    is_ours = pid in ("", str(os.getpid())) and usec.isdigit()
    return Manager(os.environ.pop(SOCKET, ""), int(usec) / 1e6 if is_ours else 0)


def take_handed_over() -> list[HandedOver]:
    """Returns the descriptors that the environment says were handed over, and removes that from
    it."""
    pid, count, names = (os.environ.pop(name, "") for name in _HANDED_OVER)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    fds = range(FIRST, FIRST + min(int(count), HANDED_OVER_MAX))
    named = zip_longest(names.split(":")[: len(fds)], fds, fillvalue="")
    return [HandedOver(name, int(fd)) for name, fd in named]
