"""One connection: bytes and descriptors in, replies out, until the frontend disconnects.

Messages are handled one at a time. The next message is read after the previous one was answered, so
a frontend that floods the daemon fills its own socket and not the daemon's memory.

The event loop only waits until the socket is ready. Everything else happens on a thread of the
connection's own, since the frontend decides how long it takes: a message waits for requests in
flight, and the kernel closes received descriptors that exceed the buffer. Only `add_reader` and
`add_writer` of the loop are used, because its methods for sockets receive no descriptors.
"""

import array
import asyncio
import contextlib
import errno
import select
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vhost9p.device_log import DeviceLog
from vhost9p.vhost_user.descriptors import Closer
from vhost9p.vhost_user.framing import Framer
from vhost9p.vhost_user.messages import MAX_FDS, Message
from vhost9p.vhost_user.session import Backend, Session

T = TypeVar("T")

FD_SIZE = array.array("i").itemsize
CLOSE_PATIENCE_S = 1.0
"""Seconds that the end of a connection waits for its descriptors to be closed."""
CREDENTIALS = struct.Struct("3i")
"""struct ucred (unix(7))."""


class Channel:
    """One connection. Takes ownership of the connected stream socket; the device's log and closer
    outlive the channel."""

    def __init__(
        self, sock: socket.socket, backend: Backend, log: DeviceLog, closer: Closer
    ) -> None:
        self.messages = 0  # number of messages carried out
        self.peer = _peer(sock)
        self._socket = sock
        self._socket.setblocking(False)
        self._socket_lock = threading.Lock()
        """Guards the socket's descriptor: the loop polls it while the thread may detach it."""
        self._log = log
        self._closer = closer
        self._framer = Framer(closer.close)
        self._session = Session(backend, log, closer.close)
        self._thread = ThreadPoolExecutor(1, "vhost-user")

    async def run(self) -> None:
        """Serves until the frontend disconnects, then resets the device and closes all descriptors.

        A cancellation takes effect after the current message was carried out and the device was
        reset. Raises nothing else.
        """
        self._log.info("connected")
        try:
            while (reply := await self._next_reply()) is not None:
                await self._send(reply)
        except OSError as error:
            self._log.info("connection lost: %s", error.strerror or error)
        except Exception:
            self._log.exception("the connection failed")
        finally:
            await self._finish()
            self._log.info("disconnected")

    async def _finish(self) -> None:
        """Ends the connection. Errors are logged, so that they reach no other connection."""
        try:
            await _to_its_end(self._in_thread(self._end))
        except OSError as error:  # without a thread no message was carried out: nothing to reset
            self._log.info("connection lost: %s", error.strerror or error)
        except Exception:
            self._log.exception("the end of the connection failed")
        finally:
            self._thread.shutdown(wait=False)
            self._socket.close()

    @property
    def abandoned(self) -> bool:
        """Whether the frontend has disconnected; messages may still be unread."""
        with self._socket_lock:
            fd = self._socket.fileno()
            if fd < 0:
                return True
            poller = select.poll()
            poller.register(fd, 0)
            return any(events & select.POLLHUP for _, events in poller.poll(0))

    def _take_descriptor(self) -> int:
        with self._socket_lock:
            return self._socket.detach()

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._thread, work)
        except RuntimeError as error:  # the host's limit of threads
            raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error

    async def _next_reply(self) -> bytes | None:
        """Waits for data, and reads at most one message. Returns the bytes to send, b"" for none
        yet; None if no further message will come."""
        loop = asyncio.get_running_loop()
        await _until(self._socket, loop.add_reader, loop.remove_reader)
        return await _to_its_end(self._in_thread(self._step))

    async def _send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _until(self._socket, loop.add_writer, loop.remove_writer)

    # ---- on the connection's thread

    def _step(self) -> bytes | None:
        self._closer.wait_room()
        while self._framer.wanted:
            try:
                data, fds, lost = _receive_piece(self._socket, self._framer.wanted)
            except BlockingIOError:
                return b""
            messages = self._framer.feed(data, fds, fds_lost=lost)
            if messages:
                return self._carry_out(messages[0])
            if not data:
                return None
        self._log.error("hanging up: %s", self._framer.broken)
        return None

    def _carry_out(self, message: Message) -> bytes:
        has_fds = bool(message.fds)
        reply = self._session.handle(message)
        self.messages += 1
        if has_fds:
            self._check_other_end()
        return reply

    def _check_other_end(self) -> None:
        """Raises OSError if the frontend has sent its own end of this connection, which
        `adopt_channel` has shut down: while the backend kept it, the connection would never end."""
        try:
            self._socket.send(b"")
        except BrokenPipeError:
            if not self.abandoned:
                text = "the frontend has sent its own end of the connection as a descriptor"
                raise OSError(errno.EPIPE, text) from None
            raise

    def _end(self) -> None:
        with contextlib.ExitStack() as ending:  # runs all, from the last line up, even if one fails
            ending.callback(self._closer.settle, CLOSE_PATIENCE_S)
            ending.callback(self._session.close)
            ending.callback(self._framer.close)
            # The socket's close may block: unread messages in it may have descriptors.
            ending.callback(lambda: self._closer.close(self._take_descriptor()))


def _peer(sock: socket.socket) -> str:
    """Returns the process at the other end for the log: pid and program (SO_PEERCRED, unix(7))."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        pid: int = CREDENTIALS.unpack(data)[0]
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as name:
            return f"process {pid} ({name.read().strip()!r})"
    except OSError:
        return "an unknown process"


def _receive_piece(sock: socket.socket, size: int) -> tuple[bytes, list[int], bool]:
    """Returns at most `size` bytes, b"" at the end of the stream; the descriptors sent with them;
    and whether descriptors were lost. Raises OSError (recvmsg(2))."""
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
    """Waits until the socket is ready, as `watch` (add_reader or add_writer) reports."""
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
    """Awaits work that a cancellation must not interrupt; raises the cancellation afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise
