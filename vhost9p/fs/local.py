"""The driver that serves a directory of the host.

Everything is done by descriptor. Calls that exist only with a path get /proc/self/fd/N of a
descriptor that is held, which names the file itself (proc(5)), whatever its names have become; a
final symlink there is the file, not what it points to.

Security models. `passthrough`: what the guest creates has the guest's owner and mode on the host.
With privilege the creating call runs as that owner (csrc/sys.c); without, the daemon can create
files of its own user only, and says EPERM for others. `none`: as passthrough, but a file whose
owner cannot be set is the daemon's and the guest is not told.
"""

import os
import stat
from collections.abc import Callable
from typing import TypeVar

from vhost9p.fs.driver import Created, Owner, Times
from vhost9p.native import sys
from vhost9p.native.export import Attr, Export

T = TypeVar("T")

OWN_UID = 0xFFFFFFFF

# 9P2000.L's open flags: Linux's generic numbers.
P9_ACCMODE = 0o3
P9_EXCL = 0o200
P9_TRUNC = 0o1000
P9_APPEND = 0o2000
P9_DSYNC = 0o10000
P9_SYNC = 0o4000000


def proc_path(fd: int) -> str:
    """A path that names what a descriptor of this process names."""
    return f"/proc/self/fd/{fd}"


