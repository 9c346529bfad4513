"""A lock file: the locks that one guest process holds on one file, and the host descriptor through
which it holds them.

A request for a lock on the whole file may come from flock or fcntl, so it is held as both, flock(2)
and an open-file-description lock (fcntl(2)), and host processes that use either see it. A write
lock through a descriptor that cannot write exists as flock only. Taking two locks must not
deadlock: both are tried, and the thread waits for the one that conflicts; if the other is held by
then, the first is released and the thread waits for the other.

If a lock cannot be taken, the process keeps the locks that it had. fcntl guarantees that. flock
releases the old lock before it tries the new one, so the old one is taken again. This leaves one
gap: another process may have been waiting for the old lock.

A read lock in the place of a write lock goes the other way round, the range first: then nothing is
given up before it is certain that the rest succeeds.

A lock file knows neither other processes nor the table (vhost9p/fs/locks.py), whose lock guards all
that it notes. What its successor after a death needs of it is in `record`
(vhost9p/fs/lock_records.py).
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from vhost9p.fs.lock_records import (
    BARE,
    DIVIDED,
    FIRST_SHARES,
    ONLY_FLOCK,
    Holder,
    Record,
)
from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, RangeMap, Span
from vhost9p.native import sys
from vhost9p.native.sys import Cancel

__all__ = ["FileId", "Holder", "LockFile", "Wait"]

POLL = 0.05
"""Seconds between attempts to lock a whole file of which the process holds parts."""
FileId = tuple[int, int]
"""Device and inode."""
Wait = Callable[[Cancel], None]
"""Waits for a lock and takes it; InterruptedError if it was cancelled."""


class LockFile:
    """The locks on one file of one process, or of several that share an open file's flock.

    `fd` is open with the access mode `access` (os.O_ACCMODE). `lock`: see LockTable.
    """

    __slots__ = (
        "abandoned", "access", "bare", "divided", "fd", "fids", "file_id", "flock", "former",
        "holders", "lock", "only_flock", "ranges", "record", "shares", "uses",
    )  # fmt: skip
    record: Record

    def __init__(self, holder: Holder, fd: int, access: int) -> None:
        self.file_id: FileId = holder[:2]
        self.fd = fd
        self.access = access
        self.flock = UNLCK
        """How the whole file is locked."""
        self.only_flock = False
        """Whether it is so as flock(2) alone."""
        self.divided = False
        """Some of several shares were released: the lock is a flock of each."""
        self.uses = 0
        """Requests that use `fd`, including waiting ones; it stays open for them."""
        self.abandoned = False
        """Its fids are gone: a lock that a request still gets is void."""
        self.bare = True
        """No range is locked, whatever a request may have got that waits, or that was killed."""
        self.holders = {holder: None}
        """The processes that hold the locks."""
        self.former: set[Holder] = set()
        """The processes whose lock another process has taken over."""
        self.fids: set[int] = set()
        """Handles of fids, not yet clunked, through which locks were requested."""
        self.ranges = RangeMap()
        self.shares: set[int] = set()
        """The fids through which the whole file was locked, possibly with flock: several if a
        process holds a read lock through each of them; none if their locks would have
        conflicted."""
        self.lock = threading.Lock()

    @property
    def several(self) -> bool:
        """Whether a process has a flock through each of several fids."""
        return self.divided or len(self.shares) > 1

    @property
    def holds_something(self) -> bool:
        """Whether there is a lock."""
        return self.flock != UNLCK or bool(self.ranges)

    @property
    def has_one_holder(self) -> bool:
        """Whether no other process has ever used it, or may come back to it."""
        return len(self.holders) == 1 and not self.former

    @property
    def holder(self) -> Holder:
        """The process that is reported for all of them."""
        return next(iter(self.holders))

    def allows_range(self, kind: int, *, fid_writable: bool) -> bool:
        """Whether a whole-file lock is held as a range lock too (fcntl(2), EBADF)."""
        if kind == WRLCK:
            return fid_writable and self.access != os.O_RDONLY
        return self.access != os.O_WRONLY

    def try_lock(self, kind: int, span: Span, *, only_flock: bool) -> Wait | None:
        """Locks without waiting, both ways unless `only_flock`. Returns None, or how to wait for
        the lock that another process holds; call `put_back` then. Raises OSError."""
        flocks = span == WHOLE
        weaker = flocks and kind == RDLCK and self.flock == WRLCK
        if flocks and not weaker:
            try:
                sys.flock(self.fd, kind)
            except BlockingIOError:
                return partial(sys.flock, self.fd, kind)
        if not only_flock:
            try:
                sys.ofd_lock(self.fd, kind, *span)
            except BlockingIOError:
                return self._wait_for_range(kind, span)
        if weaker:
            sys.flock(self.fd, kind)
        return None

    def _wait_for_range(self, kind: int, span: Span) -> Wait:
        """What waits in the kernel for the whole file replaces all ranges before it is known that
        the request succeeds. It must be possible to put them back, even for a successor that does
        not know them: so there must be none."""
        if span != WHOLE:
            return partial(sys.ofd_lock, self.fd, kind, *span)
        if self.ranges:
            return _pause
        self.bare = True
        return partial(sys.ofd_lock, self.fd, kind, *span)

    def put_back(self, span: Span) -> bool:
        """Restores the recorded locks after an attempt to lock a range. Returns False if another
        process has taken the flock first. Raises OSError."""
        kept = True
        if span == WHOLE:
            try:
                sys.flock(self.fd, self.flock)
            except BlockingIOError:
                kept = False
        for piece, kind in self.ranges.within(span):
            with suppress(BlockingIOError):
                sys.ofd_lock(self.fd, kind, *piece)
        return kept

    def store(self) -> None:
        """Records how the whole file is locked."""
        record = self.record
        word = record.number | self.flock
        if self.only_flock:
            word |= ONLY_FLOCK
        if self.divided:
            word |= DIVIDED
        if self.bare:
            word |= BARE
        if record.first in self.shares:
            word |= FIRST_SHARES
        record.word = record.words[record.at] = word

    def took_flock(self, kind: int, fid: int, only_flock: bool) -> None:
        """Records that the whole file is locked now, through this fid."""
        shares, flock = self.shares, self.flock
        if flock == UNLCK or (shares and kind == flock == RDLCK):
            if fid in self.fids:
                shares.add(fid)
                if fid != self.record.first:
                    self.record.share(fid)
        elif shares != {fid}:
            shares.clear()
            self.record.unshare_all()
        self.flock, self.only_flock = kind, only_flock
        if not only_flock:
            self.bare = False
        self.store()

    def drop_flock(self) -> None:
        """Records that the whole file is no longer locked."""
        record = self.record
        self.flock, self.only_flock, self.divided = UNLCK, False, False
        self.shares.clear()
        if record.fids:
            record.unshare_all()
        self.bare = not self.ranges
        word = record.number | (UNLCK | BARE if self.bare else UNLCK)
        record.word = record.words[record.at] = word

    def gives_up_share(self, fid: int) -> bool:
        """Records that the whole file is no longer locked through this fid. Returns whether it is
        locked through no other: then what follows is `drop_flock`, and recorded with that."""
        self.shares.discard(fid)
        self.divided = bool(self.shares)
        if self.divided:
            self.store()
            self.record.unshare(fid)
        return not self.divided

    def loses_fid(self, fid: int) -> bool:
        """Records that a fid was clunked, which is not the last one. Returns whether that ends the
        locks: it was the last of several that shared the flock."""
        if self.several:
            return self.gives_up_share(fid)
        self.shares.discard(fid)
        self.store()
        return False


def _pause(cancel: Cancel) -> None:
    if cancel.is_set():
        raise InterruptedError(errno.EINTR, "the wait was cancelled")
    time.sleep(POLL)
