"""What survives of a lock table whose process is killed: a record of each lock file, in memory that
the next process has too.

The locks themselves survive in the kernel. They belong to open file descriptions, which stay open
in the table of descriptors that both processes share, and /proc lists them (lock_recovery.py). A
record says what the kernel does not know: whose the descriptor is, for which processes and through
which fids it was used, and how much of what it holds was granted.

The process may be killed between any two stores. So what a record says changes by one store, of an
aligned word: the *state*. It is written last when the record is made, and cleared first when it is
dropped. A record is made before the first lock is taken through the descriptor, and dropped before
the descriptor is closed: one that is open and has no record holds nothing that anybody was granted.
In between a state says

- how flock(2) locks the file, as granted. What the kernel holds may differ for a moment;
- whether no range is granted (`bare`): what a request has got of the kernel is given back then;
- unless nothing at all is granted: what is being tried, if a lock of the whole file is. After a
  death it is tried once more, since the ranges that it replaces may be gone by then. The request
  itself runs again, too, and finds either that it has the lock already, or that it conflicts.

Ranges are not recorded: a range that the kernel holds was granted, or is about to be to a request
that runs again.

A record has room for one fid and one process. More of them are *links*: entries of a common table
with the number of the record, each of which a store of its own enters and removes. Links of fids
that share a flock carry the number of the flock as in the state, so that one store ends all of
them.

The lock table's lock guards all of it but the state, which the file's own lock guards (both locks
where a record begins and ends).
"""

import errno
import mmap
import struct
import threading
from collections.abc import Iterable
from operator import itemgetter

from vhost9p.native.sys import UNLCK

WORD = 8
FILES = 4608
"""Records: more than lock files that hold something, that are idle, or that are being closed."""
LINKS = 32768
LINKS_SPARE = 4096
"""Of these; they are left to processes that join others, which must not fail half-way."""
RELEASED_MAX = 256
"""More than the requests that the threads of a device answer at a time."""
CLIENT_MAX = 1024
"""Bytes of a client_id (csrc/p9/lock.c)."""

MAGIC = 0x564C4F434B310000
"""The first word: the layout."""
MAGIC_AT, FILES_USED_AT, LINKS_USED_AT, HEADER_WORDS = 0, 1, 2, 8
"""Numbers from `used` on were never used, so that recovery does not read them."""

STATE, TRIED_FID, TRIED_PROCESS, FD, ACCESS, DEVICE, INODE, CLIENT_SIZE = range(8)
"""Words of a record; then come the first fid, the first process, and the client_id."""
FIRST_FID, FIRST_PROCESS, CLIENT = 8, 12, 16
RECORD_WORDS = CLIENT + CLIENT_MAX // WORD
BODY = struct.Struct("=13Q")
"""A record from FD to CLIENT."""

TAG, VALUE, REQUEST, SHARE, LINK_WORDS = range(5)
"""Words of a link, and their number. The tag is written last: its kind, the record's number, and
the order in which links were made."""
FID, HOLDER, FORMER, RELEASED = range(1, 5)
"""Kinds: a fid; a process that holds, or held (`LockFile`); one that has unlocked by a request
that may not have been answered yet."""
KIND_BITS = 7
FILE_SHIFT, FILE_BITS = 8, 0xFFFF
ORDER_SHIFT = 32

COMMITTED = 0x4C4B << 48
COMMITTED_BITS = 0xFFFF << 48
FLOCK_BITS = 3
ONLY_FLOCK, DIVIDED, BARE, FIRST_SHARES = 4, 8, 16, 32
TRYING, TRYING_FIRST, TRIED_SHIFT, TRIED_ONLY = 64, 128, 8, 1024
"""TRYING_FIRST: through the first fid, for the first process."""
NUMBER, NUMBER_BITS = 1 << 12, 0xFFFFFFFFF << 12
"""The flock's."""

FILES_AT = HEADER_WORDS
LINKS_AT = FILES_AT + FILES * RECORD_WORDS
SIZE = (LINKS_AT + LINKS * LINK_WORDS) * WORD
"""Bytes of memory; what was never used is not touched."""

Memory = mmap.mmap | memoryview
Holder = tuple[int, int, bytes, int]
"""A guest process and the file that it locks: device, inode, client_id, proc_id. One is made for
each request, and a tuple without names costs least."""


def words_of(memory: Memory) -> memoryview:
    """The memory in words."""
    return memoryview(memory).cast("B")[:SIZE].cast("Q")


