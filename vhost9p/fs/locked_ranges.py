"""All ranges that a guest has locked, by file: how many there are, and who has one.

A request finds a range among many without a search. Ranges are bounded, since the kernel searches
a list of all locked ranges of a file, whoever holds them.
"""

import errno
from typing import TypeVar

from vhost9p.fs.lock_file import FileId, LockFile
from vhost9p.fs.ranges import Piece, Span

PIECES_MAX = 65536
FILE_PIECES_MAX = 8192
"""Ranges that one guest may lock, in total and in one file; ENOLCK beyond."""

K = TypeVar("K")


def discard(index: dict[K, dict[LockFile, None]], key: K, file: LockFile) -> None:
    """Removes a file from an index of files."""
    files = index.get(key)
    if files:
        files.pop(file, None)
        if not files:
            del index[key]


class LockedRanges:
    """See the module. Not thread-safe."""

    def __init__(self) -> None:
        self._files: dict[tuple[FileId, Piece], dict[LockFile, None]] = {}
        self._count = 0
        self._in_file: dict[FileId, int] = {}
        """How many there are, and of each file."""

    def require_room(self, file_id: FileId) -> None:
        """Raises OSError ENOLCK if there are too many ranges."""
        if self._count > PIECES_MAX or self._in_file.get(file_id, 0) > FILE_PIECES_MAX:
            raise OSError(errno.ENOLCK, f"{self._count} ranges are locked")

    def set(self, file: LockFile, span: Span, kind: int) -> None:
        """Records that a range is locked, or is not any more (UNLCK)."""
        gone, come = file.ranges.set(span, kind)
        file_id = file.file_id
        for piece in gone:
            discard(self._files, (file_id, piece), file)
        for piece in come:
            self._files.setdefault((file_id, piece), {})[file] = None
        more = len(come) - len(gone)
        if more:
            self._count += more
            count = self._in_file.pop(file_id, 0) + more
            if count:
                self._in_file[file_id] = count

    def owners(self, file_id: FileId, piece: Piece) -> tuple[LockFile, ...]:
        """Through which lock files exactly this range is locked."""
        return tuple(self._files.get((file_id, piece), ()))
