"""Files of a policy in the state directory: opened safely, by one daemon at a time.

Such a file holds the state of one key (an export, or an export as one guest sees it). Its name is
the key's hash. The daemon that serves the key locks the file; the lock ends with the process. Where
another process goes on with copies of its descriptors, the lock lasts until both have closed them,
and the kernel takes its time over those of one that was killed: so `unlock` comes first.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from xxhash import xxh3_128_hexdigest

from vhost9p import procfs


class StateError(Exception):
    """A state file that cannot be used; the message names it and says what to do."""


def file_name(key: bytes, suffix: str) -> str:
    """Returns the name of a key's file."""
    return xxh3_128_hexdigest(key) + suffix


def open_locked(dir_fd: int, name: str, key: bytes) -> int:
    """Opens and locks the file `name` in a directory, for reading and writing. If it is missing,
    creates it with mode 0600.

    Raises StateError (in use, not safe to use) or OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        except OSError as err:
            if err.errno == errno.ELOOP:
                raise StateError(f"the state file {name} is a symbolic link") from err
            raise
        try:
            _refuse_unsafe(name, os.fstat(fd))
            lock(fd, name, key)
        except BaseException:
            os.close(fd)
            raise
        # Another daemon may have replaced the file before it ended and released the lock.
        if _is_named(dir_fd, name, fd):
            return fd
        os.close(fd)


def unlock(fds: Iterable[int], folder: str) -> None:
    """Unlocks those files of a directory that are among `fds`, descriptors of a process that serves
    no more or copies of them. The others may hang, so they are told by their paths, for which
    nobody asks their file systems. Who finds one locked that could not be unlocked tries again."""
    for fd in fds:
        with suppress(OSError):
            if os.path.dirname(os.readlink(procfs.proc_path(fd))) == folder:
                fcntl.flock(fd, fcntl.LOCK_UN)


def look_into(folder: str, name: str, size: int) -> bytes:
    """Returns the first bytes of a file, which another daemon may have locked; empty if it cannot
    be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(folder, name), flags)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, 0) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)


def _refuse_unsafe(name: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StateError(f"the state file {name} is not a regular file")
    if found.st_uid != os.geteuid():
        raise StateError(
            f"the state file {name} belongs to uid {found.st_uid}, not to {os.geteuid()}"
        )
    if found.st_mode & 0o077 or found.st_nlink != 1:
        raise StateError(
            f"the state file {name} has mode {stat.S_IMODE(found.st_mode):#o} and "
            f"{found.st_nlink} link(s): it must be 0600 with one"
        )


def lock(fd: int, name: str, key: bytes) -> None:
    """Locks an open file. StateError if another daemon has locked it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StateError(
            f"the state file {name} is in use: another daemon serves "
            f"{key.decode(errors='replace')!r}"
        ) from None


def _is_named(dir_fd: int, name: str, fd: int) -> bool:
    try:
        named = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))
