"""Changes of attributes below the fids: what Tsetattr and Twstat end in (csrc/fs/setattr.c)."""

from vhost9p.fs.driver import File
from vhost9p.native.export import Export
from vhost9p.native.fids import SetAttr
from vhost9p.native.library import check, ffi, lib
from vhost9p.p9 import constants as c

NO_ID = 0xFFFFFFFF


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
