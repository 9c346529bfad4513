"""The driver of the mapped security models: the guest's owners, modes, symlinks and device nodes on
a host that grants the daemon nothing of the kind.

Everything that the guest creates is a regular file (a symlink's content is its target) or a
directory of the daemon's own user, with the modes `fmode` and `dmode` and the process's umask.
Beside it are the owner, the mode with the type, and the device number that the guest gave it. The
formats are QEMU's (csrc/model.h); the keepers know where they are kept (fs/keepers.py).

A file gets its content and its metadata before it gets its name: the guest never finds it as
something else, nor does a daemon that ends in the middle leave half of one. File systems without
O_TMPFILE are served by creating it under its name and taking that back where the rest fails, as
directories are everywhere.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vhost9p.fs.driver import OWN_ID, Attr, Created, File, Owner
from vhost9p.fs.keepers import FileKeeper, Keeper, XattrKeeper
from vhost9p.fs.local import (
    PERMISSIONS,
    LocalDriver,
    closed_on_error,
    proc_path,
)
from vhost9p.native.export import MODEL_FILE, Export, Mapped

TARGET_MAX = 4095
"""Bytes of a symlink's target (PATH_MAX without its NUL)."""
NODES = (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.EPERM)
"""How file systems that do not know O_TMPFILE answer it (open(2)), and how some of those that do
answer it in a removed directory."""


def _id(number: int) -> int | None:
    """An id to be kept; None for the daemon's own, which the host tells."""
    return None if number == OWN_ID else number


