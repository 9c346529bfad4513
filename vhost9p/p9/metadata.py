"""Tsetattr and Tfsync."""

import errno
import os
from collections.abc import Callable
from typing import Any

from vhost9p.fs.driver import TIME_NOW, TIME_OMIT, Times
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import LATER, Context, Handler, Request, file_fd

RunOffThread = Callable[[Request, Callable[[], Message]], None]
NO_ID = 0xFFFFFFFF
OFF_MAX = 2**63 - 1


def _time(valid: int, change: int, explicit: int, sec: int, nsec: int) -> tuple[int, int]:
    """One time as utimensat(2) wants it."""
    if not valid & change:
        return 0, TIME_OMIT
    if not valid & explicit:
        return 0, TIME_NOW
    if nsec >= 1_000_000_000:
        raise P9Error(errno.EINVAL, f"{nsec} nanoseconds")
    return (sec if sec <= OFF_MAX else sec - 2**64), nsec


class MetadataFamily:
    """`off_thread` runs what may block, and answers the request with its result."""

    def __init__(self, context: Context, off_thread: RunOffThread) -> None:
        self._context = context
        self._fids = context.fids
        self._driver = context.driver
        self._off_thread = off_thread

    def handlers(self) -> dict[type[m.Message], Handler]:
        """The requests of this family."""
        return {m.Tsetattr: self.setattr, m.Tfsync: self.fsync}

    def setattr(self, request: Request, t: m.Tsetattr) -> m.Rsetattr:
        """Owner first, since chown(2) clears set-id bits that a mode may set; times last, since
        the others change them."""
        self._context.require_writable()
        with self._fids.get(t.fid) as fid:
            fd = file_fd(fid.path_fd)
            if t.valid & (c.SETATTR_UID | c.SETATTR_GID):
                uid = t.uid if t.valid & c.SETATTR_UID and t.uid != NO_ID else -1
                gid = t.gid if t.valid & c.SETATTR_GID and t.gid != NO_ID else -1
                self._driver.chown(fd, uid, gid)
            if t.valid & c.SETATTR_MODE:
                self._driver.chmod(fd, t.mode)
            if t.valid & c.SETATTR_SIZE:
                self._truncate(fid, t.size)
            self._set_times(fd, t)
        return m.Rsetattr()

    def _truncate(self, fid: Any, size: int) -> None:
        if size > OFF_MAX:
            raise P9Error(errno.EINVAL, f"a size of {size} bytes")
        writable = fid.io_fd >= 0 and fid.io_flags & os.O_ACCMODE != os.O_RDONLY
        self._driver.truncate(fid.path_fd, fid.io_fd if writable else -1, size)

    def _set_times(self, fd: int, t: m.Tsetattr) -> None:
        valid = t.valid
        if not valid & (c.SETATTR_ATIME | c.SETATTR_MTIME):
            # What is left may be ctime alone: any change of an inode sets it. So does this.
            if valid & c.SETATTR_CTIME and not valid & ~c.SETATTR_CTIME:
                self._driver.chown(fd, -1, -1)
            return
        self._driver.utimens(
            fd,
            Times(
                _time(valid, c.SETATTR_ATIME, c.SETATTR_ATIME_SET, t.atime_sec, t.atime_nsec),
                _time(valid, c.SETATTR_MTIME, c.SETATTR_MTIME_SET, t.mtime_sec, t.mtime_nsec),
            ),
        )

    def fsync(self, request: Request, t: m.Tfsync) -> m.Rfsync | None:
        """fsync(2) or fdatasync(2), off the thread: a disk may take its time."""
        with self._fids.get(t.fid) as fid:
            if fid.io_fd < 0:
                raise P9Error(errno.EBADF, "the fid is not open")

        def sync() -> m.Rfsync:
            with self._fids.get(t.fid) as fid:
                self._driver.fsync(fid.io_fd, data_only=bool(t.datasync))
            return m.Rfsync()

        self._off_thread(request, sync)
        return LATER
