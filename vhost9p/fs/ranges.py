"""Byte ranges of a file, and which of them are locked how.

The kernel does not report an open file description's locks to their owner. A `RangeMap` records
them by the same rules: a later lock replaces what it overlaps, and neighbours of one kind merge
(fcntl(2)). It is needed to restore locks if the second half of a double lock fails, to close a
descriptor with its last lock, and to name the holder of a lock.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from vhost9p.native.sys import RDLCK, UNLCK, WRLCK

__all__ = ["OFFSET_END", "RDLCK", "UNLCK", "WHOLE", "WRLCK", "Range", "RangeMap", "Span"]

OFFSET_END = 2**63
"""One more than the largest offset (off_t)."""


class Range(NamedTuple):
    """Bytes of a file; length 0 reaches to its end, wherever that will be."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.start + self.length if self.length else OFFSET_END


Span = tuple[int, int]
"""The same without names: a request has one, and a tuple costs less than a Range."""
WHOLE: Span = (0, 0)
"""The whole file: all that flock(2) can express."""


def _between(start: int, end: int) -> Range:
    return Range(start, 0 if end == OFFSET_END else end - start)


Piece = tuple[int, int, int]
"""Start, end, and RDLCK or WRLCK."""
_start_of = itemgetter(0)
_end_of = itemgetter(1)


class RangeMap:
    """Disjoint locked ranges in ascending order. Not thread-safe."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[Piece] = []

    def __len__(self) -> int:
        """How many pieces there are; 0: nothing is locked."""
        return len(self._pieces)

    def set(self, span: Span, kind: int) -> tuple[Sequence[Piece], Sequence[Piece]]:
        """Locks a range, or unlocks it (UNLCK); the pieces that went, and that came instead."""
        start, length = span
        end = start + length if length else OFFSET_END
        low = bisect_left(self._pieces, start, key=_end_of)
        high = bisect_right(self._pieces, end, key=_start_of)
        if low == high:  # as most often: nothing there
            if kind == UNLCK:
                return (), ()
            self._pieces.insert(low, (start, end, kind))
            return (), ((start, end, kind),)
        gone, changed = self._pieces[low:high], []
        for piece in gone:  # what overlaps or touches
            if piece[0] < start:
                changed.append((piece[0], min(piece[1], start), piece[2]))
            if piece[1] > end:
                changed.append((max(piece[0], end), piece[1], piece[2]))
        if kind != UNLCK:
            changed.append((start, end, kind))
        merged: list[Piece] = []
        for piece in sorted(changed):
            if merged and merged[-1][1:] == (piece[0], piece[2]):
                merged[-1] = (merged[-1][0], piece[1], piece[2])
            else:
                merged.append(piece)
        self._pieces[low:high] = merged
        return gone, merged

    def within(self, span: Span) -> list[tuple[Range, int]]:
        """The range in pieces, each with its kind, UNLCK for what is not locked."""
        span = Range(*span)
        found, at = [], span.start
        for first, last, kind in self._pieces:
            start, end = max(first, span.start), min(last, span.end)
            if start >= end:
                continue
            if at < start:
                found.append((_between(at, start), UNLCK))
            found.append((_between(start, end), kind))
            at = end
        if at < span.end:
            found.append((_between(at, span.end), UNLCK))
        return found
