"""Tlock and Tgetlock.

The lock table (vhost9p.fs.locks) holds the locks. C decodes and checks a Tlock, and asks `try_lock`
(csrc/p9/lock.c). If the guest is to wait for a lock that another process holds, the request itself
comes here, and waits (vhost9p.p9.lock_waits): the guest gets the lock as soon as it is free.
Linux's client would otherwise ask again every 30 seconds after BLOCKED. A Tgetlock comes here if
there is any lock that may be in the way.
"""

import errno
import os
from functools import partial

from vhost9p.fs.lock_file import Holder
from vhost9p.fs.lock_records import Memory
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Blocker, LockTable
from vhost9p.fs.ranges import Span
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import LATER, Context, Handler, Request
from vhost9p.p9.fids import FID_LOCKS, Fid
from vhost9p.p9.lock_waits import RELEASES, LockWaits
from vhost9p.p9.waiting import WaitingRoom


def _holder(fid: Fid, t: m.Tlock | m.Tgetlock) -> Holder:
    """The asking process, with the file of an open fid."""
    if fid.io_fd < 0:
        raise P9Error(errno.EBADF, "the fid is not open")
    return fid.st_dev, fid.st_ino, t.client_id, t.proc_id


class LockFamily:
    """See the module. `waits` are the waiting requests; `wake_signal` interrupts their system
    calls."""

    def __init__(
        self,
        context: Context,
        wake_signal: int,
        room: WaitingRoom,
        memory: Memory | None = None,
    ) -> None:
        self._fids = context.fids
        self._table = LockTable(
            RELEASES.released,
            context.fids.open_for_locks,
            lambda handle: context.fids.mark(handle, FID_LOCKS),
            memory,
        )
        self.waits = LockWaits(self._table, wake_signal, room)

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {m.Tlock: self.wait, m.Tgetlock: self.getlock}

    # ---- requests ---------------------------------------------------------------------------

    def try_lock(
        self,
        fid: int,
        writable: int,
        holder: Holder,
        kind: int,
        span: Span,
        flock: int,
        request: int,
    ) -> bool:
        """Takes a lock, or releases one (UNLCK); False if another process holds it. `fid` is the
        handle of a pinned fid, which is open, and `writable` whether for writing; `flock`: the
        guest may have called flock(2); `request` names the request, also when it runs again."""
        if kind == UNLCK:
            # A descriptor that stays open must not keep more of the host's file than the fid does.
            self._table.release(
                holder, fid, span, flock=bool(flock), keep=bool(writable), request=request
            )
            return True
        return self._table.lock(holder, fid, kind, span, fid_writable=bool(writable))

    def wait(self, request: Request, t: m.Tlock) -> m.Rlock | None:
        """Takes a lock that another process has just held, starts to wait for it, or replies
        BLOCKED."""
        with self._fids.get(t.fid) as fid:
            holder, span = _holder(fid, t), (t.start, t.length)
            file = self._table.open(holder, fid.handle, span)
            writable = fid.io_flags & os.O_ACCMODE != os.O_RDONLY
            take = partial(self._table.take, file, holder, fid.handle, t.type, span, writable)
        waits = False
        try:
            take(None)
        except BlockingIOError:
            waits = self.waits.start(request, file, (t.type, span, writable), take)
            return LATER if waits else m.Rlock(c.LOCK_BLOCKED)
        finally:
            if not waits:
                self._table.done(file)
        return m.Rlock(c.LOCK_SUCCESS)

    def getlock(self, request: Request, t: m.Tgetlock) -> m.Rgetlock:
        """Reports a conflicting lock. A process never conflicts with itself."""
        with self._fids.get(t.fid) as fid:
            found = self._find(_holder(fid, t), t.type, (t.start, t.length), fid.io_fd)
        if found is None:
            return m.Rgetlock(UNLCK, t.start, t.length, t.proc_id, t.client_id)
        return m.Rgetlock(found.kind, *found.span, found.proc_id, found.client_id)

    def _find(self, holder: Holder, kind: int, span: Span, fd: int) -> Blocker | None:
        """Finds a conflict, also for a lock whose type Linux's client does not send.

        F_GETLK arrives as UNLCK, whatever type was asked for, after the client has found no
        conflict among its own processes. So a read lock of one of these cannot conflict.
        """
        if kind != UNLCK:
            return self._table.blocker(holder, kind, span, fd)
        found = self._table.blocker(holder, RDLCK, span, fd)
        if found is None:
            found = self._table.blocker(holder, WRLCK, span, fd)
            if found and found.client_id:
                return None
        return found

    def recover(self) -> None:
        """Takes the locks over that a process that died has left in `memory`. Raises OSError."""
        self._table.recover()

    def clunk(self, handle: int) -> None:
        """Releases the locks of a fid that is clunked."""
        self._table.clunk(handle)

    def forget(self) -> None:
        """Releases all locks, after all fids are gone."""
        self._table.clear()
