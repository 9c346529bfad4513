"""The stream is cut into the same messages however it arrives."""

from __future__ import annotations

import itertools
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.vhost_user import HEADER
from tests.vhost_user.conftest import kept_fds
from tests.vhost_user.fake_backend import file_of, memfds
from vhost9p.vhost_user.framing import Framer
from vhost9p.vhost_user.messages import MAX_FDS, MAX_PAYLOAD, Message

U32 = st.integers(0, 0xFFFFFFFF)
MESSAGES = st.lists(st.tuples(U32, U32, st.binary(max_size=80)), max_size=8)
CUTS = st.lists(st.integers(1, 40), max_size=60)


def raw(number: int, flags: int, payload: bytes) -> bytes:
    return HEADER.pack(number, flags, len(payload)) + payload


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    return [piece for piece in [*pieces, data] if piece]


@given(MESSAGES, CUTS)
def test_any_split_gives_the_same_messages(
    messages: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    framer = Framer()
    got: list[Message] = []
    for piece in split(b"".join(raw(*message) for message in messages), cuts):
        got += framer.feed(piece)
    assert [(each.number, each.flags, each.payload) for each in got] == messages
    assert not framer.broken
    assert framer.wanted == HEADER.size


@given(MESSAGES, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1))
def test_descriptors_belong_to_the_message_they_came_with(
    messages: list[tuple[int, int, bytes]], script: list[tuple[int, int]]
) -> None:
    """As the channel reads: never beyond `wanted`; descriptors may come with any piece."""
    framer = Framer()
    steps = itertools.cycle(script)
    before = kept_fds()
    for message in messages:
        data = raw(*message)
        sent: list[int] = []
        got: list[Message] = []
        while not got:
            size, count = next(steps)
            fds = memfds(count) if len(sent) + count <= MAX_FDS else []
            sent += [file_of(fd) for fd in fds]
            piece = data[: min(size, framer.wanted)]
            data = data[len(piece) :]
            got = framer.feed(piece, fds)
        assert not data
        assert [file_of(fd) for fd in got[0].fds] == sent
        assert not got[0].fds_lost
        got[0].close_fds()
    assert kept_fds() == before


def test_wanted_never_leaves_the_message() -> None:
    framer = Framer()
    assert framer.wanted == 12
    framer.feed(HEADER.pack(1, 1, 100)[:5])
    assert framer.wanted == 7
    framer.feed(HEADER.pack(1, 1, 100)[5:])
    assert framer.wanted == 100
    framer.feed(bytes(99))
    assert framer.wanted == 1
    assert len(framer.feed(b"\0")) == 1
    assert framer.wanted == 12


@pytest.mark.parametrize("portions", [(9,), (8, 1), (1,) * 12, (5, 5)])
def test_more_descriptors_than_a_message_may_have(portions: tuple[int, ...]) -> None:
    framer = Framer()
    data = raw(99, 1, bytes(20))
    before = len(kept_fds())
    for portion in portions:
        assert framer.feed(data[:1], memfds(portion)) == []
        data = data[1:]
        assert len(kept_fds()) - before <= MAX_FDS
    (message,) = framer.feed(data)
    assert message.fds_lost
    assert len(message.fds) == MAX_FDS
    message.close_fds()
    (following,) = framer.feed(raw(1, 1, b""))
    assert not following.fds_lost
    assert following.fds == []


def test_descriptors_that_the_kernel_could_not_hand_over() -> None:
    framer = Framer()
    framer.feed(HEADER.pack(5, 1, 1), fds_lost=True)
    (message,) = framer.feed(b"\0")
    assert message.fds_lost


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_monstrous_size_ends_the_stream(size: int) -> None:
    framer = Framer()
    got = framer.feed(raw(1, 1, b"") + HEADER.pack(77, 1, size) + bytes(50), memfds(1))
    assert [message.number for message in got] == [1]
    got[0].close_fds()
    assert framer.broken
    assert "77" in framer.broken
    assert str(size) in framer.broken
    assert framer.wanted == 0
    assert framer.feed(raw(1, 1, b""), memfds(2)) == []


def test_largest_payload_is_taken() -> None:
    framer = Framer()
    (message,) = framer.feed(raw(99, 1, bytes(MAX_PAYLOAD)))
    assert len(message.payload) == MAX_PAYLOAD


def test_descriptors_of_an_unfinished_message_are_closed() -> None:
    framer = Framer()
    assert framer.feed(raw(12, 1, bytes(8))[:-1], memfds(3)) == []
    framer.close()
    framer.close()


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 10)), max_size=20))
def test_any_bytes_neither_raise_nor_leak(pieces: list[tuple[bytes, int]]) -> None:
    framer = Framer()
    before = kept_fds()
    for data, count in pieces:
        for message in framer.feed(data, memfds(count)):
            message.close_fds()
        assert len(kept_fds() - before) <= MAX_FDS
        assert framer.wanted <= MAX_PAYLOAD
    framer.close()
    assert kept_fds() == before


def test_descriptor_numbers_are_taken_over() -> None:
    framer = Framer()
    (fd,) = memfds(1)
    (message,) = framer.feed(struct.pack("=III", 21, 1, 0), [fd])
    assert message.fds == [fd]
    message.close_fds()
    with pytest.raises(OSError):
        os.fstat(fd)
