"""The C library's calls for fanotify(7) and file handles, which Python's os module lacks.

Groups are for events that name directories by file handles (changes/records.py). What of them a
process may do depends on CAP_SYS_ADMIN: with it, whole file systems can be marked, and events say
whose they are.
"""

import ctypes
import errno
import os

from vhost9p.changes.records import ATTRIB

_CLOEXEC, _NONBLOCK, _REPORT_DIR_FID, _REPORT_NAME = 0x1, 0x2, 0x400, 0x800
"""Of fanotify_init(2)."""
_MARK_ADD, _MARK_FILESYSTEM = 0x1, 0x100
"""Of fanotify_mark(2)."""
_IGNORE_MOUNT = 0x10 | 0x20 | 0x40
"""FAN_MARK_MOUNT, FAN_MARK_IGNORED_MASK and FAN_MARK_IGNORED_SURV_MODIFY."""
_AT_FDCWD = -100
_HANDLE_MAX = 128
"""MAX_HANDLE_SZ (name_to_handle_at(2))."""

_library = ctypes.CDLL(None, use_errno=True)
_init = _library.fanotify_init
_init.argtypes = ctypes.c_uint, ctypes.c_uint
_mark = _library.fanotify_mark
_mark.argtypes = ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p
_name_to_handle = _library.name_to_handle_at
_name_to_handle.argtypes = (
    *(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p),
    *(ctypes.POINTER(ctypes.c_int), ctypes.c_int),
)
_open_by_handle = _library.open_by_handle_at
_open_by_handle.argtypes = ctypes.c_int, ctypes.c_char_p, ctypes.c_int


def _check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def open_group() -> int:
    """Returns the descriptor of a new group, which does not wait when it is read. Raises
    OSError."""
    flags = _CLOEXEC | _NONBLOCK | _REPORT_DIR_FID | _REPORT_NAME
    return _check(_init(flags, os.O_RDONLY | os.O_CLOEXEC))


def mark_file_system(group: int, mask: int, folder: int) -> None:
    """From now on the group gets the events of `mask` (changes/records.py) from anywhere in the
    file system of an open directory. Raises OSError: EPERM without CAP_SYS_ADMIN; ENODEV, EXDEV,
    EOPNOTSUPP where the file system has no handles or ids that events could say; EINVAL for an
    event that the kernel does not know."""
    _check(_mark(group, _MARK_ADD | _MARK_FILESYSTEM, mask, folder, b"."))


def ignore_mount(group: int, mask: int, folder: int) -> None:
    """From now on the group gets no events of `mask` of what is done through the mount of an open
    directory. That works for events of open files alone: others do not say through which mount.
    Raises OSError."""
    _check(_mark(group, _MARK_ADD | _IGNORE_MOUNT, mask, folder, b"."))


def may_mark_file_systems() -> bool:
    """Whether this process may, on this kernel; in a user namespace only file systems that were
    mounted there, so not the root."""
    return _try_to_mark("/") not in (errno.EPERM, errno.EINVAL)


def can_mark_file_system(folder: str) -> bool:
    """Whether this process can mark that of a directory."""
    return _try_to_mark(folder) == 0


def can_mark_directory(folder: str) -> bool:
    """Whether this process can mark a directory alone."""
    return _try_to_mark(folder, 0) == 0


def _try_to_mark(folder: str, what: int = _MARK_FILESYSTEM) -> int:
    """Returns the errno, or 0."""
    try:
        group = open_group()
        try:
            _check(_mark(group, _MARK_ADD | what, ATTRIB, -1, os.fsencode(folder)))
        finally:
            os.close(group)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def has_handles(folder: str) -> bool:
    """Whether the files of a directory's file system have file handles, by which they can be
    opened."""
    handle = (ctypes.c_uint * (2 + _HANDLE_MAX // 4))(_HANDLE_MAX)
    mount = ctypes.c_int()
    path = os.fsencode(folder)
    return bool(_name_to_handle(_AT_FDCWD, path, handle, ctypes.byref(mount), 0) == 0)


def open_by_handle(mount: int, handle: bytes) -> int:
    """Returns an O_PATH descriptor of what a struct file_handle means in the file system of
    `mount`, which is open for reading. Raises OSError ESTALE if it is gone."""
    return _check(_open_by_handle(mount, handle, os.O_PATH | os.O_CLOEXEC))
