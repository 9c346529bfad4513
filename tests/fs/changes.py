"""Changes below the fids: of attributes, which Tsetattr and Twstat end in (csrc/fs/setattr.c), and
of names (csrc/fs/names.c)."""

from typing import NamedTuple

from vhost9p.native.export import Export
from vhost9p.native.fids import SetAttr
from vhost9p.native.library import check, ffi, lib
from vhost9p.p9 import constants as c

NO_ID = 0xFFFFFFFF


class File(NamedTuple):
    """An O_PATH descriptor of a file, and one of its metadata file; -1 if there is none."""

    fd: int
    meta_fd: int = -1


def change(export: Export, file: File, to: SetAttr, io_fd: int = -1) -> None:
    native = ffi.new("struct v9_setattr *", to)
    check(lib.v9_setattr(export.native, file.fd, file.meta_fd, io_fd, native))


def chmod(export: Export, file: File, mode: int) -> None:
    change(export, file, SetAttr(c.SETATTR_MODE, mode))


def chown(export: Export, file: File, uid: int, gid: int) -> None:
    """-1 leaves one alone, as in chown(2)."""
    change(export, file, SetAttr(c.SETATTR_UID | c.SETATTR_GID, 0, uid & NO_ID, gid & NO_ID))


def truncate(export: Export, fd: int, io_fd: int, size: int) -> None:
    change(export, File(fd), SetAttr(c.SETATTR_SIZE, size=size), io_fd)


def touch(export: Export, fd: int) -> None:
    change(export, File(fd), SetAttr(c.SETATTR_CTIME))


def link(export: Export, file: File, dir_fd: int, name: bytes) -> None:
    check(lib.v9_link_file(export.native, file.fd, file.meta_fd, dir_fd, name))


def unlink(export: Export, dir_fd: int, name: bytes, *, directory: bool) -> None:
    check(lib.v9_unlink(export.native, dir_fd, name, directory))


def rename(export: Export, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
    check(lib.v9_rename(export.native, old_dir, old, new_dir, new))
