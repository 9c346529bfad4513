"""How a request and its reply buffer are cut into descriptors.

A Linux client cuts a small message at page boundaries only; the data of a large read or write
lies in pages of its own, behind a header of 11 or 23 bytes. A device must not care, so a Layout
cuts anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.frontend.memory import PAGE, GuestMemory
from tests.frontend.ring import Segment

GUARD = b"\xa5" * 16  # behind every writable area: the device must not reach it


@dataclass(frozen=True)
class Layout:
    """Cuts of one request.

    `readable` and `writable` are the sizes of the first pieces, each in memory of its own; what
    remains is cut into pages, in ascending order or `backwards`, so that no piece adjoins the
    one before. `empty` puts a descriptor of length 0 before every piece. `reply_size` is the
    size of the reply buffer, where it is not the one that Linux would give.
    """

    readable: tuple[int, ...] = ()
    writable: tuple[int, ...] = ()
    backwards: bool = False
    empty: bool = False
    indirect: bool = True
    reply_size: int | None = None


@dataclass(eq=False)
class Buffers:
    """The memory of one request: segments in message order, and what is to be freed."""

    memory: GuestMemory
    readable: list[Segment] = field(default_factory=list)
    writable: list[Segment] = field(default_factory=list)
    _areas: list[int] = field(default_factory=list)
    _guards: list[int] = field(default_factory=list)

    @classmethod
    def place(cls, memory: GuestMemory, layout: Layout, data: bytes, capacity: int) -> Buffers:
        """Stores a request and reserves the reply's buffer."""
        buffers = cls(memory)
        buffers.readable = list(buffers._cut(len(data), layout.readable, layout.backwards))
        for gpa, size in buffers.readable:
            memory.write(gpa, data[:size])
            data = data[size:]
        guarded = len(buffers._guards)
        buffers.writable = list(buffers._cut(capacity, layout.writable, layout.backwards))
        buffers._guards = buffers._guards[guarded:]
        return buffers

    def _cut(self, size: int, first: tuple[int, ...], backwards: bool) -> Iterator[Segment]:
        for piece in first:
            take = min(piece, size)
            if take:
                yield self._area(take), take
            size -= take
        if size <= 0:
            return
        base = self._area(size, PAGE if size >= PAGE else 16)
        pieces = [(base + at, min(PAGE, size - at)) for at in range(0, size, PAGE)]
        yield from reversed(pieces) if backwards else pieces

    def _area(self, size: int, align: int = 16) -> int:
        gpa = self.memory.alloc(size + len(GUARD), align)
        self.memory.write(gpa + size, GUARD)
        self._areas.append(gpa)
        self._guards.append(gpa + size)
        return gpa

    def gather(self, size: int) -> bytes:
        """The first bytes of the reply's buffer."""
        parts = []
        for gpa, length in self.writable:
            take = min(length, size)
            parts.append(self.memory.read(gpa, take))
            size -= take
        return b"".join(parts)

    def intact(self) -> bool:
        """Whether nothing was written behind the reply's buffer."""
        return all(self.memory.read(gpa, len(GUARD)) == GUARD for gpa in self._guards)

    def free(self) -> None:
        for gpa in self._areas:
            self.memory.free(gpa)
        self._areas.clear()


def with_empty(segments: list[Segment]) -> list[Segment]:
    """The segments with one of length 0 before each."""
    return [part for segment in segments for part in ((segment[0], 0), segment)]
