"""The test frontend itself, against a device and a backend that are played here in a few lines.

What matters is that its checks bite: a device that returns a wrong head, does not call, writes
behind a buffer or lies about a length must not pass.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.frontend import wire
from tests.frontend.client import Client, Dropped, P9Errno, ReplyError
from tests.frontend.layout import Buffers, Layout
from tests.frontend.machine import Machine
from tests.frontend.memory import GIB, KIB, PAGE, GuestMemory, GuestMemoryError, pc_memory
from tests.frontend.ring import INDIRECT, WRITE, Completion, RingError, Segment, SplitRing
from tests.frontend.vhost_user import (
    HEADER,
    NEED_REPLY_FLAG,
    U64,
    BackendError,
    Protocol,
    Request,
)
from tests.frontend.wire import T

FEATURES = 1 << 0 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 34
PROTOCOL = 1 << Protocol.MQ | 1 << Protocol.REPLY_ACK | 1 << Protocol.CONFIG
PROTOCOL |= 1 << Protocol.CONFIGURE_MEM_SLOTS


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = pc_memory()
    yield memory
    memory.close()


class FakeDevice:
    """The device's side of a ring, reading guest memory by gpa. `answer` makes the reply."""

    def __init__(self, ring: SplitRing, answer: Callable[[bytes], bytes]) -> None:
        self.ring = ring
        self.answer = answer
        self.last_avail = 0

    def chain(self, head: int) -> tuple[list[Segment], list[Segment]]:
        memory, at, index = self.ring.memory, self.ring.desc, head
        out: list[Segment] = []
        into: list[Segment] = []
        while True:
            raw = memory.read(at + 16 * index, 16)
            gpa, size, flags, following = struct.unpack("<QIHH", raw)
            if flags & INDIRECT:
                at, index = gpa, 0
                continue
            (into if flags & WRITE else out).append((gpa, size))
            if not flags & 1:
                return out, into
            index = following

    def run(self, *, call: bool = True, extra: int = 0, id_offset: int = 0) -> int:
        """Answers all that is available; returns the number of chains."""
        ring, memory = self.ring, self.ring.memory
        count = 0
        while self.last_avail != memory.load16(ring.avail + 2):
            head = memory.load16(ring.avail + 4 + 2 * (self.last_avail % ring.size))
            out, into = self.chain(head)
            reply = self.answer(b"".join(memory.read(gpa, size) for gpa, size in out))
            rest = reply
            for gpa, size in into:
                memory.write(gpa, rest[:size])
                rest = rest[size:]
            if rest:
                memory.write(into[-1][0] + into[-1][1], rest)  # what no device may do
            used = memory.load16(ring.used + 2)
            element = struct.pack("<II", head + id_offset, len(reply) + extra)
            memory.write(ring.used + 4 + 8 * (used % ring.size), element)
            memory.store16(ring.used + 2, used + 1)
            self.last_avail = (self.last_avail + 1) & 0xFFFF
            count += 1
        memory.store16(ring.used + 4 + 8 * ring.size, self.last_avail)
        if call and count:
            os.eventfd_write(ring.call_fd, 1)
        return count


class Loop:
    """A client with a fake device behind it, without a socket."""

    def __init__(self, memory: GuestMemory, size: int = 8) -> None:
        self.memory = memory
        self.ring = SplitRing(memory, size)
        self.device = FakeDevice(self.ring, self.answer)
        self.requests: list[bytes] = []
        self.reply: Callable[[bytes], bytes] = lambda request: b""

    def answer(self, request: bytes) -> bytes:
        self.requests.append(request)
        return self.reply(request)

    def client(self, layout: Layout | None = None) -> Client:
        return Client(self, layout)  # type: ignore[arg-type]


@pytest.fixture
def loop(memory: GuestMemory) -> Iterator[Loop]:
    loop = Loop(memory)
    yield loop
    loop.ring.close()


