"""vhost-user: the handshake, config space, every message's acknowledgement, malformed messages."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import CONFIG_SIZE, QEMU_PROTOCOL, Machine
from tests.frontend.vhost_user import (
    ADDRESSES,
    CONFIG,
    HEADER,
    NEED_REPLY_FLAG,
    NO_FD,
    REPLY_FLAG,
    STATE,
    U64,
    VERSION,
    BackendError,
    Frontend,
    Protocol,
    Request,
)
from tests.frontend.wire import NOTAG, T
from tests.system.share import SECURITY

FEATURES = 1 << 0 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32
PACKED = 1 << 34
PROTOCOL = sum(
    1 << bit
    for bit in (
        Protocol.MQ,
        Protocol.REPLY_ACK,
        Protocol.BACKEND_REQ,
        Protocol.CONFIG,
        Protocol.RESET_DEVICE,
        Protocol.CONFIGURE_MEM_SLOTS,
    )
)
NO_SLOTS = QEMU_PROTOCOL & ~(1 << Protocol.CONFIGURE_MEM_SLOTS)

# Requests without a reply of their own, with a valid payload and the number of descriptors.
COMMANDS: dict[Request, tuple[bytes, int]] = {
    Request.SET_FEATURES: (U64.pack(FEATURES), 0),
    Request.SET_PROTOCOL_FEATURES: (U64.pack(PROTOCOL), 0),
    Request.SET_OWNER: (b"", 0),
    Request.SET_MEM_TABLE: (struct.pack("=II", 0, 0), 0),
    Request.SET_VRING_NUM: (STATE.pack(0, 128), 0),
    Request.SET_VRING_BASE: (STATE.pack(0, 0), 0),
    Request.SET_VRING_KICK: (U64.pack(0), 1),
    Request.SET_VRING_CALL: (U64.pack(0), 1),
    Request.SET_VRING_ERR: (U64.pack(0), 1),
    Request.SET_VRING_ENABLE: (STATE.pack(0, 0), 0),
    Request.SET_BACKEND_REQ_FD: (b"", 1),
    Request.RESET_DEVICE: (b"", 0),
    Request.RESET_OWNER: (b"", 0),
}
QUERIES = {
    Request.GET_FEATURES: b"",
    Request.GET_PROTOCOL_FEATURES: b"",
    Request.GET_QUEUE_NUM: b"",
    Request.GET_MAX_MEM_SLOTS: b"",
    Request.GET_CONFIG: CONFIG.pack(0, 8, 0) + bytes(8),
    Request.GET_VRING_BASE: STATE.pack(0, 0),
}


def test_features_are_exactly_those_that_work(bare: Machine) -> None:
    features = bare.frontend.get_features()
    assert features & ~PACKED == FEATURES
    assert bare.frontend.get_protocol_features() == PROTOCOL
    bare.frontend.set_protocol_features(PROTOCOL)
    assert bare.frontend.query_u64(Request.GET_QUEUE_NUM) == 1
    assert bare.frontend.query_u64(Request.GET_MAX_MEM_SLOTS) == 509


def test_unoffered_features_are_refused(frontend: Frontend) -> None:
    for bit in (33, 35, 36, 63):
        assert frontend.ack(Request.SET_FEATURES, U64.pack(FEATURES | 1 << bit)) != 0
    for bit in (Protocol.STATUS, Protocol.INBAND_NOTIFICATIONS, 63):
        value = U64.pack(PROTOCOL | 1 << bit)
        assert frontend.ack(Request.SET_PROTOCOL_FEATURES, value) != 0
    assert frontend.silent()


def test_the_config_space_holds_the_tag(bare: Machine) -> None:
    bare.realize()
    assert bare.probe() == "host0"
    whole = bare.frontend.get_config(0, CONFIG_SIZE)
    assert whole == b"\x05\x00host0" + bytes(CONFIG_SIZE - 7)


def test_the_config_space_can_be_read_in_pieces(frontend: Frontend) -> None:
    whole = frontend.get_config(0, CONFIG_SIZE)
    for size in (1, 2, 3, 4, 8, 100):
        got = b"".join(
            frontend.get_config(offset, min(size, CONFIG_SIZE - offset))
            for offset in range(0, CONFIG_SIZE, size)
        )
        assert got == whole
    assert frontend.get_config(2, 5, flags=1) == b"host0"
    assert frontend.get_config(250, 6) == bytes(6)


@pytest.mark.parametrize(
    "offset,size", [(256, 4), (252, 8), (0xFFFFFFFF, 4), (0xFFFFFFFC, 8), (0, 0)]
)
def test_reading_beyond_the_config_space_is_harmless(
    frontend: Frontend, offset: int, size: int
) -> None:
    """An empty payload is the protocol's error; zeros of the right size do no harm either."""
    request = CONFIG.pack(offset, size, 0) + bytes(size)
    reply = frontend.query(Request.GET_CONFIG, request)
    assert reply == b"" or (len(reply) == len(request) and not any(reply[CONFIG.size :]))
    assert frontend.get_config(0, 7) == b"\x05\x00host0"


