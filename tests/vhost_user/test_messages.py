"""Layouts and syntax checks."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.vhost_user import CONFIG, NO_FD, REGION, STATE, U64
from tests.frontend.vhost_user import Request as Known
from tests.vhost_user.examples import COMMANDS, FIRST, QUERIES, SLOT, TABLE, Example, title
from tests.vhost_user.fake_backend import memfds
from vhost9p.vhost_user import messages as m
from vhost9p.vhost_user.messages import Message, Request, VhostUserError

EXAMPLES = [*COMMANDS, *QUERIES]


def test_numbers_are_the_protocols() -> None:
    logging = {Known.SET_LOG_BASE, Known.SET_LOG_FD}
    known = {each.name: each.value for each in Known if each not in logging}
    assert {each.name: each.number for each in Request} == known
    for number in known.values():
        found = Request.find(number)
        assert found is not None
        assert found.number == number
    assert Request.find(6) is None


@pytest.mark.parametrize("example", EXAMPLES, ids=title)
@pytest.mark.parametrize("change", [-1, 1, 100])
def test_wrong_payload_sizes_are_refused(example: Example, change: int) -> None:
    payload = (example.payload + bytes(100))[: max(0, len(example.payload) + change)]
    if payload == example.payload:
        return
    request = Request[example.request.name]
    with pytest.raises(VhostUserError, match=str(len(payload))):
        request.payload.parse(payload)


@pytest.mark.parametrize("example", EXAMPLES, ids=title)
def test_wrong_counts_of_descriptors_are_refused(example: Example) -> None:
    request = Request[example.request.name]
    optional = example.request == Known.REM_MEM_REG or U64.size == len(example.payload)
    for count in range(9):
        fds = memfds(count)
        message = Message(request.number, m.VERSION, example.payload, fds)
        either = optional and request.fds == range(2) and count < 2
        try:
            if count == example.fds or either:
                message.parse(request)
            else:
                with pytest.raises(VhostUserError, match=f"{count} descriptors"):
                    message.parse(request)
        finally:
            for fd in fds:
                os.close(fd)


@pytest.mark.parametrize(
    "message,text",
    [
        (Message(1, 0, b"", []), "version 0"),
        (Message(1, 2, b"", []), "version 2"),
        (Message(1, 5, b"", []), "reply"),
        (Message(1, 1, b"", [], fds_lost=True), "lost"),
    ],
)
def test_wrong_messages_are_refused(message: Message, text: str) -> None:
    with pytest.raises(VhostUserError, match=text):
        message.parse(Request.GET_FEATURES)


@pytest.mark.parametrize("index", [0, 1, 255])
def test_ring_descriptor_messages_are_decoded(index: int) -> None:
    assert m.RingFd.parse(U64.pack(index)) == m.RingFd(index, True)
    assert m.RingFd.parse(U64.pack(index | NO_FD)) == m.RingFd(index, False)
    for bit in (9, 31, 63):
        with pytest.raises(VhostUserError, match="bits"):
            m.RingFd.parse(U64.pack(index | 1 << bit))


def test_memory_tables_are_decoded() -> None:
    table = m.MemoryTable.parse(TABLE)
    assert table.regions[0] == m.MemoryRegion(*FIRST)
    assert len(table.regions) == 2
    assert m.MemoryTable.parse(bytes(8)).regions == ()
    whole = struct.pack("=II", 8, 0) + REGION.pack(*FIRST) * 8
    assert len(m.MemoryTable.parse(whole).regions) == 8
    for count in (9, 0xFFFFFFFF):
        with pytest.raises(VhostUserError, match=str(count)):
            m.MemoryTable.parse(struct.pack("=II", count, 0) + REGION.pack(*FIRST) * 9)
    with pytest.raises(VhostUserError, match="fewer than 8"):
        m.MemoryTable.parse(bytes(7))


@pytest.mark.parametrize("place", [0, 2, 3])
def test_regions_end_within_64_bits(place: int) -> None:
    fields = [0, 0x1000, 0, 0]
    fields[place] = (1 << 64) - 0x1000
    assert m.MemorySlot.parse(bytes(8) + REGION.pack(*fields)).region.size == 0x1000
    fields[1] += 1
    with pytest.raises(VhostUserError, match="64 bits"):
        m.MemorySlot.parse(bytes(8) + REGION.pack(*fields))


def test_empty_region_is_refused() -> None:
    with pytest.raises(VhostUserError, match="empty"):
        m.MemorySlot.parse(bytes(8) + REGION.pack(0x1000, 0, 0, 0))


def test_config_messages_are_decoded() -> None:
    piece = m.Config.parse(CONFIG.pack(3, 4, 1) + b"abcd")
    assert piece == m.Config(3, 1, b"abcd")
    assert piece.end == 7
    assert piece.pack() == CONFIG.pack(3, 4, 1) + b"abcd"
    for size in (0, 257, 0xFFFFFFFF):
        with pytest.raises(VhostUserError, match=f"{size} bytes"):
            m.Config.parse(CONFIG.pack(0, size, 0) + bytes(min(size, 300)))
    for length in (0, 3, 5):
        with pytest.raises(VhostUserError, match="instead of 16"):
            m.Config.parse(CONFIG.pack(0, 4, 0) + bytes(length))


def test_payloads_are_shown_to_people() -> None:
    assert str(m.RingState.parse(STATE.pack(1, 128))) == "(index=1, num=128)"
    assert "gpa=4096, size=8192, uva=0x7f0000000000" in str(m.MemorySlot.parse(SLOT))
    assert str(m.MemoryTable.parse(TABLE)).count("uva=0x7f") == 2
    assert str(m.Config(2, 0, b"secret")) == "(offset=2, flags=0, 6 bytes)"
    assert m.show_bits(1 << 3 | 1 << 63) == "3, 63"


@given(st.sampled_from(list(Request)), st.binary(max_size=320))
def test_any_payload_is_decoded_or_refused(request_: Request, data: bytes) -> None:
    try:
        payload = request_.payload.parse(data)
    except VhostUserError as error:
        assert str(error)
    else:
        assert str(payload)
        if isinstance(payload, m.Fixed | m.Config):
            assert payload.pack() == data


@given(st.lists(st.integers(0, 0xFFFFFFFF), min_size=2, max_size=2), st.binary(max_size=64))
def test_reply_is_framed(fields: list[int], payload: bytes) -> None:
    number = fields[0]
    reply = m.encode_reply(number, payload)
    assert struct.unpack_from("=III", reply) == (number, 5, len(payload))
    assert reply[12:] == payload
