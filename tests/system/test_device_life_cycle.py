"""The life of a ring: start, stop, reboot, replug, and the descriptors it is given."""

from __future__ import annotations

import os
import select

from tests.frontend.client import Client
from tests.frontend.machine import QEMU_PROTOCOL, Machine
from tests.frontend.vhost_user import BackendError, Frontend, Protocol, Request
from tests.frontend.wire import NOTAG, T, encode
from tests.system.share import Share, mounted, remount

NO_SLOTS = QEMU_PROTOCOL & ~(1 << Protocol.CONFIGURE_MEM_SLOTS)


def test_memory_can_be_set_by_a_table(share: Share) -> None:
    share.machine.close()
    folder = os.fsdecode(share.name)
    with mounted(share.daemon, share.export, folder, protocol=NO_SLOTS) as other:
        fid = other.client.create(other.top, b"file")
        other.client.write(fid, 0, b"data" * 10_000)
        assert share.get("file") == b"data" * 10_000
        other.machine.reboot()
        remount(other)


def test_a_frontend_without_protocol_features_is_served(share: Share) -> None:
    """Bit 30 not acknowledged: the ring is enabled from the start, and nothing acknowledged."""
    share.machine.close()
    with Machine(share.daemon.socket, protocol=0) as machine:
        machine.device_features = machine.frontend.get_features() & ~(1 << 30)
        machine.frontend.send(Request.SET_OWNER)
        machine.start()
        client = Client(machine)
        client.version()
        client.attach(1)
        assert client.getattr(1).nlink > 0
        assert machine.stop() == machine.ring.avail_idx


def test_kick_before_enable_is_not_lost(bare: Machine) -> None:
    bare.realize()
    frontend = bare.frontend
    real = frontend.set_vring_enable
    client = Client(bare)
    tickets = []

    def enable_late(enable: bool, index: int = 0) -> None:
        if enable:
            tickets.append(client.submit_raw(version_message(), 4096))
            bare.ring.kick(force=True)
            frontend.get_features()
            assert bare.ring.poll() == []  # started, and not enabled
        real(enable, index)

    frontend.set_vring_enable = enable_late  # type: ignore[method-assign]
    bare.start()
    assert client.wait(tickets[0]).fields[1] == b"9P2000.L"


def version_message() -> bytes:
    return encode(T.VERSION, NOTAG, 65536, b"9P2000.L")


def test_request_before_the_kick_descriptor(bare: Machine) -> None:
    """What lies in the ring when it starts is served without a kick."""
    bare.realize()
    client = Client(bare)
    ticket = client.submit_raw(version_message(), 4096, kick=False)
    bare.start()
    assert client.wait(ticket).fields[1] == b"9P2000.L"


def test_disabled_ring_serves_nothing(share: Share) -> None:
    client, machine = share.client, share.machine
    machine.frontend.set_vring_enable(False)
    ticket = client.submit_raw(version_message(), 4096)
    machine.ring.kick(force=True)
    machine.frontend.get_features()
    assert machine.ring.poll() == []
    machine.frontend.set_vring_enable(True)
    client.wait(ticket)


def test_stop_and_continue_keep_the_session(share: Share) -> None:
    """`stop` and `cont`: the same ring at the same place, with all fids."""
    client = share.client
    fid = client.create(share.top, b"file")
    client.write(fid, 0, b"data")
    for _ in range(5):
        assert share.machine.stop() == share.machine.ring.avail_idx
        share.machine.start()
        assert client.read(fid, 0, 10) == b"data"


def test_stopped_ring_keeps_its_requests(share: Share) -> None:
    """What is added to a stopped ring is served after the next start."""
    client, machine = share.client, share.machine
    base = machine.stop()
    ticket = client.submit(T.GETATTR, share.top, 0x7FF)
    machine.ring.kick(force=True)
    machine.frontend.get_features()
    assert machine.ring.poll() == []
    assert base == machine.ring.avail_idx - 1
    machine.start()
    client.wait(ticket)


