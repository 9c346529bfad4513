"""Tlock and Tgetlock.

The lock table (vhost9p.fs.locks) holds the locks. A Tlock with the BLOCK flag for a lock that
another process holds waits here (vhost9p.p9.lock_waits): the guest gets the lock as soon as it is
free. Linux's client would otherwise ask again every 30 seconds after BLOCKED.
"""

import errno
import os
from collections.abc import Callable, Hashable
from functools import partial

from vhost9p.fs.lock_file import Holder, LockFile
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Asker, Blocker, LockTable
from vhost9p.fs.ranges import OFFSET_END, Range
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import LATER, Context, Handler, Request, file_fd
from vhost9p.p9.fids import FID_LOCKS, Fid
from vhost9p.p9.lock_waits import RELEASES, LockWaits, Take

CLIENT_ID_MAX = 1024
"""Bytes. Linux sends the host name, at most 64."""


KINDS = frozenset((RDLCK, WRLCK, UNLCK))


def _span(start: int, length: int) -> Range:
    if start >= OFFSET_END or length >= OFFSET_END or start + length > OFFSET_END:
        raise P9Error(errno.EOVERFLOW, f"a lock of {length} bytes from {start}")
    return Range(start, length)


def _holder(fid: Fid, t: m.Tlock | m.Tgetlock) -> Holder:
    """The asking process, with the file of an open fid. FIFOs and devices cannot be opened, so they
    cannot be locked."""
    if fid.io_fd < 0:
        raise P9Error(errno.EBADF, "the fid is not open")
    if len(t.client_id) > CLIENT_ID_MAX:
        raise P9Error(errno.EINVAL, f"a client id of {len(t.client_id)} bytes")
    return Holder(fid.st_dev, fid.st_ino, t.client_id, t.proc_id)


def _find_any(find: Callable[..., Blocker | None]) -> Blocker | None:
    """Finds a conflict for a lock whose type Linux's client does not send.

    F_GETLK arrives as UNLCK, whatever type was asked for, after the client has found no conflict
    among its own processes. So a read lock of one of these cannot conflict.
    """
    found = find(kind=RDLCK)
    if found is None:
        found = find(kind=WRLCK)
        if found and found.client_id:
            return None
    return found


class LockFamily:
    """See the module. `waits` are the waiting requests; `wake_signal` interrupts their system
    calls."""

    def __init__(self, context: Context, wake_signal: int) -> None:
        self._context = context
        self._fids = context.fids
        self._table = LockTable(RELEASES.released)
        self.waits = LockWaits(self._table, wake_signal)

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {m.Tlock: self.lock, m.Tgetlock: self.getlock}

    # ---- requests ---------------------------------------------------------------------------

    def lock(self, request: Request, t: m.Tlock) -> m.Rlock | None:
        """Takes or releases a lock."""
        with self._fids.get(t.fid) as fid:
            asker = Asker(_holder(fid, t), fid.handle)
            if t.type not in KINDS:
                raise P9Error(errno.EINVAL, f"a lock of type {t.type}")
            if t.flags & ~(c.LOCK_FLAGS_BLOCK | c.LOCK_FLAGS_RECLAIM):
                raise P9Error(errno.EINVAL, f"lock flags {t.flags:#x}")
            span = _span(t.start, t.length)
            if t.type == UNLCK:
                self._table.release(asker, span, flock=bool(t.flags & c.LOCK_FLAGS_BLOCK))
                return m.Rlock(c.LOCK_SUCCESS)
            writable = fid.io_flags & os.O_ACCMODE != os.O_RDONLY
            file = self._open(fid, asker, span)
        what = (t.type, span, writable)
        return self._take(request, t, file, what, partial(self._table.take, file, asker, *what))

    def _open(self, fid: Fid, asker: Asker, span: Range) -> LockFile:
        """Opens the process's LockFile. From now on Python clunks the fid."""
        open_file = partial(self._context.driver(fid).open_for_locks, fid.path_fd)
        file = self._table.open(asker, span, open_file)
        try:
            self._fids.mark(fid.handle, FID_LOCKS)
        except OSError:
            self._table.clunk(fid.handle)
            self._table.done(file)
            raise
        return file

    def _take(
        self, request: Request, t: m.Tlock, file: LockFile, what: Hashable, take: Take
    ) -> m.Rlock | None:
        """Takes the lock, starts to wait for it, or replies BLOCKED."""
        waits = False
        try:
            take(None)
        except BlockingIOError:
            if t.flags & c.LOCK_FLAGS_BLOCK:
                waits = self.waits.start(request, file, what, take)
            return LATER if waits else m.Rlock(c.LOCK_BLOCKED)
        finally:
            if not waits:
                self._table.done(file)
        return m.Rlock(c.LOCK_SUCCESS)

    def getlock(self, request: Request, t: m.Tgetlock) -> m.Rgetlock:
        """Reports a conflicting lock. A process never conflicts with itself."""
        with self._fids.get(t.fid) as fid:
            holder = _holder(fid, t)
            if t.type not in KINDS:
                raise P9Error(errno.EINVAL, f"a lock of type {t.type}")
            span = _span(t.start, t.length)
            open_file = partial(self._context.driver(fid).open_for_locks, file_fd(fid.path_fd))
            find = partial(self._table.blocker, holder, span=span, open_file=open_file)
            found = _find_any(find) if t.type == UNLCK else find(kind=t.type)
        if found is None:
            return m.Rgetlock(UNLCK, t.start, t.length, t.proc_id, t.client_id)
        return m.Rgetlock(found.kind, *found.span, found.proc_id, found.client_id)

    def clunk(self, handle: int) -> None:
        """Releases the locks of a fid that is clunked."""
        self._table.clunk(handle)

    def forget(self) -> None:
        """Releases all locks, after all fids are gone."""
        self._table.clear()
