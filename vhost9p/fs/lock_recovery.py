"""Makes lock files of the records that a process has left that was killed (lock_records.py).

What was granted is in the records and in the kernel, which lists the locks of an open file
description in /proc/self/fdinfo (proc_pid_fdinfo(5)). Where a death came between the two, the state
before the request is restored, or that after it: the request was not answered, and runs again.

- Opened, not recorded: the descriptor is nobody's, and is closed; the request opens another.
- A file that held nothing, and flock or range of it taken: both are given back.
- One that held something, and flock taken, or refused and thus lost, or the range taken as well:
  the same attempt is made again. It succeeds and is recorded, or conflicts and is put back. It
  cannot conflict where the range was taken, and the ranges that it replaced are gone.
- A range locked or unlocked: the kernel is right. The request, run again, changes nothing.
- A wait, and what it waited for is there: flock is set to what is recorded; a range of the whole
  file, for which a request waits only if no range is held, is given back.
- The ranges of a whole lock unlocked, flock not: the request, run again, unlocks that, too.
- flock recorded as unlocked: it is unlocked.
- A process has left a lock that others hold: a link (RELEASED) keeps the request, run again, from
  unlocking theirs.
- The number of a fid freed: `mark` fails, and the fid is clunked.
- The record dropped: the descriptor is nobody's.

A record that cannot be right is left out, with a line of the log. Its descriptor is then nobody's,
and whoever closes such descriptors releases its locks.

Here nothing is changed, save that records are dropped; LockTable.recover does the rest, in steps
that are right alone. So it can be done again from the start if this process is killed, too.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from vhost9p import procfs
from vhost9p.fs import lock_records as layout
from vhost9p.fs.lock_file import FileId, LockFile
from vhost9p.fs.lock_records import LockRecords, Record
from vhost9p.fs.ranges import OFFSET_END, RDLCK, UNLCK, WRLCK, Range
from vhost9p.native import descriptors as native

log = logging.getLogger(__name__)

FD_MAX = 2**31 - 1
_KINDS = {"READ": RDLCK, "WRITE": WRLCK}


@dataclass
class Held:
    """What the kernel holds through a descriptor."""

    flock: int = UNLCK
    ranges: list[tuple[Range, int]] = field(default_factory=list)
    """Each with its kind."""


@dataclass
class Tried:
    """A lock of the whole file that was being tried."""

    process: int
    fid: int
    kind: int
    only_flock: bool


@dataclass
class Found:
    """A lock file that was found; its `ranges` are to be entered."""

    file: LockFile
    held: Held
    tried: Tried | None
    requests: list[int]
    """Those that have unlocked (LockTable.release)."""


class _DamageError(Exception):
    """What is wrong with a record."""


def held(fd: int) -> Held:
    """Reads what is locked through a descriptor. Raises OSError."""
    found = Held()
    with open(procfs.path(f"self/fdinfo/{fd}"), encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, *rest = line.split() or [""]
            if name != "lock:" or len(rest) < 8 or rest[3] not in _KINDS:
                continue
            kind = _KINDS[rest[3]]
            if rest[1] == "FLOCK":
                found.flock = kind
            elif rest[1] == "OFDLCK":
                start, last = int(rest[6]), rest[7]
                end = OFFSET_END if last == "EOF" else int(last) + 1
                span = Range(start, 0 if end == OFFSET_END else end - start)
                found.ranges.append((span, kind))
    return found


def find(records: LockRecords) -> Iterator[Found]:
    """Yields the lock files of all records that are right, and drops the others. Raises OSError if
    /proc cannot be read."""
    if layout.is_damaged(records.words):
        log.warning(
            "the records of locks are damaged; the guest's locks are lost: restart what held them"
        )
    seen = set[int]()
    for record in records.take_over():
        try:
            found = _read(records, record)
            if found.file.fd in seen:
                raise _DamageError("its descriptor has another record")
        except _DamageError as damage:
            log.warning(
                "a guest's lock is lost, since its record is damaged (%s): restart what held it",
                damage,
            )
            record.end()
            continue
        if not found.file.fids:  # given up; it was to be closed
            record.end()
            native.close(found.file.fd)
            continue
        seen.add(found.file.fd)
        yield found


def _read(records: LockRecords, record: Record) -> Found:
    words, at = records.words, record.at
    word, fd, access = words[at], words[at + layout.FD], words[at + layout.ACCESS]
    device, inode = words[at + layout.DEVICE], words[at + layout.INODE]
    size = words[at + layout.CLIENT_SIZE]
    if word & layout.COMMITTED_BITS != layout.COMMITTED or word & layout.FLOCK_BITS > UNLCK:
        raise _DamageError("its state is none")
    if size > layout.CLIENT_MAX:
        raise _DamageError("its client_id is too long")
    holds = _held_by(fd, access, (device, inode))
    start = (at + layout.CLIENT) * layout.WORD
    client = bytes(records.bytes[start : start + size])
    processes = [(device, inode, client, each) for each, _ in record.of_kind(layout.HOLDER)]
    if not processes:
        raise _DamageError("no process holds it")
    file = LockFile(processes[0], fd, access)
    file.holders = dict.fromkeys(processes)
    file.former = {(device, inode, client, each) for each, _ in record.of_kind(layout.FORMER)}
    file.fids = {fid for fid, _ in record.of_kind(layout.FID)}
    file.record = record
    _read_state(file, word, words)
    requests = [words[link + layout.REQUEST] for _, link in record.of_kind(layout.RELEASED)]
    return Found(file, holds, _tried(record, words), requests)


def _held_by(fd: int, access: int, identity: FileId) -> Held:
    """What a descriptor holds that must be one for locks of this file."""
    if fd > FD_MAX:
        raise _DamageError("its descriptor is none")
    try:
        status, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError as error:
        raise _DamageError(f"descriptor {fd} is not open") from error
    if flags & (os.O_ACCMODE | os.O_PATH) != access:
        raise _DamageError(f"descriptor {fd} is another one")
    holds = held(fd)
    # A file system may number a file anew that it opens. What holds locks is no other descriptor.
    if (status.st_dev, status.st_ino) != identity and holds == Held():
        raise _DamageError(f"descriptor {fd} is of another file")
    return holds


def _read_state(file: LockFile, word: int, words: memoryview) -> None:
    record = file.record
    file.flock = word & layout.FLOCK_BITS
    file.only_flock = bool(word & layout.ONLY_FLOCK)
    file.divided = bool(word & layout.DIVIDED)
    file.bare = bool(word & layout.BARE)
    if file.flock == UNLCK:
        record.unshare_all()  # what a request that was tried has entered
        return
    if word & layout.FIRST_SHARES and record.first >= 0:
        file.shares.add(record.first)
    file.shares.update(
        fid for fid, at in record.fids.items() if words[at + layout.SHARE] == record.number
    )


def _tried(record: Record, words: memoryview) -> Tried | None:
    word, at = words[record.at], record.at
    kind = word >> layout.TRIED_SHIFT & layout.FLOCK_BITS
    if not word & layout.TRYING or kind == UNLCK:
        return None
    fid, process = words[at + layout.TRIED_FID], words[at + layout.TRIED_PROCESS]
    if word & layout.TRYING_FIRST:
        fid, process = record.first, record.process
    return Tried(process, fid, kind, bool(word & layout.TRIED_ONLY))
