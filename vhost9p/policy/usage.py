"""An export's usage of the host: counted once by a scan, then kept up to date in a file.

Everything that the guest can reach below the export's root counts, mounts included: each inode
once, by (st_dev, st_ino), however many names it has, and its blocks (st_blocks), also those of
directories. The root's blocks count, its inode does not: an export with ten inodes has room for ten
files. Files that a security model hides from the guest do not count.

The numbers are in one page, which C maps and changes (csrc/quota/quota.h):

    digest[16]           at 0: of everything that the numbers depend on
    bytes, inodes,       at V9_QUOTA_USAGE
    changes under way

The page cache outlives a killed daemon, so the numbers are valid if no change was under way. The
export is scanned again after a reboot, since a crash may leave the file and the disk out of step,
and if the root is another directory or other names are hidden.
"""

import errno
import logging
import os
import stat
import struct
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from xxhash import xxh3_128_digest

from vhost9p import host
from vhost9p.native.quota import FILE_SIZE, USAGE_OFFSET
from vhost9p.policy.locked_file import file_name, look_into, open_locked

log = logging.getLogger(__name__)

VERSION = b"vhost9p usage 1"
NUMBERS = struct.Struct("<qqQ")
BLOCK = 512
"""Unit of st_blocks (inode(7))."""
OPEN_MAX = 64
"""Directories that a scan holds open. Deeper down it closes the upper ones, and reopens them
later."""
TRIES = 3
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors of an entry that was removed or replaced after it was listed."""


class Usage(NamedTuple):
    """Bytes in blocks, inodes, and the number of entries that could not be read."""

    bytes: int
    inodes: int
    unreadable: int = 0


class _MovedError(Exception):
    """A directory was moved during the scan: the way back is lost."""


class _Directory:
    """A directory on the path from the root to the scan's position."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.status = os.fstat(fd)
        self.left: list[str] = []
        """Subdirectories that are still to be scanned."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def reopen(self, below: int) -> None:
        """Opens it again, through ".." of a directory in it, which may have been moved: then that
        is some directory of the host, which is not opened."""
        if self.fd >= 0:
            return
        above = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=below)
        try:
            if not os.path.samestat(os.fstat(above), self.status):
                raise _MovedError
            self.fd = os.open(".", DIRECTORY, dir_fd=above)
        finally:
            os.close(above)


class _Scan:
    """One pass over a tree."""

    def __init__(self, hidden: Collection[bytes]) -> None:
        self._hidden = {os.fsdecode(name) for name in hidden}
        self._linked: set[tuple[int, int]] = set()
        self._way: list[_Directory] = []
        self.bytes = self.inodes = self.unreadable = 0

    def run(self, root_fd: int) -> Usage:
        """Scans depth-first. Memory: the names of pending directories, and inodes with several
        names."""
        try:
            self._enter(os.open(".", DIRECTORY, dir_fd=root_fd))
            self.bytes = self._way[0].status.st_blocks * BLOCK + self.bytes
            while self._way:
                here = self._way[-1]
                if here.left:
                    self._descend(here, here.left.pop())
                else:
                    self._ascend(here)
        finally:
            for each in self._way:
                each.close()
        return Usage(self.bytes, self.inodes, self.unreadable)

    def _descend(self, here: _Directory, name: str) -> None:
        try:
            self._enter(os.open(name, DIRECTORY, dir_fd=here.fd))
        except OSError as error:
            self.unreadable += error.errno not in GONE

    def _ascend(self, here: _Directory) -> None:
        if len(self._way) > 1:
            self._way[-2].reopen(here.fd)
        here.close()
        self._way.pop()

    def _enter(self, fd: int) -> None:
        directory = _Directory(fd)
        self._way.append(directory)
        if len(self._way) > OPEN_MAX:
            self._way[-OPEN_MAX - 1].close()
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.name not in self._hidden:
                    self._look(directory, entry)

    def _look(self, directory: _Directory, entry: os.DirEntry[str]) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self.unreadable += error.errno not in GONE
            return
        if stat.S_ISDIR(status.st_mode):
            directory.left.append(entry.name)
        elif status.st_nlink > 1:
            number = (status.st_dev, status.st_ino)
            if number in self._linked:
                return
            self._linked.add(number)
        self.bytes += status.st_blocks * BLOCK
        self.inodes += 1


def scan(root_fd: int, hidden: Collection[bytes] = ()) -> Usage:
    """Counts a tree, without following symlinks. Files created or removed meanwhile may be missed.
    Names in `hidden` are skipped everywhere.

    Raises OSError if the root cannot be read; EAGAIN if directories were moved during every try.
    """
    for _ in range(TRIES):
        with suppress(_MovedError):
            return _Scan(hidden).run(root_fd)
    raise OSError(errno.EAGAIN, "directories of the export are moved while they are counted")


def _digest(key: bytes, root_fd: int, btime: int, hidden: Collection[bytes], boot: bytes) -> bytes:
    """Of everything that the numbers of an export depend on."""
    root = os.fstat(root_fd)
    what = (VERSION, key, boot, (root.st_dev, root.st_ino, btime), sorted(hidden))
    return xxh3_128_digest(repr(what).encode())


class UsageFile:
    """The page with the numbers, open and locked for as long as this daemon serves the export."""

    def __init__(
        self,
        dir_fd: int,
        path: str,
        *,
        root_fd: int,
        btime: int,
        hidden: Collection[bytes] = (),
        boot: bytes | None = None,
    ) -> None:
        """Opens, or creates, the page of the export at `path` in directory `dir_fd`. `btime` is the
        root's birth time in ns, 0 if unknown; `boot` replaces the boot id in tests.

        Raises StateError (another daemon serves the export; not safe to use) or OSError.
        """
        key = os.fsencode(path)
        boot = host.boot_id() if boot is None else boot
        self._digest = _digest(key, root_fd, btime, hidden, boot)
        self.name = usage_name(path)
        self.fd = open_locked(dir_fd, self.name, key)

    def close(self) -> None:
        """Closes and unlocks."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self) -> Usage | None:
        """Returns the numbers; None if they may be wrong."""
        page = os.pread(self.fd, FILE_SIZE, 0)
        if len(page) < FILE_SIZE or not page.startswith(self._digest):
            return None
        return _numbers(page)

    def write(self, usage: Usage) -> None:
        """Starts with these numbers. Raises OSError (ENOSPC)."""
        page = bytearray(FILE_SIZE)
        page[: len(self._digest)] = self._digest
        NUMBERS.pack_into(page, USAGE_OFFSET, usage.bytes, usage.inodes, 0)
        os.ftruncate(self.fd, 0)
        if os.pwrite(self.fd, page, 0) != FILE_SIZE:
            raise OSError(errno.ENOSPC, f"no space for the state file {self.name}")