LAYOUTS = [
    Layout(),
    Layout(readable=(1, 2, 3), writable=(1, 1, 1, 1, 1, 1, 1, 1)),
    Layout(empty=True, backwards=True),
    Layout(indirect=False, readable=(5,), writable=(7,)),
    Layout(readable=(1,) * 60),  # a table longer than the ring of 8
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(len(LAYOUTS)))
def test_requests_survive_every_layout(loop: Loop, layout: Layout) -> None:
    client = loop.client(layout)
    for _ in range(3 * loop.ring.size):  # wraps the ring
        ticket = client.submit(T.MKDIR, 7, b"\xffname" * 10, 0o755, 0)
        loop.reply = lambda request: wire.message(73, request[5], bytes(range(13)))
        loop.device.run()
        assert client.wait(ticket).fields[0] == wire.Qid(0, 0x04030201, 0x0C0B0A0908070605)
        assert loop.requests[-1] == wire.encode(T.MKDIR, ticket.tag, 7, b"\xffname" * 10, 0o755, 0)
    assert sorted(loop.ring.free) == list(range(loop.ring.size))
    assert not loop.ring.in_flight


def test_replies_out_of_order_reach_their_tickets(loop: Loop) -> None:
    client = loop.client()
    tickets = [client.submit(T.CLUNK, fid) for fid in range(8)]
    with pytest.raises(RingError, match="free"):
        loop.ring.take_slots(1)
    loop.reply = lambda request: wire.message(7, request[5], request[7:11])
    assert loop.device.run() == 8
    for fid, ticket in reversed(list(enumerate(tickets))):
        if fid:
            with pytest.raises(P9Errno) as caught:
                client.wait(ticket)
            assert caught.value.errno == fid