def bytes_of(memory: Memory) -> memoryview:
    """The same in bytes."""
    return memoryview(memory).cast("B")


def is_damaged(words: memoryview) -> bool:
    """Whether none of the memory can be believed."""
    too_many = words[FILES_USED_AT] > FILES or words[LINKS_USED_AT] > LINKS
    return words[MAGIC_AT] not in (0, MAGIC) or too_many


def descriptors(words: memoryview) -> list[int]:
    """The descriptors that the records in this memory have."""
    used = 0 if is_damaged(words) else words[FILES_USED_AT]
    starts = (FILES_AT + slot * RECORD_WORDS for slot in range(used))
    return [words[at + FD] for at in starts if words[at]]


def count_held(words: memoryview) -> int:
    """Returns how many records in this memory are of locks that somebody holds."""
    used = 0 if is_damaged(words) else words[FILES_USED_AT]
    states = (words[FILES_AT + slot * RECORD_WORDS] for slot in range(used))
    nothing = BARE | UNLCK
    return sum(bool(state and state & (BARE | FLOCK_BITS) != nothing) for state in states)


class Record:
    """The record of one lock file, or a free one."""

    __slots__ = (
        "_table", "access", "at", "client", "fids", "first", "holder", "number", "process",
        "processes", "released", "slot", "tag", "word", "words",
    )  # fmt: skip

    def __init__(self, table: "LockRecords", slot: int) -> None:
        self._table = table
        self.words = table.words
        self.slot = slot
        self.tag = slot << FILE_SHIFT
        """Of its own two links, without the kind."""
        self.at = FILES_AT + slot * RECORD_WORDS
        self.client = b""
        """The client_id that is there."""
        self.holder: Holder | None = None
        """The process that has both of its own links, in the order of its beginning; None if one
        has changed."""
        self.access = 0
        self.word = 0
        """The state without what is being tried."""
        self.number = COMMITTED
        """The flock's, as part of a state."""
        self.first = self.process = -1
        """The first fid and process, which have no other link; -1: none."""
        self.fids: dict[int, int] = {}
        self.processes: dict[int, int] = {}
        """The others, and where their links are."""
        self.released: dict[int, int] = {}
        """Links of the kind, and their tags."""

    # ---- the state --------------------------------------------------------------------------

    def try_whole(self, fid: int, process: int, kind: int, only_flock: bool) -> None:
        """Records that the whole file is about to be locked."""
        word = self.word | TRYING | kind << TRIED_SHIFT
        if only_flock:
            word |= TRIED_ONLY
        if fid == self.first and process == self.process:
            self.words[self.at] = word | TRYING_FIRST
            return
        self.words[self.at + TRIED_FID] = fid
        self.words[self.at + TRIED_PROCESS] = process
        self.words[self.at] = word

    def share(self, fid: int) -> None:
        """Records, unless `store` does, that a fid shares the flock."""
        if fid in self.fids:
            self.words[self.fids[fid] + SHARE] = self.number

    def unshare(self, fid: int) -> None:
        """The opposite."""
        if fid in self.fids:
            self.words[self.fids[fid] + SHARE] = 0

    def unshare_all(self) -> None:
        """The next `store` records that no other fid than the first shares it."""
        if self.fids:
            self.number += NUMBER

    # ---- fids and processes -----------------------------------------------------------------

    def add_fid(self, fid: int) -> None:
        """OSError ENOLCK if there are too many."""
        if self.first < 0:
            self.holder = None
            self._enter(self.at + FIRST_FID, FID, fid)
            self.first = fid
        else:
            self.fids[fid] = self._add_link(FID, fid, LINKS_SPARE)

    def drop_fid(self, fid: int) -> None:
        """Records that a fid is gone; a file without any is given up."""
        if fid == self.first:
            self.first, self.holder = -1, None
            self.words[self.at + FIRST_FID] = 0
        elif fid in self.fids:
            self._remove(self.fids.pop(fid))

    def drop_fids(self) -> None:
        """All of them."""
        for fid in (self.first, *self.fids):
            self.drop_fid(fid)

    def set_process(self, process: int, kind: int) -> None:
        """Records a process as HOLDER or FORMER. OSError ENOLCK if there are too many."""
        self.holder = None
        if process == self.process:
            self._enter(self.at + FIRST_PROCESS, kind, process)
        elif process in self.processes:
            self._enter(self.processes[process], kind, process)
        elif self.process < 0 and self.at + FIRST_PROCESS not in self.released:
            self._enter(self.at + FIRST_PROCESS, kind, process)
            self.process = process
        else:
            self.processes[process] = self._add_link(kind, process, 0)

    def drop_process(self, process: int, request: int) -> None:
        """Records that a process has unlocked, by this request (see LockTable.release)."""
        self.holder = None
        if process == self.process:
            self.process, at = -1, self.at + FIRST_PROCESS
        else:
            at = self.processes.pop(process)
        if request:
            self._release(at, process, request)
        else:
            self._remove(at)

    def add_released(self, process: int, request: int) -> None:
        """Records that a process without a part in this file has unlocked."""
        if request and not self._table.is_full:
            self._release(self._table.new_link(0), process, request)

    def _release(self, at: int, process: int, request: int) -> None:
        self.words[at + REQUEST] = request
        self.released[at] = self._enter(at, RELEASED, process)
        self._table.keep_released(self, at)

    def forget_released(self, at: int, tag: int) -> None:
        """The request was answered."""
        if self.released.get(at) == tag:
            del self.released[at]
            self._remove(at)

    def _add_link(self, kind: int, value: int, spare: int) -> int:
        at = self._table.new_link(spare)
        self._enter(at, kind, value)
        return at

    def _enter(self, at: int, kind: int, value: int) -> int:
        tag = self._table.new_tag(self.slot, kind)
        self.words[at + VALUE] = value
        self.words[at] = tag
        return tag

    def _remove(self, at: int) -> None:
        self.words[at] = 0
        if at >= LINKS_AT:
            self.words[at + SHARE] = 0
            self._table.free_link(at)

    def of_kind(self, kind: int) -> list[tuple[int, int]]:
        """The values of links of this kind in the order in which they were made, and where each
        is."""
        words, all_at = self.words, [*self.fids.values(), *self.processes.values(), *self.released]
        if self.first >= 0:
            all_at.append(self.at + FIRST_FID)
        if self.process >= 0:
            all_at.append(self.at + FIRST_PROCESS)
        found = sorted((words[at] >> ORDER_SHIFT, at) for at in all_at)
        return [(words[at + VALUE], at) for _, at in found if words[at] & KIND_BITS == kind]

    # ---- beginning and end ------------------------------------------------------------------

    def take_over(self, links: Iterable[int]) -> None:
        """What another process has left: the state, and links."""
        self.word = self.words[self.at]
        self.number = COMMITTED | self.word & NUMBER_BITS
        for at in links:
            kind, value = self.words[at] & KIND_BITS, self.words[at + VALUE]
            if kind == RELEASED:
                self.released[at] = self.words[at]
            elif at == self.at + FIRST_FID:
                self.first = value
            elif at == self.at + FIRST_PROCESS:
                self.process = value
            else:
                (self.fids if kind == FID else self.processes)[value] = at

    def end(self) -> None:
        """The descriptor is about to be closed."""
        self.words[self.at] = 0
        if self.fids or self.processes or self.released:
            for at in (*self.fids.values(), *self.processes.values(), *self.released):
                self._remove(at)
            self.fids, self.processes, self.released = {}, {}, {}
        self._table.free.append(self)


