"""What an export's files take of the host: counted once by a scan, then kept in a file.

Counted is what the guest can reach below the export's root, mounts included: each inode once, by
(st_dev, st_ino), however many names it has, and the blocks that it takes (st_blocks), of
directories as well. The root's blocks count, its inode does not: an export that may have ten inodes
has room for ten files. Not counted is what a security model hides from the guest.

The numbers live in one page that C maps and changes (csrc/quota/quota.h):

    digest[16]           at 0: of everything that the numbers depend on
    bytes, inodes,       at V9_QUOTA_USAGE
    changes under way

The page cache outlives a daemon that is killed, so the numbers are good if no change was under way.
They are not believed after a reboot, as what a file says about the disk after a crash cannot be
known, nor where the root is another directory, or something else is hidden. Then they are scanned
anew.
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

from vhost9p.native.quota import FILE_SIZE, USAGE_OFFSET
from vhost9p.policy.locked_file import file_name, open_locked
from vhost9p.policy.state import boot_id

log = logging.getLogger(__name__)

VERSION = b"vhost9p usage 1"
NUMBERS = struct.Struct("<qqQ")
BLOCK = 512
"""Unit of st_blocks (inode(7))."""
OPEN_MAX = 64
"""Directories that a scan holds open; deeper down it gives the upper ones up for a while."""
TRIES = 3
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""How a directory says that it has vanished, or become something else, since it was listed."""


class Usage(NamedTuple):
    """Bytes in blocks, inodes, and what could not be looked at."""

    bytes: int
    inodes: int
    unreadable: int = 0


class _MovedError(Exception):
    """A directory was moved while it was being looked at: the way back is lost."""


class _Directory:
    """One on the way from the root to where the scan is."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.status = os.fstat(fd)
        self.left: list[str] = []
        """Its directories that are still to be looked at."""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def reopen(self, below: int) -> None:
        """Opens it again, from a directory in it."""
        if self.fd >= 0:
            return
        fd = os.open("..", DIRECTORY, dir_fd=below)
        if not os.path.samestat(os.fstat(fd), self.status):
            os.close(fd)
            raise _MovedError
        self.fd = fd


class _Scan:
    """One pass over a tree."""

    def __init__(self, hidden: Collection[bytes]) -> None:
        self._hidden = {os.fsdecode(name) for name in hidden}
        self._linked: set[tuple[int, int]] = set()
        self._way: list[_Directory] = []
        self.bytes = self.inodes = self.unreadable = 0

    def run(self, root_fd: int) -> Usage:
        """Depth first. Memory: the directories' names on the way, and the inodes with several
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
    """Counts a tree. Symlinks are not followed; what comes and goes meanwhile may be missed; names
    in `hidden` are left out everywhere.

    Raises OSError: the root cannot be read; EAGAIN: directories were moved about during each try.
    """
    for _ in range(TRIES):
        with suppress(_MovedError):
            return _Scan(hidden).run(root_fd)
    raise OSError(errno.EAGAIN, "directories of the export are moved while they are counted")


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
        """Opens, or creates, the numbers of the export at `path` in directory `dir_fd`. `btime` is
        the root's birth time in ns, 0 where it has none; `boot` stands in for the boot id.

        Raises StateError (another daemon serves the export; not safe to use) or OSError.
        """
        root = os.fstat(root_fd)
        key = os.fsencode(path)
        self._digest = xxh3_128_digest(
            repr(
                (
                    VERSION,
                    key,
                    boot_id() if boot is None else boot,
                    (root.st_dev, root.st_ino, btime),
                    sorted(hidden),
                )
            ).encode()
        )
        self.name = file_name(key, ".usage")
        self.fd = open_locked(dir_fd, self.name, key)

    def close(self) -> None:
        """Closes and unlocks."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self) -> Usage | None:
        """The numbers, or None where they cannot be believed."""
        page = os.pread(self.fd, FILE_SIZE, 0)
        if len(page) < FILE_SIZE or not page.startswith(self._digest):
            return None
        count, inodes, changing = NUMBERS.unpack_from(page, USAGE_OFFSET)
        return None if changing else Usage(count, inodes)

    def write(self, usage: Usage) -> None:
        """Begins with these numbers. Raises OSError (ENOSPC)."""
        page = bytearray(FILE_SIZE)
        page[: len(self._digest)] = self._digest
        NUMBERS.pack_into(page, USAGE_OFFSET, usage.bytes, usage.inodes, 0)
        os.ftruncate(self.fd, 0)
        if os.pwrite(self.fd, page, 0) != FILE_SIZE:
            raise OSError(errno.ENOSPC, f"no space for the state file {self.name}")


def ensure_counted(
    usage_file: UsageFile, path: str, count: Callable[[], Usage], *, rescan: bool
) -> Usage:
    """The numbers of an export, scanned (by `count`) unless the file has them and no `rescan` is
    wanted. Raises OSError."""
    known = None if rescan else usage_file.read()
    if known:
        log.info("%s: %d bytes in %d inodes, as kept", path, known.bytes, known.inodes)
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
            "%s: %d files or directories could not be read, and are not in the quota's usage",
            path,
            usage.unreadable,
        )
    return usage
