"""Locks of guest processes, held on the host.

A guest process is named by (client_id, proc_id); fcntl and flock look alike on the wire. For every
(file, process) that holds locks there is one host descriptor of its own, a `LockFile`: locks of an
open file description belong to the descriptor, so a process never conflicts with itself, whichever
of its fids it locks or unlocks through, and does conflict with every other process of every guest
and of the host. Closing the descriptor gives all of its locks up.

A flock belongs to an open file of the guest, which is one fid, and so to every process that has it
by fork, exec or over a socket. So a lock of the whole file also remembers the fids that it was
taken through (`LockFile.shares`). Linux's client asks its own list of locks before it asks the
server (v9fs_file_do_lock). So when another process locks the whole file through the same fid, and
the two locks exclude each other, the first is either the same flock, or an fcntl lock that the
client has given up already, with the request for it still on its way. In both cases the second
process shares the first one's LockFile and takes its lock over, and the next unlock of the first
gives up nothing.

A lock on the whole file may have been asked for with flock or with fcntl, so it is held as both:
flock(2) and an open-file-description lock (fcntl(2)); host processes of either kind see it. A write
lock through a descriptor that cannot write exists as flock only. Two locks are taken without
deadlock: both are tried, the one that is in the way is waited for, and if then the other is held,
the first is given up and the other waited for.

A lock that cannot be had leaves the process with what it had before. fcntl does that by itself;
flock gives the old lock up before it looks for the new one, so the old one is taken again: the one
gap that is left, since another process may have been waiting for it.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, Range, RangeMap
from vhost9p.native import sys
from vhost9p.native.sys import Cancel

__all__ = [
    "RDLCK", "UNLCK", "WRLCK", "Asker", "Blocker", "Cancel", "FileId", "Holder", "LockFile",
    "LockTable",
]  # fmt: skip

FILES_MAX = 4096
"""Descriptors that one guest's locks may cost; ENOLCK beyond."""
PIECES_MAX = 65536
FILE_PIECES_MAX = 4096
"""Ranges that one guest, and one process in one file, may have locked; ENOLCK beyond. The kernel
looks through a list of them."""


FileId = tuple[int, int]
"""Device and inode."""


class Holder(NamedTuple):
    """A guest process and the file that it locks."""

    st_dev: int
    st_ino: int
    client_id: bytes
    proc_id: int


class Blocker(NamedTuple):
    """A lock that is in the way. Of the host's processes only some are known; then proc_id is 0."""

    kind: int
    span: Range
    proc_id: int
    client_id: bytes


OpenFile = Callable[[], tuple[int, int]]
"""Opens a file for locks: a descriptor, and its access mode (os.O_ACCMODE)."""
Wait = Callable[[Cancel], None]
"""Waits for a lock and takes it; InterruptedError where it was cancelled."""


class Asker(NamedTuple):
    """The process that asks, and the fid through which."""

    holder: Holder
    fid: int


@dataclass(eq=False)
class LockFile:
    """The locks on one file of one process, or of several that share an open file's flock."""

    fd: int
    access: int
    holders: dict[Holder, None] = field(default_factory=dict)
    """The processes that have the locks."""
    former: set[Holder] = field(default_factory=set)
    """The processes whose lock another has taken over."""
    fids: set[int] = field(default_factory=set)
    """The fids that locks were asked for through and that are not clunked."""
    ranges: RangeMap = field(default_factory=RangeMap)
    flock: int = UNLCK
    """How the whole file is locked."""
    only_flock: bool = False
    """Whether it is so as flock(2) alone."""
    shares: set[int] = field(default_factory=set)
    """The fids through which the whole file was locked and may be as with flock: several where a
    process has locked it to read through each of them; none where their locks would have excluded
    each other."""
    divided: bool = False
    """Some of several shares were given up: the lock is a flock of each."""
    uses: int = 0
    """Requests at work on `fd`, waiting ones among them; it stays open for them."""
    abandoned: bool = False
    """Its fids are gone: what a request still gets is worth nothing."""

    @property
    def several(self) -> bool:
        """Whether a process has a flock through each of several fids."""
        return self.divided or len(self.shares) > 1

    @property
    def holds_something(self) -> bool:
        """Whether there is a lock."""
        return self.flock != UNLCK or bool(self.ranges)

    @property
    def file_id(self) -> FileId:
        """The file."""
        return self.holder[:2]

    @property
    def holder(self) -> Holder:
        """The process that is named for them all."""
        return next(iter(self.holders))

    def allows_range(self, kind: int, *, fid_writable: bool) -> bool:
        """Whether a whole-file lock is held as a range lock too (fcntl(2), EBADF)."""
        if kind == WRLCK:
            return fid_writable and self.access != os.O_RDONLY
        return self.access != os.O_WRONLY