class LockRecords:
    """All records of a lock table, in `memory` of SIZE bytes."""

    def __init__(self, memory: Memory | None) -> None:
        memory = memory if memory is not None else mmap.mmap(-1, SIZE)
        self.words = words_of(memory)
        self.bytes = bytes_of(memory)
        self.free: list[Record] = []
        self._free_links: list[int] = []
        self._files = self._links = 0
        """Those that were ever used."""
        self._order = 0
        self.kept: dict[int, list[tuple[Record, int, int]]] = {}
        """Links of the kind RELEASED, by thread."""
        self.is_full = False
        """Whether all links but the spare ones are in use."""

    def add(self, holder: Holder, fd: int, access: int, fid: int) -> Record:
        """Records a lock file that is used through this fid. OSError ENOLCK if there is no room."""
        record = self.free.pop() if self.free else self._new()
        if holder == record.holder and fid == record.first and access == record.access:
            self.words[record.at + FD] = fd  # the same again, as most often
        else:
            self._fill(record, holder, fd, access, fid)
        record.word = self.words[record.at] = record.number | UNLCK | BARE
        return record

    def _fill(self, record: Record, holder: Holder, fd: int, access: int, fid: int) -> None:
        device, inode, client, process = holder
        if len(client) > CLIENT_MAX:
            self.free.append(record)
            raise OSError(errno.ENOLCK, "the client_id is too long")
        BODY.pack_into(
            self.bytes, (record.at + FD) * WORD, fd, access, device, inode, len(client),
            record.tag | FID, fid, 0, 0, record.tag | HOLDER, process, 0, 0,
        )  # fmt: skip
        if client != record.client:
            start = (record.at + CLIENT) * WORD
            self.bytes[start : start + len(client)] = record.client = client
        record.holder, record.access = holder, access
        record.first, record.process = fid, process

    def _new(self) -> Record:
        if self._files == FILES:
            raise OSError(errno.ENOLCK, "there are too many locked files")
        self._files += 1
        if self._files == 1:
            self.words[MAGIC_AT] = MAGIC
        self.words[FILES_USED_AT] = self._files
        return Record(self, self._files - 1)

    # ---- links ------------------------------------------------------------------------------

    def new_link(self, spare: int) -> int:
        """Where a free link is. OSError ENOLCK if no more than `spare` are left."""
        left = len(self._free_links) + LINKS - self._links
        if left <= spare:
            raise OSError(errno.ENOLCK, "there are too many fids and processes with locks")
        self.is_full = left - 1 <= LINKS_SPARE
        if self._free_links:
            return self._free_links.pop()
        self._links += 1
        self.words[LINKS_USED_AT] = self._links
        return LINKS_AT + (self._links - 1) * LINK_WORDS

    def free_link(self, at: int) -> None:
        """Takes a link back."""
        self._free_links.append(at)
        self.is_full = len(self._free_links) + LINKS - self._links <= LINKS_SPARE

    def new_tag(self, slot: int, kind: int) -> int:
        """The tag of a new link."""
        self._order += 1
        return kind | slot << FILE_SHIFT | (self._order & 0xFFFFFFFF) << ORDER_SHIFT

    # ---- requests that have unlocked --------------------------------------------------------

    def keep_released(self, record: Record, at: int) -> None:
        """Remembers a link that says that the thread's present request has unlocked."""
        link = record, at, record.released[at]
        self.kept.setdefault(threading.get_ident(), []).append(link)

    def next_request(self) -> None:
        """The thread begins another request: the one before was answered."""
        for record, at, tag in self.kept.pop(threading.get_ident(), ()):
            record.forget_released(at, tag)

    # ---- after a death ----------------------------------------------------------------------

    def take_over(self) -> list[Record]:
        """The records that another process has left. What belongs to none is free from now on."""
        words = self.words
        if is_damaged(words):
            words[MAGIC_AT] = ~MAGIC & 0xFFFFFFFFFFFFFFFF  # until all is empty
            self.bytes[WORD:SIZE] = bytes(SIZE - WORD)
            words[MAGIC_AT] = MAGIC
        self._files, self._links = used, links_used = words[FILES_USED_AT], words[LINKS_USED_AT]
        records = [Record(self, slot) for slot in range(used)]
        links: list[list[int]] = [[] for _ in records]
        firsts = [r.at + first for r in records for first in (FIRST_FID, FIRST_PROCESS)]
        for at in (*firsts, *range(LINKS_AT, LINKS_AT + links_used * LINK_WORDS, LINK_WORDS)):
            slot = self._slot_of(at)
            if slot is not None:
                links[slot].append(at)
            elif at >= LINKS_AT:
                words[at] = words[at + SHARE] = 0
                self.free_link(at)
        for record, its in zip(records, links, strict=True):
            record.take_over(its)
        self.free = [record for record in records if not words[record.at]]
        self._forget_old([record for record in records if words[record.at]])
        return [record for record in records if words[record.at]]

    def _slot_of(self, at: int) -> int | None:
        """The record that a link belongs to, unless the link is free."""
        tag = self.words[at]
        slot, kind = tag >> FILE_SHIFT & FILE_BITS, tag & KIND_BITS
        if slot >= self._files or kind not in (FID, HOLDER, FORMER, RELEASED):
            return None
        start = FILES_AT + slot * RECORD_WORDS
        is_of_it = at >= LINKS_AT or at - start == (FIRST_FID if kind == FID else FIRST_PROCESS)
        self._order = max(self._order, tag >> ORDER_SHIFT)
        return slot if self.words[start] and is_of_it else None

    def _forget_old(self, records: list[Record]) -> None:
        """Of the requests that have unlocked only the last ones may not have been answered."""
        links = [(tag >> ORDER_SHIFT, at, record, tag)
                 for record in records for at, tag in record.released.items()]  # fmt: skip
        for _, at, record, tag in sorted(links, key=itemgetter(0, 1))[:-RELEASED_MAX]:
            record.forget_released(at, tag)
