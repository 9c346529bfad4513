"""Main's end of the control socket: accepts clients, and answers one request of each at a time.

What answers a command is a handler. It returns the objects, which are taken one after the other as
the client reads; or None, and then answers later, by the client's `send`, `end` and `fail`. That is
for what takes long (main goes on meanwhile), and for a stream without an end. Who sends into a
stream is never held up: what a slow client has no room for is refused, and the sender counts that.

Main calls `step` when `fileno` is readable, and when `looks_at` has come.
"""

import json
import logging
import os
import select
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial

from vhost9p import __version__
from vhost9p.control import DESCRIPTORS_MAX, DONE, LINE_MAX, Object
from vhost9p.errors import UserError
from vhost9p.log_record import about
from vhost9p.vhost_user.listener import Listener

log = logging.getLogger(__name__)

CLIENTS_MAX = 32
QUEUE_MAX = 1024 * 1024
"""Bytes that wait for a client to read. A single object may be longer."""
FILL = 64 * 1024
"""Bytes of objects that are made at a time: less than QUEUE_MAX, so that main soon goes on."""
PATIENCE_S = 10.0
"""Seconds in which a client has to send its request, or to read something of what waits for it."""
RETRY_S = 1.0
"""Seconds after a failed accept."""
_CREDENTIALS = struct.Struct("=iII")
"""struct ucred (unix(7)): pid, uid, gid."""

Answer = Iterator[Object] | None


