"""Tlock requests that wait on the server, and what ends their wait."""

from __future__ import annotations

import errno
import os

import pytest

from tests.frontend.client import (
    LOCK_BLOCKED,
    LOCK_SUCCESS,
    RDLCK,
    UNLCK,
    WRLCK,
    Dropped,
    P9Errno,
    Ticket,
)
from tests.frontend.wire import T
from tests.system.host_locks import HostProcess
from tests.system.share import Share, mounted, remount
from vhost9p.native import memory
from vhost9p.p9.waiting import WAITS_MAX


def waiting(share: Share, ticket: Ticket) -> bool:
    """Whether a request is unanswered after everything that was sent later has been."""
    share.client.getattr(share.top)
    share.client.getlock(share.client.open(share.top, b"file"), RDLCK, 999, 1)
    return ticket.reply is None


def test_blocking_lock_waits_for_the_host(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    assert host.fcntl("w", 0, 10)
    ticket = client.submit_lock(fid, WRLCK, 5, 1)
    assert waiting(share, ticket)
    host.fcntl("u")
    assert client.wait(ticket).fields == (LOCK_SUCCESS,)
    assert not host.free(5, 1)


@pytest.mark.parametrize("how", ["fcntl", "flock"])
def test_a_blocking_lock_waits_for_the_host(
    share: Share, fid: int, host: HostProcess, how: str
) -> None:
    client = share.client
    take = host.fcntl if how == "fcntl" else host.flock
    assert take("w")
    ticket = client.submit_lock(fid, WRLCK)
    assert waiting(share, ticket)
    take("u")
    assert client.wait(ticket).fields == (LOCK_SUCCESS,)
    assert not host.flock("w")
    assert not host.free()


def test_blocking_lock_waits_for_another_owner(share: Share, fid: int) -> None:
    client = share.client
    client.lock(fid, WRLCK, 0, 10, proc_id=1)
    tickets = [client.submit_lock(fid, RDLCK, 0, 10, proc_id=i) for i in (2, 3)]
    assert waiting(share, tickets[0])
    client.lock(fid, UNLCK, 0, 10, proc_id=1)
    assert [client.wait(ticket).fields for ticket in tickets] == [(LOCK_SUCCESS,)] * 2


def test_flushed_lock_is_never_granted(share: Share, fid: int, host: HostProcess) -> None:
    """The original is completed first, by an error or without a reply; then Rflush comes."""
    client = share.client
    for start, length in ((0, 10), (0, 0)):
        assert host.fcntl("w")
        ticket = client.submit_lock(fid, WRLCK, start, length)
        assert waiting(share, ticket)
        client.flush(ticket)
        assert ticket.reply is not None
        try:
            assert client.wait(ticket).fields == (LOCK_BLOCKED,)
        except Dropped:
            pass
        except P9Errno as error:
            assert error.errno == errno.EINTR
        host.fcntl("u")
        assert host.free()
        assert host.flock("w")
        host.flock("u")


def test_flush_of_a_finished_request(share: Share) -> None:
    client = share.client
    for tag in (0, 77, 0xFFFF):
        client.call(T.FLUSH, tag)


def test_flush_of_itself_and_of_a_flush(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    assert host.fcntl("w")
    locks = client.submit_lock(fid, WRLCK, 0, 10)
    first = client.submit(T.FLUSH, locks.tag, kick=False)
    second = client.submit(T.FLUSH, first.tag, kick=False)
    third = client.submit(T.FLUSH, 100, tag=100, kick=False)
    client.ring.kick()
    for ticket in (first, second, third):
        client.wait(ticket)
    assert locks.reply is not None


def test_quarter_of_the_ring_may_wait(share: Share, fid: int, host: HostProcess) -> None:
    """The rest is told to try again, so that waiting requests never fill the ring."""
    daemon, export, name = share.daemon, share.export, os.fsdecode(share.name)
    share.machine.close()
    assert host.fcntl("w")
    with mounted(daemon, export, name, ring_size=16) as small:
        client = small.client
        opened = client.open(small.top, b"file", os.O_RDWR)
        locks = [client.submit_lock(opened, WRLCK, i, 1, proc_id=i) for i in range(8)]
        blocked, others = client.wait_for(4, locks)
        assert [client.wait(ticket).fields for ticket in blocked] == [(LOCK_BLOCKED,)] * 4
        assert waiting(small, others[0])
        host.fcntl("u")
        assert [client.wait(ticket).fields for ticket in others] == [(LOCK_SUCCESS,)] * 4


def test_many_waits_take_few_threads(share: Share, fid: int, host: HostProcess) -> None:
    """500 of them. Each is answered when its part is free, whether it has a thread or not."""
    daemon, export, name = share.daemon, share.export, os.fsdecode(share.name)
    share.machine.close()
    assert host.fcntl("w", 0, 500)
    with mounted(daemon, export, name, ring_size=4096) as large:
        client = large.client
        opened = client.open(large.top, b"file", os.O_RDWR)
        before = daemon.threads()
        tickets = [client.submit_lock(opened, WRLCK, i, 1, proc_id=i) for i in range(500)]
        assert waiting(large, tickets[-1])
        assert not any(ticket.reply for ticket in tickets)
        few = before + 64 + 1 + 8  # the patrol; spare threads that serve
        assert daemon.threads() <= few
        assert host.fcntl("u", 0, 250)
        for ticket in tickets[:250]:
            assert client.wait(ticket).fields == (LOCK_SUCCESS,)
        assert not any(ticket.reply for ticket in tickets[250:])
        for ticket in tickets[250:]:
            client.flush(ticket)
            assert ticket.reply is not None
        daemon.wait_until(lambda: daemon.threads() <= before + 8, "threads stay for no wait")
        assert not host.fcntl("w", 0, 1)
        assert host.fcntl("w", 500, 500)


def test_waits_leave_room_in_a_large_ring(share: Share, fid: int) -> None:
    """More than may wait, of fewer than may be in flight: the one that unlocks gets through."""
    daemon, export, name = share.daemon, share.export, os.fsdecode(share.name)
    share.machine.close()
    assert memory.of_device(16, 4096).slots // 2 >= WAITS_MAX
    with mounted(daemon, export, name, ring_size=4096) as large:
        client = large.client
        opened = client.open(large.top, b"file", os.O_RDWR)
        assert client.lock(opened, WRLCK, proc_id=1) == LOCK_SUCCESS
        tickets = [client.submit_lock(opened, WRLCK, 0, 9, proc_id=2) for _ in range(WAITS_MAX + 9)]
        blocked, others = client.wait_for(9, tickets)
        assert [client.wait(ticket).fields for ticket in blocked] == [(LOCK_BLOCKED,)] * 9
        assert client.lock(opened, UNLCK, proc_id=1) == LOCK_SUCCESS
        for ticket in others:
            assert client.wait(ticket).fields == (LOCK_SUCCESS,)


def test_waiting_lock_does_not_hold_up_a_stop(share: Share, fid: int, host: HostProcess) -> None:
    """GET_VRING_BASE has to be answered although a request waits for the host."""
    client, machine = share.client, share.machine
    assert host.fcntl("w")
    ticket = client.submit_lock(fid, WRLCK, 0, 10)
    assert waiting(share, ticket)
    base = machine.stop()
    assert base == machine.ring.avail_idx
    assert [done.head for done in machine.ring.poll()] != []
    host.fcntl("u")
    assert host.free()
    client.in_flight.clear()
    machine.start()
    remount(share)


def test_waiting_lock_does_not_hold_up_a_disconnect(
    share: Share, fid: int, host: HostProcess
) -> None:
    assert host.fcntl("w")
    ticket = share.client.submit_lock(fid, WRLCK)
    assert waiting(share, ticket)
    share.machine.close()
    with mounted(share.daemon, share.export):
        pass
    host.fcntl("u")
    assert host.free()


def test_waiting_lock_and_a_new_version(share: Share, fid: int, host: HostProcess) -> None:
    """Tversion ends what waits, then drops the fids."""
    client = share.client
    assert host.fcntl("w")
    ticket = client.submit_lock(fid, WRLCK)
    assert waiting(share, ticket)
    remount(share)
    assert ticket.reply is not None
    host.fcntl("u")
    assert host.free()


# ---- two guests


def test_a_blocking_lock_waits_for_another_guest(share: Share, second: Share, fid: int) -> None:
    one, two = share.client, second.client
    other = two.open(second.top, b"file", os.O_RDWR)
    assert one.lock(fid, WRLCK, 0, 10) == LOCK_SUCCESS
    assert two.lock(other, WRLCK, 0, 10) == LOCK_BLOCKED
    assert two.lock(other, WRLCK, 10, 10) == LOCK_SUCCESS
    found = two.getlock(other, WRLCK, 0, 5)
    assert (found.type, found.start, found.length) == (WRLCK, 0, 10)
    ticket = two.submit_lock(other, WRLCK, 0, 10)
    assert waiting(second, ticket)
    assert one.lock(fid, UNLCK, 0, 10) == LOCK_SUCCESS
    assert two.wait(ticket).fields == (LOCK_SUCCESS,)
    assert one.lock(fid, RDLCK, 0, 5) == LOCK_BLOCKED


def test_two_guests_and_whole_files(share: Share, second: Share, fid: int) -> None:
    one, two = share.client, second.client
    other = two.open(second.top, b"file", os.O_RDWR)
    assert one.lock(fid, WRLCK) == LOCK_SUCCESS
    assert two.lock(other, RDLCK) == LOCK_BLOCKED
    ticket = two.submit_lock(other, WRLCK)
    assert waiting(second, ticket)
    one.clunk(fid)
    assert two.wait(ticket).fields == (LOCK_SUCCESS,)