def test_lost_call_is_found(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = loop.client().submit(T.CLUNK, 1)
    original = loop.ring.poll
    blind: list[list[Completion]] = [[]]  # the driver looks before the device is done
    loop.device.run(call=False)
    monkeypatch.setattr(loop.ring, "poll", lambda: blind.pop() if blind else original())
    monkeypatch.setattr(loop.ring, "_arm", lambda: False)
    with pytest.raises(RingError, match="without a call"):
        loop.ring.wait(timeout=0)
    assert ticket.reply is None


def test_wrong_head_is_found(loop: Loop) -> None:
    client = loop.client()
    client.submit(T.CLUNK, 1)
    loop.device.run(id_offset=1)
    with pytest.raises(RingError, match="not in flight"):
        client.reap()


def test_wrong_used_length_is_found(loop: Loop) -> None:
    client = loop.client()
    ticket = client.submit(T.CLUNK, 1)
    loop.reply = lambda request: wire.message(121, request[5], b"")
    loop.device.run(extra=4)
    with pytest.raises(wire.WireError, match="size"):
        client.wait(ticket)


def test_write_behind_the_buffer_is_found(loop: Loop) -> None:
    client = loop.client()
    ticket = client.submit(T.CLUNK, 1, layout=Layout(reply_size=11))
    loop.reply = lambda request: bytes(12)
    loop.device.run()
    with pytest.raises(ReplyError):
        client.wait(ticket)


def test_no_reply_is_distinguished(loop: Loop) -> None:
    client = loop.client()
    ticket = client.submit(T.CLUNK, 1)
    loop.reply = lambda request: b""
    loop.device.run()
    with pytest.raises(Dropped):
        client.wait(ticket)


def test_kick_follows_the_event_index(loop: Loop) -> None:
    client = loop.client()
    client.submit(T.CLUNK, 1)
    assert loop.ring.kicks == 1  # avail_event is 0: the first is wanted
    client.submit(T.CLUNK, 2)
    assert loop.ring.kicks == 1
    loop.device.run()
    client.submit(T.CLUNK, 3)
    assert loop.ring.kicks == 2


def test_memory_accesses_span_regions_and_allocations_do_not_overlap() -> None:
    memory = GuestMemory()
    first = memory.add_region(0, 2 * PAGE)
    memory.add_region(2 * PAGE, 2 * PAGE, mmap_offset=PAGE)
    memory.write(PAGE, bytes(range(256)) * 32)
    assert memory.read(PAGE, 2 * PAGE) == bytes(range(256)) * 32
    assert memory.uva(2 * PAGE) != memory.uva(0) + 2 * PAGE
    with pytest.raises(GuestMemoryError):
        memory.read(3 * PAGE, 2 * PAGE)
    areas = [memory.alloc(1000, 64) for _ in range(12)]
    assert len({area // 64 for area in areas}) == 12
    for area in areas:
        memory.free(area)
    assert memory.alloc(2 * PAGE, PAGE) == 0
    memory.remove_region(first)
    with pytest.raises(GuestMemoryError):
        memory.read(0, 1)
    memory.close()


def test_pc_memory_has_one_file_and_a_hole(memory: GuestMemory) -> None:
    assert len({region.memfd.fd for region in memory.regions}) == 1
    with pytest.raises(GuestMemoryError):
        memory.read(0xA0000, 1)
    memory.write(4 * GIB, b"high")
    os.lseek(memory.regions[0].memfd.fd, 32 * KIB * KIB, os.SEEK_SET)
    assert os.read(memory.regions[0].memfd.fd, 4) == b"high"


def test_buffers_are_cut_as_asked(memory: GuestMemory) -> None:
    layout = Layout(readable=(3,), writable=(11,), backwards=True)
    buffers = Buffers.place(memory, layout, bytes(10), 11 + 3 * PAGE)
    assert [size for _, size in buffers.readable] == [3, 7]
    assert [size for _, size in buffers.writable] == [11, PAGE, PAGE, PAGE]
    assert buffers.writable[1][0] > buffers.writable[3][0]
    assert buffers.writable[1][0] % PAGE == 0


def fake_backend(
    sock: socket.socket, seen: list[tuple[int, bool]], answers: dict[int, int]
) -> None:
    """Answers as a backend does; acknowledges with answers[request] where that is given."""
    values = {1: FEATURES, 15: PROTOCOL, 17: 1, 36: 509}
    while head := sock.recv(HEADER.size, socket.MSG_WAITALL):
        request, flags, size = HEADER.unpack(head)
        body, fds, _, _ = socket.recv_fds(sock, size, 8) if size else (b"", [], 0, None)
        for fd in fds:
            os.close(fd)
        need_reply = bool(flags & NEED_REPLY_FLAG)
        seen.append((request, need_reply))
        if request in values:
            body = U64.pack(values[request])
        elif request == Request.GET_CONFIG:
            body = body[:12] + (b"\x04\x00abcd" + bytes(256))[: size - 12]
        elif request == Request.GET_VRING_BASE:
            body = struct.pack("=II", 0, 9)
        elif need_reply:
            body = U64.pack(answers.get(request, 0))
        else:
            continue
        sock.sendall(HEADER.pack(request, 5, len(body)) + body)


@pytest.fixture
def answers() -> dict[int, int]:
    return {}


@pytest.fixture
def backend(answers: dict[int, int]) -> Iterator[tuple[Machine, list[tuple[int, bool]]]]:
    ours, theirs = socket.socketpair()
    seen: list[tuple[int, bool]] = []
    thread = threading.Thread(target=fake_backend, args=(theirs, seen, answers))
    thread.start()
    with Machine(sock=ours) as machine:
        yield machine, seen
    thread.join()
    theirs.close()


def test_machine_sends_what_qemu_sends(backend: tuple[Machine, list[tuple[int, bool]]]) -> None:
    machine, seen = backend
    machine.realize()
    expected = [(1, False), (15, False), (16, False), (17, False), (36, False)]
    expected += [(3, False), (1, False), (13, True), (14, True)]
    assert seen == expected
    seen.clear()
    assert machine.probe() == "abcd"
    assert seen == [(24, False)] * 5
    seen.clear()
    machine.start()
    expected = [(2, False), *[(37, True)] * 3, (8, True), (10, True), (9, True)]
    expected += [(12, True), (13, True), (18, True), (13, True), (1, False)]
    assert [request for request, _ in seen] == [request for request, _ in expected]
    seen.clear()
    assert machine.stop() == 9
    assert seen == [(18, True), (11, False)]
    seen.clear()
    machine.memory.remove_region(machine.memory.regions[-1])
    machine.send_memory()
    assert seen == [(38, True)]


def test_refusal_is_an_error(
    backend: tuple[Machine, list[tuple[int, bool]]], answers: dict[int, int]
) -> None:
    machine, _ = backend
    answers[Request.SET_VRING_ERR] = 22
    with pytest.raises(BackendError, match="22"):
        machine.realize()
    assert machine.frontend.silent()


def test_called_descriptor_is_drained(loop: Loop) -> None:
    os.eventfd_write(loop.ring.call_fd, 3)
    assert loop.ring.called() == 3
    assert loop.ring.called() == 0
    assert not select.select([loop.ring.call_fd], [], [], 0)[0]