class MappedDriver(LocalDriver):
    """Serves `export`, whose model is mapped. `fmode` and `dmode` are permission bits."""

    def __init__(
        self,
        export: Export,
        root_fd: int,
        *,
        readonly: bool,
        model: int,
        fmode: int = 0o600,
        dmode: int = 0o700,
    ) -> None:
        super().__init__(export, root_fd, readonly=readonly, ownership_matters=False)
        self._fmode = fmode
        self._dmode = dmode
        self._keeper: Keeper = (
            FileKeeper(export, root_fd, self.parent_of)
            if model == MODEL_FILE
            else XattrKeeper(export)
        )

    def _mode(self, fd: int) -> int:
        return self.attr(fd).mode

    # ---- creating ---------------------------------------------------------------------------

    @contextmanager
    def _nameless(self, dir_fd: int, name: bytes, flags: int) -> Iterator[int]:
        """A new file, open for writing, that gets its name when the block ends well, and is gone
        when it does not."""
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(b".", flags | os.O_TMPFILE, self._fmode, dir_fd=dir_fd)
            named = False
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, self._fmode, dir_fd=dir_fd)
            named = True
        with closed_on_error(fd):
            try:
                yield fd
                if not named:
                    os.link(proc_path(fd), name, dst_dir_fd=dir_fd, follow_symlinks=True)
            except BaseException:
                if named:
                    os.unlink(name, dir_fd=dir_fd)
                raise

    def _new_file(
        self, dir_fd: int, name: bytes, flags: int, mapped: Mapped, content: bytes = b""
    ) -> int:
        """Makes a file with its metadata; returns a descriptor."""
        with (
            self._keeper.placed(dir_fd, name, mapped),
            self._nameless(dir_fd, name, flags) as fd,
        ):
            if content and os.write(fd, content) != len(content):
                raise OSError(errno.ENOSPC, "a symlink's target does not fit")
            self._keeper.mark(fd, mapped)
        return fd

    def _new_entry(self, dir_fd: int, name: bytes, mapped: Mapped, content: bytes = b"") -> Attr:
        os.close(self._new_file(dir_fd, name, os.O_WRONLY, mapped, content))
        return self.attr(dir_fd, name)

    def _mapped(self, owner: Owner, mode: int, rdev: int | None = None) -> Mapped:
        return Mapped(_id(owner.uid), _id(owner.gid), mode, rdev)

    def _create(self, dir_fd: int, name: bytes, host: int, mode: int, owner: Owner) -> Created:
        mapped = self._mapped(owner, stat.S_IFREG | mode)
        writable = host & os.O_ACCMODE != os.O_RDONLY
        fd = self._new_file(dir_fd, name, host if writable else host | os.O_RDWR, mapped)
        with closed_on_error(fd):
            path_fd = self._reach(dir_fd, name, fd)
            if writable:
                return self._created(path_fd, fd, host)
            with closed_on_error(path_fd):
                io_fd = self.export.reopen(path_fd, host)
        os.close(fd)
        with closed_on_error(io_fd):
            return self._created(path_fd, io_fd, host)

    def _reach(self, dir_fd: int, name: bytes, fd: int) -> int:
        """An O_PATH descriptor of a file that was just made. By its name, since the kernel goes on
        to tell of `fd` that it has none; through `fd` where the name has gone already."""
        with suppress(OSError):
            path_fd = self.export.step(dir_fd, name)
            if os.path.sameopenfile(path_fd, fd):
                return path_fd
            os.close(path_fd)
        return self.export.reopen(fd, os.O_PATH)

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> Attr:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        mapped = self._mapped(owner, stat.S_IFDIR | mode & PERMISSIONS)
        with self._keeper.placed(dir_fd, name, mapped):
            os.mkdir(name, self._dmode, dir_fd=dir_fd)
            try:
                fd = self.export.step(dir_fd, name)
                try:
                    self._keeper.mark(fd, mapped)
                finally:
                    os.close(fd)
            except BaseException:
                os.rmdir(name, dir_fd=dir_fd)
                raise
        return self.attr(dir_fd, name)

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> Attr:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFDIR:
            raise OSError(errno.EPERM, "a directory is no node")
        if kind not in NODES:
            raise OSError(errno.EINVAL, f"file type {kind:#o}")
        mapped = self._mapped(owner, kind | mode & PERMISSIONS, os.makedev(*device))
        return self._new_entry(dir_fd, name, mapped)

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        if not target:
            raise OSError(errno.ENOENT, "a symlink to nothing")
        if len(target) > TARGET_MAX:
            raise OSError(errno.ENAMETOOLONG, f"a symlink's target of {len(target)} bytes")
        return self._new_entry(dir_fd, name, self._mapped(owner, stat.S_IFLNK | 0o777), target)

    # ---- names ------------------------------------------------------------------------------

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        return super().create(dir_fd, name, flags, mode, owner)

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        with self._keeper.linked(file, dir_fd, name):
            super().link(file, dir_fd, name)

    def unlink(self, dir_fd: int, name: bytes, *, directory: bool) -> None:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        with self._keeper.removed(dir_fd, name, directory=directory):
            super().unlink(dir_fd, name, directory=directory)

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        """See Driver."""
        self._keeper.admit(old_dir, old)
        self._keeper.admit(new_dir, new)
        with self._keeper.moved(old_dir, old, new_dir, new):
            super().rename(old_dir, old, new_dir, new)

    # ---- metadata ---------------------------------------------------------------------------

    def chmod(self, file: File, mode: int) -> None:
        """See Driver."""
        self._change(file, Mapped(mode=mode & PERMISSIONS))

    def chown(self, file: File, uid: int, gid: int) -> None:
        """See Driver. As chown(2): a program that is given away loses its set-id bits."""
        change = Mapped(uid if uid != -1 else None, gid if gid != -1 else None)
        mode = self.export.attr(file.fd, meta_fd=file.meta_fd).mode
        lost = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        if not stat.S_ISDIR(mode) and mode & lost:
            change = Mapped(change.uid, change.gid, mode & PERMISSIONS & ~lost)
        self._change(file, change)

    def _change(self, file: File, change: Mapped) -> None:
        """A change of metadata is one of the file, though not for the host: it gets its time of
        change where the host lets the daemon set that."""
        self._keeper.write(file, change)
        with suppress(PermissionError):
            self.touch(file.fd)
