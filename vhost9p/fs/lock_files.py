"""The lock files of a guest: which one a request uses, and until when they stay open.

A lock file that holds nothing may stay open for the process's next lock, until its fids are gone.
It does so if the fid can write, and thus keeps no more of the host's file than the fid does.
"""

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from functools import cached_property

from vhost9p.fs import lock_records
from vhost9p.fs.lock_file import Holder, LockFile
from vhost9p.fs.lock_records import FORMER, HOLDER, LockRecords, Memory
from vhost9p.fs.lock_recovery import Found
from vhost9p.fs.locked_ranges import LockedRanges, discard
from vhost9p.fs.ranges import WHOLE, Span
from vhost9p.native import descriptors

log = logging.getLogger(__name__)

FILES_MAX = 4096
"""Descriptors that one guest's locks may use; ENOLCK beyond."""
SHARE_PART = 7 / 8
"""They stay open, so they may use only this part of the device's own share of descriptors."""
IDLE_MAX = 64
IDLE_PART = 1 / 16
"""The same of those that hold nothing."""


class LockFiles:
    """All lock files of one device's guest. What begins with an underscore is called with the
    table's lock held, save for `_open`."""

    def __init__(self, open_file: Callable[[int], tuple[int, int]], memory: Memory | None) -> None:
        self._open_file = open_file
        self._records = LockRecords(memory)
        self._files: dict[Holder, LockFile] = {}
        self._idle: dict[LockFile, int] = {}
        """Those that hold nothing and are not in use, the last used one at the end, with the fid
        that keeps each open."""
        self._by_fid: dict[int, dict[LockFile, None]] = {}
        self._ranges = LockedRanges()
        self._lock = threading.Lock()

    @cached_property
    def _files_max(self) -> float:
        return min(FILES_MAX, descriptors.share() * SHARE_PART)

    @cached_property
    def _idle_max(self) -> float:
        return min(IDLE_MAX, self._files_max * IDLE_PART)

    def descriptors(self) -> list[int]:
        """The descriptors that the table has, also before `recover`."""
        return lock_records.descriptors(self._records.words)

    @staticmethod
    def descriptors_in(memory: Memory) -> list[int]:
        """The descriptors that a table in this memory has had."""
        return lock_records.descriptors(lock_records.words_of(memory))

    def _open(self, holder: Holder, fid: int, span: Span) -> tuple[LockFile, bool]:
        made = LockFile(holder, *self._open_file(fid))
        file = None
        try:
            with self._lock:
                file = self._known(holder, fid, span)  # another thread may have been faster
                if file is None:
                    made.record = self._records.add(holder, made.fd, made.access, fid)
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
            if file and self._records.is_full:
                raise OSError(errno.ENOLCK, "too many processes share locks")
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
        """Returns whether the fid is new to it. Raises OSError ENOLCK."""
        if file in self._idle:  # nothing is locked through the fids that it had
            for other in file.fids - {fid}:
                discard(self._by_fid, other, file)
                file.record.drop_fid(other)
            file.fids &= {fid}
        if fid in file.fids:
            self._begin_use(file)
            return False
        if fid != file.record.first:
            file.record.add_fid(fid)
        self._begin_use(file)
        file.fids.add(fid)
        self._by_fid.setdefault(fid, {})[file] = None
        return True

    def _join(self, file: LockFile, holder: Holder, *, alone: bool) -> None:
        """A process has locked; `alone`: no other has any more."""
        if len(file.holders) == 1 and holder in file.holders:
            return
        if self._files.setdefault(holder, file) is not file:
            return
        if holder not in file.holders:
            file.record.set_process(holder[3], HOLDER)  # before others go: there always is one
        if alone:
            for other in file.holders:
                if other != holder:
                    file.record.set_process(other[3], FORMER)
            file.former.update(file.holders)
            file.holders.clear()
        file.holders[holder] = None
        file.former.discard(holder)

    def _leave(self, file: LockFile) -> None:
        self._idle.pop(file, None)
        for holder in (*file.holders, *file.former):
            del self._files[holder]
        for fid in file.fids:
            discard(self._by_fid, fid, file)

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
            file.record.end()
        descriptors.close(file.fd)

    # ---- after a death ----------------------------------------------------------------------

    def _enter(self, found: Found) -> bool:
        """Enters a lock file in the table. Returns False if there is another one."""
        file = found.file
        holders = [*file.holders, *file.former]
        if any(holder in self._files for holder in holders):
            log.warning(
                "a guest's lock is lost, since its process has another record: restart that"
            )
            file.record.end()
            return False
        self._files.update(dict.fromkeys(holders, file))
        for fid in file.fids:
            self._by_fid.setdefault(fid, {})[file] = None
        if not file.bare:
            for span, kind in found.held.ranges:
                self._ranges.set(file, span, kind)
        return True
