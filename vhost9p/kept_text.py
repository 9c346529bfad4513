"""A text in a file in memory that is replaced in place: whoever reads it finds the old one or the
new one, whenever the process that writes it is killed.

The file begins with where the text is, and how long. A new text is written beside the old one, and
then the beginning, by one pwrite(2) within a page, which no signal interrupts.
"""

import errno
import os
import struct
from collections.abc import Mapping
from typing import Any

from vhost9p import handover, memory_file
from vhost9p.saved_state import Unreadable

_WHERE = struct.Struct("=QQ")
"""Offset and bytes of the text; zeros: none was written yet."""


def create() -> int:
    """Returns the descriptor of a new file, without a text. Raises OSError."""
    return memory_file.create("vhost9p-text")


def write(fd: int, main: Mapping[str, Any]) -> None:
    """Replaces the text by what main knows. Raises OSError."""
    data = handover.text(main).encode()
    offset, size = _where(fd)
    begin = _WHERE.size if _WHERE.size + len(data) <= offset else max(offset + size, _WHERE.size)
    if os.pwrite(fd, data, begin) != len(data):  # the new text is not named yet, the old one is
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.pwrite(fd, _WHERE.pack(begin, len(data)), 0)
    os.ftruncate(fd, begin + len(data))


def is_empty(fd: int) -> bool:
    """Whether no text was written yet. Raises OSError."""
    return not any(_where(fd))


def read(fd: int) -> dict[str, Any]:
    """Returns what main has known. Raises Unreadable, OSError."""
    offset, size = _where(fd)
    if offset + size > os.fstat(fd).st_size:
        raise Unreadable("what the process before has written down is damaged")
    return handover.parse(os.pread(fd, size, offset).decode(errors="replace"))


def _where(fd: int) -> tuple[int, int]:
    """Raises OSError."""
    head = os.pread(fd, _WHERE.size, 0).ljust(_WHERE.size, b"\0")
    offset, size = _WHERE.unpack(head)
    return offset, size
