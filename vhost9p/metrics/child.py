"""The process that serves metrics by HTTP: what it gives up first, and its server.

It serves a few scrapes at a time, each within a few seconds: whoever connects and says nothing
holds up nobody else for long. It ends when main does."""

import logging
import os
import resource
import select
import signal
import socket
import threading
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from vhost9p.log_record import about
from vhost9p.metrics.families import Metrics
from vhost9p.metrics.source import Main
from vhost9p.native.process import close_others, end_with, set_name
from vhost9p.native.sandbox import drop_rights
from vhost9p.stop_signals import STOP

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""Seconds in which a request has to come, and its answer to be taken."""
SCRAPE_S = 10.0
"""Seconds after which a client is disconnected."""
SCRAPES_MAX = 4
"""At a time; others are disconnected."""
DESCRIPTORS_MAX = 64
NOBODY = 65534
"""The user and the group that own nothing (overflowuid of proc_sys_kernel(5))."""


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def address_string(self) -> str:
        """Returns nothing: a unix socket has none, and nobody looks."""
        return ""

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a scraper comes for ever."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()
        self._free = threading.BoundedSemaphore(SCRAPES_MAX)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Returns a connection. Raises OSError."""
        found, _ = self.socket.accept()
        found.settimeout(PATIENCE_S)
        return found, ("", 0)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more scrape."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers on a thread of its own. A client that drips keeps it no longer than others."""
        end = threading.Timer(SCRAPE_S, _disconnect, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores it: the client has gone, or was too slow."""


def _disconnect(client: socket.socket) -> None:
    with suppress(OSError):  # it has gone
        client.shutdown(socket.SHUT_RDWR)


def run(listening: socket.socket, connection: socket.socket, parent: int) -> NoReturn:
    """Runs the child, in the process that main has forked, and ends it."""
    try:
        for number in STOP:
            signal.signal(number, signal.SIG_IGN)  # it ends with main, which ends last
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # main's timer
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        set_name("vhost9p-metrics", "vhost9p: metrics")
        close_others((0, 1, 2, listening.fileno(), connection.fileno()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_MAX, DESCRIPTORS_MAX))
        _give_up_rights()
        end_with(parent)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Metrics(Main(connection)))
        server = _Server(listening)
        server.set_app(make_wsgi_app(registry))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _wait_for_end(connection)
    except ProcessLookupError:
        pass  # main has ended
    except BaseException:
        log.critical(
            "metrics end by an error of their own: a bug, report it", exc_info=True, extra=about()
        )
    finally:
        os._exit(0)


def _give_up_rights() -> None:
    """Takes from this process what it does not need. Raises OSError."""
    with suppress(PermissionError):  # not root
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    drop_rights()


def _wait_for_end(connection: socket.socket) -> None:
    poller = select.poll()
    poller.register(connection, select.POLLRDHUP)
    poller.poll()
