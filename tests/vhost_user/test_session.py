"""One answer to each message, and the right calls to the device."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.vhost_user import ADDRESSES, CONFIG, HEADER, NO_FD, REGION, STATE, U64
from tests.frontend.vhost_user import Request as R
from tests.vhost_user.conftest import kept_fds
from tests.vhost_user.examples import (
    COMMANDS,
    FEATURES,
    FIRST,
    PROTOCOL,
    QUERIES,
    REPLY_ACK,
    SECOND,
    SLOT,
    TABLE,
    Example,
    fds_of,
    title,
)
from tests.vhost_user.fake_backend import BASE, FakeBackend, file_of, memfds, sockets
from tests.vhost_user.fake_backend import CONFIG as SPACE
from vhost9p.device_log import BURST, DeviceLog
from vhost9p.native.connection import Connection
from vhost9p.vhost_user.messages import MemoryRegion, Message, VhostUserError
from vhost9p.vhost_user.session import Session

PLAIN, NEED_REPLY = 1, 1 | 8


SOCKETS: list[socket.socket] = []


@pytest.fixture(autouse=True)
def disconnected(no_leaks: None) -> Iterator[None]:
    yield
    while SOCKETS:
        SOCKETS.pop().close()


class Talk:
    """A session with a fake device. Answers are taken apart: the payload, or None for silence."""

    def __init__(self, protocol: int | None = PROTOCOL, withheld: int = 0) -> None:
        self.backend = FakeBackend(withheld)
        self.connection = Connection()
        self._frontend, theirs = socket.socketpair()
        SOCKETS.extend((self._frontend, theirs))
        self.connection.begin(theirs.fileno())
        self.log(DeviceLog(logging.getLogger("vm"), "vm"))
        if protocol is not None:
            self.tell(R.SET_PROTOCOL_FEATURES, U64.pack(protocol))

    def log(self, log: DeviceLog) -> None:
        """The next worker's session goes on, which logs to `log`."""
        self.session = Session(self.backend, self.connection, log)

    def say(
        self, number: int, payload: bytes = b"", fds: list[int] | None = None, flags: int = PLAIN
    ) -> bytes | None:
        answer = self.handle(Message(number, flags, payload, fds or []))
        if not answer:
            return None
        assert HEADER.unpack_from(answer) == (number, 5, len(answer) - HEADER.size)
        return answer[HEADER.size :]

    def handle(self, message: Message) -> bytes:
        answer = self.session.handle(message)
        self.connection.send()
        if answer:
            assert self._frontend.recv(1000) == answer
        return answer

    def tell(self, number: int, payload: bytes = b"", fds: list[int] | None = None) -> None:
        assert self.say(number, payload, fds) is None

    def ack(self, number: int, payload: bytes = b"", fds: list[int] | None = None) -> int:
        answer = self.say(number, payload, fds, NEED_REPLY)
        assert answer is not None
        return int(U64.unpack(answer)[0])

    def query(self, number: int, payload: bytes = b"") -> bytes:
        answer = self.say(number, payload)
        assert answer is not None
        return answer

    def close(self) -> None:
        self.session.close()


# ---- answers


@pytest.mark.parametrize("example", COMMANDS, ids=title)
def test_command_is_acknowledged_where_asked(example: Example) -> None:
    talk = Talk()
    talk.tell(example.request, example.payload, fds_of(example))
    assert talk.ack(example.request, example.payload, fds_of(example)) == 0
    assert talk.backend.names() == list(example.does) * 2
    talk.close()


@pytest.mark.parametrize("example", COMMANDS, ids=title)
def test_no_acknowledgement_before_it_is_negotiated(example: Example) -> None:
    if example.request == R.SET_PROTOCOL_FEATURES:
        return
    for protocol in (None, PROTOCOL & ~REPLY_ACK):
        talk = Talk(protocol)
        fds = fds_of(example)
        assert talk.say(example.request, example.payload, fds, NEED_REPLY) is None
        assert talk.backend.names() == list(example.does)
        talk.close()


