"""The virtqueue as a hostile or unusual driver uses it.

What violates the specification breaks the ring: the err descriptor is signalled, the daemon and
the connection live, and the next start of the ring works. What concerns one request only is
answered by Rlerror.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable

import pytest

from tests.frontend import PATIENCE, wire
from tests.frontend.client import Client, P9Errno
from tests.frontend.layout import Layout
from tests.frontend.machine import Machine
from tests.frontend.memory import GIB, PAGE
from tests.frontend.ring import INDIRECT, NEXT, WRITE, RingError, SplitRing
from tests.frontend.wire import T, encode
from tests.system.conftest import Common
from tests.system.share import Share, mounted, remount

NOWHERE = 1 << 44  # a gpa outside every region
BUFFER = 4096


class Bench:
    """A share whose ring is written by hand."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.ring = share.machine.ring
        self.memory = share.machine.memory
        self.request = self.memory.alloc(BUFFER, PAGE)
        self.reply = self.memory.alloc(BUFFER, PAGE)
        self.table = self.memory.alloc(64 * 1024, PAGE)
        self.message = encode(T.GETATTR, 3, share.top, 0x7FF)
        self.size = len(self.message)
        self.memory.write(self.request, self.message)

    def desc(self, slot: int, gpa: int, size: int, flags: int = 0, following: int = 0) -> None:
        self.ring.write_descriptor(slot, gpa, size, flags, following)

    def entry(self, index: int, gpa: int, size: int, flags: int = 0, following: int = 0) -> None:
        entry = struct.pack("<QIHH", gpa, size, flags, following)
        self.memory.write(self.table + 16 * index, entry)

    def good_table(self) -> None:
        self.entry(0, self.request, self.size, NEXT, 1)
        self.entry(1, self.reply, BUFFER, WRITE)

    def go(self, head: int = 0) -> None:
        self.ring.publish(head)
        self.ring.kick(force=True)


@pytest.fixture
def bench(share: Share) -> Bench:
    return Bench(share)


def recovers(share: Share) -> None:
    """The daemon lives, the connection too, and the ring works after its next start."""
    share.machine.frontend.get_features()
    share.client.in_flight.clear()
    share.machine.reboot()
    share.client = Client(share.machine)
    remount(share)
    assert share.client.getattr(share.top).nlink > 0


def avail_index_jumps(b: Bench) -> None:
    b.memory.store16(b.ring.avail + 2, b.ring.avail_idx + b.ring.size + 1)
    b.ring.kick(force=True)


def avail_index_goes_back(b: Bench) -> None:
    b.memory.store16(b.ring.avail + 2, b.ring.avail_idx - 1)
    b.ring.kick(force=True)


def head_is_the_ring_size(b: Bench) -> None:
    b.go(b.ring.size)


def head_is_huge(b: Bench) -> None:
    b.go(0xFFFF)


def next_is_outside(b: Bench) -> None:
    b.desc(0, b.request, b.size, NEXT, b.ring.size)
    b.go()


def chain_is_its_own_next(b: Bench) -> None:
    b.desc(0, b.request, b.size, NEXT, 0)
    b.go()


def chain_loops(b: Bench) -> None:
    b.desc(0, b.request, b.size, NEXT, 1)
    b.desc(1, b.reply, 16, WRITE | NEXT, 2)
    b.desc(2, b.reply, 16, WRITE | NEXT, 1)
    b.go()


def table_loops(b: Bench) -> None:
    b.entry(0, b.request, b.size, NEXT, 1)
    b.entry(1, b.reply, 16, WRITE | NEXT, 1)
    b.desc(0, b.table, 32, INDIRECT)
    b.go()


def table_next_is_outside(b: Bench) -> None:
    b.entry(0, b.request, b.size, NEXT, 2)
    b.entry(2, b.reply, 16, WRITE)
    b.desc(0, b.table, 32, INDIRECT)
    b.go()


def table_in_a_table(b: Bench) -> None:
    b.entry(0, b.request, b.size, NEXT, 1)
    b.entry(1, b.table + 256, 16, INDIRECT)
    b.desc(0, b.table, 32, INDIRECT)
    b.go()


def table_with_next(b: Bench) -> None:
    b.good_table()
    b.desc(0, b.table, 32, INDIRECT | NEXT, 1)
    b.desc(1, b.reply, BUFFER, WRITE)
    b.go()


