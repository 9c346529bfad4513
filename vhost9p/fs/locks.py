"""Locks of guest processes, held on the host.

A guest process is named by (client_id, proc_id); fcntl and flock look alike on the wire. For every
(file, process) that holds locks there is one host descriptor of its own, a `LockFile`: locks of an
open file description belong to the descriptor, so a process never conflicts with itself, whichever
of its fids it locks or unlocks through, and does conflict with every other process of every guest
and of the host. Closing the descriptor gives all of its locks up.

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
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, Piece, Range, RangeMap
from vhost9p.native import sys
from vhost9p.native.sys import Cancel

__all__ = ["RDLCK", "UNLCK", "WRLCK", "Blocker", "Cancel", "Holder", "LockFile", "LockTable"]

FILES_MAX = 4096
"""Descriptors that one guest's locks may cost; ENOLCK beyond."""
PIECES_MAX = 65536
FILE_PIECES_MAX = 8192
"""Ranges that one guest may have locked, in all and in one file; ENOLCK beyond. The kernel looks
through a list of those of a file, whoever has them."""


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


@dataclass(eq=False)
class LockFile:
    """One process's locks on one file."""

    holder: Holder
    fd: int
    access: int
    fids: set[int] = field(default_factory=set)
    """The fids that locks were asked for through and that are not clunked."""
    ranges: RangeMap = field(default_factory=RangeMap)
    flock: int = UNLCK
    uses: int = 0
    """Requests at work on `fd`, waiting ones among them; it stays open for them."""
    abandoned: bool = False
    """Its fids are gone: what a request still gets is worth nothing."""

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
    """All locks of one device's guest. Thread-safe."""

    def __init__(self) -> None:
        self._files: dict[Holder, LockFile] = {}
        self._by_fid: dict[int, dict[LockFile, None]] = {}
        self._by_piece: dict[tuple[int, int, *Piece], dict[LockFile, None]] = {}
        """The same by fid, and by device, inode and a locked range: of many locks few concern a
        request, and none is looked for."""
        self._lock = threading.Lock()
        self._pieces = 0
        self._in_file = Counter[tuple[int, int]]()
        """How many there are, and of each file."""
        self.epoch = 0
        """Counts `clear`: a request that began before must not lock after."""

    # ---- lock files -------------------------------------------------------------------------

    def open(self, holder: Holder, fid: int, open_file: OpenFile, epoch: int) -> LockFile:
        """The process's lock file, opened if need be, used by one more request until `done`.

        Raises OSError: what `open_file` raises, ENOLCK (too many), EBADF (`epoch` is over).
        """
        with self._lock:
            if epoch != self.epoch:
                raise OSError(errno.EBADF, "the session of this fid has ended")
            file = self._files.get(holder)
            if file is None:
                if len(self._files) >= FILES_MAX:
                    raise OSError(errno.ENOLCK, f"{FILES_MAX} files are locked")
                file = self._files[holder] = LockFile(holder, *open_file())
            if fid not in file.fids:
                file.fids.add(fid)
                self._by_fid.setdefault(fid, {})[file] = None
            file.uses += 1
            return file

    def _leave(self, file: LockFile) -> None:
        del self._files[file.holder]
        for fid in file.fids:
            _discard(self._by_fid, fid, file)

    def done(self, file: LockFile) -> None:
        """Ends a use that `open` began."""
        with self._lock:
            file.uses -= 1
            self._close_if_idle(file)

    def _close_if_idle(self, file: LockFile) -> None:
        if file.uses or not (file.abandoned or (file.flock == UNLCK and not file.ranges)):
            return
        if not file.abandoned:
            self._leave(file)
        os.close(file.fd)

    def _abandon(self, file: LockFile) -> None:
        self._leave(file)
        file.abandoned = True
        with suppress(OSError):
            self._unlock(file, WHOLE)
        self._record(file, WHOLE, UNLCK)
        self._close_if_idle(file)

    def _require_room(self, file: LockFile) -> None:
        if self._pieces > PIECES_MAX or self._in_file[file.holder[:2]] > FILE_PIECES_MAX:
            raise OSError(errno.ENOLCK, f"{self._pieces} ranges are locked")

    def _record(self, file: LockFile, span: Range, kind: int) -> None:
        gone, come = file.ranges.set(span, kind)
        for piece in gone:
            _discard(self._by_piece, (*file.holder[:2], *piece), file)
        for piece in come:
            self._by_piece.setdefault((*file.holder[:2], *piece), {})[file] = None
        self._pieces += len(come) - len(gone)
        self._in_file[file.holder[:2]] += len(come) - len(gone)
        if not self._in_file[file.holder[:2]]:
            del self._in_file[file.holder[:2]]

    # ---- taking -----------------------------------------------------------------------------

    def take(
        self, file: LockFile, kind: int, span: Range, *, fid_writable: bool, cancel: Cancel | None
    ) -> None:
        """Takes a lock; waits for it where `cancel` is given.

        Raises BlockingIOError (held by another), InterruptedError (the wait was cancelled), OSError
        ENOLCK (too many), EBADF (the fids are gone); then the process has what it had before.
        """
        if not span.is_whole():
            self._require_room(file)
            self._take_range(file, kind, span, cancel)
        elif file.allows_range(kind, fid_writable=fid_writable):
            self._take_both(file, kind, cancel)
        else:
            self._take_flock(file, kind, cancel)

    def _granted(self, file: LockFile) -> None:
        if file.abandoned:
            raise OSError(errno.EBADF, "the fid is gone")

    def _take_range(self, file: LockFile, kind: int, span: Range, cancel: Cancel | None) -> None:
        sys.ofd_lock(file.fd, kind, span.start, span.length, cancel)
        with self._lock:
            self._granted(file)
            self._record(file, span, kind)

    def _take_flock(self, file: LockFile, kind: int, cancel: Cancel | None) -> None:
        try:
            sys.flock(file.fd, kind, cancel)
        except OSError:
            self._restore_flock(file)
            raise
        with self._lock:
            self._granted(file)
            file.flock = kind

    def _take_both(self, file: LockFile, kind: int, cancel: Cancel | None) -> None:
        wait = self._try_both(file, kind)
        while wait:
            if cancel is None:
                raise BlockingIOError(errno.EAGAIN, "the file is locked")
            try:
                wait(cancel)
                wait = self._try_both(file, kind)
            except OSError:
                self._put_back(file)
                raise
            if wait:
                self._put_back(file)

    def _try_both(self, file: LockFile, kind: int) -> Callable[[Cancel], None] | None:
        """Takes flock and the range lock, or neither; then, how to wait for the one that is held.

        flock comes first: it can be put back without knowing more than its kind.
        """
        try:
            sys.flock(file.fd, kind)
        except BlockingIOError:
            self._restore_flock(file)
            return lambda cancel: sys.flock(file.fd, kind, cancel)
        try:
            sys.ofd_lock(file.fd, kind, *WHOLE)
        except OSError as error:
            self._restore_flock(file)
            if not isinstance(error, BlockingIOError):
                raise
            return lambda cancel: sys.ofd_lock(file.fd, kind, *WHOLE, cancel)
        with self._lock:
            self._granted(file)
            file.flock = kind
            self._record(file, WHOLE, kind)
        return None

    def _restore_flock(self, file: LockFile) -> None:
        """Back to what the process had: another may have been faster."""
        with self._lock:
            try:
                sys.flock(file.fd, file.flock)
            except BlockingIOError:
                file.flock = UNLCK

    def _put_back(self, file: LockFile) -> None:
        """After one of two locks was waited for: both back to what the process had."""
        self._restore_flock(file)
        with self._lock:
            for span, kind in file.ranges.within(WHOLE):
                with suppress(BlockingIOError):
                    sys.ofd_lock(file.fd, kind, *span)

    # ---- giving up --------------------------------------------------------------------------

    def _unlock(self, file: LockFile, span: Range) -> None:
        sys.ofd_lock(file.fd, UNLCK, *span)
        self._record(file, span, UNLCK)
        if span.is_whole():
            sys.flock(file.fd, UNLCK)
            file.flock = UNLCK

    def release(self, holder: Holder, span: Range) -> None:
        """Unlocks a range, through whichever of the process's fids it was locked. OSError ENOLCK
        where that would make too many ranges of one."""
        with self._lock:
            file = self._files.get(holder)
            if file is None:
                return
            if not span.is_whole():
                self._require_room(file)
            self._unlock(file, span)
            self._close_if_idle(file)

    def clunk(self, fid: int) -> None:
        """A fid goes; with its last fid a process's locks on a file go."""
        with self._lock:
            for file in self._by_fid.pop(fid, ()):
                file.fids.discard(fid)
                if not file.fids:
                    self._abandon(file)

    def clear(self) -> None:
        """Gives every lock up, after the fids are gone."""
        with self._lock:
            self.epoch += 1
            for file in list(self._files.values()):
                self._abandon(file)

    # ---- asking -----------------------------------------------------------------------------

    def blocker(
        self, holder: Holder, kind: int, span: Range, open_file: OpenFile
    ) -> Blocker | None:
        """What is in the way of a lock, or None. flock's locks are not, as with F_GETLK. The kernel
        says which lock it is; whose, if it is the guest's, this table."""
        with self._lock:
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
            span = Range(start, length)
            owners = self._by_piece.get((*holder[:2], start, span.end, held), ())
            other = next((each.holder for each in owners if each.holder != holder), None)
        if other:
            return Blocker(held, span, other.proc_id, other.client_id)
        return Blocker(held, span, max(pid, 0), b"")
