"""Accepts connections, on a unix socket with a path or on an inherited descriptor.

A listener serves one frontend at a time, since a device has one guest. While a frontend is
connected, a second one is disconnected at once, with a line in the log: a VMM with the wrong socket
then ends with an error instead of waiting forever. If the first frontend has disconnected and its
device is still being reset, the second one waits: a VM may be restarted right after it has ended.

If the path exists, the listener tries to connect to it. If nobody listens there, the socket was
left behind and is replaced. Another listener must not do the same between the attempt and bind, or
one would remove the other's socket: so each holds a lock on the directory meanwhile.

bind creates the socket's file, and nobody can connect before listen. In between the file gets its
mode and owner, through a descriptor: if somebody replaces the file by a symlink, they do not reach
the symlink's target.
"""

import asyncio
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from vhost9p import procfs
from vhost9p.device_log import DeviceLog
from vhost9p.log_record import about
from vhost9p.procfs import proc_path
from vhost9p.vhost_user.channel import Channel, is_abandoned, shut_down, until_ready
from vhost9p.vhost_user.connection import Connection
from vhost9p.vhost_user.descriptors import Closer
from vhost9p.vhost_user.session import Backend

log = logging.getLogger(__name__)

MAX_PATH = 107  # bytes that sun_path holds beside its final NUL (unix(7))
BACKLOG = 16  # connections that wait to be accepted (listen(2))
RETRY_S = 1  # seconds after a failed accept
LOCK_TRIES, LOCK_PAUSE_S = 40, 0.05  # for the lock on the directory; seconds between two attempts


class ListenError(Exception):
    """A socket cannot be used; the text names it and the reason."""