def table_of_length_0(b: Bench) -> None:
    b.desc(0, b.table, 0, INDIRECT)
    b.go()


def table_of_odd_length(b: Bench) -> None:
    b.good_table()
    b.desc(0, b.table, 40, INDIRECT)
    b.go()


def table_outside_memory(b: Bench) -> None:
    b.desc(0, NOWHERE, 32, INDIRECT)
    b.go()


def table_ends_outside_memory(b: Bench) -> None:
    region = b.memory.region_of(4 * GIB)
    b.desc(0, region.end - 16, 32, INDIRECT)
    b.go()


def table_wraps_the_address_space(b: Bench) -> None:
    b.desc(0, (1 << 64) - 16, 32, INDIRECT)
    b.go()


def buffer_wraps_the_address_space(b: Bench) -> None:
    b.desc(0, (1 << 64) - 16, 32, NEXT, 1)
    b.desc(1, b.reply, BUFFER, WRITE)
    b.go()


def readable_after_writable(b: Bench) -> None:
    b.desc(0, b.reply, BUFFER, WRITE | NEXT, 1)
    b.desc(1, b.request, b.size)
    b.go()


def reply_buffer_is_missing(b: Bench) -> None:
    b.desc(0, b.request, b.size)
    b.go()


def reply_buffer_is_too_small_for_an_error(b: Bench) -> None:
    b.desc(0, b.request, b.size, NEXT, 1)
    b.desc(1, b.reply, 10, WRITE)
    b.go()


def reply_buffer_is_outside_memory(b: Bench) -> None:
    b.desc(0, b.request, b.size, NEXT, 1)
    b.desc(1, NOWHERE, BUFFER, WRITE)
    b.go()


BREAKERS: list[Callable[[Bench], None]] = [
    avail_index_jumps,
    avail_index_goes_back,
    head_is_the_ring_size,
    head_is_huge,
    next_is_outside,
    chain_is_its_own_next,
    chain_loops,
    table_loops,
    table_next_is_outside,
    table_in_a_table,
    table_with_next,
    table_of_length_0,
    table_of_odd_length,
    table_outside_memory,
    table_ends_outside_memory,
    table_wraps_the_address_space,
    buffer_wraps_the_address_space,
    readable_after_writable,
    reply_buffer_is_missing,
    reply_buffer_is_too_small_for_an_error,
    reply_buffer_is_outside_memory,
]


@pytest.mark.parametrize("breaker", BREAKERS, ids=lambda f: f.__name__)
def test_violation_breaks_the_ring_only(bench: Bench, breaker: Callable[[Bench], None]) -> None:
    breaker(bench)
    bench.ring.wait_broken()
    assert bench.ring.poll() == []
    recovers(bench.share)


def test_indirect_needs_the_feature(common: Common, folder: str) -> None:
    with mounted(common.running(), common.export, folder, indirect=False,
                 layout=Layout(indirect=False)) as share:  # fmt: skip
        bench = Bench(share)
        assert share.client.getattr(share.top).nlink > 0
        bench.good_table()
        bench.desc(0, bench.table, 32, INDIRECT)
        bench.go()
        bench.ring.wait_broken()
        share.client.layout = None
        share.machine.reboot()
    common.check()


def test_broken_ring_stops_at_once(bench: Bench) -> None:
    """GET_VRING_BASE of a broken ring; what came after the violation was not taken."""
    taken = bench.ring.avail_idx
    head_is_huge(bench)
    bench.ring.wait_broken()
    base = bench.share.machine.stop()
    assert base in (taken, taken + 1)
    recovers(bench.share)


def test_requests_before_a_violation_are_answered(bench: Bench) -> None:
    client = bench.share.client
    tickets = [client.submit(T.GETATTR, bench.share.top, 0x7FF, kick=False) for _ in range(5)]
    bench.go(0xFFFF)
    bench.ring.wait_broken()
    bench.share.machine.stop()  # what is in flight has been answered after this
    done = {completion.head for completion in bench.ring.poll()}
    assert len(done) == len(tickets)
    recovers(bench.share)


@pytest.mark.parametrize("count", [129, 1000, 4000])
def test_long_chains_are_served_or_refused(bench: Bench, count: int) -> None:
    """Linux sends up to 128 pieces, more than a small ring has; more than that is no harm."""
    client = bench.share.client
    body = bytes(count)
    layout = Layout(readable=(1,) * (count - 2))
    fid = client.create(bench.share.top, b"file")
    ticket = client.submit(T.WRITE, fid, 0, body, layout=layout)
    if bench.ring.wait_broken_or_used():
        assert count > 1000
        recovers(bench.share)
        return
    try:
        assert client.wait(ticket).fields == (count,)
    except P9Errno as error:
        assert count > 1000
        assert error.errno in (errno.E2BIG, errno.EINVAL)


