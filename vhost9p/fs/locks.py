"""Locks of guest processes, held on the host.

A guest process is named by (client_id, proc_id); fcntl and flock look alike on the wire. For every
(file, process) that holds locks there is one host descriptor of its own, a `LockFile`: locks of an
open file description belong to the descriptor, so a process never conflicts with itself, whichever
of its fids it locks or unlocks through, and does conflict with every other process of every guest
and of the host. Closing the descriptor releases all of its locks. A LockFile knows how to lock
through its descriptor (vhost9p/fs/lock_file.py); the table knows all lock files, and decides which
one a request uses, and who holds its lock afterwards.

A lock file that holds nothing may stay open for the process's next lock, until its fids are gone.
It does so if the fid can write, and thus keeps no more of the host's file than the fid does.

A flock belongs to an open file of the guest, which is one fid, and so to every process that
inherited it by fork or exec, or received it over a socket. So a lock of the whole file also records
the fids through which it was taken (`LockFile.shares`). Linux's client checks its own list of locks
before it asks the server (v9fs_file_do_lock). So if another process locks the whole file through
the same fid with a conflicting lock, the first lock is either the same flock, or an fcntl lock that
the client has released already, while the request to do so is still on its way. In both cases the
second process shares the first one's LockFile and takes over its lock, and the first one's next
unlock releases nothing.
"""

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple, TypeVar

from vhost9p.fs.lock_file import FileId, Holder, LockFile, Wait
from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, Piece, Range, Span
from vhost9p.native import descriptors, sys
from vhost9p.native.sys import Cancel

__all__ = ["RDLCK", "UNLCK", "WRLCK", "Blocker", "Cancel", "LockTable"]

FILES_MAX = 4096
"""Descriptors that one guest's locks may use; ENOLCK beyond."""
SHARE_PART = 7 / 8
"""They stay open, so they may use only this part of the device's own share of descriptors."""
IDLE_MAX = 64
IDLE_PART = 1 / 16
"""The same of those that hold nothing."""
PIECES_MAX = 65536
FILE_PIECES_MAX = 8192
"""Ranges that one guest may lock, in total and in one file; ENOLCK beyond. The kernel searches a
list of all locked ranges of a file, whoever holds them."""


class Blocker(NamedTuple):
    """A conflicting lock. proc_id is 0 if the holder is an unknown process of the host."""

    kind: int
    span: Range
    proc_id: int
    client_id: bytes


K = TypeVar("K")


def _discard(index: dict[K, dict[LockFile, None]], key: K, file: LockFile) -> None:
    files = index.get(key)
    if files:
        files.pop(file, None)
        if not files:
            del index[key]


