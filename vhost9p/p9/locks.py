"""Tlock and Tgetlock, and requests that wait for a lock.

The locks themselves are the lock table's (vhost9p.fs.locks). A lock that is held by somebody else
and asked for with the BLOCK flag is waited for on a thread of its own, so that the guest gets it
the moment it is free, instead of asking again every 30 seconds as its client does when told
BLOCKED. A wait ends early when the guest flushes it (EINTR), and before the ring stops (BLOCKED:
the client asks again). At most `waits_max` requests wait at a time, so that waiting never fills
the ring.
"""

import errno
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

from vhost9p.fs.locks import (
    RDLCK,
    UNLCK,
    WRLCK,
    Asker,
    Blocker,
    Cancel,
    Holder,
    LockFile,
    LockTable,
)
from vhost9p.fs.ranges import OFFSET_END, Range
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import LATER, Context, Handler, Request, file_fd
from vhost9p.p9.fids import FID_LOCKS, Fid

SIGNAL_INTERVALS = (0.001, 1.0)
"""Seconds between signals to a thread whose wait was cancelled: at first, doubled each time, and at
most."""
PATIENCE = 1.0
"""Seconds to see cancelled waits end. One that a file system holds against all signals is left to
end when it will: the ring's stop must not hang on it, nor other guests."""
CLIENT_ID_MAX = 1024
"""Bytes; Linux sends the host name, of at most 64."""


KINDS = frozenset((RDLCK, WRLCK, UNLCK))


