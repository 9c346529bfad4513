"""One connection: bytes and descriptors in, replies out, until the frontend disconnects.

Messages are handled one at a time. The next message is read after the previous one was answered, so
a frontend that floods the daemon fills its own socket and not the daemon's memory. Which message it
is, and how far, is in the connection's state (connection.py), so a channel may begin anywhere.

The event loop only waits until the socket is ready. Everything else happens on a thread of the
connection's own, since the frontend decides how long it takes: a message waits for requests in
flight, and the kernel closes received descriptors that exceed the buffer. Only `add_reader` and
`add_writer` of the loop are used, because its methods for sockets receive no descriptors.
"""

import asyncio
import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vhost9p.device_log import DeviceLog
from vhost9p.vhost_user.connection import Connection
from vhost9p.vhost_user.descriptors import Closer
from vhost9p.vhost_user.framing import BrokenStream, message_of, missing
from vhost9p.vhost_user.session import Backend, Session

T = TypeVar("T")

CLOSE_PATIENCE_S = 1.0
"""Seconds that the end of a connection waits for its descriptors to be closed."""


class Channel:
    """Serves one connection, which is live. The device's log and closer outlive the channel."""

    def __init__(
        self,
        connection: Connection,
        backend: Backend,
        log: DeviceLog,
        closer: Closer,
        changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`changed` is called when descriptors of the session may have changed, with whether new
        ones have come. It raises nothing."""
        self._connection = connection
        self._changed = changed
        self._socket_lock = threading.Lock()
        """Guards the socket's descriptor: the loop polls it while the thread may close it."""
        self._log = log
        self._closer = closer
        self._session = Session(backend, connection, log, closer.close)
        self._thread = ThreadPoolExecutor(1, "vhost-user")

    @property
    def messages(self) -> int:
        """The number of messages carried out."""
        return self._connection.messages

    async def run(self) -> None:
        """Serves until the frontend disconnects, then resets the device and closes all descriptors.

        A cancellation takes effect after the current message was carried out and the device was
        reset. Else raises OSError only, if there is no thread for a connection that a process has
        left which died. That stays as it is, for the next process.
        """
        if self._connection.messages:
            await self._in_thread(lambda: None)
        try:
            self._begin()
            while not self._connection.is_ending and await self._advance():
                pass
        except BrokenStream as error:
            self._log.error("hanging up: %s", error)
        except OSError as error:
            self._log.info("connection lost: %s", error.strerror or error)
        except Exception:
            self._log.exception("the connection failed: a bug, report it")
        except asyncio.CancelledError:
            await self._finish()
            raise
        await self._finish()  # not if the process ends meanwhile, and with it this coroutine

    def _begin(self) -> None:
        self._changed(False)
        if not self._connection.messages:
            self._log.info("connected")
            return
        self._log.info("connected, after %d messages", self._connection.messages)
        if not self._connection.is_ending:
            self._check_other_end()

    async def _finish(self) -> None:
        """Ends the connection. Errors are logged, so that they reach no other connection."""
        self._connection.end()
        try:
            await _to_its_end(self._in_thread(lambda: self._end(self._closer.close)))
        except OSError as error:  # no thread can be started
            self._log.info("connection lost: %s", error.strerror or error)
            self._end(os.close)
        except Exception:
            self._log.exception("the end of the connection failed: a bug, report it")
        finally:
            self._thread.shutdown(wait=False)
        self._log.info("disconnected")

    @property
    def abandoned(self) -> bool:
        """Whether the frontend has disconnected; messages may still be unread."""
        with self._socket_lock:
            return is_abandoned(self._connection.fd)

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._thread, work)
        except RuntimeError as error:  # the host's limit of threads
            raise OSError(errno.EAGAIN, f"no thread can be started: {error}") from error

    async def _advance(self) -> bool:
        """Goes on, and waits before if there is nothing to do. Returns False if no further message
        will come."""
        if self._connection.is_handled:
            await self._send()
            return True
        if missing(self._connection.data):
            loop = asyncio.get_running_loop()
            await until_ready(self._connection.fd, loop.add_reader, loop.remove_reader)
        return await _to_its_end(self._in_thread(self._step))

    async def _send(self) -> None:
        try:
            self._connection.send()
        except BlockingIOError:
            loop = asyncio.get_running_loop()
            await until_ready(self._connection.fd, loop.add_writer, loop.remove_writer)

    # ---- on the connection's thread

    def _step(self) -> bool:
        """Receives what is there of a message, and handles it if it is whole. Returns False at the
        end of the stream."""
        self._closer.wait_room()
        try:
            while size := missing(self._connection.data):
                if not self._connection.receive(size):
                    return False
        except BlockingIOError:
            return True
        message = message_of(self._connection)
        self._session.handle(message)
        self._changed(bool(message.fds))
        if message.fds:
            self._check_other_end()
        return True

    def _check_other_end(self) -> None:
        """Raises OSError if the frontend has sent its own end of this connection, which
        `adopt_channel` has shut down: while the backend kept it, the connection would never end."""
        sock = socket.socket(fileno=self._connection.fd)
        try:
            sock.send(b"")
        except BrokenPipeError:
            if not self.abandoned:
                text = "the frontend has sent its own end of the connection as a descriptor"
                raise OSError(errno.EPIPE, text) from None
            raise
        finally:
            sock.detach()

    def _end(self, close: Callable[[int], None]) -> None:
        with contextlib.ExitStack() as ending:  # runs all, from the last line up, even if one fails
            ending.callback(self._closer.settle, CLOSE_PATIENCE_S)
            ending.callback(self._changed, True)
            ending.callback(self._connection.ended)
            ending.callback(self._session.close)
            for fd in self._connection.take_fds():
                ending.callback(close, fd)
            # The socket's close may block: unread messages in it may have descriptors.
            ending.callback(self._close_socket, close)

    def _close_socket(self, close: Callable[[int], None]) -> None:
        fd = self._connection.fd
        if fd >= 0:
            shut_down(fd)
            with self._socket_lock:
                fd = self._connection.take_fd()
            close(fd)


def is_abandoned(fd: int) -> bool:
    """Whether a socket is closed, shut down, or its other end is closed."""
    if fd < 0:
        return True
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & (select.POLLHUP | select.POLLNVAL) for _, events in poller.poll(0))


def shut_down(fd: int) -> None:
    """Disconnects a socket before it is closed, which may take a while."""
    sock = socket.socket(fileno=fd)
    try:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    finally:
        sock.detach()


async def until_ready(
    fd: int,
    watch: Callable[[int, Callable[[], None]], object],
    unwatch: Callable[[int], object],
) -> None:
    """Waits until a socket is ready, as `watch` (add_reader or add_writer) reports."""
    ready = asyncio.get_running_loop().create_future()

    def wake() -> None:
        unwatch(fd)
        if not ready.done():
            ready.set_result(None)

    watch(fd, wake)
    try:
        await ready
    finally:
        unwatch(fd)


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