def create_flags(flags: int) -> int:
    """Host flags for opening a created file; what is dropped and why: csrc/fast_file.c."""
    host = os.O_RDWR if flags & P9_ACCMODE == P9_ACCMODE else flags & P9_ACCMODE
    if flags & P9_APPEND and flags & P9_ACCMODE == os.O_WRONLY:
        host |= os.O_APPEND
    if flags & P9_SYNC == P9_SYNC:
        host |= os.O_SYNC
    elif flags & (P9_SYNC | P9_DSYNC):
        host |= os.O_DSYNC
    return host | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LocalDriver:
    """Serves `export`. `ownership_matters` is security_model passthrough, as opposed to none."""

    def __init__(self, export: Export, root_fd: int, *, readonly: bool, ownership_matters: bool):
        self.export = export
        self.readonly = readonly
        self._root_fd = root_fd
        self._ownership_matters = ownership_matters
        self._privileged = os.geteuid() == 0
        self._own_groups = {os.getegid(), *os.getgroups()}

    # ---- reaching files ---------------------------------------------------------------------

    def attr(self, fd: int, name: bytes = b"") -> Attr:
        """See Driver."""
        return self.export.attr(fd, name)

    def _descend(self, components: list[bytes]) -> int:
        """Walks down from the root; the caller closes the descriptor."""
        fd = os.dup(self._root_fd)
        for name in components:
            try:
                below = self.export.step(fd, name)
            finally:
                os.close(fd)
            fd = below
        return fd

    def attach(self, path: bytes) -> tuple[int, Attr]:
        """See Driver. The path is taken below the export, without symlinks."""
        fd = self._descend([name for name in path.split(b"/") if name and name != b"."])
        try:
            attr = self.attr(fd)
            if not stat.S_ISDIR(attr.mode):
                raise NotADirectoryError(20, "the attach name is no directory")
        except OSError:
            os.close(fd)
            raise
        return fd, attr

    def _parent_of(self, fd: int) -> tuple[int, bytes]:
        """The directory and the name by which a file was reached, proven to be still its own.

        The kernel tells the path; it is walked again from the export's root, so that nothing
        outside can be reached, and the entry there must be the very file.
        """
        root = os.readlink(os.fsencode(proc_path(self._root_fd)))
        path = os.readlink(os.fsencode(proc_path(fd)))
        inside = path.removeprefix(root.rstrip(b"/") + b"/")
        if inside == path or not inside:
            raise OSError(22, "the export's root has no name to remove or rename")
        *parents, name = inside.split(b"/")
        parent = self._descend(parents)
        try:
            there, mine = os.stat(name, dir_fd=parent, follow_symlinks=False), os.stat(fd)
            if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                raise FileNotFoundError(2, "the file's name stands for another file now")
        except OSError:
            os.close(parent)
            raise
        return parent, name

    # ---- creating ---------------------------------------------------------------------------

    def _cred(self, owner: Owner) -> sys.Cred:
        """Who creates, or PermissionError where the owner could not be had."""
        own = os.geteuid()
        uid = own if owner.uid == OWN_UID else owner.uid
        if self._privileged:
            return sys.Cred(uid, owner.gid, True)
        if self._ownership_matters and uid != own:
            raise PermissionError(1, "only root can create files of other users")
        return sys.Cred(own, owner.gid, False)

    def _as(self, owner: Owner, dir_fd: int, name: bytes, make: Callable[[sys.Cred], T]) -> T:
        """Creates an entry; without privilege its group is set afterwards, where that is allowed
        and passthrough asks for it."""
        cred = self._cred(owner)
        if cred.switch or not self._ownership_matters:
            return make(cred)
        if owner.gid not in self._own_groups:
            raise PermissionError(1, "only root can create files of groups that it is not in")
        made = make(cred)
        os.chown(name, -1, owner.gid, dir_fd=dir_fd, follow_symlinks=False)
        return made

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """See Driver. An existing file is opened by its descriptor and only if it is regular."""
        host = create_flags(flags)
        try:
            io_fd = self._as(
                owner,
                dir_fd,
                name,
                lambda cred: sys.create(cred, dir_fd, name, host, mode & 0o7777),
            )
        except FileExistsError:
            if flags & P9_EXCL:
                raise
            return self._open_existing(dir_fd, name, host | (os.O_TRUNC if flags & P9_TRUNC else 0))
        try:
            path_fd = self.export.reopen(io_fd, os.O_PATH)
        except OSError:
            os.close(io_fd)
            raise
        return self._created(path_fd, io_fd, host)

    def _open_existing(self, dir_fd: int, name: bytes, host: int) -> Created:
        path_fd = self.export.step(dir_fd, name)
        try:
            mode = os.stat(path_fd).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(40, "a symlink is not opened")
            if not stat.S_ISREG(mode):
                raise OSError(21 if stat.S_ISDIR(mode) else 6, "not a regular file")
            io_fd = self.export.reopen(path_fd, host)
        except OSError:
            os.close(path_fd)
            raise
        return self._created(path_fd, io_fd, host)

    def _created(self, path_fd: int, io_fd: int, host: int) -> Created:
        try:
            return Created(path_fd, io_fd, host, self.attr(path_fd))
        except OSError:
            os.close(path_fd)
            os.close(io_fd)
            raise

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> Attr:
        """See Driver."""
        self._as(owner, dir_fd, name, lambda c: sys.mkdir(c, dir_fd, name, mode & 0o7777))
        return self.attr(dir_fd, name)

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> Attr:
        """See Driver."""
        self._as(owner, dir_fd, name, lambda c: sys.mknod(c, dir_fd, name, mode, *device))
        return self.attr(dir_fd, name)

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        """See Driver."""
        self._as(owner, dir_fd, name, lambda c: sys.symlink(c, target, dir_fd, name))
        return self.attr(dir_fd, name)

    # ---- names ------------------------------------------------------------------------------

    def link(self, fd: int, dir_fd: int, name: bytes) -> None:
        """See Driver."""
        os.link(proc_path(fd), name, dst_dir_fd=dir_fd, follow_symlinks=True)

    def unlink(self, dir_fd: int, name: bytes, *, directory: bool) -> None:
        """See Driver."""
        if directory:
            os.rmdir(name, dir_fd=dir_fd)
        else:
            os.unlink(name, dir_fd=dir_fd)

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        """See Driver."""
        os.rename(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)

    def remove(self, fd: int) -> None:
        """See Driver."""
        parent, name = self._parent_of(fd)
        try:
            self.unlink(parent, name, directory=stat.S_ISDIR(os.stat(fd).st_mode))
        finally:
            os.close(parent)

    def rename_file(self, fd: int, new_dir: int, new: bytes) -> None:
        """See Driver."""
        parent, name = self._parent_of(fd)
        try:
            self.rename(parent, name, new_dir, new)
        finally:
            os.close(parent)

    # ---- metadata ---------------------------------------------------------------------------

    def chmod(self, fd: int, mode: int) -> None:
        """See Driver."""
        os.chmod(proc_path(fd), mode & 0o7777)

    def chown(self, fd: int, uid: int, gid: int) -> None:
        """See Driver."""
        try:
            os.chown(proc_path(fd), uid, gid)
        except PermissionError:
            if self._ownership_matters:
                raise

    def truncate(self, fd: int, io_fd: int, size: int) -> None:
        """See Driver."""
        if io_fd >= 0:
            os.ftruncate(io_fd, size)
        else:
            os.truncate(proc_path(fd), size)

    def utimens(self, fd: int, times: Times) -> None:
        """See Driver."""
        sys.utimens(fd, times.atime, times.mtime)

    def fsync(self, io_fd: int, *, data_only: bool) -> None:
        """See Driver."""
        if data_only:
            os.fdatasync(io_fd)
        else:
            os.fsync(io_fd)

    # ---- extended attributes ----------------------------------------------------------------

    def list_xattrs(self, fd: int) -> list[bytes]:
        """See Driver."""
        return [os.fsencode(name) for name in os.listxattr(proc_path(fd))]

    def get_xattr(self, fd: int, name: bytes) -> bytes:
        """See Driver."""
        return os.getxattr(proc_path(fd), name)

    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        """See Driver."""
        os.setxattr(proc_path(fd), name, value, flags)

    def remove_xattr(self, fd: int, name: bytes) -> None:
        """See Driver."""
        os.removexattr(proc_path(fd), name)

    # ---- locks ------------------------------------------------------------------------------

    def open_for_locks(self, fd: int) -> tuple[int, bool]:
        """See Driver. Writable wherever the host allows it, to be able to hold any lock."""
        if not self.readonly:
            try:
                return self.export.reopen(fd, os.O_RDWR | os.O_NONBLOCK), True
            except OSError:
                pass  # read-only file system, permission, a program that runs
        return self.export.reopen(fd, os.O_RDONLY | os.O_NONBLOCK), False
