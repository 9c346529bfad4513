"""Tcreate and Twstat of 9P2000.u, which take the place of a dozen messages of 9P2000.L.

Tcreate has no group: a new file gets the daemon's group, or that of a set-gid directory.

Tcreate creates new files only (open(5) of Plan 9). Linux's client cannot express O_EXCL here, and
sends Tcreate only after it has found no such file.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from vhost9p.fs.driver import (
    OWN_ID,
    Attr,
    Created,
    Driver,
    Owner,
    SetAttr,
    close_fd,
    open_mode,
)
from vhost9p.p9 import constants as c
from vhost9p.p9 import dialect_u_messages as u
from vhost9p.p9.codec import Message, P9Error, Qid
from vhost9p.p9.context import (
    Context,
    Handler,
    Request,
    check_name,
    check_target,
    file_fd,
    id_of,
    qid_of,
)
from vhost9p.p9.dialect_u_stat import KIND_BITS, KINDS, device_of, fid_of, permissions
from vhost9p.p9.fids import Fid

EXCL = 0o200
"""O_EXCL as Tlcreate encodes it."""

ALONE16, ALONE32, ALONE64 = 2**16 - 1, 2**32 - 1, 2**64 - 1
"""Numbers in a Twstat that leave a field unchanged."""
TIMES = c.SETATTR_ATIME | c.SETATTR_ATIME_SET | c.SETATTR_MTIME | c.SETATTR_MTIME_SET
ANY_QID = Qid(0xFF, ALONE32, ALONE64)
UNTOUCHED = u.Stat(
    type=ALONE16,
    dev=ALONE32,
    qid=ANY_QID,
    mode=ALONE32,
    atime=ALONE32,
    mtime=ALONE32,
    length=ALONE64,
    name=b"",
    uid=b"",
    gid=b"",
    muid=b"",
    extension=b"",
    n_uid=ALONE32,
    n_gid=ALONE32,
    n_muid=ALONE32,
)


class _New(NamedTuple):
    """A Tcreate's arguments, for the directory of `fid`."""

    driver: Driver
    fid: Fid
    name: bytes
    mode: int
    owner: Owner
    extension: bytes


class DialectUFamily:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fids = context.fids
        self._makers: dict[int, Callable[[_New], object]] = {
            c.DMDIR: _mkdir,
            c.DMSYMLINK: _symlink,
            c.DMLINK: self._link,
            c.DMDEVICE: lambda new: _mknod(new, *device_of(new.extension)),
            c.DMNAMEDPIPE: lambda new: _mknod(new, stat.S_IFIFO),
            c.DMSOCKET: lambda new: _mknod(new, stat.S_IFSOCK),
        }

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {u.Tcreate: self.create, u.Twstat: self.wstat}

    def create(self, request: Request, t: u.Tcreate) -> u.Rcreate:
        """Creates a file. The directory's fid then refers to it, open if it is a regular file or a
        directory."""
        name, mode = check_name(t.name, errno.EEXIST), permissions(t.perm)
        flags, kind = open_mode(t.mode), t.perm & KIND_BITS
        if kind and kind not in self._makers:
            raise P9Error(errno.EINVAL, f"a file of several kinds: {t.perm:#x}")
        if kind == c.DMDIR and flags & os.O_ACCMODE != os.O_RDONLY:
            raise P9Error(errno.EISDIR, "a directory can be opened for reading only")
        with self._fids.get(t.fid) as fid:
            driver = self._context.writable(fid)
            if fid.io_fd >= 0 or fid.flags:
                raise P9Error(errno.EBADF, "the fid is in use for something else")
            owner, dir_fd = Owner(fid.uid, OWN_ID), file_fd(fid.path_fd)
            if not kind:
                made = driver.create(dir_fd, name, flags | EXCL, mode, owner)
            else:
                self._makers[kind](_New(driver, fid, name, mode, owner, t.extension))
                made = _found(driver, dir_fd, name, kind)
            try:
                self._fids.become(fid, name, *made)
            except OSError:
                driver.take_back(dir_fd, name, made.path_fd, is_dir=kind == c.DMDIR)
                _close(made)
                raise
        return u.Rcreate(qid_of(made.attr), 0)

    def _link(self, new: _New) -> None:
        with self._fids.get(fid_of(new.extension)) as fid:
            fid.link(new.fid, new.name)

    def wstat(self, request: Request, t: u.Twstat) -> u.Rwstat | None:
        """Changes attributes, the name last. If all are left unchanged, makes the file durable
        (stat(5)). muid is ignored: Linux's client sends it along with a name."""
        if replace(t.stat, muid=b"", n_muid=ALONE32) == UNTOUCHED:
            with self._fids.get(t.fid) as fid:
                fid.sync()
            return u.Rwstat()
        name = check_name(t.stat.name, errno.EBUSY) if t.stat.name else b""
        with self._fids.get(t.fid) as fid:
            driver = self._context.driver(fid)
            attr = driver.attr(file_fd(fid.path_fd), meta_fd=fid.meta_fd)
            _change(fid, _changes(t.stat, attr))
            if name:
                fid.rename(name)
        return u.Rwstat()


