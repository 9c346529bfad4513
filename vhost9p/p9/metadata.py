"""Tsetattr and Tfsync."""

import errno
import os

from vhost9p.fs.driver import TIME_NOW, TIME_OMIT, Driver, File, Times
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import Context, Handler, Request, file_fd
from vhost9p.p9.fids import Fid

NO_ID = 0xFFFFFFFF
OFF_MAX = 2**63 - 1


KNOWN = 0x1FF
"""All SETATTR_* bits."""
IDS = c.SETATTR_UID | c.SETATTR_GID
TIMES = c.SETATTR_ATIME | c.SETATTR_MTIME
CHANGES = c.SETATTR_MODE | c.SETATTR_SIZE | c.SETATTR_ATIME | c.SETATTR_MTIME
"""Changes that set ctime by themselves."""


def _time(changes: int, explicit: int, sec: int, nsec: int) -> tuple[int, int]:
    """Returns one time for utimensat(2): unchanged, now, or explicit."""
    if not changes:
        return 0, TIME_OMIT
    if not explicit:
        return 0, TIME_NOW
    if nsec >= 1_000_000_000:
        raise P9Error(errno.EINVAL, f"{nsec} nanoseconds")
    return (sec if sec <= OFF_MAX else sec - 2**64), nsec


def _times(t: m.Tsetattr) -> Times | None:
    """Returns the times to set, at least one; None if there are none.

    A change of size sets mtime already. Setting it again would fail if the daemon may write the
    file but does not own it.
    """
    valid = t.valid
    if valid & c.SETATTR_SIZE and valid & (TIMES | c.SETATTR_MTIME_SET) == c.SETATTR_MTIME:
        return None
    return Times(
        _time(valid & c.SETATTR_ATIME, valid & c.SETATTR_ATIME_SET, t.atime_sec, t.atime_nsec),
        _time(valid & c.SETATTR_MTIME, valid & c.SETATTR_MTIME_SET, t.mtime_sec, t.mtime_nsec),
    )


def _check(t: m.Tsetattr) -> None:
    if t.valid & ~KNOWN:
        raise P9Error(errno.EINVAL, f"setattr valid {t.valid:#x}")
    if t.valid & c.SETATTR_SIZE and t.size > OFF_MAX:
        raise P9Error(errno.EINVAL, f"a size of {t.size} bytes")


def _ids(t: m.Tsetattr) -> tuple[int, int]:
    """Returns owner and group for chown(2): -1 leaves one unchanged."""
    uid = t.uid if t.valid & c.SETATTR_UID and t.uid != NO_ID else -1
    gid = t.gid if t.valid & c.SETATTR_GID and t.gid != NO_ID else -1
    return uid, gid


def change(
    driver: Driver,
    fid: Fid,
    uid: int = -1,
    gid: int = -1,
    size: int | None = None,
    mode: int | None = None,
    times: Times | None = None,
) -> None:
    """Changes a file; -1 and None leave a value unchanged. Owner and size come before the mode,
    since they clear set-id bits, which the mode may set. Times come last, since the others change
    them.

    The size is set through the fid's own descriptor if that can write: permission was checked at
    open, and the file's mode may forbid writing now.
    """
    path_fd = file_fd(fid.path_fd)
    if uid != -1 or gid != -1:
        driver.chown(File(path_fd, fid.meta_fd), uid, gid)
    if size is not None:
        writable = fid.io_fd >= 0 and fid.io_flags & os.O_ACCMODE != os.O_RDONLY
        with fid.resizing(size):
            driver.truncate(path_fd, fid.io_fd if writable else -1, size)
    if mode is not None:
        driver.chmod(File(path_fd, fid.meta_fd), mode)
    if times:
        driver.utimens(path_fd, times)


class MetadataFamily:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fids = context.fids

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {m.Tsetattr: self.setattr, m.Tfsync: self.fsync}

    def setattr(self, request: Request, t: m.Tsetattr) -> m.Rsetattr:
        """Changes attributes (see `change`), and sets ctime if no change does."""
        valid = t.valid
        with self._fids.get(t.fid) as fid:
            driver = self._context.writable(fid)
            file_fd(fid.path_fd)
            _check(t)
            uid, gid = _ids(t) if valid & IDS else (-1, -1)
            size = t.size if valid & c.SETATTR_SIZE else None
            mode = t.mode if valid & c.SETATTR_MODE else None
            times = _times(t) if valid & TIMES else None
            change(driver, fid, uid, gid, size, mode, times)
            if valid & c.SETATTR_CTIME and not valid & CHANGES and uid == gid == -1:
                driver.touch(fid.path_fd)
        return m.Rsetattr()

    def fsync(self, request: Request, t: m.Tfsync) -> m.Rfsync:
        """fsync(2) or fdatasync(2)."""
        with self._fids.get(t.fid) as fid:
            if fid.io_fd < 0:
                raise P9Error(errno.EBADF, "the fid is not open")
            self._context.driver(fid).fsync(fid.io_fd, data_only=bool(t.datasync))
        return m.Rfsync()