def test_a_chain_made_available_twice_harms_nobody_else(bench: Bench) -> None:
    """A driver that makes one chain available twice gets nonsense, and nobody else suffers."""
    bench.desc(0, bench.request, bench.size, NEXT, 1)
    bench.desc(1, bench.reply, BUFFER, WRITE)
    bench.ring.publish(0)
    bench.go(0)
    bench.share.machine.stop()
    recovers(bench.share)


# ---- errors of one request


def answer(bench: Bench, readable: list[tuple[int, int]], writable: list[tuple[int, int]]) -> bytes:
    """The reply to a chain of these segments, read from the bench's reply buffer."""
    head = bench.ring.add(readable, writable)
    bench.ring.kick()
    (done,) = bench.ring.wait()
    assert done.head == head
    return bench.memory.read(bench.reply, done.length)


def error_of(reply: bytes) -> int:
    decoded = wire.decode(reply)
    assert decoded.type == wire.RLERROR
    return int(decoded.fields[0])


@pytest.mark.parametrize("size", range(7))
def test_message_shorter_than_a_header(bench: Bench, size: int) -> None:
    readable = [(bench.request, size)] if size else []
    assert error_of(answer(bench, readable, [(bench.reply, BUFFER)]))


@pytest.mark.parametrize("claimed", [0, 6, 20, 0xFFFFFFFF, 0x80000000])
def test_a_wrong_size_field_fails_the_request_alone(bench: Bench, claimed: int) -> None:
    """size[4] of less than a header, or of more than was sent."""
    bench.memory.write(bench.request, struct.pack("<I", claimed))
    assert error_of(answer(bench, [(bench.request, bench.size)], [(bench.reply, BUFFER)]))


def test_bytes_behind_the_message_are_ignored(bench: Bench) -> None:
    bench.memory.write(bench.request + bench.size, b"\xff" * 100)
    reply = answer(bench, [(bench.request, bench.size + 100)], [(bench.reply, BUFFER)])
    assert wire.decode(reply).type == T.GETATTR + 1


def test_a_request_outside_memory_fails_alone(bench: Bench) -> None:
    assert error_of(answer(bench, [(NOWHERE, bench.size)], [(bench.reply, BUFFER)]))
    hole = 0xA0000 - 4  # the VGA hole of a PC: its first bytes exist, the rest does not
    bench.memory.write(hole, bench.message[:4])
    assert error_of(answer(bench, [(hole, bench.size)], [(bench.reply, BUFFER)]))


def test_reply_buffer_that_ends_outside_memory(bench: Bench) -> None:
    """The error fits into what is left of it."""
    readable = [(bench.request, bench.size)]
    assert error_of(answer(bench, readable, [(bench.reply, 11), (NOWHERE, BUFFER)]))


def test_write_whose_data_is_outside_memory(bench: Bench) -> None:
    client = bench.share.client
    fid = client.create(bench.share.top, b"file")
    header = encode(T.WRITE, 9, fid, 0, bytes(4096))[:23]
    bench.memory.write(bench.request, header)
    segments = [(bench.request, 23), (NOWHERE, 4096)]
    assert error_of(answer(bench, segments, [(bench.reply, BUFFER)]))
    assert bench.share.get("file") == b""


def test_buffer_may_span_adjacent_regions(common: Common, folder: str) -> None:
    """Two regions that touch in guest memory are two mappings here."""
    with Machine(common.running().socket) as machine:
        border = 8 * GIB
        machine.memory.add_region(border, 1 << 20)
        machine.memory.add_region(border - (1 << 20), 1 << 20)
        machine.boot()
        client = Client(machine)
        client.version()
        client.attach(1)
        message = encode(T.GETATTR, 3, 1, 0x7FF)
        machine.memory.write(border - 9, message)
        out = [(border - 9, len(message))]
        into = [(border - PAGE - 5, 2 * PAGE)]
        machine.ring.add(out, into)
        machine.ring.kick()
        (done,) = machine.ring.wait()
        reply = wire.decode(machine.memory.read(into[0][0], done.length))
        assert reply.type == T.GETATTR + 1
    common.check()


