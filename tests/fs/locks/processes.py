"""Processes that lock: of a guest, through a lock table, and of the host; threads that wait."""

import errno
import fcntl
import mmap
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vhost9p.fs.lock_file import Holder
from vhost9p.fs.locks import (
    MEMORY_SIZE,
    RDLCK,
    UNLCK,
    WRLCK,
    Blocker,
    Cancel,
    LockTable,
)
from vhost9p.fs.ranges import WHOLE, Span
from vhost9p.native import sys

FID = 7
TIMEOUT = 20


class Host:
    """A process of the host, as far as the kernel can tell: descriptors of their own."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self.path = path

    def close(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def fcntl(self, kind: int, span: Span = WHOLE) -> bool:
        """Takes or gives up a range; whether that was possible."""
        with suppress(BlockingIOError):
            sys.ofd_lock(self._fd, kind, *span)
            return True
        return False

    def flock(self, kind: int) -> bool:
        """The same with flock(2)."""
        with suppress(BlockingIOError):
            sys.flock(self._fd, kind)
            return True
        return False

    def finds(self, kind: int, span: Span = WHOLE) -> int:
        """The kind of lock that is in the way of a range lock; UNLCK: none."""
        found = sys.ofd_test(self._fd, kind, *span)
        return found[0] if found else UNLCK

    def finds_flock(self) -> int:
        """How the file is locked with flock(2)."""
        probe = os.open(self.path, os.O_RDWR)
        try:
            for kind, held in ((fcntl.LOCK_EX, UNLCK), (fcntl.LOCK_SH, RDLCK)):
                with suppress(BlockingIOError):
                    fcntl.flock(probe, kind | fcntl.LOCK_NB)
                    return held
            return WRLCK
        finally:
            os.close(probe)


class Table(LockTable):
    """A lock table without a fid table: each process (`Process`) has added what its fid opens.
    `before` is a table whose process has been killed."""

    def __init__(self, before: "Table | None" = None) -> None:
        self.memory: mmap.mmap = before.memory if before else mmap.mmap(-1, MEMORY_SIZE)
        super().__init__(lambda file: None, self._open_path, self._check, self.memory)
        self._opens: dict[int, tuple[Path, int]] = before._opens if before else {}
        if before:
            self.recover()

    def add(self, fid: int, path: Path, access: int) -> None:
        self._opens[fid] = path, access

    def remove(self, fid: int) -> None:
        """As Tclunk does: first the fid, then its locks."""
        self._opens.pop(fid, None)
        self.clunk(fid)

    def _check(self, fid: int) -> None:
        if fid not in self._opens:
            raise OSError(errno.EBADF, "the fid is gone")

    def _open_path(self, fid: int) -> tuple[int, int]:
        path, access = self._opens[fid]
        return os.open(path, access), access


class Process:
    """A process of a guest: locks through one fid."""

    def __init__(
        self,
        table: Table,
        path: Path,
        pid: int,
        access: int = os.O_RDWR,
        *,
        fid: int | None = None,
        client: bytes = b"guest",
    ) -> None:
        status = os.stat(path)
        self.table = table
        self.holder: Holder = (status.st_dev, status.st_ino, client, pid)
        self.fid = FID + pid if fid is None else fid
        self.path = path
        table.add(self.fid, path, access)

    def lock(
        self, kind: int, span: Span = WHOLE, *, writable: bool = True, cancel: Cancel | None = None
    ) -> bool:
        """Takes a lock; False where it is held."""
        if cancel is None:
            return self.table.lock(self.holder, self.fid, kind, span, fid_writable=writable)
        file = self.table.open(self.holder, self.fid, span)
        try:
            self.table.take(file, self.holder, self.fid, kind, span, writable, cancel)
        finally:
            self.table.done(file)
        return True

    def unlock(
        self, span: Span = WHOLE, *, flock: bool = False, keep: bool = False, request: int = 0
    ) -> None:
        self.table.release(self.holder, self.fid, span, flock=flock, keep=keep, request=request)

    def blocker(self, kind: int, span: Span = WHOLE) -> Blocker | None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return self.table.blocker(self.holder, kind, span, fd)
        finally:
            os.close(fd)


class Waiter:
    """A thread that waits for a lock: calls `work` with `cancel`."""

    def __init__(self, work: Callable[..., object]) -> None:
        self.cancel = Cancel()
        self.error: OSError | None = None
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[..., object]) -> None:
        try:
            work(cancel=self.cancel)
        except OSError as error:
            self.error = error
        self.done.set()

    def join(self) -> None:
        assert self.done.wait(TIMEOUT)
        self._thread.join()

    def stop(self) -> None:
        """Cancels the wait."""
        self.cancel.set()
        while not self.done.wait(0.001):
            assert self._thread.ident
            signal.pthread_kill(self._thread.ident, sys.wake_signal())
        self._thread.join()