def _mkdir(new: _New) -> None:
    new.driver.mkdir(new.fid.path_fd, new.name, new.mode, new.owner)


def _symlink(new: _New) -> None:
    target = check_target(new.extension)
    new.driver.symlink(new.fid.path_fd, new.name, target, new.owner)


def _mknod(new: _New, kind: int, major: int = 0, minor: int = 0) -> None:
    device = (major, minor)
    new.driver.mknod(new.fid.path_fd, new.name, kind | new.mode, device, new.owner)


def _found(driver: Driver, dir_fd: int, name: bytes, kind: int) -> Created:
    """Returns what was just created, or takes it back. A directory that the daemon may not read
    stays closed."""
    path_fd = -1
    try:
        path_fd, attr = driver.walk(dir_fd, name)
        made = Created(path_fd, -1, 0, attr)
        if kind == c.DMDIR:
            with suppress(PermissionError):
                return Created(path_fd, *driver.open(path_fd, os.O_RDONLY), attr)
    except OSError:
        driver.take_back(dir_fd, name, path_fd, is_dir=kind == c.DMDIR)
        if path_fd >= 0:
            close_fd(path_fd)
        raise
    return made


def _close(made: Created) -> None:
    close_fd(made.path_fd)
    if made.io_fd >= 0:
        close_fd(made.io_fd)


def _change(fid: Fid, changes: SetAttr) -> None:
    """Applies changes. A change of size sets mtime as well. A daemon that may write the file but
    does not own it cannot set mtime again; the host's time is good enough then, since a client that
    truncates a file sends the current time."""
    times = changes.valid & TIMES
    if not changes.valid & c.SETATTR_SIZE or times & c.SETATTR_ATIME:
        fid.setattr(changes)
        return
    fid.setattr(changes._replace(valid=changes.valid & ~TIMES))
    if times:
        with suppress(PermissionError):
            fid.setattr(changes._replace(valid=times))


def _changes(wanted: u.Stat, now: Attr) -> SetAttr:
    """Returns the changes of a Twstat, except the name. Raises P9Error for fields that cannot
    change."""
    fixed = (wanted.type, wanted.dev, wanted.qid, wanted.extension)
    if fixed != (ALONE16, ALONE32, ANY_QID, b""):
        raise P9Error(errno.EPERM, "type, dev, qid and extension cannot be changed")
    owner, group = _id(wanted.n_uid, wanted.uid), _id(wanted.n_gid, wanted.gid)
    valid = (
        (c.SETATTR_UID if owner != OWN_ID else 0)
        | (c.SETATTR_GID if group != OWN_ID else 0)
        | (c.SETATTR_MODE if wanted.mode != ALONE32 else 0)
        | (c.SETATTR_SIZE if wanted.length != ALONE64 else 0)
        | (c.SETATTR_ATIME | c.SETATTR_ATIME_SET if wanted.atime != ALONE32 else 0)
        | (c.SETATTR_MTIME | c.SETATTR_MTIME_SET if wanted.mtime != ALONE32 else 0)
    )
    return SetAttr(
        valid,
        _chmod(wanted.mode, now) if wanted.mode != ALONE32 else 0,
        owner,
        group,
        wanted.length,
        atime_sec=wanted.atime,
        mtime_sec=wanted.mtime,
    )


def _chmod(mode: int, now: Attr) -> int:
    if mode & KIND_BITS != KINDS.get(stat.S_IFMT(now.mode), 0):
        raise P9Error(errno.EINVAL, f"mode {mode:#x} belongs to another kind of file")
    return permissions(mode)


def _id(number: int, name: bytes) -> int:
    """Returns an id: the number; without one the name, which must be a decimal number; OWN_ID,
    which leaves the owner alone, without either."""
    if number != c.NONUNAME or not name:
        return number
    found = id_of(name)
    if found is None:
        raise P9Error(errno.EINVAL, f"{name!r} is no decimal number of a user or group")
    return found
