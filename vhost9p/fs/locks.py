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
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, Range, RangeMap
from vhost9p.native import descriptors, sys
from vhost9p.native.sys import Cancel

__all__ = ["RDLCK", "UNLCK", "WRLCK", "Blocker", "Cancel", "Holder", "LockFile", "LockTable"]

FILES_MAX = 4096
"""Descriptors that one guest's locks may cost; ENOLCK beyond."""
SHARE_PART = 7 / 8
"""They stay open, so they are taken within the device's share alone, and leave some of that."""
PIECES_MAX = 65536
FILE_PIECES_MAX = 4096
"""Ranges that one guest, and one process in one file, may have locked; ENOLCK beyond. The kernel
looks through a list of them."""


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


Wait = Callable[[Cancel], None]
OpenFile = Callable[[], tuple[int, int]]
"""Opens a file for locks: a descriptor, and its access mode (os.O_ACCMODE)."""


@dataclass(eq=False)
class LockFile:
    """One process's locks on one file."""

    holder: Holder
    fd: int
    access: int
    fids: set[int] = field(default_factory=set)
    """Handles of fids that locks were asked for through and that are not clunked."""
    ranges: RangeMap = field(default_factory=RangeMap)
    flock: int = UNLCK
    uses: int = 0
    """Requests at work on `fd`, waiting ones among them; it stays open for them."""
    abandoned: bool = False
    """Its fids are gone: what a request still gets is worth nothing."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """See LockTable."""

    def allows_range(self, kind: int, *, fid_writable: bool) -> bool:
        """Whether a whole-file lock is held as a range lock too (fcntl(2), EBADF)."""
        if kind == WRLCK:
            return fid_writable and self.access != os.O_RDONLY
        return self.access != os.O_WRONLY


def _opened(open_file: OpenFile) -> tuple[int, int]:
    """Raises OSError ENOLCK for want of descriptors: as fcntl(2) tells it."""
    try:
        return open_file()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise OSError(errno.ENOLCK, "no descriptor is left for one more lock") from error
        raise


K = TypeVar("K")


def _discard(index: dict[K, dict[LockFile, None]], key: K, file: LockFile) -> None:
    files = index.get(key)
    if files:
        files.pop(file, None)
        if not files:
            del index[key]


def _too_many_files() -> OSError:
    return OSError(errno.ENOLCK, f"{FILES_MAX} files are locked")


class LockTable:
    """All locks of one device's guest. Thread-safe; fids are named by their handles.

    Two kinds of locks guard it. A file's own (`LockFile.lock`) is held around a call to the host
    that locks or unlocks without waiting, and the record of it, so that both always agree. The
    table's, which is taken after it, guards all records; no system call is made under it.
    """

    def __init__(self) -> None:
        self._files: dict[Holder, LockFile] = {}
        self._by_fid: dict[int, dict[LockFile, None]] = {}
        self._by_file: dict[tuple[int, int], dict[LockFile, None]] = {}
        """The same by fid, and by device and inode: of many locks few concern a request."""
        self._lock = threading.Lock()
        self._pieces = 0

    # ---- lock files -------------------------------------------------------------------------

    def open(self, holder: Holder, fid: int, open_file: OpenFile) -> LockFile:
        """The process's lock file, opened if need be, used by one more request until `done`.

        The caller marks the fid afterwards, and calls `clunk` where it is gone. Raises OSError:
        what `open_file` raises, ENOLCK (too many).
        """
        with self._lock:
            file = self._files.get(holder)
            if file:
                return self._use(file, fid)
            if not self._has_room_for_file():
                raise self._too_many_files()
        made = LockFile(holder, *_opened(open_file))
        with self._lock:
            file = self._files.get(holder)
            if file:  # another thread was faster
                self._use(file, fid)
            elif self._has_room_for_file():
                return self._use(self._enter(made), fid)
        descriptors.close(made.fd)
        if file is None:
            raise self._too_many_files()
        return file

    def _has_room_for_file(self) -> bool:
        return len(self._files) < min(FILES_MAX, descriptors.share() * SHARE_PART)

    def _too_many_files(self) -> OSError:
        return OSError(errno.ENOLCK, f"{len(self._files)} files are locked")

    def _enter(self, file: LockFile) -> LockFile:
        self._files[file.holder] = file
        self._by_file.setdefault(file.holder[:2], {})[file] = None
        return file

    def _use(self, file: LockFile, fid: int) -> LockFile:
        if fid not in file.fids:
            file.fids.add(fid)
            self._by_fid.setdefault(fid, {})[file] = None
        file.uses += 1
        return file

    def _leave(self, file: LockFile) -> None:
        del self._files[file.holder]
        _discard(self._by_file, file.holder[:2], file)
        for fid in file.fids:
            _discard(self._by_fid, fid, file)

    def done(self, file: LockFile) -> None:
        """Ends a use that `open` began."""
        with self._lock:
            file.uses -= 1
            if file.uses or not (file.abandoned or (file.flock == UNLCK and not file.ranges)):
                return
            if not file.abandoned:
                self._leave(file)
        descriptors.close(file.fd)

    def _require_room(self, file: LockFile) -> None:
        if self._pieces > PIECES_MAX or len(file.ranges) > FILE_PIECES_MAX:
            raise OSError(errno.ENOLCK, f"{self._pieces} ranges are locked")

    def _record(self, file: LockFile, span: Range, kind: int) -> None:
        self._pieces -= len(file.ranges)
        file.ranges.set(span, kind)
        self._pieces += len(file.ranges)

    # ---- taking -----------------------------------------------------------------------------

    def take(
        self, file: LockFile, kind: int, span: Range, *, fid_writable: bool, cancel: Cancel | None
    ) -> None:
        """Takes a lock; waits for it where `cancel` is given.

        What a wait gains counts for nothing by itself, since other threads of the process may have
        locked and unlocked meanwhile: the lock is tried once more.

        Raises BlockingIOError (held by another), InterruptedError (the wait was cancelled), OSError
        ENOLCK (too many), EBADF (the fids are gone); then the process has what it had before.
        """
        flock = span.is_whole()
        ranges = not flock or file.allows_range(kind, fid_writable=fid_writable)
        attempt = partial(self._attempt, file, kind, span, flock=flock, ranges=ranges)
        while wait := attempt():
            if cancel is None:
                raise BlockingIOError(errno.EAGAIN, "the file is locked")
            try:
                wait(cancel)
            except OSError:
                with file.lock:
                    self._put_back(file, span)
                raise

    def _attempt(
        self, file: LockFile, kind: int, span: Range, *, flock: bool, ranges: bool
    ) -> Wait | None:
        """Takes a lock and records it; or nothing, and then, how to wait for what is in the way."""
        with file.lock:
            try:
                wait = self._try(file, kind, span, flock=flock, ranges=ranges)
            except OSError:
                self._put_back(file, span)
                raise
            if wait:
                self._put_back(file, span)
            return wait

    def _try(
        self, file: LockFile, kind: int, span: Range, *, flock: bool, ranges: bool
    ) -> Wait | None:
        if not flock:
            with self._lock:
                self._require_room(file)
        if flock:
            try:
                sys.flock(file.fd, kind)
            except BlockingIOError:
                return lambda cancel: sys.flock(file.fd, kind, cancel)
        if ranges:
            try:
                sys.ofd_lock(file.fd, kind, *span)
            except BlockingIOError:
                return lambda cancel: sys.ofd_lock(file.fd, kind, *span, cancel)
        with self._lock:
            if file.abandoned:
                raise OSError(errno.EBADF, "the fid is gone")
            if flock:
                file.flock = kind
            if ranges:
                self._record(file, span, kind)
        return None

    def _put_back(self, file: LockFile, span: Range) -> None:
        """Back to what the process had, as it is recorded. Of flock another may have been faster.
        With the file's lock held."""
        if span.is_whole():
            try:
                sys.flock(file.fd, file.flock)
            except BlockingIOError:
                with self._lock:
                    file.flock = UNLCK
        for piece, kind in file.ranges.within(span):
            with suppress(BlockingIOError):
                sys.ofd_lock(file.fd, kind, *piece)

    # ---- giving up --------------------------------------------------------------------------

    def _unlock(self, file: LockFile, span: Range) -> None:
        """With the file's lock held."""
        sys.ofd_lock(file.fd, UNLCK, *span)
        with self._lock:
            self._record(file, span, UNLCK)
        if span.is_whole():
            sys.flock(file.fd, UNLCK)
            with self._lock:
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
            file.uses += 1
        try:
            with file.lock:
                self._unlock(file, span)
        finally:
            self.done(file)

    def clunk(self, fid: int) -> None:
        """A fid goes; with its last fid a process's locks on a file go."""
        with self._lock:
            orphans = []
            for file in self._by_fid.pop(fid, ()):
                file.fids.discard(fid)
                if not file.fids:
                    orphans.append(file)
            self._abandon(orphans)
        self._give_up(orphans)

    def clear(self) -> None:
        """Gives every lock up, after the fids are gone."""
        with self._lock:
            files = list(self._files.values())
            self._abandon(files)
        self._give_up(files)

    def _abandon(self, files: Iterable[LockFile]) -> None:
        """Takes files out of the table, and uses them, for `_give_up`. With the table's lock."""
        for file in files:
            self._leave(file)
            file.abandoned = True
            file.uses += 1

    def _give_up(self, files: Iterable[LockFile]) -> None:
        for file in files:
            with file.lock, suppress(OSError):
                self._unlock(file, WHOLE)
            self.done(file)

    # ---- asking -----------------------------------------------------------------------------

    def blocker(
        self, holder: Holder, kind: int, span: Range, open_file: OpenFile
    ) -> Blocker | None:
        """What is in the way of a lock, or None. flock's locks are not, as with F_GETLK."""
        with self._lock:
            for other in self._by_file.get(holder[:2], ()):
                if other.holder != holder and (found := other.ranges.conflict(span, kind)):
                    return Blocker(*found, other.holder.proc_id, other.holder.client_id)
            file = self._files.get(holder)
            if file:
                file.uses += 1
        fd = file.fd if file else _opened(open_file)[0]
        try:
            elsewhere = sys.ofd_test(fd, kind, span.start, span.length)
        finally:
            if file:
                self.done(file)
            else:
                descriptors.close(fd)
        if elsewhere is None:
            return None
        held, start, length, pid = elsewhere
        return Blocker(held, Range(start, length), max(pid, 0), b"")