def test_a_config_request_whose_size_lies_is_refused(frontend: Frontend) -> None:
    for size, payload in ((0xFFFFFFFF, bytes(8)), (8, b""), (4, bytes(8)), (300, bytes(300))):
        frontend.send(Request.GET_CONFIG, CONFIG.pack(0, size, 0) + payload)
        reply = frontend.receive()
        assert reply.request == Request.GET_CONFIG
        assert len(reply.payload) <= CONFIG.size + 256
    assert frontend.get_config(0, 2) == b"\x05\x00"


def test_config_is_not_writable(frontend: Frontend) -> None:
    payload = CONFIG.pack(0, 4, 0) + b"evil"
    assert frontend.ack(Request.SET_CONFIG, payload) != 0
    frontend.send(Request.SET_CONFIG, payload)
    assert frontend.get_config(0, 4) == b"\x05\x00ho"


@pytest.mark.parametrize("tag", ["a", "home-dir", "é" * 100, "x" * 254])
def test_tag_of_the_command_line(scratch: Path, tag: str) -> None:
    with (
        Daemon("--path", str(scratch), *SECURITY, "--tag", tag) as daemon,
        Machine(daemon.socket) as machine,
    ):
        machine.realize()
        assert machine.probe() == tag


@pytest.mark.parametrize("request_", COMMANDS, ids=lambda r: r.name)
def test_every_command_is_acknowledged_once(frontend: Frontend, request_: Request) -> None:
    payload, count = COMMANDS[request_]
    ours, theirs = socket.socketpair()
    fd = ours.detach() if request_ == Request.SET_BACKEND_REQ_FD else os.eventfd(0)
    with theirs:
        code = frontend.ack(request_, payload, [fd] * count)
    os.close(fd)
    ours.close()
    # The one nobody has to know any more; the other starts a ring, and there is none.
    assert code == 0 or request_ in (Request.RESET_OWNER, Request.SET_VRING_KICK)
    assert frontend.silent()
    frontend.send(request_, payload, [])
    assert frontend.silent()


@pytest.mark.parametrize("request_", QUERIES, ids=lambda r: r.name)
def test_query_with_need_reply_is_answered_once(frontend: Frontend, request_: Request) -> None:
    reply = frontend.query(request_, QUERIES[request_], need_reply=True)
    assert len(reply) >= 8
    assert frontend.silent()


def test_no_acknowledgement_unless_negotiated(bare: Machine) -> None:
    bare.protocol &= ~(1 << Protocol.REPLY_ACK)
    bare.realize()
    bare.frontend.send(Request.SET_VRING_NUM, STATE.pack(0, 128), need_reply=True)
    assert bare.frontend.silent()


def test_set_protocol_features_itself_may_be_acknowledged(bare: Machine) -> None:
    assert bare.frontend.ack(Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL)) == 0
    assert bare.frontend.silent()


@pytest.mark.parametrize("request_", [0, 19, 20, 23, 26, 28, 39, 44, 99, 255, 0xFFFFFFFF])
def test_unknown_request_is_survived(frontend: Frontend, request_: int) -> None:
    fds = [os.eventfd(0) for _ in range(3)]
    assert frontend.ack(request_, b"payload", fds) != 0
    frontend.send(request_, b"p" * 3000, fds)
    frontend.send(request_)
    assert frontend.silent()
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("request_", [r for r in Request if r.value not in (2, 16)], ids=str)
def test_short_and_long_payloads_are_refused(frontend: Frontend, request_: Request) -> None:
    """Refused, or answered as a query is; never with a traceback, never by hanging up."""
    right = {request: len(payload) for request, (payload, _) in COMMANDS.items()}
    right |= {request: len(payload) for request, payload in QUERIES.items()}
    right |= {Request.SET_VRING_ADDR: 40, Request.ADD_MEM_REG: 40, Request.REM_MEM_REG: 40}
    for size in (0, 1, 4, 7, 9, 12, 39, 41, 200):
        if size == right.get(request_):
            continue
        frontend.send(request_, b"\x01" * size, need_reply=True)
        reply = frontend.receive()
        assert reply.request == request_
        assert reply.flags == VERSION | REPLY_FLAG
    assert frontend.silent()


def test_message_in_pieces_and_messages_at_once(frontend: Frontend) -> None:
    message = HEADER.pack(Request.GET_CONFIG, VERSION, 20) + CONFIG.pack(0, 8, 0) + bytes(8)
    for byte in message:
        frontend.send_raw(bytes([byte]))
    assert frontend.receive().payload[CONFIG.size :] == b"\x05\x00host0\0"
    frontend.send_raw(message * 3 + HEADER.pack(Request.GET_FEATURES, VERSION, 0))
    for _ in range(3):
        assert frontend.receive().request == Request.GET_CONFIG
    assert U64.unpack(frontend.receive().payload)[0] & FEATURES == FEATURES


