"""The stream is cut into the same messages however it arrives."""

from __future__ import annotations

import array
import itertools
import os
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.vhost_user import HEADER
from tests.vhost_user.conftest import kept_fds
from tests.vhost_user.fake_backend import file_of, memfds
from vhost9p.native.connection import Connection
from vhost9p.vhost_user.framing import BrokenStream, message_of, missing
from vhost9p.vhost_user.messages import MAX_FDS, MAX_PAYLOAD, Message

U32 = st.integers(0, 0xFFFFFFFF)
MESSAGES = st.lists(st.tuples(U32, U32, st.binary(max_size=80)), max_size=8)
CUTS = st.lists(st.integers(1, 40), max_size=60)


def raw(number: int, flags: int, payload: bytes) -> bytes:
    return HEADER.pack(number, flags, len(payload)) + payload


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    return [piece for piece in [*pieces, data] if piece]


class Stream:
    """What a frontend sends, and the messages that it is cut into."""

    def __init__(self) -> None:
        self._frontend, self._socket = socket.socketpair()
        self.connection = Connection()
        self.connection.begin(self._socket.fileno())

    def put(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Takes ownership of the descriptors."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self._frontend.sendmsg([data], rights) == len(data)
        for fd in fds:
            os.close(fd)

    def take(self) -> Message | None:
        """The next message, if it is whole; the caller closes its descriptors."""
        try:
            while size := missing(self.connection.data):
                self.connection.receive(size)
        except BlockingIOError:
            return None
        message = message_of(self.connection)
        self.connection.received(0)
        self.connection.handled(b"")
        self.connection.send()
        return message

    def close(self) -> None:
        self.connection.end()
        close_all(self.connection.take_fds())
        self.connection.ended()
        self._frontend.close()
        self._socket.close()


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


@given(MESSAGES, CUTS)
def test_any_split_gives_the_same_messages(
    messages: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = Stream()
    got: list[Message] = []
    for piece in split(b"".join(raw(*message) for message in messages), cuts):
        stream.put(piece)
        while message := stream.take():
            got.append(message)
    assert [(each.number, each.flags, each.payload) for each in got] == messages
    assert missing(stream.connection.data) == HEADER.size
    stream.close()


@given(MESSAGES, st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1))
def test_descriptors_belong_to_the_message_they_came_with(
    messages: list[tuple[int, int, bytes]], script: list[tuple[int, int]]
) -> None:
    """They may come with any piece that lies in one message."""
    stream = Stream()
    steps = itertools.cycle(script)
    before = kept_fds()
    sent: list[list[int]] = []
    for message in messages:
        data = raw(*message)
        sent.append([])
        while data:
            size, count = next(steps)
            fds = memfds(count) if len(sent[-1]) + count <= MAX_FDS else []
            sent[-1] += [file_of(fd) for fd in fds]
            stream.put(data[:size], fds)
            data = data[size:]
    for files in sent:
        got = stream.take()
        assert got
        assert [file_of(fd) for fd in got.fds] == files
        assert not got.fds_lost
        close_all(got.fds)
    assert kept_fds() == before
    stream.close()


def test_what_is_missing_never_leaves_the_message() -> None:
    message = raw(1, 1, bytes(100))
    assert missing(b"") == 12
    assert missing(message[:5]) == 7
    assert missing(message[:12]) == 100
    assert missing(message[:111]) == 1
    assert missing(message) == 0
    assert missing(raw(1, 1, b"")) == 0


@pytest.mark.parametrize("portions", [(9,), (8, 1), (1,) * 12, (5, 5)])
def test_more_descriptors_than_a_message_may_have(portions: tuple[int, ...]) -> None:
    stream = Stream()
    data = raw(99, 1, bytes(20))
    before = len(kept_fds())
    for portion in portions:
        stream.put(data[:1], memfds(portion))
        assert stream.take() is None
        data = data[1:]
        assert len(kept_fds()) - before <= MAX_FDS
    stream.put(data)
    message = stream.take()
    assert message
    assert message.fds_lost
    assert len(message.fds) == MAX_FDS
    close_all(message.fds)
    stream.put(raw(1, 1, b""))
    following = stream.take()
    assert following
    assert not following.fds_lost
    assert following.fds == []
    stream.close()


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_monstrous_size_ends_the_stream(size: int) -> None:
    stream = Stream()
    stream.put(raw(1, 1, b""))
    stream.put(HEADER.pack(77, 1, size) + bytes(50), memfds(1))
    first = stream.take()
    assert first
    assert first.number == 1
    for _ in range(2):
        with pytest.raises(BrokenStream, match=f"request 77 claims {size} bytes"):
            stream.take()
        assert len(stream.connection.data) == HEADER.size
    stream.close()


def test_largest_payload_is_taken() -> None:
    stream = Stream()
    stream.put(raw(99, 1, bytes(MAX_PAYLOAD)))
    message = stream.take()
    assert message
    assert len(message.payload) == MAX_PAYLOAD
    stream.close()


def test_descriptors_of_an_unfinished_message_are_handed_over() -> None:
    stream = Stream()
    stream.put(raw(12, 1, bytes(8))[:-1], memfds(3))
    assert stream.take() is None
    assert len(stream.connection.fds) == 3
    stream.close()


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=60), st.integers(0, 10)), max_size=20))
def test_any_bytes_neither_raise_nor_leak(pieces: list[tuple[bytes, int]]) -> None:
    stream = Stream()
    before = kept_fds()
    for data, count in pieces:
        stream.put(data, memfds(count))
        try:
            while message := stream.take():
                close_all(message.fds)
        except BrokenStream:
            break
        assert len(kept_fds() - before) <= MAX_FDS
    stream.close()
    assert not kept_fds() - before


def test_descriptors_of_a_message_are_the_connections_until_it_was_handled() -> None:
    stream = Stream()
    stream.put(raw(21, 1, b""), memfds(1))
    assert missing(stream.connection.data) == 12
    assert stream.connection.receive(12) == 12
    (fd,) = message_of(stream.connection).fds
    assert fd in stream.connection.descriptors()
    stream.connection.received(0)
    assert fd in stream.connection.descriptors()
    stream.connection.handled(b"")
    assert fd not in stream.connection.descriptors()
    os.close(fd)
    stream.close()
