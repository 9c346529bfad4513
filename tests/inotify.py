"""Who opens or changes files, as inotify(7) has it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_OPEN, IN_CREATE, IN_DELETE = 1, 2, 4, 0x20, 0x100, 0x200
IN_MOVED = 0xC0
EVENTS = {
    IN_ACCESS: "read",
    IN_MODIFY: "changed",
    IN_ATTRIB: "attributes",
    IN_OPEN: "opened",
    IN_CREATE: "created",
    IN_DELETE: "removed",
    IN_MOVED: "moved",
}


class Event(NamedTuple):
    """Something that was done to a file."""

    path: Path
    what: str


class Watch:
    """Who opens or changes files, as inotify(7) has it. A descriptor with O_PATH opens nothing."""

    _libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self) -> None:
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watched: dict[int, Path] = {}

    def add(self, path: Path, mask: int) -> None:
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        assert number >= 0, os.strerror(ctypes.get_errno())
        self._watched[number] = path

    def seen(self) -> set[Event]:
        """What has happened since the last time."""
        found: set[Event] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                found |= set(self._events(data))
        return found

    def _events(self, data: bytes) -> Iterator[Event]:
        at = 0
        while at < len(data):
            number, mask, _, size = struct.unpack_from("iIII", data, at)
            name = os.fsdecode(data[at + 16 : at + 16 + size].rstrip(b"\0"))
            at += 16 + size
            assert number >= 0, "events were lost"
            path = self._watched[number]
            where = path / name if name else path
            yield from (Event(where, text) for bit, text in EVENTS.items() if mask & bit)

    def close(self) -> None:
        os.close(self._fd)
