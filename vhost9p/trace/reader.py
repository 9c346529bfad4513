"""Takes the records of a device out of the memory that its worker writes (memory.py).

C copies a record, and looks whether it was overwritten meanwhile (csrc/request/trace.h). What the
memory says is believed by nobody: a record is data to be shown.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vhost9p.native.library import ffi, lib
from vhost9p.trace.memory import SIZE

_HEAD = int(ffi.sizeof("struct v9_trace_record"))


class Path(NamedTuple):
    """A file's name below the root of an export."""

    export: int
    """The export's index."""
    name: bytes
    """Empty for the root."""
    is_cut: bool
    """Whether `name` is the end of a longer one."""


class Record(NamedTuple):
    """A request and its reply."""

    number: int
    """Counted from 1, since the VM has started."""
    began: int
    """Nanoseconds since 1970; 0: before anybody watched."""
    ended: int
    took: int
    """Nanoseconds."""
    uid: int | None
    """The guest's user who has attached, if that is known."""
    is_u: bool
    """Whether the session has 9P2000.u."""
    paths: tuple[Path | None, ...]
    """Of the files that the request is about, by its fids."""
    request_size: int
    reply_size: int
    request: bytes
    """As much of the message as was recorded."""
    reply: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """So many records were overwritten before they were read."""

    count: int


class Reader:
    """Reads the records of one device from now on."""

    def __init__(self, fd: int, device: int) -> None:
        """`fd` is the file of the VM, which is not kept. Who has sent it may be anybody: its memory
        has to stay, and no file system of theirs is asked for it. Raises OSError."""
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise OSError(errno.EINVAL, "the memory of the records may become shorter")
        if os.fstat(fd).st_size < SIZE * (device + 1):
            raise OSError(errno.EINVAL, "there is less memory for records than devices")
        self._map = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=SIZE * device)
        self._memory = ffi.from_buffer(self._map)
        self._position = ffi.new("uint64_t *")
        self._end = ffi.new("uint64_t *")
        self._out = ffi.new("uint8_t[]", lib.V9_TRACE_RECORD_MAX)
        self._records = ffi.new("uint64_t *")
        lib.v9_trace_end_of(self._memory, self._position, self._records)
        self._seen = int(self._records[0])

    def close(self) -> None:
        """Takes the mapping back."""
        ffi.release(self._memory)
        self._map.close()

    def read(self) -> Iterator[Record | Lost]:
        """Yields what has come since the last time, and ends although more may come meanwhile, or
        the memory says something else each time."""
        lib.v9_trace_end_of(self._memory, self._end, self._records)
        records, goes_on = int(self._records[0]), True
        while goes_on and self._position[0] != self._end[0]:
            size = lib.v9_trace_read(self._memory, self._position, self._out)
            if size <= 0:  # they were overwritten; what came after them is read the next time
                yield from self._miss(records)
                return
            goes_on = self._position[0] < self._end[0]
            record = _record(bytes(ffi.buffer(self._out, size)))
            yield from self._miss(record.number - 1)
            self._seen = record.number
            yield record

    def _miss(self, number: int) -> Iterator[Lost]:
        """What was not seen, up to the record of this number, never will be."""
        if number > self._seen:
            yield Lost(number - self._seen)
            self._seen = number

    def lost_at_end(self) -> int:
        """How many records there are that `read` has not come to. It comes to them no more."""
        lib.v9_trace_end_of(self._memory, self._position, self._records)
        return max(int(self._records[0]) - self._seen, 0)


def _record(data: bytes) -> Record:
    head = ffi.new("struct v9_trace_record *")
    ffi.memmove(head, data[:_HEAD], _HEAD)
    at = _HEAD
    pieces = []
    for size in (*head.path_size, head.request_held, head.reply_held):
        pieces.append(data[at : at + size])
        at += size
    paths = tuple(
        _path(head.path_state[i], head.path_export[i], pieces[i]) for i in range(len(pieces) - 2)
    )
    uid = None if head.uid == 2**32 - 1 else int(head.uid)
    return Record(
        int(head.number), int(head.began), int(head.ended), int(head.took), uid,
        head.dialect == lib.V9_9P2000U, paths,
        int(head.request_size), int(head.reply_size), *pieces[2:],
    )  # fmt: skip


def _path(state: int, export: int, name: bytes) -> Path | None:
    if state in (lib.V9_TRACE_PATH_KNOWN, lib.V9_TRACE_PATH_CUT):
        return Path(export, name, state == lib.V9_TRACE_PATH_CUT)
    return None
