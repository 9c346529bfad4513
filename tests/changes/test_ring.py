"""The ring of lines: positions, readers that are late, and what a hostile worker can do."""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Iterator

import pytest

from vhost9p.changes.lines import OVERFLOW
from vhost9p.changes.ring import CAPACITY, Ring

FIRST, SECOND = b"created a\n", b"removed b\n"
LIMIT = 65536


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring()
    yield ring
    ring.close()


def rings(ring: Ring) -> bool:
    return bool(select.select([ring.bell], [], [], 0)[0])


def test_lines_are_read_in_order_from_any_position(ring: Ring) -> None:
    ring.append(FIRST)
    middle = ring.end
    ring.append(SECOND)
    assert ring.read(0, LIMIT) == (FIRST + SECOND, ring.end)
    assert ring.read(middle, LIMIT) == (SECOND, ring.end)
    assert ring.read(ring.end, LIMIT) == (b"", ring.end)


def test_only_whole_lines_are_returned(ring: Ring) -> None:
    ring.append(FIRST + SECOND)
    assert ring.read(0, len(FIRST) + 5) == (FIRST, len(FIRST))
    assert ring.read(0, len(FIRST) - 1) == (b"", 0)
    assert ring.read(3, LIMIT) == ((FIRST + SECOND)[3:], ring.end)


def test_the_bell_rings_once_for_what_was_appended(ring: Ring) -> None:
    assert not rings(ring)
    ring.append(FIRST)
    ring.append(SECOND)
    assert rings(ring)
    ring.silence()
    assert not rings(ring)
    ring.silence()
    ring.append(b"")
    assert not rings(ring)


def test_lines_are_whole_around_the_end_of_the_memory(ring: Ring) -> None:
    position, count = 0, 0
    while ring.end < 3 * CAPACITY:
        text = b"".join(b"created %d\n" % (count + i) for i in range(1000))
        ring.append(text)
        data, position = ring.read(position, len(text))
        assert (data, position) == (text, ring.end)
        count += 1000


def test_a_reader_that_is_too_far_behind_gets_an_overflow_and_goes_on(ring: Ring) -> None:
    while ring.end <= CAPACITY:
        ring.append(FIRST)
    oldest = ring.end - CAPACITY
    assert ring.read(oldest, LIMIT)[0] != OVERFLOW
    assert ring.read(oldest - 1, LIMIT) == (OVERFLOW, ring.end)
    ring.append(SECOND)
    assert ring.read(ring.end - len(SECOND), LIMIT) == (SECOND, ring.end)


def test_what_does_not_fit_becomes_an_overflow(ring: Ring) -> None:
    ring.append(b"created " + b"a" * CAPACITY + b"\n")
    assert ring.read(0, LIMIT) == (OVERFLOW, len(OVERFLOW))


def test_a_writer_that_was_killed_leaves_no_half_line(ring: Ring) -> None:
    """It has said what it is about to write, and written a part of it."""
    ring.append(FIRST)
    with mmap.mmap(ring.fd, os.fstat(ring.fd).st_size) as memory:
        memory[8:16] = (ring.end + 8).to_bytes(8, "little")
        memory[mmap.PAGESIZE + ring.end : mmap.PAGESIZE + ring.end + 8] = b"removed "
    assert ring.read(0, LIMIT) == (FIRST, ring.end)
    ring.append(SECOND)
    assert ring.read(0, LIMIT) == (FIRST + SECOND, ring.end)


def test_another_process_shares_it(ring: Ring) -> None:
    again = Ring(os.dup(ring.fd), os.dup(ring.bell))
    pid = os.fork()
    if pid == 0:
        ring.append(FIRST)
        os._exit(0)
    os.waitpid(pid, 0)
    assert rings(again)
    assert again.read(0, LIMIT) == (FIRST, again.end)
    again.close()


@pytest.mark.parametrize("end", [2**64 - 1, 2**63, CAPACITY + 7, 0])
def test_whatever_the_memory_says_lines_can_be_appended_and_read(ring: Ring, end: int) -> None:
    ring.append(FIRST)
    with mmap.mmap(ring.fd, os.fstat(ring.fd).st_size) as memory:
        memory[:16] = end.to_bytes(8, "little") * 2
    for _ in range(3):
        ring.append(SECOND)
    data, position = ring.read(0, LIMIT)
    assert position <= ring.end and (data == OVERFLOW or SECOND in data)


def test_nobody_can_make_the_memory_shorter(ring: Ring) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)


def test_a_bell_that_was_made_to_block_does_not_hold_its_reader(ring: Ring) -> None:
    os.set_blocking(ring.bell, True)
    ring.silence()