# ---- notifications and indices


@pytest.mark.parametrize("event_idx", [True, False])
def test_no_notification_is_lost(common: Common, folder: str, event_idx: bool) -> None:
    """Single requests as fast as they go, then bursts: every one wakes the other side."""
    with mounted(common.running(), common.export, folder, event_idx=event_idx) as share:
        client = share.client
        for _ in range(1500):
            client.getattr(share.top)
        for burst in range(1, 100):
            for _ in range(burst % 17):
                client.submit(T.GETATTR, share.top, 0x7FF)
            while client.in_flight:
                client.reap()
    common.check()


def test_driver_that_polls_is_not_called(common: Common, folder: str) -> None:
    """avail.flags without EVENT_IDX."""
    with mounted(common.running(), common.export, folder, event_idx=False) as share:
        client, ring = share.client, share.machine.ring
        client.getattr(share.top)
        ring.called()
        ring.silence()
        for _ in range(50):
            poll(client, client.submit(T.GETATTR, share.top, 0x7FF).kind)
        share.machine.stop()
        assert ring.called() == 0
    common.check()


def poll(client: Client, kind: int) -> None:
    """Takes all that is in flight without a call."""
    while client.in_flight:
        for done in client.ring.poll():
            ticket = client.finish(done.head, done.length)
            assert ticket.reply is not None
            assert ticket.reply[4] == kind + 1


def test_used_event_postpones_the_call(share: Share) -> None:
    """The driver asks to be called for the tenth chain, not before."""
    client, ring = share.client, share.machine.ring
    client.getattr(share.top)
    ring.called()
    ring.memory.store16(ring.avail + 4 + 2 * ring.size, ring.last_used + 9)
    for _ in range(9):
        poll(client, client.submit(T.GETATTR, share.top, 0x7FF).kind)
    assert ring.called() == 0
    poll(client, client.submit(T.GETATTR, share.top, 0x7FF).kind)
    select.select([ring.call_fd], [], [], PATIENCE)  # which comes after what it tells of
    assert ring.called() == 1


def test_indices_wrap_around(share: Share) -> None:
    """Running indices go from 65535 to 0."""
    share.machine.reboot(start=65400)
    remount(share)
    for _ in range(40):
        tickets = [share.client.submit(T.GETATTR, share.top, 0x7FF) for _ in range(8)]
        for ticket in tickets:
            share.client.wait(ticket)
    assert share.machine.ring.avail_idx < 400


@pytest.mark.parametrize("size", [1, 2, 4, 256, 1024, 32768])
def test_rings_of_every_size_are_served(common: Common, folder: str, size: int) -> None:
    with mounted(common.running(), common.export, folder, ring_size=size) as share:
        client = share.client
        data = os.urandom(300_000)
        fid = client.create(share.top, b"file")
        client.write(fid, 0, data)
        assert client.read(fid, 0, len(data)) == data
        tickets = [client.submit(T.GETATTR, fid, 0x7FF, kick=False) for _ in range(min(size, 500))]
        client.ring.kick()
        for ticket in tickets:
            client.wait(ticket)
    common.check()


def test_direct_chains_fill_the_ring(common: Common, folder: str) -> None:
    """A driver without INDIRECT: a chain of as many descriptors as the ring has."""
    layout = Layout(indirect=False)
    with mounted(common.running(), common.export, folder, indirect=False, layout=layout) as share:
        client = share.client
        fid = client.create(share.top, b"file")
        data = os.urandom(124 * PAGE)
        assert client.write(fid, 0, data, layout=Layout(readable=(23,), indirect=False)) == len(
            data
        )
        whole = Layout(writable=(11,), indirect=False)
        assert client.read(fid, 0, len(data), layout=whole) == data
        with pytest.raises(RingError):
            client.read(fid, 0, 130 * PAGE, layout=whole)
    common.check()


def test_a_ring_above_four_gib_is_served(common: Common) -> None:
    """The ring above 4 GiB, the buffers below, and at other distances than in this process."""
    with Machine(common.running().socket) as machine:
        machine.ring.close()
        high = machine.memory.region_of(4 * GIB)
        machine.ring = SplitRing(machine.memory, 1024, region=high)
        machine.boot()
        client = Client(machine)
        client.version()
        client.attach(1)
        assert client.getattr(1).nlink > 0
    common.check()
