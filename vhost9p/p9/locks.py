"""Tlock and Tgetlock, and requests that wait for a lock.

The locks themselves are the lock table's (vhost9p.fs.locks). A lock that is held by somebody else
and asked for with the BLOCK flag is waited for on a thread of its own, so that the guest gets it
the moment it is free, instead of asking again every 30 seconds as its client does when told
BLOCKED. A wait ends early when the guest flushes it (EINTR), and before the ring stops (BLOCKED:
the client asks again). At most `waits_max` requests wait at a time, so that waiting never fills
the ring.
"""

import errno
import os
import signal
import threading
from dataclasses import dataclass, field
from functools import partial

from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Cancel, Holder, LockFile, LockTable, Range
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import P9Error
from vhost9p.p9.context import LATER, Context, Handler, Request, file_fd
from vhost9p.p9.fids import FID_LOCKS

SIGNAL_INTERVAL = 0.001
"""Seconds between signals to a thread whose wait was cancelled."""
OFF_MAX = 2**63 - 1


@dataclass
class _Wait:
    """A thread that waits for a lock."""

    request: Request
    cancel: Cancel
    flushed: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


def _span(start: int, length: int) -> Range:
    if start > OFF_MAX or length > OFF_MAX or (length and start > OFF_MAX - length + 1):
        raise P9Error(errno.EOVERFLOW, f"a lock of {length} bytes from {start}")
    return Range(start, length)


class LockFamily:
    """See the module. `wake_signal` ends a system call that waits."""

    def __init__(self, context: Context, wake_signal: int) -> None:
        self._context = context
        self._fids = context.fids
        self._driver = context.driver
        self._wake_signal = wake_signal
        self._table = LockTable()
        self._lock = threading.Lock()
        self._waits: dict[tuple[int, int], _Wait] = {}
        self._draining = False
        self.waits_max = 0

    def handlers(self) -> dict[type[m.Message], Handler]:
        """The requests of this family."""
        return {m.Tlock: self.lock, m.Tgetlock: self.getlock}

    # ---- requests ---------------------------------------------------------------------------

    def lock(self, request: Request, t: m.Tlock) -> m.Rlock | None:
        """Takes or gives up a lock."""
        if t.type not in (RDLCK, WRLCK, UNLCK):
            raise P9Error(errno.EINVAL, f"a lock of type {t.type}")
        span = _span(t.start, t.length)
        with self._fids.get(t.fid) as fid:
            holder = Holder(fid.st_dev, fid.st_ino, t.client_id, t.proc_id)
            if t.type == UNLCK:
                self._table.release(holder, span)
                return m.Rlock(c.LOCK_SUCCESS)
            if fid.io_fd < 0:
                raise P9Error(errno.EBADF, "the fid is not open")
            writable = fid.io_flags & os.O_ACCMODE != os.O_RDONLY
            self._fids.set_flags(fid, fid.flags | FID_LOCKS)
            path_fd = file_fd(fid.path_fd)
            file = self._table.open(holder, t.fid, partial(self._driver.open_for_locks, path_fd))
        return self._take(request, t, file, span, writable)

    def _take(
        self, request: Request, t: m.Tlock, file: LockFile, span: Range, writable: bool
    ) -> m.Rlock | None:
        """Takes the lock, starts to wait for it, or says BLOCKED."""
        take = partial(self._table.take, file, t.type, span, fid_writable=writable)
        try:
            take(cancel=None)
        except BlockingIOError:
            if t.flags & c.LOCK_FLAGS_BLOCK and self._start_wait(request, file, take):
                return LATER
            self._table.done(file)
            return m.Rlock(c.LOCK_BLOCKED)
        except OSError:
            self._table.done(file)
            raise
        self._table.done(file)
        return m.Rlock(c.LOCK_SUCCESS)

    def getlock(self, request: Request, t: m.Tgetlock) -> m.Rgetlock:
        """Who is in the way of a lock. A process is never in its own way."""
        if t.type not in (RDLCK, WRLCK):
            raise P9Error(errno.EINVAL, f"a lock of type {t.type}")
        span = _span(t.start, t.length)
        with self._fids.get(t.fid) as fid:
            holder = Holder(fid.st_dev, fid.st_ino, t.client_id, t.proc_id)
            opened = partial(self._driver.open_for_locks, file_fd(fid.path_fd))
            found = self._table.blocker(holder, t.type, span, opened)
        if found is None:
            return m.Rgetlock(UNLCK, t.start, t.length, t.proc_id, t.client_id)
        kind, where, process = found
        return m.Rgetlock(kind, where.start, where.length, process, t.client_id)

    def clunk(self, number: int) -> None:
        """A fid goes."""
        self._table.clunk(number)

    # ---- waiting ----------------------------------------------------------------------------

    def _start_wait(self, request: Request, file: LockFile, take: "partial[None]") -> bool:
        wait = _Wait(request, Cancel())
        with self._lock:
            if self._draining or len(self._waits) >= self.waits_max:
                return False
            self._waits[request.key] = wait
            wait.thread = threading.Thread(
                target=self._wait, args=(wait, file, take), name="lock-wait", daemon=True
            )
            wait.thread.start()
        return True

    def _wait(self, wait: _Wait, file: LockFile, take: "partial[None]") -> None:
        reply: m.Message
        try:
            take(cancel=wait.cancel)
            reply = m.Rlock(c.LOCK_SUCCESS)
        except InterruptedError:
            reply = m.Rlerror(errno.EINTR) if wait.flushed else m.Rlock(c.LOCK_BLOCKED)
        except OSError as error:
            reply = m.Rlerror(error.errno or errno.EIO)
        finally:
            wait.ended.set()
            self._table.done(file)
            with self._lock:
                self._waits.pop(wait.request.key, None)
        wait.request.reply(reply.encode(wait.request.tag))

    def _end(self, wait: _Wait) -> None:
        """Calls a wait off and sees it end: a signal that comes before the system call is lost."""
        wait.cancel.set()
        assert wait.thread and wait.thread.ident
        while not wait.ended.wait(SIGNAL_INTERVAL) and wait.thread.is_alive():
            signal.pthread_kill(wait.thread.ident, self._wake_signal)

    def flush(self, key: tuple[int, int]) -> None:
        """Nobody waits for this request any more."""
        with self._lock:
            wait = self._waits.get(key)
            if wait:
                wait.flushed = True
        if wait:
            self._end(wait)

    def stop_waiting(self) -> None:
        """Ends every wait; until `resume_waiting` nothing waits."""
        with self._lock:
            self._draining = True
            waits = list(self._waits.values())
        for wait in waits:
            self._end(wait)

    def resume_waiting(self) -> None:
        """The ring runs again."""
        with self._lock:
            self._draining = False

    def forget(self) -> None:
        """All fids are gone, and with them all locks."""
        self._table.clear()