class Client:
    """Who has connected, and its request. For handlers: `send`, `end`, `fail`, `ended`."""

    def __init__(
        self, server: "Server", sock: socket.socket, commands: Collection[str] | None = None
    ) -> None:
        """Takes ownership of the socket. If there are `commands`, it is a process of main's own,
        whose requests may come at any time, and may be these only."""
        self._is_patient = commands is not None
        self._handlers = {
            name: handler
            for name, handler in server.handlers.items()
            if commands is None or name in commands
        }
        sock.setblocking(False)
        self.socket = sock
        self.ended: list[Callable[[], None]] = []
        """Called once when the answer has ended, whoever ended it."""
        self._server = server
        self._received = b""
        self._no_more = False
        """Whether it has closed its own end: no request follows."""
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._queued = 0
        self._source: Iterator[Object] | None = None
        self._is_busy = False
        """Whether a request is being answered."""
        self._ends = False
        """Whether the connection ends when all has been sent."""
        self._deadline = time.monotonic() + PATIENCE_S

    # ---- for handlers -----------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Whether nothing can be sent any more: the answer, or the connection, has ended."""
        return not self._is_busy

    def send(self, found: Object, fds: Collection[int] = ()) -> bool:
        """Sends an object, and copies of descriptors. Returns whether there was room for it. Raises
        OSError: there are too many descriptors."""
        if not self._is_busy or self._queued >= QUEUE_MAX:
            return False
        assert len(fds) <= DESCRIPTORS_MAX
        if fds:
            found = {**found, "descriptors": len(fds)}
        self._put(found, fds)
        self._server.watch(self)
        return True

    def end(self) -> None:
        """The answer is complete."""
        self._finish(DONE)

    def fail(self, why: str, **more: object) -> None:
        """There is no answer, or no more of it."""
        self._finish({"error": why, "version": __version__, **more})

    # ---- for the server ---------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When it has to have sent, or read, something."""
        waits = self._queue or self._source or not (self._is_busy or self._is_patient)
        return self._deadline if waits else None

    @property
    def events(self) -> int:
        """What to wait for (selectors); 0: a handler's answer."""
        goes_on = self._queue or self._source or self._has_request
        return selectors.EVENT_READ * (not self._no_more) | selectors.EVENT_WRITE * bool(goes_on)

    def advance(self) -> bool:
        """Receives, answers and sends as far as that is possible now. Returns whether the
        connection goes on."""
        try:
            if not self._no_more:
                self._receive()
            if self._has_request and not self._queue:
                self._take_request()
            self._fill()
            self._send()
        except OSError:
            return False
        if self._queue or self._is_busy or self._has_request:
            return True
        return not (self._no_more or self._ends)

    @property
    def _has_request(self) -> bool:
        """Whether there is one to be answered next."""
        if self._is_busy or self._ends:
            return False
        is_whole = b"\n" in self._received or len(self._received) > LINE_MAX
        return is_whole or (self._no_more and bool(self._received))

    def close(self) -> None:
        """The connection has ended."""
        self._end_answer()
        self.socket.close()
        for _, fds in self._queue:
            _close(fds)
        self._queue.clear()

    def _receive(self) -> None:
        """Raises OSError."""
        room = LINE_MAX + 1 - len(self._received)
        if room <= 0:
            raise OSError(0, "more than a request while another one is answered")
        try:
            data = self.socket.recv(room)
        except BlockingIOError:
            return
        self._received += data
        self._no_more = not data
        if self._no_more and _has_hung_up(self.socket):
            raise BrokenPipeError
        if not self._is_busy:
            self._deadline = time.monotonic() + PATIENCE_S

    def _take_request(self) -> None:
        line, _, self._received = self._received.partition(b"\n")
        self._is_busy = True
        if len(line) > LINE_MAX:
            self._ends = True
            self.fail(f"a request has more than {LINE_MAX} bytes")
        else:
            self._begin(line)

    def _begin(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            self.fail("a request is a JSON object on a line")
            return
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            self.fail('a request is a JSON object with a "command"')
            return
        if not (handler := self._handlers.get(request["command"])):
            known = sorted(self._handlers)
            self.fail(f"unknown command {request['command']!r:.100}", commands=known)
            return
        self._try(lambda: self._set_source(handler(request, self)))

    def _set_source(self, source: Answer) -> None:
        self._source = source

    def _try(self, step: Callable[[], None]) -> None:
        """A handler's fault ends its answer, and not main."""
        try:
            step()
        except UserError as error:
            self.fail("; ".join(error.problems))
        except OSError as error:
            self.fail(error.strerror or str(error))
        except Exception:
            log.error(
                "a command on the control socket has failed: a bug, report it",
                exc_info=True,
                extra=about(),
            )
            self.fail("the daemon has failed to answer: its log says more")

    def _fill(self) -> None:
        while self._source and self._queued < FILL:
            self._try(self._take_one)

    def _take_one(self) -> None:
        assert self._source, "the caller has looked"
        found = next(self._source, None)
        if found is None:
            self.end()
        else:
            self._put(found, ())

    def _put(self, found: Object, fds: Collection[int]) -> None:
        """Raises OSError."""
        copies: list[int] = []
        try:
            copies += map(os.dup, fds)
        except OSError:
            _close(copies)
            raise
        data = json.dumps(found).encode() + b"\n"
        if not self._queue:
            self._deadline = time.monotonic() + PATIENCE_S
        self._queue.append((data, copies))
        self._queued += len(data)

    def _send(self) -> None:
        """Raises OSError."""
        while self._queue:
            data, fds = self._queue.popleft()
            try:
                sent = socket.send_fds(self.socket, [data], fds)
            except BlockingIOError:
                self._queue.appendleft((data, fds))
                return
            except OSError:
                _close(fds)
                raise
            _close(fds)
            self._queued -= sent
            self._deadline = time.monotonic() + PATIENCE_S
            if sent < len(data):
                self._queue.appendleft((data[sent:], []))

    def _finish(self, last: Object) -> None:
        if self._is_busy:
            self._end_answer()
            self._put(last, ())
            self._server.watch(self)

    def _end_answer(self) -> None:
        self._is_busy = False
        self._source = None
        self._deadline = time.monotonic() + PATIENCE_S
        ended, self.ended = self.ended, []
        for each in ended:
            each()


def _has_hung_up(sock: socket.socket) -> bool:
    """Whether the other end is closed, and not only for writing (shutdown(2))."""
    poller = select.poll()
    poller.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poller.poll(0))


