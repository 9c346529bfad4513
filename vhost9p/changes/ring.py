"""The lines about a device (lines.py), in memory that main, the watcher, the keeper and its workers
share.

One process at a time appends whole lines; any number of readers each have a position of their own.
A *position* counts all bytes that were ever appended, so it only grows, and stays right when a
worker or a watcher is followed by another one. The ring keeps the last CAPACITY bytes; nobody waits
for a reader, and one that is too far behind gets `overflow` instead of what it has missed.

A reader copies first and then looks whether the writer has been there meanwhile: before the writer
touches the bytes of an earlier position it says so (`claimed`), and what it has written counts once
`end` says so.

The file is sealed, so nobody can be killed through it by making it shorter. A worker that an
attacker controls can write anything here. Who reads is that worker itself; who writes takes nothing
from here but where to go on, and any number will do for that.
"""

import mmap
import os
import threading
from contextlib import suppress

from vhost9p import memory_file
from vhost9p.changes.lines import OVERFLOW

CAPACITY = 1 << 20
"""Bytes of lines that are kept."""
_HEAD = mmap.PAGESIZE
_SIZE = _HEAD + CAPACITY
_END, _CLAIMED = 0, 1
"""Positions in the head, each of eight bytes: behind the last line, and behind the one that is
being written."""
_WRAP = 2**64


class Ring:
    """That of one device. Processes forked or cloned from this one share it."""

    def __init__(self, fd: int = -1, bell: int = -1) -> None:
        """That of the file `fd` and the eventfd `bell`, which are owned from now on, or a new one.
        Raises OSError."""
        self.fd = memory_file.create_sealed("vhost9p-changes", _SIZE) if fd < 0 else fd
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if bell < 0 else bell
        """Readable when lines were appended."""
        self._memory = mmap.mmap(self.fd, _SIZE)
        self._head = memoryview(self._memory)[: 2 * 8].cast("Q")
        """Eight bytes that are read or written at once."""
        self.spare = memoryview(self._memory)[2 * 8 : _HEAD]
        """The rest of the head, for roots.py."""

    @property
    def end(self) -> int:
        """The position behind the last line."""
        return self._head[_END]

    @property
    def end_memory(self) -> memoryview:
        """Eight bytes of the memory, in which that is."""
        return self._head[_END : _END + 1]

    def append(self, lines: bytes) -> None:
        """Appends whole lines, and rings. Those that do not fit at all become an overflow."""
        if not lines:
            return
        if len(lines) > CAPACITY // 2:
            lines = OVERFLOW
        begin = self.end
        end = (begin + len(lines)) % _WRAP
        self._head[_CLAIMED] = end
        _order()
        at = begin % CAPACITY
        first = min(len(lines), CAPACITY - at)
        self._memory[_HEAD + at : _HEAD + at + first] = lines[:first]
        self._memory[_HEAD : _HEAD + len(lines) - first] = lines[first:]
        _order()
        self._head[_END] = end
        self.ring()

    def ring(self) -> None:
        """Wakes who waits for the bell."""
        with suppress(BlockingIOError):  # it rings already
            os.eventfd_write(self.bell, 1)

    def read(self, position: int, limit: int) -> tuple[bytes, int]:
        """Returns the whole lines from a position on, of `limit` bytes at most, and the position
        behind them: nothing if there is none yet, or the first one is longer. If what is wanted is
        not here any more, returns an overflow, and goes on at the end."""
        end = self.end
        _order()
        if not self._has(position, end):
            return OVERFLOW, end
        size = min(end - position, limit)
        at = position % CAPACITY
        first = min(size, CAPACITY - at)
        data = self._memory[_HEAD + at : _HEAD + at + first]
        data += self._memory[_HEAD : _HEAD + size - first]
        _order()
        if not self._has(position, self._head[_CLAIMED]):
            return OVERFLOW, self.end
        whole = data[: data.rfind(b"\n") + 1]
        return whole, position + len(whole)

    @staticmethod
    def _has(position: int, end: int) -> bool:
        return 0 <= end - position <= CAPACITY

    def silence(self) -> None:
        """Called by who waits for the bell, before it reads: it rings for later lines only. Never
        blocks, even if a worker has made the descriptor one that does."""
        with suppress(BlockingIOError):
            os.preadv(self.bell, [bytearray(8)], -1, os.RWF_NOWAIT)

    def close(self) -> None:
        """In main, when the VM has ended."""
        self.spare.release()
        self._head.release()
        self._memory.close()
        os.close(self.fd)
        os.close(self.bell)


def _order() -> None:
    """What was read and written before is so for other processes before what follows. Python has no
    memory barrier, but a lock that is given and taken is one."""
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
