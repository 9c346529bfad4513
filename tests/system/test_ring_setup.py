"""Set-up messages on a running ring: they stop it first, as GET_VRING_BASE does.

What is in flight comes back within the ring as it was; nothing is read or written anywhere else,
whatever size, base and addresses are announced; and the next start begins with all of them.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import WRLCK, Client, Ticket
from tests.frontend.machine import Machine
from tests.frontend.memory import PAGE
from tests.frontend.packed_ring import AVAIL
from tests.frontend.ring import WRITE
from tests.frontend.vhost_user import (
    ADDRESSES,
    RING_PACKED_BIT,
    STATE,
    U64,
    BackendError,
    Frontend,
    Request,
)
from tests.frontend.wire import NOTAG, T, encode
from tests.system.conftest import Common
from tests.system.host_locks import HostProcess
from tests.system.share import Share, mounted, remount, serve

BEYOND = 30000  # an index far behind the end of a ring of 128


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def guest(common: Common, folder: str, request: pytest.FixtureRequest) -> Iterator[Share]:
    """A guest with a ring of 128 and much memory behind it."""
    with mounted(common.running(), common.export, folder, packed=request.param) as share:
        yield share
    common.check()


@pytest.fixture
def waiting(guest: Share) -> Iterator[list[Ticket]]:
    """Requests in flight: they wait for locks that a process of the host has."""
    path = guest.put("file", bytes(1000))
    with HostProcess(path) as holder:
        assert holder.fcntl("w")
        fid = guest.client.open(guest.top, b"file", os.O_RDWR)
        tickets = [guest.client.submit_lock(fid, WRLCK, i, 1, proc_id=i) for i in range(5)]
        guest.client.getattr(guest.top)
        assert all(ticket.reply is None for ticket in tickets)
        yield tickets


def again(share: Share) -> None:
    """The guest's driver starts anew, and is served."""
    share.client.in_flight.clear()
    share.machine.running = False
    share.machine.reboot()
    share.client = Client(share.machine)
    remount(share)


def send(frontend: Frontend, request: Request, payload: bytes) -> None:
    assert frontend.ack(request, payload) == 0


SETUP: dict[str, Callable[[Machine], None]] = {
    "NUM": lambda m: send(m.frontend, Request.SET_VRING_NUM, STATE.pack(0, 8)),
    "BASE": lambda m: send(m.frontend, Request.SET_VRING_BASE, STATE.pack(0, 5)),
    "ADDR": lambda m: send(m.frontend, Request.SET_VRING_ADDR, ADDRESSES.pack(0, 0, 1, 2, 3, 0)),
    "FEATURES": lambda m: send(m.frontend, Request.SET_FEATURES, U64.pack(m.features)),
}


@pytest.mark.parametrize("name", SETUP)
def test_setup_stops_a_running_ring(guest: Share, waiting: list[Ticket], name: str) -> None:
    """What was in flight is back when the message is acknowledged, and nothing more is taken."""
    machine = guest.machine
    SETUP[name](machine)
    for done in machine.ring.poll():
        guest.client.finish(done.head, done.length)
    assert all(ticket.reply is not None for ticket in waiting)
    late = guest.client.submit(T.GETATTR, guest.top, 0)
    machine.ring.kick(force=True)
    machine.frontend.get_vring_base()
    assert not machine.ring.poll() and late.reply is None
    again(guest)


def test_size_and_base_beyond_a_running_packed_ring(common: Common, folder: str) -> None:
    """A chain that waits behind the ring's end is not served, for there is no ring."""
    with mounted(common.running(), common.export, folder, packed=True) as share:
        machine, memory = share.machine, share.machine.memory
        place = machine.ring.desc + 16 * BEYOND
        assert memory.region_of(place) is memory.region_of(machine.ring.desc)
        assert memory.region_of(place).free[-1][0] < place  # nobody else's
        send(machine.frontend, Request.SET_VRING_NUM, STATE.pack(0, 32768))
        base = BEYOND | 1 << 15
        send(machine.frontend, Request.SET_VRING_BASE, STATE.pack(0, base | base << 16))
        reply = memory.alloc(64)
        memory.fill(reply, 64)
        message = encode(T.VERSION, NOTAG, 8192, b"9P2000.L")
        request = memory.alloc(64)
        memory.write(request, message)
        planted = struct.pack("<QIHH", request, len(message), 7, AVAIL | 1)
        planted += struct.pack("<QIHH", reply, 64, 7, AVAIL | WRITE)
        memory.write(place, planted)
        machine.ring.kick(force=True)
        machine.frontend.get_vring_base()
        assert memory.read(place, len(planted)) == planted
        assert memory.read(reply, 64) == bytes(64)
        again(share)
    common.check()