@pytest.mark.parametrize("flags", [PLAIN, NEED_REPLY])
@pytest.mark.parametrize("example", QUERIES, ids=title)
def test_query_has_one_answer(example: Example, flags: int) -> None:
    talk = Talk()
    assert talk.say(example.request, example.payload, flags=flags)
    assert talk.backend.names() == list(example.does)


@pytest.mark.parametrize("flags", [PLAIN, NEED_REPLY])
@pytest.mark.parametrize("example", QUERIES, ids=title)
def test_failed_query_has_an_empty_answer(example: Example, flags: int) -> None:
    talk = Talk()
    assert talk.say(example.request, example.payload + b"x", flags=flags) == b""
    assert talk.say(example.request, example.payload, memfds(1), flags) == b""
    assert talk.backend.calls == []


@pytest.mark.parametrize("example", [*COMMANDS, *QUERIES], ids=title)
@pytest.mark.parametrize("protocol", [PROTOCOL, 0])
def test_a_message_is_handled_again_by_the_next_worker(example: Example, protocol: int) -> None:
    """With the same answer, although the first worker has carried it out."""
    talk = Talk(protocol)
    talk.backend.regions = 1
    fds = fds_of(example)
    talk.connection.received(talk.backend.mem_count())
    message = Message(example.request, NEED_REPLY, example.payload, fds)
    answer = talk.session._reply(message)
    talk.log(DeviceLog(logging.getLogger("vm"), "vm"))
    assert talk.handle(message) == answer
    once = {"mem_add", "mem_remove"}.issuperset(example.does)
    assert talk.backend.names() == list(example.does) * (1 if once else 2)
    talk.close()


def test_an_end_of_acknowledgements_is_acknowledged_by_the_next_worker() -> None:
    talk = Talk()
    message = Message(R.SET_PROTOCOL_FEATURES, NEED_REPLY, U64.pack(0), [])
    talk.connection.received(0)
    assert talk.session._reply(message)
    talk.log(DeviceLog(logging.getLogger("vm"), "vm"))
    assert talk.handle(message)
    assert talk.say(R.SET_OWNER, flags=NEED_REPLY) is None


def test_a_refused_message_is_refused_by_the_next_worker() -> None:
    talk = Talk()
    talk.backend.errors["mem_add"] = OSError(errno.EEXIST, "it is there")
    talk.backend.regions = 3
    (fd,) = memfds(1)
    message = Message(R.ADD_MEM_REG, NEED_REPLY, SLOT, [fd])
    talk.connection.received(talk.backend.mem_count())
    answer = talk.session._reply(message)
    assert answer.endswith(U64.pack(errno.EEXIST))
    assert talk.handle(message) == answer


@pytest.mark.parametrize("number", [0, 6, 7, 19, 31, 32, 40, 99, 0xFFFFFFFF])
def test_an_unknown_request_is_refused(number: int) -> None:
    talk = Talk()
    assert talk.ack(number, b"payload", memfds(3)) == errno.EOPNOTSUPP
    talk.tell(number, bytes(3000), memfds(8))
    assert Talk(None).say(number, b"", [], NEED_REPLY) is None
    assert talk.backend.calls == []


def test_set_protocol_features_acknowledges_itself() -> None:
    assert Talk(None).ack(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL)) == 0
    bare = Talk(None)
    assert bare.say(R.SET_PROTOCOL_FEATURES, U64.pack(0), flags=NEED_REPLY) is None
    talk = Talk()
    assert talk.ack(R.SET_PROTOCOL_FEATURES, U64.pack(0)) == 0
    assert talk.say(R.SET_OWNER, flags=NEED_REPLY) is None


@pytest.mark.parametrize("flags", [8, 8 | 2, 8 | 3, 8 | 1 | 4])
def test_wrong_version_or_direction_is_refused(flags: int) -> None:
    talk = Talk()
    assert talk.say(R.SET_OWNER, flags=flags) == U64.pack(errno.EINVAL)
    assert talk.say(R.GET_FEATURES, flags=flags) == b""
    assert talk.backend.calls == []


FAILURES = [
    (OSError(errno.ENOSPC, "no room"), errno.ENOSPC),
    (OSError("without a number"), errno.EIO),
    (VhostUserError("not this one"), errno.EINVAL),
    (VhostUserError("nor this", errno.EBUSY), errno.EBUSY),
    (RuntimeError("a mistake"), errno.EIO),
]


