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

A lock file knows neither other processes nor the table (vhost9p/fs/locks.py), whose lock guards its
records.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from vhost9p.fs.ranges import UNLCK, WHOLE, WRLCK, RangeMap, Span
from vhost9p.native import sys
from vhost9p.native.sys import Cancel

FileId = tuple[int, int]
"""Device and inode."""
Holder = tuple[int, int, bytes, int]
"""A guest process and the file that it locks: device, inode, client_id, proc_id. One is made for
each request, and a tuple without names costs least."""
Wait = Callable[[Cancel], None]
"""Waits for a lock and takes it; InterruptedError if it was cancelled."""


class LockFile:
    """The locks on one file of one process, or of several that share an open file's flock.

    `fd` is open with the access mode `access` (os.O_ACCMODE). `lock`: see LockTable.
    """

    flock = UNLCK
    """How the whole file is locked."""
    only_flock = False
    """Whether it is so as flock(2) alone."""
    divided = False
    """Some of several shares were released: the lock is a flock of each."""
    uses = 0
    """Requests that use `fd`, including waiting ones; it stays open for them."""
    abandoned = False
    """Its fids are gone: a lock that a request still gets is void."""

    def __init__(self, holder: Holder, fd: int, access: int) -> None:
        self.file_id: FileId = holder[:2]
        self.fd = fd
        self.access = access
        self.holders = {holder: None}
        """The processes that hold the locks."""
        self.former = set[Holder]()
        """The processes whose lock another process has taken over."""
        self.fids = set[int]()
        """Handles of fids, not yet clunked, through which locks were requested."""
        self.ranges = RangeMap()
        self.shares = set[int]()
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
        if span == WHOLE:
            try:
                sys.flock(self.fd, kind)
            except BlockingIOError:
                return partial(sys.flock, self.fd, kind)
        if not only_flock:
            try:
                sys.ofd_lock(self.fd, kind, *span)
            except BlockingIOError:
                return partial(sys.ofd_lock, self.fd, kind, *span)
        return None

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

    def drop_flock(self) -> None:
        """Records that the whole file is no longer locked."""
        self.flock, self.only_flock, self.divided = UNLCK, False, False
        self.shares.clear()

    def gives_up_share(self, fid: int) -> bool:
        """Records that the whole file is no longer locked through this fid. Returns whether it is
        locked through no other."""
        self.shares.discard(fid)
        self.divided = bool(self.shares)
        return not self.shares
