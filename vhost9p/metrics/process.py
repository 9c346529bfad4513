"""Main's part of the metrics: the socket on which they are served, and the process that serves
them, which is started again when it dies."""

import ipaddress
import logging
import os
import socket
import time
from typing import Any

from vhost9p.back_off import BackOff
from vhost9p.control.server import Server
from vhost9p.errors import UserError
from vhost9p.forking import without_stop_signals
from vhost9p.log_record import about
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

BACKLOG = 16


class Place:
    """Where metrics are served: a unix socket, or a port of the loopback interface."""

    def __init__(self, at: str, listener: Listener | None, sock: socket.socket) -> None:
        self.at = at
        self.socket = sock
        self._listener = listener

    @classmethod
    def listen(cls, at: str) -> "Place":
        """Raises ListenError."""
        if at.startswith("/"):
            listener = Listener.bind(at)
            return cls(at, listener, socket.socket(fileno=os.dup(listener.fileno())))
        host, _, port = at.rpartition(":")
        address = ipaddress.ip_address(host.strip("[]"))
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((str(address), int(port)))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise ListenError(f"{at}: cannot listen: {error.strerror or error}") from error
        return cls(at, None, sock)

    @classmethod
    def read(cls, written: dict[str, Any]) -> "Place":
        """The one that the version before has written down. Raises OSError."""
        sock = socket.socket(fileno=written["fd"])
        sock.set_inheritable(False)
        listener = None
        if kept := written["listener"]:
            listener = Listener.read(socket.socket(fileno=os.dup(sock.fileno())), kept)
        return cls(written["at"], listener, sock)

    def written_down(self) -> dict[str, Any]:
        """What another version has to know, for JSON."""
        kept = self._listener and self._listener.written_down()
        return {"at": self.at, "fd": self.socket.fileno(), "listener": kept}

    def close(self) -> None:
        """Removes it."""
        self.socket.close()
        if self._listener:
            self._listener.close()


class Process:
    """The process. `server` answers what it asks."""

    def __init__(self, place: Place, server: Server) -> None:
        self.place = place
        self.pidfd = -1
        self.next_start: float | None = 0.0
        """When it is to be started."""
        self._server = server
        self._back_off = BackOff()

    def start(self) -> None:
        """Starts it; if the host has no room for it now, `next_start` says when to try again."""
        from vhost9p.metrics import child

        self._back_off.started()
        self.next_start = None
        try:
            own, its = socket.socketpair()
            with own, its, without_stop_signals():
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    child.run(self.place.socket, its, parent)
                self.pidfd = os.pidfd_open(pid)
                self._server.add(own.dup(), {"counts"})
        except OSError as error:  # too many processes or open files, for now
            log.error(
                "metrics cannot be served now, and are tried again: %s",
                error.strerror,
                extra=about(),
            )
            self._wait()

    def ended(self) -> None:
        """It has ended: it is started again."""
        os.close(self.pidfd)
        self.pidfd = -1
        self._wait()

    def _wait(self) -> None:
        self.next_start = time.monotonic() + max(self._back_off.died(), 0.1)


def check_library() -> None:
    """Loads what serves metrics. Raises UserError."""
    try:
        import vhost9p.metrics.child  # noqa: F401
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("prometheus_client"):
            raise
        raise UserError(
            "metrics need prometheus_client, which is not installed (Debian: "
            "python3-prometheus-client; pip: vhost9p[metrics])"
        ) from None
