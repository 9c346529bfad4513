"""Locks of guest processes, held on the host.

A guest process is named by (client_id, proc_id); fcntl and flock look alike on the wire. For every
(file, process) that holds locks there is one host descriptor of its own, a `LockFile`: locks of an
open file description belong to the descriptor, so a process never conflicts with itself, whichever
of its fids it locks or unlocks through, and does conflict with every other process of every guest
and of the host. Closing the descriptor gives all of its locks up.

A lock on the whole file may have been asked for with flock or with fcntl, so it is held as both:
flock(2) and an open-file-description lock (fcntl(2)); host processes of either kind see it. A write
lock through a descriptor that cannot write exists as flock only. Two locks are taken in any order
without deadlock: one is waited for, the other is tried, and if it is held the first is given up and
the other waited for.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from vhost9p.native import sys
from vhost9p.native.sys import RDLCK, UNLCK, WRLCK, Cancel

__all__ = ["RDLCK", "UNLCK", "WRLCK", "Cancel", "Holder", "LockFile", "LockTable", "Range"]


class Holder(NamedTuple):
    """A guest process and the file that it locks."""

    st_dev: int
    st_ino: int
    client_id: bytes
    proc_id: int


class Range(NamedTuple):
    """Bytes of a file; length 0 reaches to its end, wherever that will be."""

    start: int
    length: int

    def is_whole(self) -> bool:
        """Whether flock can express it."""
        return self.start == 0 and self.length == 0


@dataclass
class LockFile:
    """One process's locks on one file."""

    holder: Holder
    fd: int
    writable: bool
    fids: set[int] = field(default_factory=set)
    """The fids that locks were placed through and that are not clunked."""
    waits: int = 0
    """Threads that wait for a lock on `fd`; it stays open for them."""
    abandoned: bool = False


Taker = Callable[[Cancel | None], None]


def _takers(file: LockFile, kind: int, span: Range, *, fid_writable: bool) -> list[Taker]:
    """The host locks that make up one guest lock."""

    def take_range(cancel: Cancel | None) -> None:
        sys.ofd_lock(file.fd, kind, span.start, span.length, cancel)

    def take_flock(cancel: Cancel | None) -> None:
        sys.flock(file.fd, kind, cancel)

    if not span.is_whole():
        return [take_range]
    if kind == WRLCK and not (file.writable and fid_writable):
        return [take_flock]
    return [take_flock, take_range]


def _give_up(file: LockFile, span: Range) -> None:
    sys.ofd_lock(file.fd, UNLCK, span.start, span.length)
    if span.is_whole():
        sys.flock(file.fd, UNLCK)


def _take_all(takers: list[Taker], back_off: Callable[[], None], cancel: Cancel | None) -> None:
    """Takes one or two locks or none; waits where `cancel` is given."""
    while True:
        takers[0](cancel)
        try:
            for take in takers[1:]:
                take(None)
            return
        except BlockingIOError:
            back_off()
            if cancel is None:
                raise
            takers = takers[::-1]  # wait for the one that was in the way


class LockTable:
    """All locks of one device's guest. Thread-safe."""

    def __init__(self) -> None:
        self._files: dict[Holder, LockFile] = {}
        self._lock = threading.Lock()

    def open(self, holder: Holder, fid: int, open_file: Callable[[], tuple[int, bool]]) -> LockFile:
        """The process's lock file, opened if need be, used by one more thread until `done`."""
        with self._lock:
            file = self._files.get(holder)
            if file is None:
                file = self._files[holder] = LockFile(holder, *open_file())
            file.fids.add(fid)
            file.waits += 1
            return file

    def done(self, file: LockFile) -> None:
        """Ends a use that `open` began."""
        with self._lock:
            file.waits -= 1
            self._close_if_unused(file)

    def take(
        self, file: LockFile, kind: int, span: Range, *, fid_writable: bool, cancel: Cancel | None
    ) -> None:
        """Takes a lock; BlockingIOError or InterruptedError as `sys.ofd_lock`, and then nothing
        has changed but for a lock of the same range that a failed conversion gave up."""
        takers = _takers(file, kind, span, fid_writable=fid_writable)
        _take_all(takers, lambda: _give_up(file, span), cancel)

    def release(self, holder: Holder, span: Range) -> None:
        """Unlocks a range, through whichever of the process's fids it was locked."""
        with self._lock:
            file = self._files.get(holder)
            if file is None:
                return
            _give_up(file, span)
            if span.is_whole():
                self._abandon(file)

    def clunk(self, fid: int) -> None:
        """A fid goes; with its last fid a process's locks on a file go."""
        with self._lock:
            for file in [file for file in self._files.values() if fid in file.fids]:
                file.fids.discard(fid)
                if not file.fids:
                    self._abandon(file)

    def clear(self) -> None:
        """Gives every lock up."""
        with self._lock:
            for file in list(self._files.values()):
                self._abandon(file)

    def blocker(
        self, holder: Holder, kind: int, span: Range, open_file: Callable[[], tuple[int, bool]]
    ) -> tuple[int, Range, int] | None:
        """Who is in the way of a lock: (kind, range, process id, 0 if unknown), or None."""
        with self._lock:
            file = self._files.get(holder)
            fd = file.fd if file else open_file()[0]
            try:
                found = sys.ofd_test(fd, kind, span.start, span.length)
            finally:
                if file is None:
                    os.close(fd)
            if found is None:
                return None
            in_the_way, start, length, pid = found
            return in_the_way, Range(start, length), self._process(holder, pid)

    def _process(self, holder: Holder, pid: int) -> int:
        """A process id for the guest: the one other guest process that locks the file, if the lock
        is no host process's and there is just one."""
        others = {
            other.proc_id
            for other in self._files
            if other[:2] == holder[:2] and other[2:] != holder[2:]
        }
        return others.pop() if pid <= 0 and len(others) == 1 else 0

    def _abandon(self, file: LockFile) -> None:
        del self._files[file.holder]
        file.abandoned = True
        with suppress(OSError):
            _give_up(file, Range(0, 0))
        self._close_if_unused(file)

    def _close_if_unused(self, file: LockFile) -> None:
        if file.abandoned and not file.waits:
            os.close(file.fd)
