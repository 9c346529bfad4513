"""Locks of guest processes, held on the host.

A guest process is named by (client_id, proc_id); fcntl and flock look alike on the wire. For every
(file, process) that holds locks there is one host descriptor of its own, a `LockFile`: locks of an
open file description belong to the descriptor, so a process never conflicts with itself, whichever
of its fids it locks or unlocks through, and does conflict with every other process of every guest
and of the host. Closing the descriptor releases all of its locks. A LockFile knows how to lock
through its descriptor (vhost9p/fs/lock_file.py); the table knows all lock files, and decides which
one a request uses, and who holds its lock afterwards.

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple, TypeVar

from vhost9p.fs.lock_file import FileId, Holder, LockFile, OpenFile, Wait, opened
from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, Piece, Range
from vhost9p.native import descriptors, sys
from vhost9p.native.sys import Cancel

__all__ = ["RDLCK", "UNLCK", "WRLCK", "Asker", "Blocker", "Cancel", "LockTable"]

FILES_MAX = 4096
"""Descriptors that one guest's locks may use; ENOLCK beyond."""
SHARE_PART = 7 / 8
"""They stay open, so they may use only this part of the device's own share of descriptors."""
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


class Asker(NamedTuple):
    """The asking process, and the handle of the fid that it uses."""

    holder: Holder
    fid: int


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

    `released` is called when a lock on a file was released for which others may wait.
    """

    def __init__(self, released: Callable[[FileId], None]) -> None:
        self._released = released
        self._files: dict[Holder, LockFile] = {}
        self._by_fid: dict[int, dict[LockFile, None]] = {}
        self._by_piece: dict[tuple[int, int, *Piece], dict[LockFile, None]] = {}
        """The same by fid, and by device, inode and locked range, so that a request finds its few
        locks among many without a search."""
        self._lock = threading.Lock()
        self._pieces = 0
        self._in_file = Counter[FileId]()
        """How many there are, and of each file."""

    # ---- lock files -------------------------------------------------------------------------

    def open(self, asker: Asker, span: Range, open_file: OpenFile) -> LockFile:
        """The lock file for a lock of this range, opened if need be, used by one more request until
        `done`: the process's own, or the one whose flock it shares.

        The caller marks the fid afterwards, and calls `clunk` where it is gone. Raises OSError:
        what `open_file` raises, ENOLCK (too many).
        """
        with self._lock:
            file = self._known(asker, span)
            if file:
                return self._use(file, asker.fid)
        made = LockFile(asker.holder[:2], *opened(open_file), {asker.holder: None})
        try:
            with self._lock:
                file = self._known(asker, span)  # another thread may have been faster
                if file is None:
                    file = self._files[asker.holder] = made
                return self._use(file, asker.fid)
        finally:
            if file is not made:
                descriptors.close(made.fd)

    def _known(self, asker: Asker, span: Range) -> LockFile | None:
        """Raises OSError ENOLCK where one more process would be too many."""
        file = self._files.get(asker.holder)
        if file is None and len(self._files) >= min(FILES_MAX, descriptors.share() * SHARE_PART):
            raise OSError(errno.ENOLCK, f"{len(self._files)} files are locked")
        if file is None and span.is_whole():
            file = next(self._shared(asker), None)
        return file

    def _shared(self, asker: Asker) -> Iterator[LockFile]:
        """What other processes of the same client have locked as a whole through this fid."""
        holder, fid = asker
        for file in self._by_fid.get(fid, ()):
            if fid in file.shares and holder[:3] == file.holder[:3]:
                yield file

    def _use(self, file: LockFile, fid: int) -> LockFile:
        if fid not in file.fids:
            file.fids.add(fid)
            self._by_fid.setdefault(fid, {})[file] = None
        file.uses += 1
        return file

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
        for fid in file.fids:
            _discard(self._by_fid, fid, file)

    def done(self, file: LockFile) -> None:
        """Ends a use that `open` began."""
        with self._lock:
            file.uses -= 1
            if file.uses or (file.holds_something and not file.abandoned):
                return
            if not file.abandoned:
                self._leave(file)
        descriptors.close(file.fd)

    def _require_usable(self, file: LockFile, *, room: bool) -> None:
        if file.abandoned:
            raise OSError(errno.EBADF, "the fid is gone")
        if not room:
            return
        if self._pieces > PIECES_MAX or self._in_file[file.file_id] > FILE_PIECES_MAX:
            raise OSError(errno.ENOLCK, f"{self._pieces} ranges are locked")

    def _record(self, file: LockFile, span: Range, kind: int) -> None:
        gone, come = file.ranges.set(span, kind)
        for piece in gone:
            _discard(self._by_piece, (*file.file_id, *piece), file)
        for piece in come:
            self._by_piece.setdefault((*file.file_id, *piece), {})[file] = None
        self._pieces += len(come) - len(gone)
        self._in_file[file.file_id] += len(come) - len(gone)
        if not self._in_file[file.file_id]:
            del self._in_file[file.file_id]

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
        """Takes a lock; waits for it if `cancel` is given.

        After a wait the lock is tried once more, since other threads of the process may have locked
        and unlocked meanwhile.

        Raises BlockingIOError (held by another), InterruptedError (the wait was cancelled), OSError
        ENOLCK (too many), EBADF (the fids are gone); then the process has what it had before.
        """
        only_flock = span.is_whole() and not file.allows_range(kind, fid_writable=fid_writable)
        while wait := self._attempt(file, asker, kind, span, only_flock=only_flock):
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
        self, file: LockFile, asker: Asker, kind: int, span: Range, *, only_flock: bool
    ) -> Wait | None:
        """Takes a lock and records it. If it conflicts, changes nothing, and returns how to wait
        for it."""
        with file.lock:
            try:
                with self._lock:
                    self._require_usable(file, room=not span.is_whole())
                wait = file.try_lock(kind, span, only_flock=only_flock)
                if not wait:
                    with self._lock:
                        less = kind == RDLCK and file.holds_something
                        self._locked(file, asker, kind, span, only_flock=only_flock)
            except OSError:
                self._put_back(file, span)
                raise
            if wait:
                self._put_back(file, span)
            elif less:
                self._released(file.file_id)
            return wait

    def _put_back(self, file: LockFile, span: Range) -> None:
        """Restores the recorded locks, with the file's lock held."""
        if not file.put_back(span):
            with self._lock:
                file.drop_flock()

    def _locked(
        self, file: LockFile, asker: Asker, kind: int, span: Range, *, only_flock: bool
    ) -> None:
        self._require_usable(file, room=False)
        if not only_flock:
            self._record(file, span, kind)
        if not span.is_whole():
            return
        self._join(file, asker.holder, alone=WRLCK in (kind, file.flock))
        if file.flock == UNLCK or (file.shares and kind == file.flock == RDLCK):
            file.shares.add(asker.fid)
        elif file.shares != {asker.fid}:
            file.shares.clear()
        file.flock, file.only_flock = kind, only_flock

    # ---- giving up --------------------------------------------------------------------------

    def _unlock(self, file: LockFile, span: Range) -> None:
        """With the file's lock held."""
        sys.ofd_lock(file.fd, UNLCK, *span)
        with self._lock:
            self._record(file, span, UNLCK)
            pieces = file.flock != UNLCK and not file.only_flock and not file.ranges
        if span.is_whole() or pieces:  # fcntl may give up in pieces what it has locked as a whole
            sys.flock(file.fd, UNLCK)
            with self._lock:
                file.drop_flock()
        self._released(file.file_id)

    def release(self, asker: Asker, span: Range, *, flock: bool) -> None:
        """Unlocks a range; `flock`: as LOCK_UN does, which is also good for what another process
        locked through this fid. OSError ENOLCK where that would make too many ranges of one."""
        flock = flock and span.is_whole()
        with self._lock:
            own = self._files.get(asker.holder)
            files = [own] if own else list(self._shared(asker)) if flock else []
            for file in files:
                file.uses += 1
        self._unlock_each(files, span, lambda file: self._gives_up(file, asker, span, flock=flock))

    def _unlock_each(
        self, files: list[LockFile], span: Range, gives_up: Callable[[LockFile], bool]
    ) -> None:
        """Unlocks those of the files for which `gives_up` returns true, and ends their use.
        `gives_up` is called with the table's lock held, and may change the records."""
        with ExitStack() as uses:
            for file in files:
                uses.callback(self.done, file)
            for file in files:
                with file.lock:
                    with self._lock:
                        unlock = not file.abandoned and gives_up(file)
                    if unlock:
                        self._unlock(file, span)

    def _gives_up(self, file: LockFile, asker: Asker, span: Range, *, flock: bool) -> bool:
        """Records that a process unlocks: its part of a shared lock, its locks through one of
        several fids, or everything. Returns whether nobody holds the lock afterwards."""
        holder, fid = asker
        if holder in file.former:
            file.former.discard(holder)
            del self._files[holder]
            return False
        if holder not in file.holders:
            return flock and fid in file.shares and file.gives_up_share(fid)
        if not span.is_whole():
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
                file.uses += 1
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
                with suppress(OSError):
                    self._unlock(file, WHOLE)
                with self._lock:
                    self._record(file, WHOLE, UNLCK)
            self.done(file)
            self._released(file.file_id)

    # ---- asking -----------------------------------------------------------------------------

    def blocker(
        self, holder: Holder, kind: int, span: Range, open_file: OpenFile
    ) -> Blocker | None:
        """Returns a conflicting lock, or None. flock's locks are ignored, as by F_GETLK. The kernel
        reports the lock; this table knows its holder if that is the guest."""
        with self._lock:
            file = self._files.get(holder)
            if file:
                file.uses += 1
        fd = file.fd if file else opened(open_file)[0]
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
        span = Range(start, length)
        with self._lock:
            owners = self._by_piece.get((*holder[:2], start, span.end, held), ())
            other = next((each.holder for each in owners if holder not in each.holders), None)
        if other:
            return Blocker(held, span, other.proc_id, other.client_id)
        return Blocker(held, span, max(pid, 0), b"")