def _close(fds: Collection[int]) -> None:
    for fd in fds:
        os.close(fd)


Handler = Callable[[Object, Client], Answer]
"""Answers a request. Raises UserError and OSError: why there is no answer."""


class Server:
    """Serves clients on a listening socket, which it owns. `handlers` are by command."""

    def __init__(self, listener: Listener, handlers: Mapping[str, Handler]) -> None:
        """Raises OSError."""
        self.handlers = handlers
        self.listener = listener
        self.clients: set[Client] = set()
        self._accepts_at: float | None = None
        """When to accept clients again: there were too many open files."""
        self._selector = selectors.EpollSelector()
        self._watch_listener()

    def _watch_listener(self) -> None:
        self._accepts_at = None
        self._selector.register(self.listener.fileno(), selectors.EVENT_READ, self._accept)

    def fileno(self) -> int:
        """The descriptor that is readable when `step` has something to do."""
        return self._selector.fileno()

    @property
    def looks_at(self) -> float | None:
        """When `step` is due without that."""
        times = [each.deadline for each in self.clients] + [self._accepts_at]
        return min((at for at in times if at is not None), default=None)

    def step(self) -> None:
        """Does what can be done now."""
        for key, _ in self._selector.select(0):
            if self._selector.get_map().get(key.fd) is key:  # else an event before has ended it
                key.data()
        now = time.monotonic()
        if self._accepts_at is not None and self._accepts_at <= now:
            self._watch_listener()
        for client in [*self.clients]:
            if client.deadline is not None and client.deadline <= now:
                self._drop(client)

    def watch(self, client: Client) -> None:
        """Waits for what a client needs next."""
        if client not in self.clients:
            return
        key = self._selector.get_map().get(client.socket)
        if key and not client.events:
            self._selector.unregister(client.socket)
        elif client.events and not key:
            self._register(client)
        elif key and key.events != client.events:
            self._selector.modify(client.socket, client.events, key.data)

    def add(self, sock: socket.socket, commands: Collection[str]) -> None:
        """Serves a process of main's own, at the other end of a socket, which it owns. An attacker
        may have taken it over, so it has no other commands than it needs."""
        self._serve(Client(self, sock, commands))

    def _serve(self, client: Client) -> None:
        self.clients.add(client)
        self._register(client)

    def _register(self, client: Client) -> None:
        ready = partial(self._advance, client)
        self._selector.register(client.socket, client.events, ready)

    def close(self) -> None:
        """Ends all connections, and removes the socket."""
        for client in [*self.clients]:
            self._drop(client)
        self._selector.close()
        self.listener.close()

    def _accept(self) -> None:
        try:
            sock = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # too many open files, for now
            self._selector.unregister(self.listener.fileno())
            self._accepts_at = time.monotonic() + RETRY_S
            return
        client = Client(self, sock)
        if problem := self._problem(client):
            with suppress(OSError):
                sock.send(json.dumps({"error": problem, "version": __version__}).encode() + b"\n")
            client.close()
            return
        self._serve(client)

    def _problem(self, client: Client) -> str:
        """Why a client is not served; empty if it is."""
        _, uid, _ = peer(client.socket)
        if uid not in (0, os.geteuid()):
            return "only root and the daemon's user may ask"
        if len(self.clients) >= CLIENTS_MAX:
            return f"{CLIENTS_MAX} clients are connected already: try again"
        return ""

    def _advance(self, client: Client) -> None:
        if client.advance():
            self.watch(client)
        else:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self.clients.discard(client)
        if client.socket in self._selector.get_map():
            self._selector.unregister(client.socket)
        client.close()


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Returns the pid, uid and gid of the process at the other end: of a client, when it has
    connected; of a server, when it began to listen (SO_PEERCRED of unix(7)). Raises OSError."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid
