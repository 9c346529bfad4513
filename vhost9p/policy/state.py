"""The state file: facts that a guest has seen and that must stay true after a restart of the
daemon.

An append-only journal of fixed-size records of numbers, whose meaning the policy defines. A file
belongs to one key (an export as one guest sees it). Its name is the key's hash, and its header
repeats the key, so that two keys never share a file.

    header:  magic[8] version[4] key_length[4] boot_id[16] key[key_length] checksum[8]
    record:  kind[1] zero[3] device[4] a[8] b[8] c[8] d[8] checksum[8]

All numbers are little-endian. A checksum is XXH3-64 of the preceding bytes; a record's is seeded
with its position, so that a record is valid in its place only. The records mean nothing after a
reboot, when device numbers and mount ids start again, so a file of another boot is emptied. For the
same reason nothing is flushed to disk: the page cache outlives the daemon, and the records are
useless after a crash of the kernel.

The file is opened, checked and, if that pays, rewritten before the daemon is confined. After that
it is only appended to, through the open descriptor.
"""

import contextlib
import fcntl
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from vhost9p import host
from vhost9p.policy.locked_file import StateError, file_name, lock, open_locked

__all__ = ["RECORD_SIZE", "Record", "StateError", "StateFile"]

log = logging.getLogger(__name__)

MAGIC = b"9pstate\0"
VERSION = 1
HEADER = struct.Struct("<8sII16s")
BODY = struct.Struct("<B3xI4Q")
CHECKSUM = struct.Struct("<Q")
BATCH = 1024
RECORD_SIZE = BODY.size + CHECKSUM.size


class Record(NamedTuple):
    """One fact. `kind` is below 256, `device` below 2**32, the others below 2**64."""

    kind: int
    device: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0


def _encode_header(key: bytes, boot: bytes) -> bytes:
    head = HEADER.pack(MAGIC, VERSION, len(key), boot) + key
    return head + CHECKSUM.pack(xxh3_64_intdigest(head))


def _decode_header(data: bytes) -> tuple[bytes, bytes] | None:
    """Returns (key, boot id); None if there is no intact header of this version."""
    if len(data) < HEADER.size:
        return None
    magic, version, length, boot = HEADER.unpack_from(data)
    key = data[HEADER.size : HEADER.size + length]
    if (magic, version) == (MAGIC, VERSION) and data.startswith(_encode_header(key, boot)):
        return key, boot
    return None


def _encode(record: Record, position: int) -> bytes:
    body = BODY.pack(*record)
    return body + CHECKSUM.pack(xxh3_64_intdigest(body, seed=position))


def _decode(data: bytes, position: int) -> Record | None:
    body, checksum = data[: BODY.size], data[BODY.size :]
    if CHECKSUM.unpack(checksum)[0] != xxh3_64_intdigest(body, seed=position):
        return None
    return Record(*BODY.unpack(body))


def state_name(key: str) -> str:
    """Returns the name of the state file of a key."""
    return file_name(key.encode(errors="surrogateescape"), ".state")


class StateFile:
    """An open, locked state file. Not thread-safe: the policy's lock protects it."""

    def __init__(self, dir_fd: int, key: str, *, boot: bytes | None = None) -> None:
        """Opens, or creates, the state of `key` in directory `dir_fd`, which is duplicated.

        Raises StateError (in use, not safe to use) or OSError. `boot` stands in for the boot id.
        """
        self._key = key.encode(errors="surrogateescape")
        self._boot = host.boot_id() if boot is None else boot
        self.name = state_name(key)
        self.damaged = 0
        self._count = 0
        self._fd = -1
        self._dir_fd = fcntl.fcntl(dir_fd, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            self._fd = open_locked(self._dir_fd, self.name, self._key)
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes and unlocks."""
        for fd in (self._fd, self._dir_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._dir_fd = -1

    # ---- loading ----------------------------------------------------------------------------

    def _load(self) -> None:
        size = os.fstat(self._fd).st_size
        if self._start_anew(os.pread(self._fd, self._start(), 0)):
            os.ftruncate(self._fd, 0)
            self._write(_encode_header(self._key, self._boot), 0)
            return
        whole, rest = divmod(size - self._start(), RECORD_SIZE)
        if rest:
            log.info("the state file %s ends within a record, which was never used", self.name)
            os.ftruncate(self._fd, size - rest)
        self._count = whole

    def records(self) -> Iterator[Record]:
        """Yields the file's records in order. Afterwards `damaged` is the number of unreadable
        ones."""
        self.damaged = 0
        return self._read(self._fd, self._count)

    def _read(self, fd: int, count: int) -> Iterator[Record]:
        for first in range(0, count, BATCH):
            size = min(BATCH, count - first) * RECORD_SIZE
            data = os.pread(fd, size, self._start() + first * RECORD_SIZE)
            for at in range(0, size, RECORD_SIZE):
                record = _decode(data[at : at + RECORD_SIZE], first + at // RECORD_SIZE)
                if record is None:
                    self.damaged += 1
                else:
                    yield record

    def _start(self) -> int:
        """Returns the offset of the first record."""
        return HEADER.size + len(self._key) + CHECKSUM.size

    def _start_anew(self, data: bytes) -> bool:
        """Whether the file has nothing that this daemon may use."""
        found = _decode_header(data)
        if found == (self._key, self._boot):
            return False
        if found and found[0] != self._key:
            raise StateError(
                f"the state file {self.name} belongs to {found[0].decode(errors='replace')!r}: "
                "remove it, or move one of the two exports"
            )
        if found:
            log.info("the state file %s is of an earlier boot: starting anew", self.name)
        elif data:
            log.warning(
                "the state file %s is damaged or of another version: starting anew; a guest that "
                "was connected before may take files for others until it mounts again",
                self.name,
            )
        return True

    # ---- writing ----------------------------------------------------------------------------

    def append(self, *records: Record) -> None:
        """Adds records, all or none. Raises OSError (ENOSPC, EDQUOT, EIO)."""
        data = b"".join(_encode(record, self._count + i) for i, record in enumerate(records))
        self._write(data, self._start() + self._count * RECORD_SIZE)
        self._count += len(records)

    def _write(self, data: bytes, start: int) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], start + done)
        except OSError:
            # The next append overwrites what is left.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replaces the whole content atomically. Nothing has changed if it raises OSError.

        `records` may be a running `records()`, read while the new file is written.
        """
        temporary = self.name + ".new"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError):  # left by a daemon that was killed here
            os.unlink(temporary, dir_fd=self._dir_fd)
        old, old_count = self._fd, self._count
        self._fd = os.open(temporary, flags, 0o600, dir_fd=self._dir_fd)
        self._count = 0
        try:
            lock(self._fd, temporary, self._key)
            self._write(_encode_header(self._key, self._boot), 0)
            pending = iter(records)
            while batch := list(islice(pending, BATCH)):
                self.append(*batch)
            os.rename(temporary, self.name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        except BaseException:
            os.close(self._fd)
            self._fd, self._count = old, old_count
            os.unlink(temporary, dir_fd=self._dir_fd)
            raise
        os.close(old)