def test_first_completion_after_a_start_is_signalled(share: Share) -> None:
    """Whatever the ring's memory says: a driver may have asked before its device was stopped."""
    client, machine = share.client, share.machine
    ring = machine.ring
    machine.stop()
    machine.start()
    ring.called()
    ring.memory.store16(ring.avail + 4 + 2 * ring.size, ring.last_used + 1000)  # used_event
    ticket = client.submit(T.GETATTR, share.top, 0x7FF)
    assert select.select([ring.call_fd], [], [], 10)[0]
    client.wait(ticket)


def test_a_guest_reboots_twenty_times(share: Share) -> None:
    share.put("file", b"data")
    for _ in range(20):
        share.client.open(share.top, b"file")
        share.machine.reboot()
        remount(share)
    assert share.client.read(share.client.open(share.top, b"file"), 0, 10) == b"data"


def test_replug_on_the_same_connection(share: Share) -> None:
    """device_del and device_add: regions that were never removed are added again."""
    share.put("file", b"data")
    for _ in range(3):
        share.client.open(share.top, b"file")
        share.machine.replug()
        assert share.machine.probe() == "host0"
        remount(share)
    assert share.client.read(share.client.open(share.top, b"file"), 0, 10) == b"data"


def test_reset_device_makes_ring_and_session_new(share: Share) -> None:
    """The ring and the session are as new; memory stays, as nobody takes it back."""
    share.machine.frontend.command(Request.RESET_DEVICE)
    share.machine.running = False
    share.machine.ring.reset()
    share.machine.base = 0
    share.machine.start()
    remount(share)
    assert share.client.getattr(share.top).nlink > 0


def test_the_base_without_a_ring_is_what_was_set(frontend: Frontend) -> None:
    assert frontend.get_vring_base() == 0
    frontend.set_vring_base(77)
    assert frontend.get_vring_base() == 77


def test_running_ring_is_given_new_descriptors(share: Share) -> None:
    """QEMU does that when the guest masks or moves its interrupt."""
    client, machine = share.client, share.machine
    for _ in range(5):
        old = machine.ring.call_fd
        machine.ring.call_fd = os.eventfd(0, os.EFD_NONBLOCK)
        machine.frontend.set_vring_fd(Request.SET_VRING_CALL, machine.ring.call_fd)
        os.close(old)
        old = machine.ring.kick_fd
        machine.ring.kick_fd = os.eventfd(0, os.EFD_NONBLOCK)
        machine.frontend.set_vring_fd(Request.SET_VRING_KICK, machine.ring.kick_fd)
        os.close(old)
        client.getattr(share.top)


def test_a_guest_that_polls_needs_no_call(share: Share) -> None:
    """CALL without a descriptor: nobody is notified, and the used ring moves all the same."""
    client, machine = share.client, share.machine
    machine.frontend.set_vring_fd(Request.SET_VRING_CALL, None)
    machine.ring.called()
    for _ in range(20):
        client.submit(T.GETATTR, share.top, 0x7FF)
        while client.in_flight:
            for done in machine.ring.poll():
                client.finish(done.head, done.length)
    machine.stop()
    assert machine.ring.called() == 0


def test_ring_without_a_kick_descriptor_is_polled(share: Share) -> None:
    client, machine = share.client, share.machine
    machine.frontend.set_vring_fd(Request.SET_VRING_KICK, None)
    for _ in range(20):
        ticket = client.submit(T.GETATTR, share.top, 0x7FF, kick=False)
        client.wait(ticket)
    machine.frontend.set_vring_fd(Request.SET_VRING_KICK, machine.ring.kick_fd)
    client.getattr(share.top)


def test_second_frontend_waits_for_the_first(share: Share) -> None:
    """One guest at a time; a second connection does not disturb it."""
    with Machine(share.daemon.socket) as second:
        for _ in range(10):
            share.client.getattr(share.top)
        share.machine.close()
        try:
            second.boot()
        except BackendError:
            return  # refused while the first was there: as good
        Client(second).version()