class LockTable:
    """All locks of one device's guest. Thread-safe; fids are named by their handles.

    Two kinds of locks guard it. A file's own (`LockFile.lock`) is held around a call to the host
    that locks or unlocks without waiting, and the record of it, so that both always agree. The
    table's, which is taken after it, guards all records; no system call is made under it.

    `released` is called when a lock on a file was released for which others may wait; `open_file`
    opens a fid's file for locks, and returns a descriptor and its access mode; `mark` makes Python
    clunk a fid, or raises OSError.
    """

    def __init__(
        self,
        released: Callable[[FileId], None],
        open_file: Callable[[int], tuple[int, int]],
        mark: Callable[[int], None],
    ) -> None:
        self._released = released
        self._open_file = open_file
        self._mark = mark
        self._files: dict[Holder, LockFile] = {}
        self._idle: dict[LockFile, int] = {}
        """Those that hold nothing and are not in use, the last used one at the end, with the fid
        that keeps each open."""
        self._by_fid: dict[int, dict[LockFile, None]] = {}
        self._by_piece: dict[tuple[FileId, Piece], dict[LockFile, None]] = {}
        """The same by fid, and by file and locked range, so that a request finds its few locks
        among many without a search."""
        self._lock = threading.Lock()
        self._pieces = 0
        self._in_file: dict[FileId, int] = {}
        """How many there are, and of each file."""

    @cached_property
    def _files_max(self) -> float:
        return min(FILES_MAX, descriptors.share() * SHARE_PART)

    @cached_property
    def _idle_max(self) -> float:
        return min(IDLE_MAX, self._files_max * IDLE_PART)

    # ---- lock files -------------------------------------------------------------------------

    def open(self, holder: Holder, fid: int, span: Span) -> LockFile:
        """The lock file for a lock of this range, opened if need be, used by one more request until
        `done`: the process's own, or the one whose flock it shares.

        Raises OSError: what `open_file` and `mark` raise, ENOLCK (too many).
        """
        with self._lock:
            file = self._known(holder, fid, span)
            new = file is not None and self._use(file, fid)
        if file is None:
            file, new = self._open(holder, fid, span)
        if new:
            try:
                self._mark(fid)
            except OSError:
                self.clunk(fid)
                self.done(file)
                raise
        return file

    def _open(self, holder: Holder, fid: int, span: Span) -> tuple[LockFile, bool]:
        made = LockFile(holder, *self._open_file(fid))
        file = None
        try:
            with self._lock:
                file = self._known(holder, fid, span)  # another thread may have been faster
                if file is None:
                    file = self._files[holder] = made
                return file, self._use(file, fid)
        finally:
            if file is not made:
                descriptors.close(made.fd)

    def _known(self, holder: Holder, fid: int, span: Span) -> LockFile | None:
        """Raises OSError ENOLCK where one more process would be too many."""
        file = self._files.get(holder)
        if file is None and len(self._files) - len(self._idle) >= self._files_max:
            raise OSError(errno.ENOLCK, f"{len(self._files)} files are locked")
        if file is None and span == WHOLE:
            file = next(self._shared(holder, fid), None)
        return file

    def _shared(self, holder: Holder, fid: int) -> Iterator[LockFile]:
        """What other processes of the same client have locked as a whole through this fid."""
        for file in self._by_fid.get(fid, ()):
            if fid in file.shares and holder[:3] == file.holder[:3]:
                yield file

    def _begin_use(self, file: LockFile) -> None:
        file.uses += 1
        self._idle.pop(file, None)

    def _use(self, file: LockFile, fid: int) -> bool:
        """Returns whether the fid is new to it."""
        if file in self._idle:  # nothing is locked through the fids that it had
            for other in file.fids - {fid}:
                _discard(self._by_fid, other, file)
            file.fids &= {fid}
        self._begin_use(file)
        if fid in file.fids:
            return False
        file.fids.add(fid)
        self._by_fid.setdefault(fid, {})[file] = None
        return True

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
        self._idle.pop(file, None)
        for holder in (*file.holders, *file.former):
            del self._files[holder]
        for fid in file.fids:
            _discard(self._by_fid, fid, file)

    def done(self, file: LockFile, *, keep: int | None = None) -> None:
        """Ends a use that `open` began. Closes the file if it holds nothing; with `keep`, a fid of
        it that can write, the one that has been idle for longest if there are too many."""
        with self._lock:
            file.uses -= 1
            if file.uses or (file.holds_something and not file.abandoned):
                return
            if keep in file.fids and file.has_one_holder and not file.abandoned:
                self._idle[file] = keep
                if len(self._idle) <= self._idle_max:
                    return
                file = next(iter(self._idle))
            if not file.abandoned:
                self._leave(file)
        descriptors.close(file.fd)

    def _require_usable(self, file: LockFile, *, room: bool) -> None:
        if file.abandoned:
            raise OSError(errno.EBADF, "the fid is gone")
        if not room:
            return
        if self._pieces > PIECES_MAX or self._in_file.get(file.file_id, 0) > FILE_PIECES_MAX:
            raise OSError(errno.ENOLCK, f"{self._pieces} ranges are locked")

    def _record(self, file: LockFile, span: Span, kind: int) -> None:
        gone, come = file.ranges.set(span, kind)
        file_id = file.file_id
        for piece in gone:
            _discard(self._by_piece, (file_id, piece), file)
        for piece in come:
            self._by_piece.setdefault((file_id, piece), {})[file] = None
        more = len(come) - len(gone)
        if more:
            self._pieces += more
            count = self._in_file.pop(file_id, 0) + more
            if count:
                self._in_file[file_id] = count

    # ---- taking -----------------------------------------------------------------------------

    def lock(self, holder: Holder, fid: int, kind: int, span: Span, *, fid_writable: bool) -> bool:
        """Takes a lock; False if another process holds it. Raises OSError: what `open` and `take`
        raise."""
        file = self.open(holder, fid, span)
        try:
            return self._attempt(file, holder, fid, kind, span, fid_writable) is None
        finally:
            self.done(file)

    def take(
        self,
        file: LockFile,
        holder: Holder,
        fid: int,
        kind: int,
        span: Span,
        fid_writable: bool,
        cancel: Cancel | None,
    ) -> None:
        """Takes a lock through a file from `open`; waits for it if `cancel` is given.

        After a wait the lock is tried once more, since other threads of the process may have locked
        and unlocked meanwhile.

        Raises BlockingIOError (held by another), InterruptedError (the wait was cancelled), OSError
        ENOLCK (too many), EBADF (the fids are gone); then the process has what it had before.
        """
        while wait := self._attempt(file, holder, fid, kind, span, fid_writable):
            if cancel is None:
                raise BlockingIOError(errno.EAGAIN, "the file is locked")
            try:
                wait(cancel)
            except OSError:
                with file.lock:
                    self._put_back(file, span)
                self._released(file.file_id)
                raise

    def _attempt(
        self, file: LockFile, holder: Holder, fid: int, kind: int, span: Span, fid_writable: bool
    ) -> Wait | None:
        """Takes a lock and records it. If it conflicts, changes nothing, and returns how to wait
        for it."""
        whole = span == WHOLE
        only_flock = whole and not file.allows_range(kind, fid_writable=fid_writable)
        with file.lock:
            try:
                self._require_usable(file, room=not whole)  # `_locked` checks again
                wait = file.try_lock(kind, span, only_flock=only_flock)
                if not wait:
                    with self._lock:
                        less = kind == RDLCK and file.holds_something
                        self._locked(file, holder, fid, kind, span, only_flock=only_flock)
            except OSError:
                self._put_back(file, span)
                raise
            if wait:
                self._put_back(file, span)
            elif less:
                self._released(file.file_id)
            return wait

    def _put_back(self, file: LockFile, span: Span) -> None:
        """Restores the recorded locks, with the file's lock held."""
        if not file.put_back(span):
            with self._lock:
                file.drop_flock()

    def _locked(
        self, file: LockFile, holder: Holder, fid: int, kind: int, span: Span, *, only_flock: bool
    ) -> None:
        self._require_usable(file, room=False)
        if not only_flock:
            self._record(file, span, kind)
        if span != WHOLE:
            return
        self._join(file, holder, alone=WRLCK in (kind, file.flock))
        if file.flock == UNLCK or (file.shares and kind == file.flock == RDLCK):
            file.shares.add(fid)
        elif file.shares != {fid}:
            file.shares.clear()
        file.flock, file.only_flock = kind, only_flock

    # ---- giving up --------------------------------------------------------------------------

    def _unlock(self, file: LockFile, span: Span) -> None:
        """With the file's lock held."""
        sys.ofd_lock(file.fd, UNLCK, *span)
        with self._lock:
            self._record(file, span, UNLCK)
            pieces = file.flock != UNLCK and not file.only_flock and not file.ranges
        if pieces or span == WHOLE:  # fcntl may give up in pieces what it has locked as a whole
            sys.flock(file.fd, UNLCK)
            with self._lock:
                file.drop_flock()
        self._released(file.file_id)

    def release(
        self, holder: Holder, fid: int, span: Span, *, flock: bool, keep: bool = False
    ) -> None:
        """Unlocks a range; `flock`: as LOCK_UN does, which is also good for what another process
        locked through this fid; `keep`: see `done`. OSError ENOLCK where that would make too many
        ranges of one."""
        flock = flock and span == WHOLE
        with self._lock:
            own = self._files.get(holder)
            files = [own] if own else list(self._shared(holder, fid)) if flock else []
            for file in files:
                self._begin_use(file)
        self._unlock_each(
            files,
            span,
            lambda file: self._gives_up(file, holder, fid, span, flock),
            fid if keep else None,
        )

    def _unlock_each(
        self,
        files: list[LockFile],
        span: Span,
        gives_up: Callable[[LockFile], bool],
        keep: int | None = None,
    ) -> None:
        """Unlocks those of the files for which `gives_up` returns true, and ends their use.
        `gives_up` is called with the table's lock held, and may change the records."""
        try:
            for file in files:
                with file.lock:
                    with self._lock:
                        unlock = not file.abandoned and gives_up(file)
                    if unlock:
                        self._unlock(file, span)
        finally:
            for file in files:
                self.done(file, keep=keep)

    def _gives_up(self, file: LockFile, holder: Holder, fid: int, span: Span, flock: bool) -> bool:
        """Records that a process unlocks: its part of a shared lock, its locks through one of
        several fids, or everything. Returns whether nobody holds the lock afterwards."""
        if holder in file.former:
            file.former.discard(holder)
            del self._files[holder]
            return False
        if holder not in file.holders:
            return flock and fid in file.shares and file.gives_up_share(fid)
        if span != WHOLE:
            self._require_usable(file, room=True)
            return len(file.holders) == 1
        if len(file.holders) > 1:
            del file.holders[holder], self._files[holder]
            return False
        return not file.several or file.gives_up_share(fid)

    def clunk(self, fid: int) -> None:
        """Records that a fid was clunked. A process's locks on a file end with its last fid."""
        with self._lock:
            orphans: list[LockFile] = []
            others: list[LockFile] = []
            for file in self._by_fid.pop(fid, ()):
                file.fids.discard(fid)
                (others if file.fids else orphans).append(file)
            self._abandon(orphans)
            for file in others:
                self._begin_use(file)
        self._give_up(orphans)
        self._unlock_each(others, WHOLE, lambda file: file.several and file.gives_up_share(fid))

    def clear(self) -> None:
        """Releases every lock, after the fids are gone."""
        with self._lock:
            files = set(self._files.values())
            self._abandon(files)
        self._give_up(files)

    def _abandon(self, files: Iterable[LockFile]) -> None:
        """Removes files from the table, and uses them, for `_give_up`. The caller holds the table's
        lock."""
        for file in files:
            self._leave(file)
            file.abandoned = True
            file.uses += 1

    def _give_up(self, files: Iterable[LockFile]) -> None:
        for file in files:
            with file.lock:
                if file.holds_something:
                    with suppress(OSError):
                        self._unlock(file, WHOLE)
                    with self._lock:
                        self._record(file, WHOLE, UNLCK)
            self.done(file)
            self._released(file.file_id)

    # ---- asking -----------------------------------------------------------------------------

    def blocker(self, holder: Holder, kind: int, span: Span, fd: int) -> Blocker | None:
        """Returns a conflicting lock, or None. flock's locks are ignored, as by F_GETLK. The kernel
        reports the lock; this table knows its holder if that is the guest. `fd` is a descriptor of
        the file through which nothing is locked."""
        with self._lock:
            file = self._files.get(holder)
            keep = self._idle.get(file) if file else None
            if file:
                self._begin_use(file)
        try:
            elsewhere = sys.ofd_test(file.fd if file else fd, kind, *span)
        finally:
            if file:
                self.done(file, keep=keep)
        if elsewhere is None:
            return None
        held, start, length, pid = elsewhere
        found = Range(start, length)
        with self._lock:
            owners = self._by_piece.get((holder[:2], (start, found.end, held)), ())
            other = next((each.holder for each in owners if holder not in each.holders), None)
        if other:
            _, _, client_id, proc_id = other
            return Blocker(held, found, proc_id, client_id)
        return Blocker(held, found, max(pid, 0), b"")
