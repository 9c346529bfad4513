"""The driver that serves a directory of the host.

Everything is done by descriptor. Calls that exist only with a path get /proc/self/fd/N of a
descriptor that is held, which names the file itself (proc(5)), whatever its names have become; a
final symlink there is the file, not what it points to.

Entries are made and removed by C, for the security models too (csrc/make.h).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from vhost9p.fs.driver import Created, File, Owner, Times
from vhost9p.native import sys
from vhost9p.native.export import Attr, Export

PERMISSIONS = 0o7777
SET_IDS = stat.S_ISUID | stat.S_ISGID

LOCK_ACCESS = (os.O_RDWR, os.O_RDONLY, os.O_WRONLY)
LOCK_FLAGS = os.O_NONBLOCK | os.O_NOCTTY


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


UNOWNABLE = (errno.EPERM, errno.EINVAL, errno.EOVERFLOW)
"""What chown(2) says of an id that a file cannot be given to."""


class LocalDriver:
    """Serves `export`."""

    def __init__(self, export: Export, root_fd: int, *, readonly: bool) -> None:
        self.export = export
        self.readonly = readonly
        self._root_fd = root_fd

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

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """See Driver. An existing file is opened by its descriptor and only if it is regular."""
        path_fd, io_fd, host = self.export.create(dir_fd, name, flags, mode, *owner)
        with closed_on_error(io_fd), closed_on_error(path_fd):
            return Created(path_fd, io_fd, host, self.attr(path_fd))

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> Attr:
        """See Driver."""
        self.export.mkdir(dir_fd, name, mode, *owner)
        return self.attr(dir_fd, name)

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> Attr:
        """See Driver."""
        self.export.mknod(dir_fd, name, mode, device, *owner)
        return self.attr(dir_fd, name)

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        """See Driver."""
        self.export.symlink(dir_fd, name, target, *owner)
        return self.attr(dir_fd, name)

    # ---- names ------------------------------------------------------------------------------

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        """See Driver."""
        os.link(proc_path(file.fd), name, dst_dir_fd=dir_fd, follow_symlinks=True)

    def unlink(self, dir_fd: int, name: bytes, *, directory: bool) -> None:
        """See Driver."""
        self.export.unlink(dir_fd, name, directory=directory)

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
        """See Driver. Where owners do not matter, an id changes nothing that the daemon may not
        give (EPERM), or that its user namespace (EINVAL) or the mount (EOVERFLOW) does not have."""
        try:
            os.chown(proc_path(file.fd), uid, gid)
        except OSError as error:
            if self.export.owners_matter or error.errno not in UNOWNABLE:
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
