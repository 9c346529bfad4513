"""The stream as an open fid of it sees it, over deaths of the worker: it may die between any two
stores of what is known of the fid (v9_stream_store, whose order tests/csrc/fid/test_stream.c
checks), and the request runs again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vhost9p.changes.lines import OVERFLOW
from vhost9p.changes.ring import CAPACITY, Ring
from vhost9p.fs.driver import Stream
from vhost9p.native.library import lib
from vhost9p.p9 import stream

LINE = b"created file\n"
STORES = ("lost", "end", "last", "flags", "start")
"""In their order; before, a start that changes leads nowhere."""
COUNT = 4096


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring()
    yield ring
    ring.close()


@pytest.fixture
def opened(ring: Ring) -> Stream:
    ring.append(LINE)
    return Stream(ring.end, flags=lib.V9_STREAM_WAITS)


def left_behind(before: Stream, after: Stream) -> Iterator[Stream]:
    """What a process can leave that dies while it stores this."""
    state = before
    yield state
    if before.start != after.start:
        yield (state := state._replace(start=after.start ^ 1 << 63))
    for name in STORES:
        yield (state := state._replace(**{name: getattr(after, name)}))


def read_on(ring: Ring, state: Stream, offset: int, request: int, count: int = COUNT) -> bytes:
    """What a client gets that asks until it has to wait."""
    got = b""
    while True:
        reply = stream.read(ring, state, offset + len(got), count, request)
        if reply.data is None:
            return got
        got, state, request = got + reply.data, reply.stream, request + 1


def overrun(ring: Ring, position: int, beyond: int) -> None:
    """The ring has lost so many bytes of what is behind a position."""
    while (left := CAPACITY + beyond - (ring.end - position)) > 0:
        ring.append(b"x" * (min(left, 1 << 16) - 1) + b"\n")


def test_lines_are_read_once(ring: Ring, opened: Stream) -> None:
    ring.append(LINE * 3)
    for at in (0, len(LINE), len(LINE) + 3):
        done = stream.read(ring, opened, at, COUNT, 1).stream
        for before in (opened, done):
            after = stream.read(ring, before, at, COUNT, 1)
            for state in left_behind(before, after.stream):
                assert read_on(ring, state, at, 1) == (LINE * 3)[at:]


def test_a_read_that_goes_on_gets_nothing_before_it_waits(ring: Ring, opened: Stream) -> None:
    ring.append(LINE)
    before = stream.read(ring, opened, 0, COUNT, 1).stream
    after = stream.read(ring, before, len(LINE), COUNT, 2).stream
    for state in left_behind(before, after):
        reply = stream.read(ring, state, len(LINE), COUNT, 2)
        assert reply.data == b""
        assert stream.read(ring, reply.stream, len(LINE), COUNT, 3).data is None


@pytest.mark.parametrize("beyond", [1, 5, len(OVERFLOW), 1000, CAPACITY])
@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("count", [2, COUNT])
def test_what_is_lost_is_an_overflow(
    ring: Ring, opened: Stream, beyond: int, count: int, *, is_lost: bool
) -> None:
    """And nothing is read from within a line."""
    state, offset = opened, 0
    if is_lost:
        overrun(ring, opened.start, 1)
        state, offset = stream.read(ring, state, 0, COUNT, 1).stream, len(OVERFLOW)
    overrun(ring, state.start + offset, beyond)
    after = stream.read(ring, state, offset, count, 9).stream
    for left in left_behind(state, after):
        got = read_on(ring, left, offset, 9, count)
        assert got and set(got.splitlines()) <= {b"", OVERFLOW.strip()}


def test_an_overflow_begins_a_line(ring: Ring, opened: Stream) -> None:
    """Also if the worker has died that had more of the line before it."""
    ring.append(LINE)
    first = stream.read(ring, opened, 0, 4, 1).stream
    before = stream.read(ring, first, 3, 4, 2).stream
    after = stream.read(ring, before, 3, COUNT, 3)
    assert after.data == LINE[3:]
    overrun(ring, opened.start, 1000)
    for state in left_behind(before, after.stream):
        assert read_on(ring, state, 3, 3) == b"\n" + OVERFLOW
