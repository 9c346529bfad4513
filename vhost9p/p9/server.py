"""The 9P server: from a request's bytes to a reply's.

C answers most requests. To Python come those of the session (version, attach), locks that wait, and
most of 9P2000.u. `Server.handle` decodes a request and looks its handler up in the table of the
session's dialect. A handler may raise: OSError is answered with its errno, anything else with EIO.
A handler that has to wait for a lock returns `LATER`, and replies through its request from another
thread.

The handlers are in one module per family: session, locks for 9P2000.L; session, dialect_u and
dialect_u_reading for 9P2000.u.
"""

import errno
import mmap
import os
import stat
from collections.abc import Callable

from vhost9p.changes.ring import Ring
from vhost9p.fs.tree import Tree
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error, decode
from vhost9p.p9.constants import Dialect
from vhost9p.p9.context import LATER, Context, Handler, Request
from vhost9p.p9.dialect_u import DialectUFamily
from vhost9p.p9.dialect_u_reading import ReadingFamily
from vhost9p.p9.fids import FidTable
from vhost9p.p9.locks import LockFamily
from vhost9p.p9.notices import NoticesFamily
from vhost9p.p9.session import SessionFamily
from vhost9p.p9.waiting import WaitingRoom

__all__ = ["Request", "Server"]


class Server:
    """Answers one device's requests. Every method may be called from any thread at any time, except
    that no other request is handled during a Tversion."""

    def __init__(
        self,
        fids: FidTable,
        tree: Tree,
        *,
        msize_max: int,
        set_msize: Callable[[int], None],
        set_dialect: Callable[[Dialect], None],
        wake_signal: int,
        locks: mmap.mmap | None = None,
        changes: Ring | None = None,
    ) -> None:
        """`locks` is the memory of the lock table, if that is to outlive the process; `changes` has
        the lines of the stream, if there is one."""
        self._fids = fids
        context = Context(fids, tree, msize_max, set_msize, self._begin, msize_max)
        self._context = context
        self._set_dialect = set_dialect
        self._room = WaitingRoom()
        self._locks = LockFamily(context, wake_signal, self._room, locks)
        self._notices = NoticesFamily(context, changes, self._room) if changes else None
        self.try_lock = self._locks.try_lock
        self._reading = ReadingFamily(context)
        session: dict[type[Message], Handler] = {
            **SessionFamily(context, self._forget).handlers(),
            m.Tclunk: self._clunk,
            m.Tremove: self._remove,
        }
        self._tables: dict[Dialect, dict[type[Message], Handler]] = {
            Dialect.L: {
                **session,
                **self._locks.handlers(),
                m.Tread: self._read_stream,
            },
            Dialect.U: {
                **session,
                **DialectUFamily(context).handlers(),
                **self._reading.handlers(),
                m.Tread: self._read,
            },
        }
        self._handlers = self._tables[Dialect.L]

    def _begin(self, dialect: Dialect) -> None:
        """Begins a session of this dialect."""
        self._handlers = self._tables[dialect]
        self._set_dialect(dialect)

    def take_over(self, dialect: Dialect, msize: int, ring_size: int) -> None:
        """Goes on with the session of a process that died, and with its locks. Raises OSError."""
        self._context.dialect = dialect
        self._context.msize = msize
        self._handlers = self._tables[dialect]
        self._locks.recover()
        self.set_ring_size(ring_size)

    def handle(self, data: bytes, request: Request) -> bytes | None:
        """Returns the reply to a request; None if it comes later. Raises OSError."""
        tag, message = decode(data)
        handler = self._handlers.get(type(message))
        if handler is None:
            name, dialect = type(message).__name__, self._context.dialect.value.decode()
            raise P9Error(errno.EOPNOTSUPP, f"{name} is no request of {dialect}")
        reply = handler(request, message)
        return None if reply is LATER else reply.encode(tag)

    def _read(self, request: Request, t: m.Tread) -> m.Rread | None:
        """Reads a directory, or the stream; C reads other files."""
        with self._fids.get(t.fid) as fid:
            is_stream = self._notices and stat.S_ISREG(os.stat(fid.path_fd).st_mode)
        return self._read_stream(request, t) if is_stream else self._reading.read(request, t)

    def _read_stream(self, request: Request, t: m.Tread) -> m.Rread | None:
        """Reads the stream."""
        if self._notices is None:
            raise P9Error(errno.EBADF, "the device has no stream of changes")
        return self._notices.read(request, t)

    def _clunk(self, request: Request, t: m.Tclunk) -> m.Rclunk:
        """Clunks a fid for which Python stores data; C clunks the others."""
        self._drop(self._fids.find(t.fid))
        return m.Rclunk()

    def _remove(self, request: Request, t: m.Tremove) -> m.Rremove:
        """Removes the file and clunks the fid, even if the removal fails."""
        handle = self._fids.find(t.fid)
        try:
            with self._fids.get(t.fid) as fid:
                fid.unlink()
        except OSError:
            self._fids.remember(t.fid)
            raise
        finally:
            self._drop(handle)
        return m.Rremove()

    def _drop(self, handle: int) -> None:
        """Frees a fid and the data stored for it. The number goes first, so that no data is added
        later."""
        try:
            self._fids.clunk(handle)
        finally:
            self._locks.clunk(handle)
            if self._notices:
                self._notices.clunk(handle)

    def _forget(self) -> None:
        """Drops all data stored for fids, after the fids are gone."""
        self._locks.forget()
        self._reading.forget()

    # ---- the device's life ------------------------------------------------------------------

    def set_ring_size(self, size: int) -> None:
        """Lets requests wait for a quarter of the ring's entries."""
        self._room.set_ring_size(size)

    def flush(self, key: tuple[int, int]) -> None:
        """Ends a wait with EINTR, after the guest has flushed its request."""
        self._locks.waits.flush(key)
        if self._notices:
            self._notices.flush(key)

    def cancel_waits(self) -> None:
        """Answers all waiting requests before the ring stops. Nothing waits until
        `resume_waits`."""
        if self._notices:
            self._notices.stop()
        self._locks.waits.stop()

    def resume_waits(self) -> None:
        """Allows waits again, when the ring runs."""
        self._locks.waits.resume()
        if self._notices:
            self._notices.resume()

    def reset(self) -> None:
        """Drops the guest's fids and locks. Nothing waits until `resume_waits`."""
        self.cancel_waits()
        self._fids.clear()
        self._forget()
        self._context.begin(Dialect.L)

    def close(self) -> None:
        """Ends the server for good."""
        self.reset()
        self._locks.waits.close()
        if self._notices:
            self._notices.close()