def usage_name(path: str) -> str:
    """Returns the name of the file with an export's usage."""
    return file_name(os.fsencode(path), ".usage")


def peek(folder: str, path: str) -> Usage | None:
    """Returns the usage of the export at `path` as it was last written, without the file's lock;
    None if it is not known."""
    page = look_into(folder, usage_name(path), FILE_SIZE)
    return _numbers(page) if len(page) == FILE_SIZE else None


def _numbers(page: bytes) -> Usage | None:
    """The numbers of a page; None if a change was under way."""
    count, inodes, changing = NUMBERS.unpack_from(page, USAGE_OFFSET)
    return None if changing else Usage(count, inodes)


def ensure_counted(
    usage_file: UsageFile, path: str, count: Callable[[], Usage], *, rescan: bool
) -> Usage:
    """Returns an export's usage: from the file if that is valid and `rescan` is off, else from a
    scan (by `count`). Raises OSError."""
    known = None if rescan else usage_file.read()
    if known:
        log.info("%s: %d bytes in %d inodes, from the state file", path, known.bytes, known.inodes)
        return known
    started = time.monotonic()
    usage = count()
    usage_file.write(usage)
    log.info(
        "%s: %d bytes in %d inodes, counted in %.1f s",
        path,
        usage.bytes,
        usage.inodes,
        time.monotonic() - started,
    )
    if usage.unreadable:
        log.warning(
            "%s: %d files or directories could not be read, and are not in the quota's usage: "
            "make them readable, and set rescan",
            path,
            usage.unreadable,
        )
    return usage
