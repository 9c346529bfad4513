"""Requests that make, name and remove files.

The owner of what a fid creates is the uid that the attach named which the fid descends from; the
group is in the request. Names are validated before anything happens.
"""

import errno
import os
from collections.abc import Callable

from vhost9p.fs.driver import Created, Owner
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import (
    Context,
    Handler,
    Request,
    check_name,
    check_target,
    file_fd,
    file_of,
    qid_of,
)
from vhost9p.p9.fids import FID_UPCALL, Fid, FidTable


def become(fids: FidTable, fid: Fid, made: Created) -> None:
    """Makes a directory's fid stand for what was created in it. Takes the descriptors over."""
    try:
        fids.become(fid, made.path_fd, made.io_fd, made.io_flags, made.attr)
    except OSError:
        os.close(made.path_fd)
        if made.io_fd >= 0:
            os.close(made.io_fd)
        raise


class NamespaceFamily:
    """Tlcreate, Tmkdir, Tmknod, Tsymlink, Tlink, Tunlinkat, Tremove, Trename, Trenameat.

    `drop` frees a fid and all that is kept for it.
    """

    def __init__(self, context: Context, drop: Callable[[int], None]) -> None:
        self._context = context
        self._drop = drop
        self._fids = context.fids

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {
            m.Tlcreate: self.lcreate,
            m.Tmkdir: self.mkdir,
            m.Tmknod: self.mknod,
            m.Tsymlink: self.symlink,
            m.Tlink: self.link,
            m.Tunlinkat: self.unlinkat,
            m.Tremove: self.remove,
            m.Trename: self.rename,
            m.Trenameat: self.renameat,
        }

    def lcreate(self, request: Request, t: m.Tlcreate) -> m.Rlcreate:
        """Creates and opens; the directory's fid then stands for the file."""
        name = check_name(t.name, errno.EEXIST)
        with self._fids.get(t.fid) as fid:
            driver = self._context.writable(fid)
            if fid.io_fd >= 0 or fid.flags:
                raise P9Error(errno.EBADF, "the fid is in use for something else")
            owner = Owner(fid.uid, t.gid)
            made = driver.create(file_fd(fid.path_fd), name, t.flags, t.mode, owner)
            become(self._fids, fid, made)
        return m.Rlcreate(qid_of(made.attr), 0)

    def mkdir(self, request: Request, t: m.Tmkdir) -> m.Rmkdir:
        """mkdir(2)."""
        name = check_name(t.name, errno.EEXIST)
        with self._fids.get(t.dfid) as fid:
            driver, owner = self._context.writable(fid), Owner(fid.uid, t.gid)
            return m.Rmkdir(qid_of(driver.mkdir(file_fd(fid.path_fd), name, t.mode, owner)))

    def mknod(self, request: Request, t: m.Tmknod) -> m.Rmknod:
        """mknod(2)."""
        name = check_name(t.name, errno.EEXIST)
        with self._fids.get(t.dfid) as fid:
            driver, owner = self._context.writable(fid), Owner(fid.uid, t.gid)
            device = (t.major, t.minor)
            attr = driver.mknod(file_fd(fid.path_fd), name, t.mode, device, owner)
        return m.Rmknod(qid_of(attr))

    def symlink(self, request: Request, t: m.Tsymlink) -> m.Rsymlink:
        """symlink(2)."""
        name, target = check_name(t.name, errno.EEXIST), check_target(t.target)
        with self._fids.get(t.dfid) as fid:
            driver, owner = self._context.writable(fid), Owner(fid.uid, t.gid)
            attr = driver.symlink(file_fd(fid.path_fd), name, target, owner)
        return m.Rsymlink(qid_of(attr))

    def link(self, request: Request, t: m.Tlink) -> m.Rlink:
        """link(2)."""
        name = check_name(t.name, errno.EEXIST)
        with self._fids.get(t.dfid) as directory, self._fids.get(t.fid) as fid:
            driver = self._context.writable(directory, fid)
            driver.link(file_of(fid), file_fd(directory.path_fd), name)
        return m.Rlink()

    def unlinkat(self, request: Request, t: m.Tunlinkat) -> m.Runlinkat:
        """unlinkat(2), whether the directory's fid is open or not."""
        name = check_name(t.name, errno.EINVAL)
        with self._fids.get(t.dirfd) as fid:
            driver = self._context.writable(fid)
            if t.flags not in (0, c.AT_REMOVEDIR):
                raise P9Error(errno.EINVAL, f"unlinkat flags {t.flags:#x}")
            directory, dir_fd = t.flags == c.AT_REMOVEDIR, file_fd(fid.path_fd)
            with self._fids.removing(fid, name):
                driver.unlink(dir_fd, name, directory=directory)
        return m.Runlinkat()

    def remove(self, request: Request, t: m.Tremove) -> m.Rremove:
        """Removes the file and clunks the fid, the latter even where the former fails."""
        try:
            with self._fids.get(t.fid) as fid:
                driver = self._context.writable(fid)
                if fid.flags & FID_UPCALL:
                    raise P9Error(errno.EBADF, "the fid stands for an extended attribute")
                with self._fids.removing(fid):
                    driver.remove(fid.path_fd)
        finally:
            self._drop(t.fid)
        return m.Rremove()

    def rename(self, request: Request, t: m.Trename) -> m.Rrename:
        """Moves the file of a fid."""
        name = check_name(t.name, errno.EBUSY)
        with self._fids.get(t.fid) as fid, self._fids.get(t.dfid) as directory:
            driver = self._context.writable(fid, directory)
            file, into = file_fd(fid.path_fd), file_fd(directory.path_fd)
            with self._fids.renaming(fid, b"", directory, name):
                driver.rename_file(file, into, name)
        return m.Rrename()

    def renameat(self, request: Request, t: m.Trenameat) -> m.Rrenameat:
        """renameat(2)."""
        old, new = check_name(t.oldname, errno.EBUSY), check_name(t.newname, errno.EBUSY)
        with self._fids.get(t.olddirfid) as olddir:
            if t.newdirfid == t.olddirfid:  # as most often: it is pinned once
                return self._renameat(olddir, old, olddir, new)
            with self._fids.get(t.newdirfid) as newdir:
                return self._renameat(olddir, old, newdir, new)

    def _renameat(self, olddir: Fid, old: bytes, newdir: Fid, new: bytes) -> m.Rrenameat:
        driver = self._context.writable(olddir, newdir)
        old_dir, new_dir = file_fd(olddir.path_fd), file_fd(newdir.path_fd)
        with self._fids.renaming(olddir, old, newdir, new):
            driver.rename(old_dir, old, new_dir, new)
        return m.Rrenameat()