def test_descriptor_with_the_first_byte_only(frontend: Frontend) -> None:
    """The descriptors belong to the message whose bytes they came with."""
    fd = os.eventfd(0)
    message = HEADER.pack(Request.SET_VRING_CALL, VERSION | NEED_REPLY_FLAG, 8) + U64.pack(0)
    frontend.send_raw(message[:1], [fd])
    frontend.send_raw(message[1:])
    os.close(fd)
    assert frontend.receive().payload == U64.pack(0)


def test_wrong_numbers_of_descriptors_are_refused(frontend: Frontend) -> None:
    fds = [os.eventfd(0) for _ in range(8)]
    for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        assert frontend.ack(request, U64.pack(0), []) != 0
        assert frontend.ack(request, U64.pack(0), fds[:2]) != 0
        no_ring = request == Request.SET_VRING_KICK  # it cannot start
        assert (frontend.ack(request, U64.pack(NO_FD), []) != 0) == no_ring
    frontend.send(Request.GET_FEATURES, b"", fds)
    assert frontend.receive().request == Request.GET_FEATURES
    assert frontend.ack(Request.SET_OWNER, b"", fds) in (0, 1, 22)
    assert frontend.silent()
    for fd in fds:
        os.close(fd)


def test_wrong_ring_numbers_are_refused(frontend: Frontend) -> None:
    for index in (1, 2, 255, 0xFFFFFFFF):
        assert frontend.ack(Request.SET_VRING_NUM, STATE.pack(index, 128)) != 0
        assert frontend.ack(Request.SET_VRING_BASE, STATE.pack(index, 0)) != 0
        assert frontend.ack(Request.SET_VRING_ENABLE, STATE.pack(index, 1)) != 0
        payload = ADDRESSES.pack(index, 0, 0, 0, 0, 0)
        assert frontend.ack(Request.SET_VRING_ADDR, payload) != 0
    assert frontend.ack(Request.SET_VRING_CALL, U64.pack(1 | NO_FD)) != 0
    frontend.send(Request.GET_VRING_BASE, STATE.pack(1, 0))
    assert frontend.receive().request == Request.GET_VRING_BASE


@pytest.mark.parametrize("num", [0, 3, 100, 65535, 65536, 0xFFFFFFFF])
def test_wrong_ring_sizes_are_refused(frontend: Frontend, num: int) -> None:
    assert frontend.ack(Request.SET_VRING_NUM, STATE.pack(0, num)) != 0
    assert frontend.ack(Request.SET_VRING_NUM, STATE.pack(0, 128)) == 0


def test_ring_outside_memory_is_refused_or_broken(bare: Machine) -> None:
    """Whether at SET_VRING_ADDR or at the start: nothing is served, nobody dies."""
    bare.realize()
    bare.memory.uva = lambda gpa: 0x1000 + gpa  # type: ignore[method-assign]
    try:
        bare.start()
    except BackendError:
        pass
    else:
        bare.ring.kick(force=True)
        bare.ring.wait_broken()
    del bare.memory.uva
    bare.sent_regions = []
    bare.replug()
    Client(bare).version()


def test_kick_descriptor_that_is_no_eventfd(bare: Machine, tmp_path: Path) -> None:
    """A file, a pipe's end, a socket: epoll refuses a file, a hung-up pipe is always ready."""
    bare.boot()
    client = Client(bare)
    client.version()
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(tmp_path / "file", "wb") as file:
        for fd in (file.fileno(), read_end):
            bare.frontend.ack(Request.SET_VRING_KICK, U64.pack(0), [fd])
            bare.frontend.ack(Request.SET_VRING_CALL, U64.pack(0), [fd])
    os.close(read_end)
    bare.frontend.get_features()
    bare.stop()
    bare.start()
    client.version()


def test_call_descriptor_that_is_a_socket(bare: Machine) -> None:
    """As User Mode Linux sends one: it calls it a pipe."""
    bare.boot()
    client = Client(bare)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        bare.frontend.set_vring_fd(Request.SET_VRING_CALL, theirs.fileno())
        bare.ring._arm()
        ticket = client.submit(T.VERSION, 8192, b"9P2000.L", tag=NOTAG)
        while ticket.reply is None:
            assert len(ours.recv(64)) % 8 == 0
            for done in bare.ring.poll():
                client.finish(done.head, done.length)
    bare.frontend.set_vring_fd(Request.SET_VRING_CALL, bare.ring.call_fd)
    client.version()


@pytest.mark.parametrize("size", [0x10000000, 0xFFFFFFFF, 0x7FFFFFFF])
def test_monstrous_message_harms_nobody_else(bare: Machine, size: int) -> None:
    """The stream cannot be followed any more; the daemon serves the next frontend."""
    before = bare.frontend.get_features()
    with contextlib.suppress(BackendError):
        bare.frontend.send_raw(HEADER.pack(Request.SET_FEATURES, VERSION, size) + bytes(100))
    bare.frontend.close()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(bare.frontend.path)
        assert Frontend(sock=sock).get_features() == before


def test_wrong_version_in_the_flags(frontend: Frontend) -> None:
    for flags in (0, 2, 3, VERSION | REPLY_FLAG):
        frontend.send(Request.SET_VRING_NUM, STATE.pack(0, 128), flags=flags)
    assert frontend.silent()
