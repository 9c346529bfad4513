"""Requests that add, change and remove names of files.

C creates and unlinks entries by their directory's fid (csrc/p9/create.c). Names are validated
before anything changes.
"""

import errno
import os
import stat
from collections.abc import Callable

from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import (
    Context,
    Handler,
    Request,
    check_name,
    file_fd,
    file_of,
)
from vhost9p.p9.fids import FID_XATTR, Fid


class NamespaceFamily:
    """Tlink, Tremove, Trename, Trenameat.

    `drop` frees a fid, by its handle, and all data stored for it.
    """

    def __init__(self, context: Context, drop: Callable[[int], None]) -> None:
        self._context = context
        self._drop = drop
        self._fids = context.fids

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {
            m.Tlink: self.link,
            m.Tremove: self.remove,
            m.Trename: self.rename,
            m.Trenameat: self.renameat,
        }

    def link(self, request: Request, t: m.Tlink) -> m.Rlink:
        """link(2)."""
        name = check_name(t.name, errno.EEXIST)
        with self._fids.get(t.dfid) as directory, self._fids.get(t.fid) as fid:
            driver = self._context.writable(directory, fid)
            driver.link(file_of(fid), file_fd(directory.path_fd), name)
        return m.Rlink()

    def remove(self, request: Request, t: m.Tremove) -> m.Rremove:
        """Removes the file and clunks the fid, even if the removal fails."""
        handle = self._fids.find(t.fid)
        try:
            with self._fids.get(t.fid) as fid:
                driver = self._context.writable(fid)
                if fid.flags & FID_XATTR:
                    raise P9Error(errno.EBADF, "the fid stands for an extended attribute")
                directory = stat.S_ISDIR(os.stat(fid.path_fd).st_mode)
                with self._fids.removing(fid), self._fids.own_name(fid) as (parent, name):
                    driver.unlink(parent, name, directory=directory)
        finally:
            self._drop(handle)
        return m.Rremove()

    def rename(self, request: Request, t: m.Trename) -> m.Rrename:
        """Moves the file of a fid."""
        name = check_name(t.name, errno.EBUSY)
        with self._fids.get(t.fid) as fid, self._fids.get(t.dfid) as directory:
            driver = self._context.writable(fid, directory)
            file_fd(fid.path_fd)
            into = file_fd(directory.path_fd)
            with (
                self._fids.renaming(fid, b"", directory, name),
                self._fids.own_name(fid) as (parent, own),
            ):
                driver.rename(parent, own, into, name)
        return m.Rrename()

    def renameat(self, request: Request, t: m.Trenameat) -> m.Rrenameat:
        """renameat(2)."""
        old, new = check_name(t.oldname, errno.EBUSY), check_name(t.newname, errno.EBUSY)
        with self._fids.get(t.olddirfid) as olddir:
            if t.newdirfid == t.olddirfid:  # the usual case: pin it once
                return self._renameat(olddir, old, olddir, new)
            with self._fids.get(t.newdirfid) as newdir:
                return self._renameat(olddir, old, newdir, new)

    def _renameat(self, olddir: Fid, old: bytes, newdir: Fid, new: bytes) -> m.Rrenameat:
        driver = self._context.writable(olddir, newdir)
        old_dir, new_dir = file_fd(olddir.path_fd), file_fd(newdir.path_fd)
        with self._fids.renaming(olddir, old, newdir, new):
            driver.rename(old_dir, old, new_dir, new)
        return m.Rrenameat()
