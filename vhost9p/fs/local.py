"""The driver that serves a directory of the host.

Everything is done by descriptor. Calls that exist only with a path get /proc/self/fd/N of a
descriptor that is held, which names the file itself (proc(5)), whatever its names have become; a
final symlink there is the file, not what it points to.

Security models. `passthrough`: what the guest creates has the guest's owner and mode on the host.
With privilege the creating call runs as that owner (csrc/sys.c); without, the daemon can create
files of its own user only, and says EPERM for others. `none`: as passthrough, but a file whose
owner cannot be set is the daemon's and the guest is not told.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from vhost9p.fs.driver import OWN_ID, Created, File, Owner, Times
from vhost9p.native import sys
from vhost9p.native.export import Attr, Export

T = TypeVar("T")

PERMISSIONS = 0o7777
SET_IDS = stat.S_ISUID | stat.S_ISGID
RACES = 8
"""How often a create tries again when the file appears, and vanishes when it is opened."""

LOCK_ACCESS = (os.O_RDWR, os.O_RDONLY, os.O_WRONLY)
LOCK_FLAGS = os.O_NONBLOCK | os.O_NOCTTY

# Flags of Tlcreate that the driver looks at itself.
P9_EXCL = 0o200
NOT_FOR_NEW = os.O_TRUNC | os.O_DIRECTORY
"""Host flags that mean nothing for a file that is just created."""


def proc_path(fd: int) -> str:
    """A path that names what a descriptor of this process names."""
    return f"/proc/self/fd/{fd}"


def require_regular(mode: int, otherwise: int) -> None:
    """Lets regular files pass; EISDIR for a directory, `otherwise` for what is never opened."""
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "a directory")
    if not stat.S_ISREG(mode):
        raise OSError(otherwise, "neither a regular file nor a directory")


@contextmanager
def closed_on_error(fd: int) -> Iterator[None]:
    """Closes a descriptor unless the block succeeds."""
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


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

    def _mode(self, fd: int) -> int:
        """The type, with the permission bits, that a file has in the guest."""
        return os.stat(fd).st_mode

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

    def admit(self, uid: int) -> None:
        """See Driver. The host knows every id."""

    def attach(self, path: bytes) -> tuple[int, Attr]:
        """See Driver. The path is taken below the export, without symlinks."""
        fd = self._descend([name for name in path.split(b"/") if name and name != b"."])
        try:
            attr = self.attr(fd)
            if not stat.S_ISDIR(attr.mode):
                raise OSError(errno.ENOTDIR, "the attach name is no directory")
        except OSError:
            os.close(fd)
            raise
        return fd, attr

    def walk(self, dir_fd: int, name: bytes) -> tuple[int, Attr]:
        """See Driver."""
        fd = self.export.step(dir_fd, name)
        with closed_on_error(fd):
            return fd, self.attr(fd)

    def open(self, fd: int, flags: int) -> tuple[int, int]:
        """See Driver."""
        mode = self._mode(fd)
        if not stat.S_ISDIR(mode):
            require_regular(mode, errno.ENXIO)
        host = sys.open_flags(flags)
        return self.export.reopen(fd, host), host

    def parent_of(self, fd: int) -> tuple[int, bytes]:
        """The directory and the name by which a file was reached, proven to be still its own.

        The kernel tells the path; it is walked again from the export's root, so that nothing
        outside can be reached, and the entry there must be the very file.
        """
        root = os.readlink(os.fsencode(proc_path(self._root_fd)))
        path = os.readlink(os.fsencode(proc_path(fd)))
        inside = path.removeprefix(root.rstrip(b"/") + b"/")
        if inside == path or not inside:
            raise OSError(errno.EBUSY, "the export's root has no name to remove or rename")
        *parents, name = inside.split(b"/")
        parent = self._descend(parents)
        try:
            there, mine = os.stat(name, dir_fd=parent, follow_symlinks=False), os.stat(fd)
            if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
                raise OSError(errno.ENOENT, "the file's name stands for another file now")
        except OSError:
            os.close(parent)
            raise
        return parent, name

    # ---- creating ---------------------------------------------------------------------------

    def _cred(self, owner: Owner) -> sys.Cred:
        """Who creates, or PermissionError where the owner could not be had."""
        own = os.geteuid()
        uid = own if owner.uid == OWN_ID else owner.uid
        gid = os.getegid() if owner.gid == OWN_ID else owner.gid
        if self._privileged:
            return sys.Cred(uid, gid, True)
        if self._ownership_matters and uid != own:
            raise OSError(errno.EPERM, "only root can create files of other users")
        return sys.Cred(own, gid, False)

    def _make(self, owner: Owner, make: Callable[[sys.Cred], T]) -> T:
        """Runs a creating call as the owner."""
        cred = self._cred(owner)
        if not cred.switch and self._ownership_matters and cred.gid not in self._own_groups:
            raise OSError(errno.EPERM, "only root can create files of groups that it is not in")
        return make(cred)

    def _complete(self, fd: int, mode: int, owner: Owner) -> None:
        """Does what the creating call could not: without privilege set the group (where passthrough
        asks for it), and the set-id bits that got lost."""
        status = os.stat(fd)
        wanted = status.st_gid if owner.gid == OWN_ID else owner.gid
        if not self._privileged and self._ownership_matters and status.st_gid != wanted:
            os.chown(proc_path(fd), -1, owner.gid)
            status = os.stat(fd)
        if mode & SET_IDS & ~status.st_mode:
            os.chmod(proc_path(fd), stat.S_IMODE(status.st_mode) | mode & SET_IDS)

    def _complete_entry(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> Attr:
        if self._privileged and not mode & SET_IDS:
            return self.attr(dir_fd, name)
        fd = self.export.step(dir_fd, name)
        try:
            self._complete(fd, mode, owner)
            return self.attr(fd)
        finally:
            os.close(fd)

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """See Driver. An existing file is opened by its descriptor and only if it is regular."""
        host, mode = sys.open_flags(flags), mode & PERMISSIONS
        for _ in range(RACES):
            with suppress(FileExistsError):
                return self._create(dir_fd, name, host & ~NOT_FOR_NEW, mode, owner)
            if flags & P9_EXCL:
                raise OSError(errno.EEXIST, "the file exists")
            with suppress(FileNotFoundError):
                return self._open_existing(dir_fd, name, host & ~os.O_NOATIME)
        raise OSError(errno.EAGAIN, "the file comes and goes")

    def _create(self, dir_fd: int, name: bytes, host: int, mode: int, owner: Owner) -> Created:
        io_fd = self._make(owner, lambda cred: sys.create(cred, dir_fd, name, host, mode))
        with closed_on_error(io_fd):
            if not self._privileged or mode & SET_IDS:
                self._complete(io_fd, mode, owner)
            return self._created(self.export.reopen(io_fd, os.O_PATH), io_fd, host)

    def _open_existing(self, dir_fd: int, name: bytes, host: int) -> Created:
        path_fd = self.export.step(dir_fd, name)
        with closed_on_error(path_fd):
            mode = self._mode(path_fd)
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, "a symlink is not opened")
            require_regular(mode, errno.ENXIO)
            io_fd = self.export.reopen(path_fd, host)
        with closed_on_error(io_fd):
            return self._created(path_fd, io_fd, host)

    def _created(self, path_fd: int, io_fd: int, host: int) -> Created:
        with closed_on_error(path_fd):
            return Created(path_fd, io_fd, host, self.attr(path_fd))

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> Attr:
        """See Driver."""
        mode &= PERMISSIONS
        self._make(owner, lambda cred: sys.mkdir(cred, dir_fd, name, mode))
        return self._complete_entry(dir_fd, name, mode, owner)

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> Attr:
        """See Driver."""
        self._make(owner, lambda cred: sys.mknod(cred, dir_fd, name, mode, *device))
        return self._complete_entry(dir_fd, name, mode, owner)

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        """See Driver."""
        self._make(owner, lambda cred: sys.symlink(cred, target, dir_fd, name))
        return self._complete_entry(dir_fd, name, 0, owner)

    # ---- names ------------------------------------------------------------------------------

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        """See Driver."""
        os.link(proc_path(file.fd), name, dst_dir_fd=dir_fd, follow_symlinks=True)

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
        parent, name = self.parent_of(fd)
        try:
            self.unlink(parent, name, directory=stat.S_ISDIR(self._mode(fd)))
        finally:
            os.close(parent)

    def rename_file(self, fd: int, new_dir: int | None, new: bytes) -> None:
        """See Driver."""
        parent, name = self.parent_of(fd)
        try:
            self.rename(parent, name, parent if new_dir is None else new_dir, new)
        finally:
            os.close(parent)

    # ---- metadata ---------------------------------------------------------------------------

    def chmod(self, file: File, mode: int) -> None:
        """See Driver."""
        os.chmod(proc_path(file.fd), mode & PERMISSIONS)

    def chown(self, file: File, uid: int, gid: int) -> None:
        """See Driver."""
        try:
            os.chown(proc_path(file.fd), uid, gid)
        except PermissionError:
            if self._ownership_matters:
                raise

    def truncate(self, fd: int, io_fd: int, size: int) -> None:
        """See Driver. Not truncate(2), which leaves the times alone where the size is the same."""
        if io_fd >= 0:
            os.ftruncate(io_fd, size)
            return
        require_regular(self._mode(fd), errno.EINVAL)
        opened = self.export.reopen(fd, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            os.ftruncate(opened, size)
        finally:
            os.close(opened)

    def utimens(self, fd: int, times: Times) -> None:
        """See Driver."""
        sys.utimens(fd, times.atime, times.mtime)

    def touch(self, fd: int) -> None:
        """See Driver. A chown to nobody does it, but would clear a program's set-id bits; a chmod
        would not, but cannot be had of symlinks."""
        mode = os.stat(fd).st_mode
        if mode & SET_IDS:
            os.chmod(proc_path(fd), stat.S_IMODE(mode))
        else:
            os.chown(proc_path(fd), -1, -1)

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

    def open_for_locks(self, fd: int) -> tuple[int, int]:
        """See Driver. For writing too wherever the host allows it, to be able to hold any lock."""
        mode = self._mode(fd)
        if not stat.S_ISDIR(mode):
            require_regular(mode, errno.EBADF)
        *first, last = (os.O_RDONLY,) if self.readonly else LOCK_ACCESS
        for access in first:
            try:
                return self.export.reopen(fd, access | LOCK_FLAGS), access
            except OSError:  # permission, a read-only file system, a program that runs
                continue
        return self.export.reopen(fd, last | LOCK_FLAGS), last
