"""What a service manager such as systemd is told, and what it has kept (sd_notify(3),
sd_listen_fds(3)).

It names a socket for datagrams in the environment. It can keep descriptors under names, and hands
them to the next process of the service. None of that is inherited by children: the variables are
removed.
"""

import errno
import os
import select
import socket
from collections.abc import Collection
from contextlib import suppress

SOCKET = "NOTIFY_SOCKET"
FIRST = 3
"""The first descriptor that is handed over (SD_LISTEN_FDS_START)."""
PATIENCE_MS = 20
"""How long the manager may take to receive what was sent before, so that there is room again."""
_KEPT = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Manager:
    """The service manager at an address; at none, everything is sent to nobody."""

    def __init__(self, address: str) -> None:
        """Raises OSError."""
        self.address = address
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
        What nobody receives is taken for sent."""
        if not self._socket:
            return True
        return self._try(text, fds) or (self._has_room() and self._try(text, fds))

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
            return error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)
        return True


def take_manager() -> Manager:
    """Returns the manager that the environment names, from which it is removed. Raises OSError."""
    return Manager(os.environ.pop(SOCKET, ""))


def take_kept() -> dict[str, int]:
    """Returns the descriptors that the environment says were kept, by name, and removes that from
    the environment. Those without a name are left alone."""
    pid, count, names = (os.environ.pop(name, "") for name in _KEPT)
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    named = zip(names.split(":"), range(FIRST, FIRST + int(count)), strict=False)
    return {name: fd for name, fd in named if name}
