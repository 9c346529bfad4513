"""What the kernel says of changes: the records that are read from a fanotify group whose events
name directories by file handles (FAN_REPORT_DFID_NAME, fanotify(7)).

A record consists of struct fanotify_event_metadata and one struct fanotify_event_info_fid for each
entry that it names, in the machine's byte order: a *directory* (the file system's id, then the
directory's struct file_handle) and a name in it, which is `.` for the directory itself.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

MODIFY, ATTRIB = 0x2, 0x4
MOVED_FROM, MOVED_TO = 0x40, 0x80
CREATE, DELETE = 0x100, 0x200
Q_OVERFLOW = 0x4000
"""The kernel had no room for events."""
EVENT_ON_CHILD = 0x0800_0000
RENAME = 0x1000_0000
"""Since Linux 5.17: one record that names both entries."""
ONDIR = 0x4000_0000
"""The event is a directory's."""

_HEAD = struct.Struct("=IBBHQii")
"""event_len, vers, reserved, metadata_len, mask, fd, pid."""
_VERSION = 3
_INFO = struct.Struct("=BxH")
"""info_type, len."""
FSID_SIZE = 8
"""Bytes of the file system's id at the beginning of a directory."""
_HANDLE = struct.Struct("=Ii")
"""struct file_handle: how many bytes follow, and their type."""
_FID, _DFID_NAME, _OLD, _NEW = 1, 2, 10, 12
"""FAN_EVENT_INFO_TYPE_FID and _DFID_NAME, and of FAN_RENAME _OLD_DFID_NAME, _NEW_DFID_NAME."""
ITSELF = b"."
Wants = Callable[[int, int], bool]
"""Whether a record with this mask is wanted, of a change that this process has made."""


class Entry(NamedTuple):
    """A name in a directory."""

    directory: bytes
    """The file system's id, then the handle."""
    name: bytes

    @property
    def file_system(self) -> bytes:
        """The id of its file system (f_fsid of statfs(2))."""
        return self.directory[:FSID_SIZE]

    @property
    def handle(self) -> bytes:
        """The directory's struct file_handle."""
        return self.directory[FSID_SIZE:]


class Event(NamedTuple):
    """A record."""

    mask: int
    pid: int
    """Of the process that has made the change; 0 if this one may not know it."""
    entry: Entry | None
    """None: the record names none."""
    to: Entry | None
    """The new name, of a RENAME."""
    what: bytes | None = None
    """What the entry stands for, as Entry.directory, if the group asks for that
    (FAN_REPORT_TARGET_FID)."""


def parse(data: bytes, wants: Wants = lambda mask, pid: True) -> Iterator[Event]:
    """Yields what one read(2) has returned, as far as it is wanted: most of it may be what a guest
    does itself, and that costs little here. Raises ValueError for records of another version of the
    interface, or damaged ones."""
    at = 0
    while at < len(data):
        try:
            size, version, _, head, mask, _, pid = _HEAD.unpack_from(data, at)
        except struct.error:
            raise ValueError("a record of fanotify is cut off") from None
        if version != _VERSION or not _HEAD.size <= head <= size <= len(data) - at:
            raise ValueError(f"a record of fanotify is damaged, or of version {version}")
        if wants(mask, pid):
            yield _event(mask, pid, data, at + head, at + size)
        at += size


def _event(mask: int, pid: int, data: bytes, at: int, end: int) -> Event:
    """Raises ValueError."""
    entry = to = what = None
    for kind, found in _entries(data, at, end):
        if kind == _NEW:
            to = found
        elif kind == _FID:
            what = found.directory
        else:
            entry = found
    return Event(mask, pid, entry, to, what)


def _entries(data: bytes, at: int, end: int) -> Iterator[tuple[int, Entry]]:
    """Raises ValueError."""
    while at < end:
        kind, size = _INFO.unpack_from(data, at)
        if size < _INFO.size or size > end - at:
            raise ValueError("an entry of a record of fanotify is damaged")
        if kind in (_FID, _DFID_NAME, _OLD, _NEW):
            begin = at + _INFO.size
            length, _ = _HANDLE.unpack_from(data, begin + FSID_SIZE)
            name = begin + FSID_SIZE + _HANDLE.size + length
            yield kind, Entry(data[begin:name], data[name : at + size].split(b"\0", 1)[0])
        at += size
