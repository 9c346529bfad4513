"""Records of fanotify, as the kernel lays them out."""

from __future__ import annotations

import struct

import pytest

from vhost9p.changes import records
from vhost9p.changes.records import Entry, Event

FSID = bytes(range(8))
DFID, DFID_NAME, OLD, NEW, PIDFD = 3, 2, 10, 12, 4


def directory(number: int) -> bytes:
    return FSID + struct.pack("=IiQ", 8, 1, number)


def info(kind: int, number: int, name: bytes) -> bytes:
    body = directory(number) + name + b"\0"
    body += b"\0" * (-(4 + len(body)) % 4)
    return struct.pack("=BxH", kind, 4 + len(body)) + body


def record(mask: int, *infos: bytes, pid: int = 7, version: int = 3) -> bytes:
    body = b"".join(infos)
    return struct.pack("=IBBHQii", 24 + len(body), version, 0, 24, mask, -1, pid) + body


def test_a_record_names_an_entry() -> None:
    data = record(records.MODIFY, info(DFID_NAME, 5, b"a b"))
    (event,) = records.parse(data)
    assert event == Event(records.MODIFY, 7, Entry(directory(5), b"a b"), None)
    assert event.entry and event.entry.file_system == FSID
    assert event.entry.handle == directory(5)[8:]


def test_a_rename_names_two() -> None:
    data = record(records.RENAME, info(OLD, 5, b"a"), info(NEW, 6, b"b"))
    (event,) = records.parse(data)
    assert (event.entry, event.to) == (Entry(directory(5), b"a"), Entry(directory(6), b"b"))


def test_several_records_follow_each_other_and_unknown_infos_are_skipped() -> None:
    pidfd = struct.pack("=BxHi", PIDFD, 8, 3)
    data = record(records.CREATE, pidfd, info(DFID_NAME, 1, b"x")) + record(records.Q_OVERFLOW)
    first, second = records.parse(data)
    assert first.entry == Entry(directory(1), b"x")
    assert second == Event(records.Q_OVERFLOW, 7, None, None)


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_damaged_read_is_an_error(cut: int) -> None:
    data = record(records.MODIFY, info(DFID_NAME, 5, b"name of a file that is long"))
    with pytest.raises(ValueError, match="fanotify"):
        list(records.parse(data[:-cut] if cut < len(data) else data[:1]))


def test_another_version_is_an_error() -> None:
    with pytest.raises(ValueError, match="version 4"):
        list(records.parse(record(records.MODIFY, version=4)))


def test_only_what_is_wanted_is_taken_apart() -> None:
    """And only that has to make sense, but where a record ends."""
    senseless = struct.pack("=BxH", DFID_NAME, 1)
    data = record(records.CREATE, senseless, pid=8) + record(records.DELETE, info(DFID, 1, b"."))
    asked = []

    def wants(mask: int, pid: int) -> bool:
        asked.append((mask, pid))
        return pid != 8

    (event,) = records.parse(data, wants)
    assert event.mask == records.DELETE
    assert asked == [(records.CREATE, 8), (records.DELETE, 7)]
    with pytest.raises(ValueError, match="fanotify"):
        list(records.parse(data))
    with pytest.raises(ValueError, match="fanotify"):
        list(records.parse(data[:-4], wants))