@pytest.mark.parametrize("error,code", FAILURES, ids=str)
def test_a_request_that_fails_in_the_device_is_refused(
    error: Exception, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    for example in [*COMMANDS, *QUERIES]:
        if not example.does:
            continue
        talk = Talk()
        talk.backend.errors[example.does[0]] = error
        caplog.clear()
        talk.say(example.request, example.payload, fds_of(example))
        assert example.request.name in caplog.text
        assert "vm: " in caplog.text
        assert error.args[-1] in caplog.text
        answer = talk.say(example.request, example.payload, fds_of(example), NEED_REPLY)
        assert answer == (b"" if example in QUERIES else U64.pack(code))
        talk.backend.errors.clear()
        assert talk.query(R.GET_FEATURES) == U64.pack(FEATURES)


def test_refusal_names_request_and_value(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    talk.backend.errors["ring_set_num"] = OSError(errno.EINVAL, "Invalid argument")
    assert talk.ack(R.SET_VRING_NUM, STATE.pack(0, 3)) == errno.EINVAL
    assert "vm: SET_VRING_NUM refused: Invalid argument for (index=0, num=3)" in caplog.text


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    talk = Talk()
    talk.log(DeviceLog(logging.getLogger("vm"), "vm", lambda: 0.0))
    for _ in range(3 * BURST):
        assert talk.say(R.SET_CONFIG, CONFIG.pack(0, 1, 0) + b"x") is None
    assert caplog.text.count("SET_CONFIG refused") == BURST


# ---- the session


def test_what_is_offered() -> None:
    talk = Talk(None)
    assert talk.query(R.GET_FEATURES) == U64.pack(FEATURES)
    assert talk.query(R.GET_PROTOCOL_FEATURES) == U64.pack(PROTOCOL)
    assert talk.query(R.GET_QUEUE_NUM) == U64.pack(1)
    assert talk.query(R.GET_MAX_MEM_SLOTS) == U64.pack(509)


def test_a_device_may_withhold_a_feature(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk(withheld=1 << 34)
    assert talk.query(R.GET_FEATURES) == U64.pack(FEATURES & ~(1 << 34))
    assert talk.ack(R.SET_FEATURES, U64.pack(FEATURES)) == errno.EINVAL
    assert "features 34 were not offered" in caplog.text


@pytest.mark.parametrize("bit", [1, 24, 26, 33, 35, 36, 63])
def test_features_that_were_not_offered(bit: int, caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    assert talk.ack(R.SET_FEATURES, U64.pack(FEATURES | 1 << bit)) == errno.EINVAL
    assert talk.backend.calls == []
    assert f"features {bit} were not offered" in caplog.text


@pytest.mark.parametrize("bit", [1, 12, 14, 16, 63])
def test_protocol_features_that_were_not_offered(bit: int) -> None:
    """Refused, but the frontend's belief in REPLY_ACK is met."""
    talk = Talk(None)
    assert talk.ack(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL | 1 << bit)) == errno.EINVAL
    assert talk.ack(R.SET_OWNER) == 0


def test_rings_are_enabled_for_a_frontend_that_cannot() -> None:
    talk = Talk()
    talk.tell(R.SET_FEATURES, U64.pack(FEATURES))
    assert talk.backend.calls == [("set_features", FEATURES)]
    simple = FEATURES & ~(1 << 30)
    talk.tell(R.SET_FEATURES, U64.pack(simple))
    assert talk.backend.calls[1:] == [("set_features", simple), ("ring_enable", True)]


def test_owner_begins_anew_and_keeps_what_came_before() -> None:
    talk = Talk()
    talk.tell(R.SET_BACKEND_REQ_FD, b"", sockets(1))
    kept = kept_fds()
    for _ in range(2):
        assert talk.ack(R.SET_OWNER) == 0
    assert talk.backend.names() == ["reset", "reset"]
    assert kept_fds() == kept
    talk.close()


def test_reset_device_is_no_new_owner() -> None:
    talk = Talk()
    assert talk.ack(R.RESET_DEVICE) == 0
    assert talk.ack(R.RESET_OWNER) == 0
    assert talk.backend.calls == [("reset_device",), ("ring_enable", False)]


def test_backend_request_channel_is_kept_open_and_replaced() -> None:
    talk = Talk()
    before = kept_fds()
    for _ in range(3):
        talk.tell(R.SET_BACKEND_REQ_FD, b"", sockets(1))
        assert len(kept_fds() - before) == 1
    assert talk.ack(R.SET_BACKEND_REQ_FD) == errno.EINVAL
    assert talk.ack(R.SET_BACKEND_REQ_FD, b"", memfds(2)) == errno.EINVAL
    assert len(kept_fds() - before) == 1
    talk.close()
    assert kept_fds() == before
    assert talk.backend.names() == ["reset"]


def test_close_survives_a_device_that_cannot_be_reset(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    talk.backend.errors["reset"] = OSError(errno.EIO, "broken")
    talk.close()
    assert "vm: the device could not be reset" in caplog.text


# ---- configuration space


def test_the_config_space_can_be_read_in_pieces() -> None:
    talk = Talk()
    for size in (1, 3, 8, 256):
        got = b""
        while len(got) < len(SPACE):
            part = min(size, len(SPACE) - len(got))
            head = CONFIG.pack(len(got), part, 1)
            answer = talk.query(R.GET_CONFIG, head + bytes(part))
            assert answer.startswith(head)
            assert len(answer) == len(head) + part
            got += answer[len(head) :]
        assert got == SPACE


@pytest.mark.parametrize("offset,size", [(256, 1), (255, 2), (0, 0), (0xFFFFFFFF, 1), (0, 257)])
def test_reading_beyond_the_config_space_is_harmless(offset: int, size: int) -> None:
    talk = Talk()
    assert talk.query(R.GET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(size)) == b""


def test_config_is_read_only() -> None:
    talk = Talk()
    assert talk.ack(R.SET_CONFIG, CONFIG.pack(0, 4, 0) + b"evil") == errno.EROFS
    assert talk.query(R.GET_CONFIG, CONFIG.pack(0, 4, 0) + bytes(4))[12:] == SPACE[:4]


# ---- guest memory


def test_a_memory_table_replaces_all_regions() -> None:
    talk = Talk()
    fds = memfds(2)
    files = [file_of(fd) for fd in fds]
    assert talk.ack(R.SET_MEM_TABLE, TABLE, fds) == 0
    regions = [MemoryRegion(*FIRST), MemoryRegion(*SECOND)]
    assert talk.backend.calls == [("mem_set_table", list(zip(regions, files, strict=True)))]
    for count in (0, 1, 3, 8):
        assert talk.ack(R.SET_MEM_TABLE, TABLE, memfds(count)) == errno.EINVAL
    assert talk.ack(R.SET_MEM_TABLE, bytes(8)) == 0
    assert talk.backend.calls[1:] == [("mem_set_table", [])]


def test_memory_regions_are_added_and_removed() -> None:
    talk = Talk()
    (fd,) = memfds(1)
    file = file_of(fd)
    region = MemoryRegion(*FIRST)
    assert talk.ack(R.ADD_MEM_REG, SLOT, [fd]) == 0
    assert talk.ack(R.REM_MEM_REG, SLOT) == 0
    assert talk.ack(R.REM_MEM_REG, SLOT, memfds(1)) == 0
    assert talk.backend.calls == [
        ("mem_add", region, file),
        ("mem_remove", region),
        ("mem_remove", region),
    ]
    assert talk.ack(R.ADD_MEM_REG, SLOT) == errno.EINVAL
    empty = bytes(8) + REGION.pack(0x1000, 0, 0, 0)
    assert talk.ack(R.ADD_MEM_REG, empty, memfds(1)) == errno.EINVAL
    assert len(talk.backend.calls) == 3


# ---- the ring


def test_a_ring_is_set_up_as_the_messages_say() -> None:
    talk = Talk()
    talk.tell(R.SET_VRING_NUM, STATE.pack(0, 256))
    talk.tell(R.SET_VRING_BASE, STATE.pack(0, 9))
    talk.tell(R.SET_VRING_ADDR, ADDRESSES.pack(0, 0, 1 << 40, 2 << 40, 3 << 40, 4 << 40))
    talk.tell(R.SET_VRING_ENABLE, STATE.pack(0, 1))
    talk.tell(R.SET_VRING_ENABLE, STATE.pack(0, 0))
    assert talk.query(R.GET_VRING_BASE, STATE.pack(0, 0)) == STATE.pack(0, BASE)
    assert talk.backend.calls == [
        ("ring_set_num", 256),
        ("ring_set_base", 9),
        ("ring_set_addr", 1 << 40, 2 << 40, 3 << 40),
        ("ring_enable", True),
        ("ring_enable", False),
        ("ring_stop",),
    ]


@pytest.mark.parametrize("end", ["kick", "call", "err"])
def test_ring_descriptors_reach_the_device(end: str) -> None:
    request = R[f"SET_VRING_{end.upper()}"]
    talk = Talk()
    (fd,) = memfds(1)
    file = file_of(fd)
    assert talk.ack(request, U64.pack(0), [fd]) == 0
    assert talk.ack(request, U64.pack(NO_FD)) == 0
    assert talk.backend.calls == [(f"ring_set_{end}", file), (f"ring_set_{end}", None)]
    for payload, count in ((0, 0), (NO_FD, 1), (0, 2), (1, 1), (NO_FD | 1, 0), (1 << 9, 1)):
        assert talk.ack(request, U64.pack(payload), memfds(count)) == errno.EINVAL
    assert len(talk.backend.calls) == 2


@pytest.mark.parametrize("index", [1, 2, 255, 0xFFFFFFFF])
def test_rings_that_do_not_exist(index: int, caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    for request in (R.SET_VRING_NUM, R.SET_VRING_BASE, R.SET_VRING_ENABLE):
        assert talk.ack(request, STATE.pack(index, 1)) == errno.EINVAL
    assert talk.ack(R.SET_VRING_ADDR, ADDRESSES.pack(index, 0, 0, 0, 0, 0)) == errno.EINVAL
    assert talk.query(R.GET_VRING_BASE, STATE.pack(index, 0)) == b""
    assert talk.backend.calls == []
    assert caplog.text.count(f"ring {index} does not exist; the only one is 0") == 5


def test_ring_values_without_a_meaning() -> None:
    talk = Talk()
    for num in (2, 0xFFFFFFFF):
        assert talk.ack(R.SET_VRING_ENABLE, STATE.pack(0, num)) == errno.EINVAL
    assert talk.ack(R.SET_VRING_ADDR, ADDRESSES.pack(0, 1, 0, 0, 0, 0)) == errno.EINVAL
    assert talk.backend.calls == []


# ---- everything at once

NUMBERS = st.one_of(st.sampled_from([each.value for each in R]), st.integers(0, 0xFFFFFFFF))
PAYLOADS = st.one_of(
    st.binary(max_size=300), st.sampled_from([each.payload for each in [*COMMANDS, *QUERIES]])
)
ANYTHING = st.lists(
    st.tuples(NUMBERS, st.integers(0, 0xFFFFFFFF), PAYLOADS, st.integers(0, 8), st.booleans()),
    max_size=12,
)


@given(ANYTHING, st.booleans())
def test_any_messages_are_answered_once_and_leak_nothing(
    messages: list[tuple[int, int, bytes, int, bool]], acknowledges: bool
) -> None:
    talk = Talk(PROTOCOL if acknowledges else 0)
    before = kept_fds()
    has_reply = {example.request.value for example in QUERIES}
    for number, flags, payload, count, lost in messages:
        was = bool(talk.connection.protocol_features & REPLY_ACK)
        message = Message(number, flags, payload, memfds(count), lost)
        answer = talk.handle(message)
        now = bool(talk.connection.protocol_features & REPLY_ACK)
        expected = number in has_reply or bool(flags & 8 and (was or now))
        assert bool(answer) == expected
        if answer:
            assert HEADER.unpack_from(answer) == (number, 5, len(answer) - 12)
    talk.close()
    assert kept_fds() == before
