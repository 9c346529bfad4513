"""The memory table: what is refused, what changes under a guest, what the frontend truncates."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from tests.frontend.client import Client
from tests.frontend.machine import QEMU_PROTOCOL
from tests.frontend.memory import GIB, MIB, PAGE, GuestMemory, Memfd, Region
from tests.frontend.ring import SplitRing
from tests.frontend.vhost_user import REGION, U64, BackendError, Frontend, Protocol, Request
from tests.frontend.wire import T, encode
from tests.system.share import Share, mounted, remount

NO_SLOTS = QEMU_PROTOCOL & ~(1 << Protocol.CONFIGURE_MEM_SLOTS)


def table(*regions: tuple[int, int, int, int]) -> bytes:
    body = b"".join(REGION.pack(*region) for region in regions)
    return struct.pack("=II", len(regions), 0) + body


@pytest.fixture
def memfd() -> Iterator[int]:
    memory = Memfd(16 * PAGE)
    yield memory.fd
    memory.close()


BAD_REGIONS = {
    "empty": (0, 0, 0x1000, 0),
    "gpa overflow": ((1 << 64) - PAGE, 2 * PAGE, 0x1000, 0),
    "uva overflow": (0, 2 * PAGE, (1 << 64) - PAGE, 0),
    "offset overflow": (0, 2 * PAGE, 0x1000, (1 << 64) - PAGE),
    "file too short": (0, 17 * PAGE, 0x1000, 0),
    "offset behind the end": (0, PAGE, 0x1000, 16 * PAGE),
    "huge": (0, 1 << 62, 0x1000, 0),
}


@pytest.mark.parametrize("region", BAD_REGIONS.values(), ids=BAD_REGIONS)
def test_bad_regions_are_refused(
    frontend: Frontend, memfd: int, region: tuple[int, int, int, int]
) -> None:
    assert frontend.ack(Request.ADD_MEM_REG, U64.pack(0) + REGION.pack(*region), [memfd]) != 0
    assert frontend.ack(Request.SET_MEM_TABLE, table(region), [memfd]) != 0
    good = (0, PAGE, 0x1000, 0)
    assert frontend.ack(Request.SET_MEM_TABLE, table(good), [memfd]) == 0


def test_overlapping_regions_are_refused(frontend: Frontend, memfd: int) -> None:
    first, second = (0, 4 * PAGE, 0x10000, 0), (3 * PAGE, 4 * PAGE, 0x90000, 0)
    assert frontend.ack(Request.SET_MEM_TABLE, table(first, second), [memfd, memfd]) != 0
    assert frontend.ack(Request.SET_MEM_TABLE, table(first), [memfd]) == 0
    assert frontend.ack(Request.ADD_MEM_REG, U64.pack(0) + REGION.pack(*second), [memfd]) != 0


def test_table_and_descriptors_have_to_agree(frontend: Frontend, memfd: int) -> None:
    one = (0, PAGE, 0x1000, 0)
    two = (PAGE, PAGE, 0x10000, PAGE)
    assert frontend.ack(Request.SET_MEM_TABLE, table(one, two), [memfd]) != 0
    assert frontend.ack(Request.SET_MEM_TABLE, table(one), [memfd, memfd]) != 0
    assert frontend.ack(Request.SET_MEM_TABLE, struct.pack("=II", 200, 0) + table(one), []) != 0
    assert frontend.ack(Request.SET_MEM_TABLE, struct.pack("=II", 0xFFFFFFFF, 0), []) != 0
    assert frontend.ack(Request.ADD_MEM_REG, U64.pack(0) + REGION.pack(*one), []) != 0


def test_removing_what_was_not_added(frontend: Frontend, memfd: int) -> None:
    region = (0, 4 * PAGE, 0x10000, 0)
    payload = U64.pack(0) + REGION.pack(*region)
    assert frontend.ack(Request.REM_MEM_REG, payload) != 0
    assert frontend.ack(Request.ADD_MEM_REG, payload, [memfd]) == 0
    other = U64.pack(0) + REGION.pack(0, 3 * PAGE, 0x10000, 0)
    assert frontend.ack(Request.REM_MEM_REG, other) != 0
    assert frontend.ack(Request.REM_MEM_REG, payload, [memfd]) == 0
    assert frontend.ack(Request.REM_MEM_REG, payload) != 0


def test_509_regions_and_not_one_more(frontend: Frontend) -> None:
    memory = GuestMemory()
    shared = Memfd(600 * PAGE)
    for i in range(510):
        memory.add_region(2 * i * PAGE, PAGE, shared, i * PAGE)
    for region in memory.regions[:509]:
        frontend.add_mem_reg(region)
    with pytest.raises(BackendError):
        frontend.add_mem_reg(memory.regions[509])
    frontend.rem_mem_reg(memory.regions[3])
    frontend.add_mem_reg(memory.regions[509])
    memory.close()


# ---- while a guest runs


def hotplug(share: Share, size: int = 2 * MIB) -> Region:
    """A region that the VMM adds to a running machine."""
    region = share.machine.memory.add_region(16 * GIB, size)
    share.machine.send_memory()
    return region


def getattr_chain(share: Share, request: int, reply: int) -> int:
    """A Tgetattr whose buffers lie where they are told; returns its head."""
    message = encode(T.GETATTR, 3, share.top, 0x7FF)
    share.machine.memory.write(request, message)
    head = share.machine.ring.add([(request, len(message))], [(reply, 4096)])
    share.machine.ring.kick()
    return head


@pytest.mark.parametrize("protocol", [QEMU_PROTOCOL, NO_SLOTS], ids=["slots", "table"])
def test_memory_is_added_and_removed_live(share: Share, protocol: int) -> None:
    share.machine.close()
    folder = os.fsdecode(share.name)
    with mounted(share.daemon, share.export, folder, protocol=protocol) as other:
        machine, memory = other.machine, other.machine.memory
        for _ in range(3):
            region = hotplug(other)
            getattr_chain(other, memory.alloc(64, 16, region), memory.alloc(4096, 16, region))
            assert machine.ring.wait()[0].length > 100
            other.client.getattr(other.top)
            memory.remove_region(region)
            machine.send_memory()
            other.client.getattr(other.top)


def test_request_in_removed_memory_is_an_error(share: Share) -> None:
    memory, ring = share.machine.memory, share.machine.ring
    region = hotplug(share)
    request, reply = memory.alloc(64, 16, region), memory.alloc(4096)
    share.machine.frontend.rem_mem_reg(region, with_fd=True)
    share.machine.sent_regions.remove(region)
    getattr_chain(share, request, reply)
    (done,) = ring.wait()
    assert done.length == 11
    assert memory.read(reply, 5)[4] == 7
    share.client.getattr(share.top)


def test_memory_goes_while_requests_use_it(share: Share) -> None:
    """Reads into a region that is removed under them: each is answered or breaks the ring."""
    client, machine = share.client, share.machine
    share.put("file", bytes(4 * MIB))
    fid = client.open(share.top, b"file")
    for _ in range(5):
        region = hotplug(share, 64 * MIB)
        low = [machine.memory.alloc(64) for _ in range(60)]
        for area in low:
            message = encode(T.READ, 3, fid, 0, 500_000)
            machine.memory.write(area, message)
            data = machine.memory.alloc(500_000, PAGE, region)
            header = machine.memory.alloc(11)
            machine.ring.add([(area, len(message))], [(header, 11), (data, 500_000)])
        machine.ring.kick()
        machine.frontend.rem_mem_reg(region)
        machine.sent_regions.remove(region)
        count = 0
        while count < 60:
            count += len(machine.ring.wait())
        machine.memory.remove_region(region)
        client.getattr(share.top)


def test_removing_the_rings_own_memory(share: Share) -> None:
    """The ring cannot go on; the next start, with its memory back, can."""
    machine = share.machine
    region = machine.memory.region_of(machine.ring.desc)
    payload = U64.pack(0) + REGION.pack(region.gpa, region.size, region.uva, region.mmap_offset)
    if machine.frontend.ack(Request.REM_MEM_REG, payload) == 0:
        machine.sent_regions.remove(region)
        machine.ring.kick(force=True)
    machine.running = False
    machine.frontend.get_vring_base()
    machine.reboot()
    remount(share)


def test_table_is_replaced_under_load(share: Share) -> None:
    """SET_MEM_TABLE with the same memory at other mappings, between requests in flight."""
    share.machine.close()
    folder = os.fsdecode(share.name)
    with mounted(share.daemon, share.export, folder, protocol=NO_SLOTS) as other:
        client = other.client
        fid = client.create(other.top, b"file")
        client.write(fid, 0, os.urandom(500_000))
        whole = client.read(fid, 0, 500_000)
        for _ in range(10):
            tickets = [client.submit(T.READ, fid, 0, 500_000) for _ in range(8)]
            other.machine.frontend.set_mem_table(other.machine.memory.regions)
            for ticket in tickets:
                assert client.wait(ticket).fields[0] == whole


# ---- memory that the frontend truncates


@pytest.fixture
def doomed(share: Share) -> Region:
    """A region whose file is about to shrink to nothing."""
    return hotplug(share)


def recovers(share: Share, region: Region) -> None:
    """The daemon lives, and so does the connection; the ring works after its next start."""
    share.machine.frontend.get_features()
    share.client.in_flight.clear()
    share.machine.memory.remove_region(region)
    share.machine.reboot()
    share.client = Client(share.machine)
    remount(share)
    assert share.client.getattr(share.top).nlink > 0


def test_truncated_reply_buffer_breaks_the_ring(share: Share, doomed: Region) -> None:
    memory = share.machine.memory
    request, reply = memory.alloc(64), memory.alloc(4096, PAGE, doomed)
    doomed.memfd.truncate(0)
    getattr_chain(share, request, reply)
    share.machine.ring.wait_broken()
    recovers(share, doomed)


def test_truncated_request_breaks_the_ring(share: Share, doomed: Region) -> None:
    memory, ring = share.machine.memory, share.machine.ring
    request, reply = memory.alloc(64, PAGE, doomed), memory.alloc(4096)
    memory.write(request, encode(T.GETATTR, 3, share.top, 0x7FF))
    ring.add([(request, 19)], [(reply, 4096)])
    doomed.memfd.truncate(0)
    ring.kick()
    ring.wait_broken()
    recovers(share, doomed)


def test_truncated_indirect_table_breaks_the_ring(share: Share, doomed: Region) -> None:
    memory, ring = share.machine.memory, share.machine.ring
    table = memory.alloc(4096, PAGE, doomed)
    message = encode(T.GETATTR, 3, share.top, 0x7FF)
    request, reply = memory.alloc(64), memory.alloc(4096)
    memory.write(request, message)
    ring.add([(request, len(message))], [(reply, 4096)], table=table)
    doomed.memfd.truncate(0)
    ring.kick()
    ring.wait_broken()
    recovers(share, doomed)


@pytest.mark.parametrize("kind", [T.READ, T.WRITE])
def test_a_request_with_truncated_buffers_fails_or_breaks_the_ring(
    share: Share, doomed: Region, kind: T
) -> None:
    """The kernel finds these pages missing, not the daemon: an error, or a broken ring."""
    client, memory, ring = share.client, share.machine.memory, share.machine.ring
    share.put("file", bytes(100_000))
    fid = client.open(share.top, b"file", os.O_RDWR)
    data = memory.alloc(65536, PAGE, doomed)
    request, reply = memory.alloc(64), memory.alloc(64)
    doomed.memfd.truncate(0)
    if kind == T.READ:
        message = encode(kind, 3, fid, 0, 65536)
        memory.write(request, message)
        ring.add([(request, len(message))], [(reply, 11), (data, 65536)])
    else:
        message = encode(kind, 3, fid, 0, bytes(65536))[:23]
        memory.write(request, message)
        ring.add([(request, 23), (data, 65536)], [(reply, 64)])
    ring.kick()
    if ring.wait_broken_or_used():
        recovers(share, doomed)
    else:
        (done,) = ring.wait()
        assert (done.length, memory.read(reply, 5)[4]) == (11, 7)
        client.getattr(share.top)


@pytest.mark.parametrize("used", [True, False])
def test_a_truncated_ring_breaks(share: Share, used: bool) -> None:
    """Descriptors and indices themselves are gone: also where what comes instead, zeros, looks
    like a ring that nobody has used yet."""
    share.machine.close()
    folder = os.fsdecode(share.name)
    with mounted(share.daemon, share.export, folder) as other:
        machine = other.machine
        region = machine.memory.add_region(16 * GIB, 2 * MIB)
        old, machine.ring = machine.ring, SplitRing(machine.memory, 128, region=region)
        machine.replug()
        if used:
            Client(machine).version()
        region.memfd.truncate(0)
        machine.ring.kick_only()
        machine.ring.wait_broken()
        machine.frontend.get_features()
        machine.frontend.get_vring_base()
        machine.running = False
        machine.ring.close()
        machine.ring = old
        machine.memory.remove_region(region)
        machine.replug()
        Client(machine).version()


def test_half_truncated_region_serves_its_other_half(share: Share, doomed: Region) -> None:
    memory = share.machine.memory
    request, reply = memory.alloc(64, PAGE, doomed), memory.alloc(4096, PAGE, doomed)
    assert reply < doomed.gpa + MIB
    doomed.memfd.truncate(MIB)
    getattr_chain(share, request, reply)
    assert share.machine.ring.wait()[0].length > 100


def test_a_ring_starts_again_when_its_memory_is_back(share: Share, doomed: Region) -> None:
    """Once the frontend has put its file right, the next start of the ring finds it."""
    memory = share.machine.memory
    request, reply = memory.alloc(64), memory.alloc(4096, PAGE, doomed)
    doomed.memfd.truncate(0)
    getattr_chain(share, request, reply)
    share.machine.ring.wait_broken()
    doomed.memfd.truncate(doomed.size)
    share.client.in_flight.clear()
    share.machine.reboot()
    share.client = Client(share.machine)
    remount(share)
    getattr_chain(share, request, reply)
    assert share.machine.ring.wait()[0].length > 100
    assert memory.read(reply, 5)[4] == T.GETATTR + 1
