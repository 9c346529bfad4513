"""Locks of guest processes, held on the host.

A guest process is named by (client_id, proc_id); fcntl and flock look alike on the wire. For every
(file, process) that holds locks there is one host descriptor of its own, a `LockFile`: locks of an
open file description belong to the descriptor, so a process never conflicts with itself, whichever
of its fids it locks or unlocks through, and does conflict with every other process of every guest
and of the host. Closing the descriptor releases all of its locks. A LockFile knows how to lock
through its descriptor (vhost9p/fs/lock_file.py). The table knows all lock files, decides which one
a request uses (vhost9p/fs/lock_files.py), and who holds its lock afterwards.

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
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from vhost9p.fs import lock_recovery
from vhost9p.fs.lock_file import FileId, Holder, LockFile, Wait
from vhost9p.fs.lock_files import LockFiles
from vhost9p.fs.lock_records import SIZE, Memory
from vhost9p.fs.lock_recovery import Found
from vhost9p.fs.ranges import RDLCK, UNLCK, WHOLE, WRLCK, Range, Span
from vhost9p.native import sys
from vhost9p.native.sys import Cancel

__all__ = ["MEMORY_SIZE", "RDLCK", "UNLCK", "WRLCK", "Blocker", "Cancel", "LockTable"]

MEMORY_SIZE = SIZE
"""Bytes that a lock table needs to survive its process."""


class Blocker(NamedTuple):
    """A conflicting lock. proc_id is 0 if the holder is an unknown process of the host."""

    kind: int
    span: Range
    proc_id: int
    client_id: bytes


class LockTable(LockFiles):
    """All locks of one device's guest. Thread-safe; fids are named by their handles.

    Two kinds of locks guard it. A file's own (`LockFile.lock`) is held around a call to the host
    that locks or unlocks without waiting, and the record of it, so that both always agree. The
    table's, which is taken after it, guards all records; no system call is made under it.

    `released` is called when a lock on a file was released for which others may wait; `open_file`
    opens a fid's file for locks, and returns a descriptor and its access mode; `mark` makes Python
    clunk a fid, or raises OSError if the fid is gone. `memory`, of MEMORY_SIZE bytes, survives the
    process: a table that has it next begins with `recover`.
    """

    def __init__(
        self,
        released: Callable[[FileId], None],
        open_file: Callable[[int], tuple[int, int]],
        mark: Callable[[int], None],
        memory: Memory | None = None,
    ) -> None:
        super().__init__(open_file, memory)
        self._released = released
        self._mark = mark
        self._released_before: frozenset[int] = frozenset()
        """Requests that had unlocked what their processes had, when the process before died."""

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

    def _require_usable(self, file: LockFile, *, room: bool) -> None:
        if file.abandoned:
            raise OSError(errno.EBADF, "the fid is gone")
        if room:
            self._ranges.require_room(file.file_id)

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
                if whole and not (file.bare and file.flock == UNLCK):
                    file.record.try_whole(fid, holder[3], kind, only_flock)
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
        kept = True
        try:
            kept = file.put_back(span)
        finally:
            if not kept:
                with self._lock:
                    file.drop_flock()
            elif span == WHOLE:
                file.store()

    def _locked(
        self, file: LockFile, holder: Holder, fid: int, kind: int, span: Span, *, only_flock: bool
    ) -> None:
        self._require_usable(file, room=False)
        if span == WHOLE:
            self._join(file, holder, alone=WRLCK in (kind, file.flock))
            file.took_flock(kind, fid, only_flock)
        elif file.bare:
            file.bare = False
            file.store()
        if not only_flock:
            self._ranges.set(file, span, kind)

    # ---- giving up --------------------------------------------------------------------------

    def _unlock(self, file: LockFile, span: Span) -> None:
        """With the file's lock held."""
        sys.ofd_lock(file.fd, UNLCK, *span)
        with self._lock:
            self._ranges.set(file, span, UNLCK)
            # fcntl may give up in pieces what it has locked as a whole
            pieces = file.flock != UNLCK and not file.only_flock and not file.ranges
            ends = pieces or span == WHOLE
            if ends:
                file.drop_flock()
        if ends:
            sys.flock(file.fd, UNLCK)
        self._released(file.file_id)

    def release(
        self,
        holder: Holder,
        fid: int,
        span: Span,
        *,
        flock: bool,
        keep: bool = False,
        request: int = 0,
    ) -> None:
        """Unlocks a range; `flock`: as LOCK_UN does, which is also good for what another process
        locked through this fid; `keep`: see `done`; `request`: a number that names the request,
        also when it runs again (0: it never does). OSError ENOLCK where that would make too many
        ranges of one."""
        flock = flock and span == WHOLE
        with self._lock:
            if self._records.kept:
                self._records.next_request()
            own = self._files.get(holder)
            if own:
                files = [own]
                if flock and request and len(self._by_fid.get(fid, ())) > 1:
                    self._note_release(own, holder, fid, request)
            elif flock and request not in self._released_before:
                files = list(self._shared(holder, fid))
            else:
                files = []
            for file in files:
                self._begin_use(file)
        self._unlock_each(
            files,
            span,
            lambda file: self._gives_up(file, holder, fid, span, flock, request if flock else 0),
            fid if keep else None,
        )

    def _note_release(self, own: LockFile, holder: Holder, fid: int, request: int) -> None:
        """Records that a process that locks a file of its own unlocks that. When this is done, the
        same request, run again, would be good for those that share the fid."""
        for file in self._shared(holder, fid):
            if file is not own:
                file.record.add_released(holder[3], request)

    def _unlock_each(
        self,
        files: list[LockFile],
        span: Span,
        gives_up: Callable[[LockFile], bool],
        keep: int | None = None,
        clunked: int | None = None,
    ) -> None:
        """Unlocks those of the files for which `gives_up` returns true, and ends their use.
        `gives_up` is called with the table's lock held, and may change the records. `clunked`: a
        fid that they lose with that."""
        try:
            for file in files:
                with file.lock:
                    with self._lock:
                        unlock = not file.abandoned and gives_up(file)
                    if unlock:
                        self._unlock(file, span)
                    if clunked is not None:
                        with self._lock:
                            file.record.drop_fid(clunked)
        finally:
            for file in files:
                self.done(file, keep=keep)

    def _gives_up(
        self, file: LockFile, holder: Holder, fid: int, span: Span, flock: bool, request: int
    ) -> bool:
        """Records that a process unlocks: its part of a shared lock, its locks through one of
        several fids, or everything. Returns whether nobody holds the lock afterwards."""
        if holder in file.former:
            file.former.discard(holder)
            file.record.drop_process(holder[3], request)
            del self._files[holder]
            return False
        if holder not in file.holders:
            return flock and fid in file.shares and file.gives_up_share(fid)
        if span != WHOLE:
            self._require_usable(file, room=True)
            return len(file.holders) == 1
        if len(file.holders) > 1:
            file.record.drop_process(holder[3], request)
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
        self._unlock_each(others, WHOLE, lambda file: file.loses_fid(fid), clunked=fid)

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
            file.record.drop_fids()
            file.uses += 1

    def _give_up(self, files: Iterable[LockFile]) -> None:
        for file in files:
            with file.lock:
                if file.holds_something:
                    with suppress(OSError):
                        self._unlock(file, WHOLE)
                    with self._lock:
                        self._ranges.set(file, WHOLE, UNLCK)
            self.done(file)
            self._released(file.file_id)

    # ---- after a death ----------------------------------------------------------------------

    def recover(self) -> None:
        """Takes over what a process has left in `memory` that was killed. To be called before any
        other method but `descriptors`, and again, in another process, if this one is killed
        meanwhile. Raises OSError if /proc cannot be read."""
        found = [each for each in lock_recovery.find(self._records) if self._enter(each)]
        self._released_before = frozenset(number for each in found for number in each.requests)
        for each in found:
            with suppress(OSError):
                self._settle(each)
            if not each.file.holds_something:
                self._idle[each.file] = next(iter(each.file.fids))
        for fid in list(self._by_fid):
            try:
                self._mark(fid)
            except OSError:  # it was clunked
                self.clunk(fid)

    def _settle(self, found: Found) -> None:
        """Makes the kernel and the records agree: by another attempt at what was being tried, or by
        giving back what was not granted."""
        file, tried = found.file, found.tried
        if tried and tried.fid in file.fids:
            holder = (*file.holder[:3], tried.process)
            whole = (file, holder, tried.fid, tried.kind, WHOLE)
            self._attempt(*whole, not tried.only_flock)
            return
        with file.lock:
            if file.bare or found.held.flock != file.flock:
                self._put_back(file, WHOLE)
            else:
                file.store()

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
            owners = self._ranges.owners(holder[:2], (start, found.end, held))
            other = next((each.holder for each in owners if holder not in each.holders), None)
        if other:
            _, _, client_id, proc_id = other
            return Blocker(held, found, proc_id, client_id)
        return Blocker(held, found, max(pid, 0), b"")
