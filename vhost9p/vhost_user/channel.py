"""One connection on a socket: bytes and descriptors in, replies out, until the frontend is gone.

Messages are taken one at a time: the next is not read before the last has been carried out and
answered, so a frontend that floods us fills its own socket and not our memory. The event loop is
used through `add_reader` and `add_writer` only, since no loop knows of descriptors beside bytes.
"""

import array
import asyncio
import contextlib
import logging
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vhost9p.vhost_user.framing import Framer
from vhost9p.vhost_user.messages import MAX_FDS, Message
from vhost9p.vhost_user.session import Backend, Session

log = logging.getLogger(__name__)

T = TypeVar("T")

FD_SIZE = array.array("i").itemsize
CREDENTIALS = struct.Struct("3i")
"""struct ucred (unix(7))."""


class Channel:
    """One connection. Takes the connected stream socket over; `name` is for the log."""

    def __init__(self, sock: socket.socket, backend: Backend, name: str) -> None:
        self.messages = 0  # carried out so far
        self.peer = _peer(sock)
        self._socket = sock
        self._socket.setblocking(False)
        self._name = name
        self._framer = Framer()
        self._session = Session(backend, name)

    async def run(self) -> None:
        """Serves until the frontend disconnects, then resets the device and closes all.

        A cancellation takes effect when the message in hand has been carried out and the device
        has been reset. Raises nothing else.
        """
        log.info("%s: connected", self._name)
        try:
            while message := await self._receive():
                reply = await _to_its_end(self._session.handle(message))
                self.messages += 1
                await self._send(reply)
                await asyncio.sleep(0)  # a socket that is always ready must not starve others
        except OSError as error:
            log.info("%s: connection lost: %s", self._name, error)
        except Exception:
            log.exception("%s: the connection failed", self._name)
        finally:
            self._framer.close()
            self._socket.close()
            await _to_its_end(self._session.close())
            log.info("%s: disconnected", self._name)

    @property
    def abandoned(self) -> bool:
        """Whether the frontend has hung up, though there may be messages left to carry out."""
        if self._socket.fileno() < 0:
            return True
        poller = select.poll()
        poller.register(self._socket, 0)
        return any(events & select.POLLHUP for _, events in poller.poll(0))

    async def _receive(self) -> Message | None:
        """The next message; None when no more will come."""
        while self._framer.wanted:
            try:
                data, fds, lost = _receive_piece(self._socket, self._framer.wanted)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _until(self._socket, loop.add_reader, loop.remove_reader)
                continue
            messages = self._framer.feed(data, fds, fds_lost=lost)
            if messages:
                return messages[0]
            if not data:
                return None
        log.error("%s: hanging up: %s", self._name, self._framer.broken)
        return None

    async def _send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _until(self._socket, loop.add_writer, loop.remove_writer)


def _peer(sock: socket.socket) -> str:
    """The process at the other end, for the log: its number and the name of its program."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        pid: int = CREDENTIALS.unpack(data)[0]
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as name:
            return f"process {pid} ({name.read().strip()!r})"
    except OSError:
        return "an unknown process"


def _receive_piece(sock: socket.socket, size: int) -> tuple[bytes, list[int], bool]:
    """At most `size` bytes, the descriptors beside them, and whether some were lost."""
    room = socket.CMSG_SPACE(MAX_FDS * FD_SIZE)
    data, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % FD_SIZE])
    return data, fds.tolist(), bool(flags & socket.MSG_CTRUNC)


async def _until(
    sock: socket.socket,
    watch: Callable[[socket.socket, Callable[[], None]], object],
    unwatch: Callable[[socket.socket], object],
) -> None:
    """Waits until the socket is ready for what `watch` watches it for."""
    ready = asyncio.get_running_loop().create_future()

    def wake() -> None:
        unwatch(sock)
        if not ready.done():
            ready.set_result(None)

    watch(sock, wake)
    try:
        await ready
    finally:
        unwatch(sock)


async def _to_its_end(work: Awaitable[T]) -> T:
    """Awaits something that a cancellation must not cut short; it is raised afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