class Listener:
    """A source of connections, created by `bind` or `inherit`. `name` is for the log."""

    def __init__(self, sock: socket.socket, name: str, path: str | None = None) -> None:
        self.name = name
        self.channel: Channel | None = None
        self.is_listening = _is_listening(sock)
        """Whether frontends can connect; else the socket is the one connection."""
        self._log = DeviceLog(log, name, socket=name)
        self._closer = Closer()
        self._socket = sock
        self._socket.setblocking(False)
        self._path = os.path.abspath(path) if path else None
        self._identity = _identity(path) if path else None

    @classmethod
    def bind(cls, path: str, mode: int = 0o600, owner: int = -1, group: int = -1) -> Self:
        """Listens at `path`; `close` removes it. `mode` has the permission bits; an `owner` or
        `group` of -1 is the daemon's own. Raises ListenError."""
        if problem := path_problem(path):
            raise ListenError(problem)
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            try:
                with _alone_in(os.path.dirname(os.path.abspath(path))):
                    _clear(path)
                    os.fchmod(sock.fileno(), 0o600)  # the mode of bind's file, before the umask
                    sock.bind(path)
                    undo.callback(os.unlink, path)
                    _set_access(path, mode, owner, group)
                    sock.listen(BACKLOG)
                listener = cls(sock, path, path)
            except OSError as error:
                raise ListenError(f"{path}: cannot listen: {error.strerror or error}") from error
            undo.pop_all()
            return listener

    @classmethod
    def inherit(cls, fd: int, name: str = "") -> Self:
        """Takes ownership of a listening or connected unix stream socket; `name` is for the log,
        by default that of the option. Raises ListenError."""
        name = name or f"--fd {fd}"
        if problem := descriptor_problem(fd, name):
            raise ListenError(problem)
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        return cls(sock, name)

    @classmethod
    def read(cls, sock: socket.socket, written: dict[str, Any]) -> Self:
        """The listener that another process has written down; takes ownership of its socket."""
        listener = cls(sock, written["name"])
        listener._path = written["path"]
        listener._identity = written["identity"] and tuple(written["identity"])
        return listener

    def written_down(self) -> dict[str, Any]:
        """What another process needs beside the socket, for JSON."""
        return {
            "fd": self.fileno(),
            "name": self.name,
            "path": self._path,
            "identity": self._identity,
        }

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def has_moved(self, fd: int) -> None:
        """The socket has another descriptor now."""
        self._socket.detach()
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    def is_replaced_by(self, fd: int) -> bool:
        """Whether a descriptor is another socket that listens where this one did."""
        try:
            if not self.is_listening or os.path.sameopenfile(fd, self.fileno()):
                return False
            with socket.socket(fileno=fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)) as sock:
                return _is_listening(sock) and sock.getsockname() == self._socket.getsockname()
        except OSError:  # it is no socket, or closed
            return False

    @property
    def path(self) -> str:
        """Where it was bound, from the root on; empty if it was inherited."""
        return self._path or ""

    def accept(self) -> socket.socket:
        """Returns a connection, outside of `serve`. Raises OSError."""
        return self._socket.accept()[0]

    def close(self) -> None:
        """Stops listening, and removes the path if it is still this socket's. Call it after `serve`
        or its event loop has ended."""
        self._socket.close()
        if self._path and _identity(self._path) == self._identity:
            try:
                os.unlink(self._path)
            except OSError as error:
                log.warning(
                    "%s: cannot be removed, so remove it yourself: %s",
                    *(self._path, error.strerror),
                    extra=about(socket=self._path),
                )
        self._path = None

    async def serve(
        self,
        backend: Backend,
        connection: Connection,
        *,
        once: bool = False,
        changed: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Serves one frontend after the other until cancelled. With `once`, returns after the first
        connection that sent a message. An inherited connected socket is served once. `changed` is
        Channel's.

        `connection` has the state of one after the other: at first of the one that another worker
        has left, if there is one."""
        if connection.has_ended and (not self.is_listening or (once and connection.messages)):
            return
        if not self.is_listening:
            fd = self._socket.detach()
            if not connection.is_live:
                connection.begin(fd)
            await self._serve_one(connection, backend, changed)
            return
        while True:
            if not connection.is_live:
                connection.begin(await self._accept())
            asyncio.get_running_loop().add_reader(self._socket, self._turn_away)
            try:
                await self._serve_one(connection, backend, changed)
            finally:
                asyncio.get_running_loop().remove_reader(self._socket)
            if once and connection.messages:
                return

    async def _serve_one(
        self, connection: Connection, backend: Backend, changed: Callable[[bool], None]
    ) -> None:
        self.channel = Channel(connection, backend, self._log, self._closer, changed)
        try:
            await self.channel.run()
        finally:
            self.channel = None

    async def _accept(self) -> int:
        """Waits for the next connection; returns its socket."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await until_ready(self.fileno(), loop.add_reader, loop.remove_reader)
                return self._socket.accept()[0].detach()
            except BlockingIOError:
                pass
            except OSError as error:
                # Most likely too many files are open, for now.
                self._log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(RETRY_S)

    def _turn_away(self) -> None:
        """Called when a second frontend has connected: disconnects it, or lets it wait until the
        first connection has ended."""
        if self.channel and not self.channel.abandoned and self._closer.has_room:
            try:
                fd = self._socket.accept()[0].detach()
                shut_down(fd)
                self._closer.close(fd)
                self._log.warning("a second frontend was disconnected: one is connected already")
                return
            except BlockingIOError:
                return
            except OSError as error:
                self._log.warning("cannot accept a connection: %s", error.strerror)
        asyncio.get_running_loop().remove_reader(self._socket)

    def adopt(self, connection: Connection) -> None:
        """After the death of a worker, before others open descriptors: if it has accepted a
        connection and was killed before it could record that, records it."""
        if connection.is_live or not self.is_listening:
            return
        name = self._socket.getsockname()
        for fd in map(int, os.listdir(procfs.path("self/fd"))):
            if _is_connection(fd, name):
                connection.begin(fd)
                return


def path_problem(path: str) -> str | None:
    """Returns why no socket can be created at a path; None if one can, unless another process
    listens there."""
    if not path or "\0" in path:
        return f"{path!r} is no path: it is empty or contains a NUL"
    if len(os.fsencode(path)) > MAX_PATH:
        return f"{path}: a socket's path has at most {MAX_PATH} bytes"
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f"{path}: there is no directory {folder} to create the socket in"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        return f"{path}: the daemon may not write in {folder}, where the socket is to be created"
    if (mode := _mode(path)) and not stat.S_ISSOCK(mode):
        return f"{path} exists and is not a socket"
    return None


def descriptor_problem(fd: int, name: str) -> str | None:
    """Returns why an inherited descriptor cannot be served, of which messages speak as `name`; None
    if it can."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return f"{name} is not a socket"
        with socket.socket(fileno=fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)) as sock:
            if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
                return f"{name} is not a unix stream socket"
            if not _is_listening(sock):
                try:
                    sock.getpeername()
                except OSError:
                    return f"{name} neither listens nor is connected"
    except OSError as error:
        return f"{name}: {error.strerror}"
    return None


def _set_access(path: str, mode: int, owner: int, group: int) -> None:
    """Sets mode, owner and group of the socket's file. The mode comes first: only a file's owner
    may set it (chmod(2)). Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.chmod(proc_path(fd), mode)
        if (owner, group) != (-1, -1):
            os.chown(proc_path(fd), owner, group)
    finally:
        os.close(fd)


@contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Excludes other daemons that create sockets in a directory, during a `with` block. If the
    directory cannot be locked, because it is unreadable or another process holds the lock, the
    block runs without the lock."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        yield
        return
    try:
        for _ in range(LOCK_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(LOCK_PAUSE_S)
        yield
    finally:
        os.close(fd)


def _clear(path: str) -> None:
    """Removes a socket on which nobody listens. Raises ListenError if the path is in use or is no
    socket, OSError."""
    mode = _mode(path)
    if mode is None:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path} exists and is not a socket")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        log.info("%s: replacing a socket that nobody listens on", path, extra=about(socket=path))
        os.unlink(path)
        return
    except BlockingIOError:
        pass  # somebody listens: the queue of connections is full
    raise ListenError(f"{path} is in use: another process listens there")


def _is_connection(fd: int, name: str | bytes) -> bool:
    """Whether a descriptor is a connection that was accepted on the socket with this name, and is
    not disconnected. The sockets of clients have no name."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:  # no socket, or closed
        return False
    try:
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            return False
        return sock.getsockname() == name and not _is_listening(sock) and not is_abandoned(fd)
    finally:
        sock.detach()


def _is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _mode(path: str) -> int | None:
    """Returns type and permissions of the file at `path`; None if there is none."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return None


def _identity(path: str) -> tuple[int, int] | None:
    """Returns the identity (device, inode) of the file at `path`; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
