"""The driver that serves a directory of the host, for all security models.

Everything works on descriptors. Calls that need a path get that of an open descriptor
(vhost9p/procfs.py), which leads to the file itself, even if its names have changed.

C creates files (csrc/fs/create.c), changes their names (csrc/fs/names.c), attributes
(csrc/fs/setattr.c) and extended attributes (csrc/fs/xattr.c), and implements the metadata of the
mapped models (csrc/mapped/mapped.h).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from vhost9p.fs.driver import Created, Owner
from vhost9p.native import descriptors, sys
from vhost9p.native.export import MODEL_HOST, Attr, Export
from vhost9p.procfs import proc_path


def require_regular(mode: int, otherwise: int) -> None:
    """Accepts regular files only. EISDIR for a directory, `otherwise` for files that are never
    opened."""
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
        descriptors.close(fd)
        raise


UNOWNABLE = (errno.EPERM, errno.EINVAL, errno.EOVERFLOW)
"""Errors of chown(2) for an id that cannot own a file."""


class LocalDriver:
    """Serves `export`."""

    def __init__(self, export: Export, root_fd: int) -> None:
        self.export = export
        self._root_fd = root_fd

    # ---- reaching files ---------------------------------------------------------------------

    def attr(
        self, fd: int, name: bytes = b"", meta_fd: int = -1, shown_as: int | None = None
    ) -> Attr:
        """See Driver."""
        return self.export.attr(fd, name, meta_fd, shown_as)

    def _mode(self, fd: int) -> int:
        """Returns type and permission bits that a file has in the guest."""
        return os.stat(fd).st_mode if self.export.model == MODEL_HOST else self.attr(fd).mode

    def admit(self, uid: int) -> None:
        """See Driver. The export's map of ids may forbid users."""
        self.export.admits(uid)

    def require_changes(self, uid: int) -> None:
        """See Driver."""
        self.export.allows_changes(uid)

    def attach(self, path: bytes) -> tuple[int, Attr]:
        """See Driver. The path is resolved below the export, without symlinks. All components but
        the last are resolved in one call."""
        *parents, last = [name for name in path.split(b"/") if name not in (b"", b".")] or [b"."]
        parent = self.export.descend(b"/".join(parents) or b".")
        try:
            fd = self.export.step(parent, last)
        finally:
            descriptors.close(parent)
        with closed_on_error(fd):
            attr = self.attr(fd)
            if not stat.S_ISDIR(attr.mode):
                raise OSError(errno.ENOTDIR, "the attach name is no directory")
            return fd, attr

    def walk(self, dir_fd: int, name: bytes) -> tuple[int, Attr]:
        """See Driver."""
        fd = self.export.step(dir_fd, name)
        with closed_on_error(fd):
            return fd, self.attr(fd)

    def step(self, uid: int, dir_fd: int, name: bytes) -> tuple[int, int]:
        """See Driver."""
        return self.export.step_across(uid, dir_fd, name)

    def read_link(self, fd: int) -> bytes:
        """See Driver."""
        return self.export.read_link(fd)

    def name_of(self, fd: int) -> bytes | None:
        """See Driver. Linux marks the path of an unlinked file."""
        if os.path.sameopenfile(fd, self._root_fd):
            return None
        try:
            path = os.fsencode(os.readlink(proc_path(fd)))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return b""
        if not os.stat(fd).st_nlink:
            path = path.removesuffix(b" (deleted)")
        return path.rpartition(b"/")[2]

    def open(self, fd: int, flags: int) -> tuple[int, int]:
        """See Driver."""
        mode = self._mode(fd)
        if not stat.S_ISDIR(mode):
            require_regular(mode, errno.ENXIO)
        host = sys.open_flags(flags)
        return self.export.open(fd, host), host

    # ---- creating ---------------------------------------------------------------------------

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """See Driver. An existing file is opened through its descriptor, and only if it is
        regular."""
        path_fd, io_fd, host, is_new = self.export.create(dir_fd, name, flags, mode, *owner)
        with closed_on_error(io_fd), closed_on_error(path_fd):
            try:
                return Created(path_fd, io_fd, host, self.attr(path_fd))
            except OSError:
                if is_new:
                    self.take_back(dir_fd, name, path_fd, is_dir=False)
                raise

    def take_back(self, dir_fd: int, name: bytes, path_fd: int, *, is_dir: bool) -> None:
        """See Driver."""
        self.export.undo(dir_fd, name, path_fd, is_dir=is_dir)

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> None:
        """See Driver."""
        self.export.mkdir(dir_fd, name, mode, *owner)

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> None:
        """See Driver."""
        self.export.mknod(dir_fd, name, mode, device, *owner)

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> None:
        """See Driver."""
        self.export.symlink(dir_fd, name, target, *owner)