def test_a_smaller_ring_under_chains_in_flight(guest: Share, waiting: list[Ticket]) -> None:
    """Only the new ring's own memory is written once it runs."""
    machine, memory = guest.machine, guest.machine.memory
    old = machine.ring
    old.size = 2
    area = memory.alloc(64 * 1024, PAGE)
    memory.fill(area, 64 * 1024, 0xEE)
    old.desc, old.avail, old.used = area, area + 0x4000, area + 0x8000
    guest.client.in_flight.clear()
    old.reset()
    machine.base = old.start
    machine.set_ring_state()
    client = Client(machine)
    for _ in range(5):
        client._tags = [0]
        client.version()
        assert client.attach(1).type
        client.clunk(1)
    packed = machine.features >> RING_PACKED_BIT & 1
    ends = [(area, 32), (area + 0x4000, 4 if packed else 10), (area + 0x8000, 4 if packed else 22)]
    for start, size in ends:
        assert memory.read(start + size, 1024) == b"\xee" * 1024
    old.size = 128
    old.desc, old.avail, old.used = area, area + 0x4000, area + 0x8000
    again(guest)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_start_that_makes_no_ring(export: Path, packed: bool) -> None:
    """What is wrong only together is refused when the ring starts, and the reason is logged: by a
    daemon that others have not had log much just before."""
    with serve(export) as daemon, mounted(daemon, export, packed=packed) as guest:
        machine = guest.machine
        machine.stop()
        uva = machine.memory.uva(machine.ring.desc)
        beyond = machine.memory.region_of(machine.ring.desc)
        end = beyond.uva + beyond.size - PAGE
        for setup in (
            [(Request.SET_VRING_ADDR, ADDRESSES.pack(0, 0, uva + 8, uva, uva, 0))],
            [(Request.SET_VRING_ADDR, ADDRESSES.pack(0, 0, end, uva, uva, 0))],
            [(Request.SET_VRING_ADDR, ADDRESSES.pack(0, 0, 0, 0, 0, 0))],
        ):
            for request, payload in [(Request.SET_VRING_NUM, STATE.pack(0, 1024)), *setup]:
                send(machine.frontend, request, payload)
            kick = machine.frontend.ack(Request.SET_VRING_KICK, U64.pack(0), [machine.ring.kick_fd])
            assert kick != 0
            guest.daemon.wait_line("SET_VRING_KICK refused: the ring cannot start: ")
        again(guest)


def test_a_packed_base_that_only_the_size_makes_wrong(common: Common, folder: str) -> None:
    with mounted(common.running(), common.export, folder, packed=True) as share:
        machine = share.machine
        machine.stop()
        send(machine.frontend, Request.SET_VRING_BASE, STATE.pack(0, 128))
        with pytest.raises(BackendError):
            machine.frontend.set_vring_fd(Request.SET_VRING_KICK, machine.ring.kick_fd)
        again(share)
    common.check()


def test_a_new_packed_ring_whose_base_is_said_to_be_0(common: Common, folder: str) -> None:
    """As User Mode Linux says it; and, without a word, once more at a rebind."""
    with mounted(common.running(), common.export, folder, packed=True) as share:
        machine = share.machine
        for _ in range(3):
            share.client.getattr(share.top)
            machine.ring.reset()
            machine.base = 0
            machine.start()
            share.client = Client(machine)
            remount(share)
    common.check()


# ---- any order


def random_message(rng: random.Random, machine: Machine) -> None:
    """One message of those that set a ring up, with values that are right as often as not."""
    frontend, memory, ring = machine.frontend, machine.memory, machine.ring
    right = rng.random() < 0.6
    what = rng.randrange(9)
    if what == 0:
        num = ring.size if right else rng.choice([1, 2, 64, 100, 256, 32768, 0, 65536])
        frontend.ack(Request.SET_VRING_NUM, STATE.pack(0, num))
    elif what == 1:
        base = ring.start if right else rng.choice([0, 1, 127, 128, BEYOND, 0x80008000, 1 << 31])
        frontend.ack(Request.SET_VRING_BASE, STATE.pack(0, base))
    elif what == 2:
        shift = 0 if right else rng.choice([1, 8, 16, PAGE, 1 << 40])
        parts = (memory.uva(part) + shift for part in (ring.desc, ring.used, ring.avail))
        frontend.ack(Request.SET_VRING_ADDR, ADDRESSES.pack(0, 0, *parts, 0))
    elif what == 3:
        frontend.ack(Request.SET_VRING_KICK, U64.pack(0), [ring.kick_fd])
    elif what == 4:
        frontend.ack(Request.SET_VRING_CALL, U64.pack(0), [ring.call_fd])
    elif what == 5:
        frontend.ack(Request.SET_VRING_ENABLE, STATE.pack(0, int(right)))
    elif what == 6:
        dropped = 0 if right else rng.choice([1 << 34, 1 << 29, 1 << 28, 1 << 30])
        frontend.ack(Request.SET_FEATURES, U64.pack(machine.features & ~dropped))
    elif what == 7:
        frontend.get_vring_base()
    else:
        ring.kick(force=True)


@pytest.mark.parametrize("seed", range(4))
def test_set_up_messages_in_any_order_harm_nobody(guest: Share, seed: int) -> None:
    """Whatever comes, in whatever order, with chains in flight or not: the daemon and the
    connection live, memory that is not the ring's stays as it is, and a driver that starts
    properly is served."""
    rng = random.Random(seed)
    machine, memory = guest.machine, guest.machine.memory
    watched = memory.alloc(1024 * 1024, PAGE)
    memory.fill(watched, 1024 * 1024, 0xAB)
    for _ in range(8):
        for _ in range(12):
            if rng.random() < 0.3 and guest.client._tags and len(guest.client.in_flight) < 8:
                guest.client.submit(T.GETATTR, guest.top, 0)
            random_message(rng, machine)
        machine.frontend.get_vring_base()
        assert memory.read(watched, 1024 * 1024) == b"\xab" * (1024 * 1024)
        again(guest)
        assert guest.client.getattr(guest.top).nlink > 0
