"""Which replies are the same."""

from __future__ import annotations

import struct

import pytest

from vhost9p.p9 import dialect_u_messages
from vhost9p.p9.codec import Qid
from vhost9p.p9.messages import Rattach, Rclunk, Rlerror, Rlock, Rread
from vhost9p.replay.compare import Table, difference
from vhost9p.trace.notation import Message, read


def getattr_of(mode: int, size: int, inode: int) -> Message:
    body = struct.pack("<QBIQIIIQQQQQ", 0x7FF, 0, 1, inode, mode, 0, 0, 1, 0, size, 4096, 8)
    return read(struct.pack("<IBH", 7 + len(body), 25, 1) + body)


def stat_of(mode: int, length: int, qid_type: int = 0) -> dialect_u_messages.Rstat:
    texts = (b"name", b"0", b"0", b"", b"")
    return dialect_u_messages.Rstat(
        dialect_u_messages.Stat(0, 0, Qid(qid_type, 1, 2), mode, 3, 4, length, *texts, 0, 0, 0)
    )


SAME = [
    (stat_of(0o644, 5), stat_of(0o644, 5)),
    (stat_of(0x800001ED, 4096, 128), stat_of(0x800001C0, 100, 128)),
    (Rattach(Qid(128, 1, 2)), Rattach(Qid(128, 9, 9))),
    (Rlerror(2), Rlerror(2)),
    (Rread(b"one"), Rread(b"two")),
]
DIFFERENT = [
    (stat_of(0o644, 5), stat_of(0o644, 6), "size 5 when recorded, size 6 now"),
    (stat_of(0o644, 5), stat_of(0o600, 5), "mode 100644 when recorded, mode 100600 now"),
    (stat_of(0o644, 5), stat_of(0x800001ED, 5, 128), "qid 0 when recorded, qid 128 now"),
    (Rattach(Qid(128, 1, 2)), Rattach(Qid(0, 1, 2)), "qid 128 when recorded, qid 0 now"),
    (Rlerror(2), Rlerror(13), "ENOENT when recorded, EACCES now"),
    (Rclunk(), Rlerror(5), "success when recorded, EIO now"),
    (Rlerror(1), Rclunk(), "EPERM when recorded, success now"),
    (Rread(b"one"), Rread(b"four"), "count 3 when recorded, count 4 now"),
    (Rlock(0), Rlock(1), "status 0 when recorded, status 1 now"),
]


@pytest.mark.parametrize(("before", "now"), SAME)
def test_numbers_of_the_host_may_differ(before: object, now: object) -> None:
    assert difference(read(before.encode(1)), read(now.encode(2))) == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(("before", "now", "text"), DIFFERENT)
def test_a_difference_is_said(before: object, now: object, text: str) -> None:
    assert difference(read(before.encode(1)), read(now.encode(1))) == text  # type: ignore[attr-defined]


def test_attributes_of_files_are_compared_but_not_those_of_directories() -> None:
    assert difference(getattr_of(0o100644, 5, 1), getattr_of(0o100644, 5, 9)) == ""
    assert "size 5" in difference(getattr_of(0o100644, 5, 1), getattr_of(0o100644, 6, 1))
    assert "mode 100644" in difference(getattr_of(0o100644, 5, 1), getattr_of(0o100600, 5, 1))
    assert difference(getattr_of(0o40755, 5, 1), getattr_of(0o40700, 6, 1)) == ""
    assert "mode 40000" in difference(getattr_of(0o40755, 5, 1), getattr_of(0o120777, 5, 1))


def test_the_table_has_medians_by_request() -> None:
    table = Table()
    for took in (1000, 2000, 9000):
        table.add("Twalk", took, took * 2, differs=took == 9000)
    table.skip("Tlock")
    head, lock, walk = table.lines()
    assert head.split()[0] == "request"
    assert lock.split() == ["Tlock", "0", "1", "0", "-", "-"]
    assert walk.split() == ["Twalk", "3", "0", "1", "2", "4"]
    assert (table.repeated, table.skipped, table.differences) == (3, 1, 1)