K = TypeVar("K")


def _discard(index: dict[K, dict[LockFile, None]], key: K, file: LockFile) -> None:
    files = index.get(key)
    if files:
        files.pop(file, None)
        if not files:
            del index[key]


class LockTable:
    """All locks of one device's guest. Thread-safe. `released` is called, under the table's lock,
    when something of a file was given up that others may wait for."""

    def __init__(self, released: Callable[[FileId], None]) -> None:
        self._released = released
        self._files: dict[Holder, LockFile] = {}
        self._by_fid: dict[int, dict[LockFile, None]] = {}
        self._by_file: dict[FileId, dict[LockFile, None]] = {}
        """The same by fid, and by device and inode: of many locks few concern a request."""
        self._lock = threading.Lock()
        self._pieces = 0
        self.epoch = 0
        """Counts `clear`: a request that began before must not lock after."""

    # ---- lock files -------------------------------------------------------------------------

    def open(self, asker: Asker, span: Range, open_file: OpenFile, epoch: int) -> LockFile:
        """The lock file for a lock of this range, opened if need be, used by one more request until
        `done`: the process's own, or the one whose flock it shares.

        Raises OSError: what `open_file` raises, ENOLCK (too many), EBADF (`epoch` is over).
        """
        holder, fid = asker
        with self._lock:
            if epoch != self.epoch:
                raise OSError(errno.EBADF, "the session of this fid has ended")
            file = self._files.get(holder)
            if file is None and len(self._files) >= FILES_MAX:
                raise OSError(errno.ENOLCK, f"{FILES_MAX} files are locked")
            if file is None and span.is_whole():
                file = next(self._shared(asker), None)
            if file is None:
                file = LockFile(*open_file(), {holder: None})
                self._files[holder] = file
                self._by_file.setdefault(holder[:2], {})[file] = None
            if fid not in file.fids:
                file.fids.add(fid)
                self._by_fid.setdefault(fid, {})[file] = None
            file.uses += 1
            return file

    def _shared(self, asker: Asker) -> Iterator[LockFile]:
        """What other processes of the same client have locked as a whole through this fid."""
        holder, fid = asker
        for file in self._by_fid.get(fid, ()):
            if fid in file.shares and holder[:3] == file.holder[:3]:
                yield file

    def _join(self, file: LockFile, holder: Holder, *, alone: bool) -> None:
        """A process has locked; `alone`: no other has any more."""
        if self._files.setdefault(holder, file) is not file:
            return
        if alone:
            file.former.update(file.holders)
            file.holders.clear()
        file.holders[holder] = None
        file.former.discard(holder)

    def _leave(self, file: LockFile) -> None:
        for holder in (*file.holders, *file.former):
            del self._files[holder]
        _discard(self._by_file, file.holder[:2], file)
        for fid in file.fids:
            _discard(self._by_fid, fid, file)

    def done(self, file: LockFile) -> None:
        """Ends a use that `open` began."""
        with self._lock:
            file.uses -= 1
            self._close_if_idle(file)

    def _close_if_idle(self, file: LockFile) -> None:
        if file.uses or (file.holds_something and not file.abandoned):
            return
        if not file.abandoned:
            self._leave(file)
        os.close(file.fd)

    def _abandon(self, file: LockFile) -> None:
        self._leave(file)
        file.abandoned = True
        with suppress(OSError):
            self._unlock(file, WHOLE)
        self._close_if_idle(file)
        self._released(file.file_id)

    def _require_room(self, file: LockFile) -> None:
        if self._pieces > PIECES_MAX or len(file.ranges) > FILE_PIECES_MAX:
            raise OSError(errno.ENOLCK, f"{self._pieces} ranges are locked")

    def _record(self, file: LockFile, span: Range, kind: int) -> None:
        self._pieces -= len(file.ranges)
        file.ranges.set(span, kind)
        self._pieces += len(file.ranges)

    # ---- taking -----------------------------------------------------------------------------

    def take(
        self,
        file: LockFile,
        asker: Asker,
        kind: int,
        span: Range,
        fid_writable: bool,
        cancel: Cancel | None,
    ) -> None:
        """Takes a lock; waits for it where `cancel` is given.

        Raises BlockingIOError (held by another), InterruptedError (the wait was cancelled), OSError
        ENOLCK (too many), EBADF (the fids are gone); then the process has what it had before.
        """
        only_flock = not file.allows_range(kind, fid_writable=fid_writable)
        while wait := self._try(file, asker, kind, span, only_flock=only_flock):
            if cancel is None:
                raise BlockingIOError(errno.EAGAIN, "the file is locked")
            try:
                wait(cancel)
            except OSError:
                self._put_back(file)
                raise

    def _try(
        self, file: LockFile, asker: Asker, kind: int, span: Range, *, only_flock: bool
    ) -> Wait | None:
        """Takes a lock, or nothing; then, how to wait for what is in the way. What a wait takes is
        not counted before it is tried again: meanwhile the process may have unlocked."""
        with self._lock:
            if file.abandoned:
                raise OSError(errno.EBADF, "the fid is gone")
            if not span.is_whole():
                self._require_room(file)
                wait = self._try_range(file, kind, span)
            else:
                wait = self._try_whole(file, kind, only_flock=only_flock)
            if wait:
                self._restore(file)
                return wait
            if kind == RDLCK and file.holds_something:
                self._released(file.file_id)
            if span.is_whole():
                self._locked_whole(file, asker, kind, only_flock=only_flock)
            if not (span.is_whole() and only_flock):
                self._record(file, span, kind)
            return None

    def _locked_whole(self, file: LockFile, asker: Asker, kind: int, *, only_flock: bool) -> None:
        self._join(file, asker.holder, alone=WRLCK in (kind, file.flock))
        if file.flock == UNLCK or (file.shares and kind == file.flock == RDLCK):
            file.shares.add(asker.fid)
        elif file.shares != {asker.fid}:
            file.shares.clear()
        file.flock, file.only_flock = kind, only_flock

    def _try_range(self, file: LockFile, kind: int, span: Range) -> Wait | None:
        try:
            sys.ofd_lock(file.fd, kind, *span)
        except BlockingIOError:
            return partial(sys.ofd_lock, file.fd, kind, *span)
        return None

    def _try_whole(self, file: LockFile, kind: int, *, only_flock: bool) -> Wait | None:
        """flock comes first: it can be put back without knowing more than its kind."""
        try:
            sys.flock(file.fd, kind)
        except BlockingIOError:
            return partial(sys.flock, file.fd, kind)
        try:
            return None if only_flock else self._try_range(file, kind, WHOLE)
        except OSError:
            self._restore(file)
            raise

    def _restore(self, file: LockFile) -> None:
        """flock back to what the process had: another may have been faster."""
        try:
            sys.flock(file.fd, file.flock)
        except BlockingIOError:
            self._unlocked(file)

    def _put_back(self, file: LockFile) -> None:
        """After a wait that ended without the lock, or with one of two: back to what the process
        had."""
        with self._lock:
            self._restore(file)
            for span, kind in file.ranges.within(WHOLE):
                with suppress(BlockingIOError):
                    sys.ofd_lock(file.fd, kind, *span)
            self._released(file.file_id)

    # ---- giving up --------------------------------------------------------------------------

    def _unlocked(self, file: LockFile) -> None:
        file.flock, file.only_flock, file.divided = UNLCK, False, False
        file.shares = set()

    def _unlock(self, file: LockFile, span: Range) -> None:
        sys.ofd_lock(file.fd, UNLCK, *span)
        self._record(file, span, UNLCK)
        pieces = file.flock != UNLCK and not file.only_flock and not file.ranges
        if span.is_whole() or pieces:  # fcntl may give up in pieces what it has locked as a whole
            sys.flock(file.fd, UNLCK)
            self._unlocked(file)
        self._released(file.file_id)

    def release(self, asker: Asker, span: Range, *, flock: bool) -> None:
        """Unlocks a range; `flock`: as LOCK_UN does, which is also good for what another process
        locked through this fid. OSError ENOLCK where that would make too many ranges of one."""
        with self._lock:
            file = self._files.get(asker.holder)
            if file:
                self._release(file, asker, span)
            elif flock and span.is_whole():
                for other in list(self._shared(asker)):
                    self._give_up_share(other, asker.fid)

    def _release(self, file: LockFile, asker: Asker, span: Range) -> None:
        """Unlocks what a process has: its part of what it shares with another, its locks through
        one of several fids, or everything."""
        if asker.holder in file.former:
            file.former.discard(asker.holder)
            del self._files[asker.holder]
        elif not span.is_whole():
            self._require_room(file)
            if len(file.holders) == 1:
                self._unlock(file, span)
                self._close_if_idle(file)
        elif len(file.holders) > 1:
            del file.holders[asker.holder], self._files[asker.holder]
        elif file.several:
            self._give_up_share(file, asker.fid)
        else:
            self._unlock(file, WHOLE)
            self._close_if_idle(file)

    def _give_up_share(self, file: LockFile, fid: int) -> None:
        """Unlocks what was locked as a whole through this fid alone."""
        file.shares.discard(fid)
        file.divided = bool(file.shares)
        if not file.shares:
            self._unlock(file, WHOLE)
            self._close_if_idle(file)

    def clunk(self, fid: int) -> None:
        """A fid goes; with its last fid a process's locks on a file go."""
        with self._lock:
            for file in self._by_fid.pop(fid, {}):
                file.fids.discard(fid)
                if not file.fids:
                    self._abandon(file)
                elif file.several:
                    self._give_up_share(file, fid)

    def clear(self) -> None:
        """Gives every lock up, after the fids are gone."""
        with self._lock:
            self.epoch += 1
            for file in set(self._files.values()):
                self._abandon(file)

    # ---- asking -----------------------------------------------------------------------------

    def blocker(
        self, holder: Holder, kind: int, span: Range, open_file: OpenFile
    ) -> Blocker | None:
        """What is in the way of a lock, or None. flock's locks are not, as with F_GETLK."""
        with self._lock:
            for file in self._by_file.get(holder[:2], ()):
                other = file.holder
                if holder not in file.holders:
                    found = file.ranges.conflict(span, kind)
                    if found:
                        return Blocker(*found, other.proc_id, other.client_id)
            file_or_none = self._files.get(holder)
            fd = file_or_none.fd if file_or_none else open_file()[0]
            try:
                elsewhere = sys.ofd_test(fd, kind, span.start, span.length)
            finally:
                if file_or_none is None:
                    os.close(fd)
        if elsewhere is None:
            return None
        held, start, length, pid = elsewhere
        return Blocker(held, Range(start, length), max(pid, 0), b"")