class _Wait:
    """A request that waits for a lock on a thread of its own.

    `guard` keeps the thread from ending between the question whether it still waits and the signal:
    pthread_kill(3) of a thread that has ended is undefined.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cancel = Cancel()
        self.flushed = False
        self.guard = threading.Lock()
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def end(self, wake_signal: int, deadline: float) -> bool:
        """Calls the wait off; whether it was seen to end by then. A signal that comes before the
        system call is lost, so it is sent again."""
        self.cancel.set()
        interval, longest = SIGNAL_INTERVALS
        while True:
            with self.guard:
                if self.ended.is_set():
                    return True
                assert self.thread and self.thread.ident
                signal.pthread_kill(self.thread.ident, wake_signal)
            if time.monotonic() > deadline:
                return False
            self.ended.wait(interval)
            interval = min(interval * 2, longest)


def _span(start: int, length: int) -> Range:
    if start >= OFFSET_END or length >= OFFSET_END or start + length > OFFSET_END:
        raise P9Error(errno.EOVERFLOW, f"a lock of {length} bytes from {start}")
    return Range(start, length)


def _holder(fid: Fid, t: m.Tlock | m.Tgetlock) -> Holder:
    """The process that asks, about the file of an open fid: what cannot be opened, a FIFO or a
    device, is not opened for locks either."""
    if fid.io_fd < 0:
        raise P9Error(errno.EBADF, "the fid is not open")
    if len(t.client_id) > CLIENT_ID_MAX:
        raise P9Error(errno.EINVAL, f"a client id of {len(t.client_id)} bytes")
    return Holder(fid.st_dev, fid.st_ino, t.client_id, t.proc_id)


def _find_any(find: Callable[..., Blocker | None]) -> Blocker | None:
    """What is in the way of the lock that Linux's client does not name.

    F_GETLK arrives as UNLCK, whatever was asked for, once the client has found nothing in the way
    among its own processes. So a read lock of one of these cannot be what is in the way.
    """
    found = find(kind=RDLCK)
    if found is None:
        found = find(kind=WRLCK)
        if found and found.client_id:
            return None
    return found


class LockFamily:
    """See the module. `wake_signal` ends a system call that waits."""

    def __init__(self, context: Context, wake_signal: int) -> None:
        self._context = context
        self._fids = context.fids
        self._wake_signal = wake_signal
        self._table = LockTable()
        self._lock = threading.Lock()
        self._waits: dict[tuple[int, int], _Wait] = {}
        self._draining = False
        self.waits_max = 0

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {m.Tlock: self.lock, m.Tgetlock: self.getlock}

    # ---- requests ---------------------------------------------------------------------------

    def lock(self, request: Request, t: m.Tlock) -> m.Rlock | None:
        """Takes or gives up a lock."""
        epoch = self._table.epoch
        with self._fids.get(t.fid) as fid:
            asker = Asker(_holder(fid, t), t.fid)
            if t.type not in KINDS:
                raise P9Error(errno.EINVAL, f"a lock of type {t.type}")
            if t.flags & ~(c.LOCK_FLAGS_BLOCK | c.LOCK_FLAGS_RECLAIM):
                raise P9Error(errno.EINVAL, f"lock flags {t.flags:#x}")
            span = _span(t.start, t.length)
            if t.type == UNLCK:
                self._table.release(asker, span, flock=bool(t.flags & c.LOCK_FLAGS_BLOCK))
                return m.Rlock(c.LOCK_SUCCESS)
            writable = fid.io_flags & os.O_ACCMODE != os.O_RDONLY
            if not fid.flags & FID_LOCKS:
                self._fids.set_flags(fid, fid.flags | FID_LOCKS)
            open_file = partial(self._context.driver(fid).open_for_locks, fid.path_fd)
            file = self._table.open(asker, span, open_file, epoch)
        take = partial(self._table.take, file, asker, t.type, span, fid_writable=writable)
        return self._take(request, t, file, take)

    def _take(
        self, request: Request, t: m.Tlock, file: LockFile, take: Callable[..., None]
    ) -> m.Rlock | None:
        """Takes the lock, starts to wait for it, or says BLOCKED."""
        waits = False
        try:
            take(cancel=None)
        except BlockingIOError:
            if t.flags & c.LOCK_FLAGS_BLOCK:
                waits = self._start_wait(request, file, take)
            return LATER if waits else m.Rlock(c.LOCK_BLOCKED)
        finally:
            if not waits:
                self._table.done(file)
        return m.Rlock(c.LOCK_SUCCESS)

    def getlock(self, request: Request, t: m.Tgetlock) -> m.Rgetlock:
        """What is in the way of a lock. A process is never in its own way."""
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

    def clunk(self, number: int) -> None:
        """A fid goes."""
        self._table.clunk(number)

    # ---- waiting ----------------------------------------------------------------------------

    def _start_wait(self, request: Request, file: LockFile, take: Callable[..., None]) -> bool:
        wait = _Wait(request)
        with self._lock:
            if self._draining or len(self._waits) >= self.waits_max:
                return False
            thread = threading.Thread(
                target=self._wait, args=(wait, file, take), name="lock-wait", daemon=True
            )
            wait.thread = thread
            try:
                thread.start()
            except RuntimeError:  # the host's limit of threads
                return False
            self._waits[request.key] = wait
        return True

    def _wait(self, wait: _Wait, file: LockFile, take: Callable[..., None]) -> None:
        reply: Message
        try:
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {self._wake_signal})
                take(cancel=wait.cancel)
                reply = m.Rlock(c.LOCK_SUCCESS)
            except InterruptedError:
                reply = m.Rlerror(errno.EINTR) if wait.flushed else m.Rlock(c.LOCK_BLOCKED)
            except OSError as error:
                reply = m.Rlerror(error.errno or errno.EIO)
            self._table.done(file)
            with self._lock:
                del self._waits[wait.request.key]
            wait.request.reply(reply.encode(wait.request.tag))
        finally:
            with wait.guard:
                wait.ended.set()

    def flush(self, key: tuple[int, int]) -> None:
        """Nobody waits for this request any more."""
        with self._lock:
            wait = self._waits.get(key)
            if wait:
                wait.flushed = True
        if wait:
            self._call_off([wait])

    def _call_off(self, waits: list[_Wait]) -> None:
        """Ends waits, and sees them answered unless that takes too long."""
        for wait in waits:
            wait.cancel.set()
        deadline = time.monotonic() + PATIENCE
        left = [wait for wait in waits if not wait.end(self._wake_signal, deadline)]
        if left:
            threading.Thread(target=self._go_on, args=(left,), name="lock-end", daemon=True).start()

    def _go_on(self, waits: list[_Wait]) -> None:
        for wait in waits:
            wait.end(self._wake_signal, math.inf)

    def stop_waiting(self) -> None:
        """Ends every wait; until `resume_waiting` nothing waits."""
        with self._lock:
            self._draining = True
            waits = list(self._waits.values())
        self._call_off(waits)

    def resume_waiting(self) -> None:
        """The ring runs again."""
        with self._lock:
            self._draining = False

    def forget(self) -> None:
        """All fids are gone, and with them all locks."""
        self._table.clear()
