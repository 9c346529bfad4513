"""Tlock and Tgetlock: real locks, against other guests and against host processes.

The owner of a lock is (client_id, proc_id), not the fid.
"""

from __future__ import annotations

import errno
import os

import pytest

from tests.frontend.client import (
    LOCK_BLOCK,
    LOCK_BLOCKED,
    LOCK_SUCCESS,
    RDLCK,
    UNLCK,
    WRLCK,
)
from tests.frontend.wire import T
from tests.system.host_locks import HostProcess
from tests.system.share import Share, fails, mounted, remount


def test_host_sees_range_locks(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    assert client.lock(fid, WRLCK, 100, 50) == LOCK_SUCCESS
    assert not host.free(100, 50)
    assert not host.free(149, 1)
    assert host.free(0, 100)
    assert host.free(150, 0)
    assert client.lock(fid, UNLCK, 100, 50) == LOCK_SUCCESS
    assert host.free()


def test_locks_are_split_and_merged(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    client.lock(fid, WRLCK, 0, 100)
    client.lock(fid, UNLCK, 40, 20)
    assert host.free(40, 20)
    assert not host.free(39, 1)
    assert not host.free(60, 1)
    client.lock(fid, RDLCK, 60, 40)
    assert host.fcntl("r", 60, 40)
    host.fcntl("u", 60, 40)
    client.lock(fid, UNLCK, 0, 100)
    assert host.free()


def test_host_sees_whole_file_locks_of_both_kinds(
    share: Share, fid: int, host: HostProcess
) -> None:
    """flock and fcntl look alike on the wire, so both are held."""
    client = share.client
    assert client.lock(fid, WRLCK) == LOCK_SUCCESS
    assert not host.flock("r")
    assert not host.fcntl("r")
    assert client.lock(fid, RDLCK) == LOCK_SUCCESS
    assert host.flock("r")
    assert host.fcntl("r")
    assert not host.flock("w")
    assert not host.fcntl("w")
    host.flock("u")
    host.fcntl("u")
    assert client.lock(fid, UNLCK) == LOCK_SUCCESS
    assert host.flock("w")
    assert host.fcntl("w")


@pytest.mark.parametrize("how", ["fcntl", "flock"])
def test_guest_sees_host_locks(share: Share, fid: int, host: HostProcess, how: str) -> None:
    client = share.client
    take = host.fcntl if how == "fcntl" else host.flock
    assert take("w")
    assert client.lock(fid, WRLCK) == LOCK_BLOCKED
    assert client.lock(fid, RDLCK) == LOCK_BLOCKED
    assert take("r")
    assert client.lock(fid, RDLCK) == LOCK_SUCCESS
    assert client.lock(fid, WRLCK) == LOCK_BLOCKED
    assert take("u")
    assert client.lock(fid, WRLCK) == LOCK_SUCCESS


def test_refused_whole_file_lock_keeps_nothing(share: Share, fid: int, host: HostProcess) -> None:
    """Where only one of the two kinds is free, the other must not stay held."""
    client = share.client
    assert host.fcntl("w", 500, 1)
    assert client.lock(fid, WRLCK) == LOCK_BLOCKED
    assert host.flock("w")
    host.flock("u")
    host.fcntl("u", 500, 1)
    assert host.flock("w")
    assert client.lock(fid, WRLCK) == LOCK_BLOCKED
    assert host.free()


def test_getlock_names_the_lock_in_the_way(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    assert client.getlock(fid, WRLCK).type == UNLCK
    assert host.fcntl("w", 30, 20)
    found = client.getlock(fid, RDLCK, 0, 100)
    assert (found.type, found.start, found.length) == (WRLCK, 30, 20)
    assert client.getlock(fid, WRLCK, 50, 10).type == UNLCK
    host.fcntl("u")
    client.lock(fid, WRLCK, 10, 5, proc_id=1)
    assert client.getlock(fid, WRLCK, 0, 100, proc_id=1).type == UNLCK
    found = client.getlock(fid, WRLCK, 0, 100, proc_id=2)
    assert (found.type, found.start, found.length) == (WRLCK, 10, 5)
    assert (found.proc_id, found.client_id) == (1, b"guest")


def test_getlock_leaves_no_trace(share: Share, fid: int, host: HostProcess) -> None:
    assert share.client.getlock(fid, WRLCK).type == UNLCK
    assert host.free()
    assert host.flock("w")


def test_owners_conflict_and_one_owner_never(share: Share, fid: int) -> None:
    client = share.client
    other = client.open(share.top, b"file", os.O_RDWR)
    assert client.lock(fid, WRLCK, 0, 10, proc_id=1) == LOCK_SUCCESS
    assert client.lock(other, WRLCK, 0, 10, proc_id=1) == LOCK_SUCCESS
    assert client.lock(other, WRLCK, 5, 10, proc_id=2) == LOCK_BLOCKED
    assert client.lock(fid, WRLCK, 5, 10, proc_id=2) == LOCK_BLOCKED
    assert client.lock(other, RDLCK, 5, 10, client_id=b"another") == LOCK_BLOCKED
    assert client.lock(other, WRLCK, 10, 10, proc_id=2) == LOCK_SUCCESS


def test_whole_file_owners_conflict(share: Share, fid: int) -> None:
    client = share.client
    other = client.open(share.top, b"file", os.O_RDWR)
    assert client.lock(fid, WRLCK, proc_id=1) == LOCK_SUCCESS
    assert client.lock(other, WRLCK, proc_id=1) == LOCK_SUCCESS
    assert client.lock(other, WRLCK, proc_id=2) == LOCK_BLOCKED
    assert client.lock(fid, UNLCK, proc_id=1) == LOCK_SUCCESS
    assert client.lock(other, WRLCK, proc_id=2) == LOCK_SUCCESS


def test_unlock_through_a_sibling_fid(share: Share, fid: int, host: HostProcess) -> None:
    """sqlite does that: any descriptor of the process may unlock."""
    client = share.client
    sibling = client.open(share.top, b"file", os.O_RDWR)
    for start, length in ((100, 10), (0, 0)):
        assert client.lock(fid, WRLCK, start, length) == LOCK_SUCCESS
        assert client.lock(sibling, UNLCK, start, length) == LOCK_SUCCESS
        assert host.free()
        assert host.flock("w")
        host.flock("u")


def test_flock_is_given_up_by_another_process(share: Share, fid: int, host: HostProcess) -> None:
    """As a child does with an inherited descriptor. An unlock by flock carries the BLOCK flag; what
    a kernel sends at each close does not."""
    client = share.client
    other = client.open(share.top, b"file", os.O_RDWR)
    assert client.lock(fid, WRLCK, proc_id=1, flags=LOCK_BLOCK) == LOCK_SUCCESS
    for through, flags in ((fid, 0), (other, LOCK_BLOCK)):
        assert client.lock(through, UNLCK, proc_id=2, flags=flags) == LOCK_SUCCESS
        assert not host.free()
        assert not host.flock("r")
    assert client.lock(fid, UNLCK, proc_id=2, flags=LOCK_BLOCK) == LOCK_SUCCESS
    assert host.free()
    assert host.flock("w")


def test_flock_is_taken_again_by_another_process(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    assert client.lock(fid, RDLCK, proc_id=1, flags=LOCK_BLOCK) == LOCK_SUCCESS
    assert client.lock(fid, WRLCK, proc_id=2) == LOCK_SUCCESS
    assert client.lock(fid, UNLCK, proc_id=1) == LOCK_SUCCESS  # the parent's end
    assert not host.flock("r")
    assert client.lock(fid, UNLCK, proc_id=2, flags=LOCK_BLOCK) == LOCK_SUCCESS
    assert host.free()


def test_hard_links_are_one_file(share: Share, fid: int) -> None:
    client = share.client
    os.link(share.path("file"), share.path("again"))
    other = client.open(share.top, b"again", os.O_RDWR)
    assert client.lock(fid, WRLCK, 0, 10, proc_id=1) == LOCK_SUCCESS
    assert client.lock(other, WRLCK, 0, 10, proc_id=2) == LOCK_BLOCKED


def test_clunk_of_the_last_fid_ends_locks(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    for start, length in ((0, 10), (0, 0)):
        opened = client.open(share.top, b"file", os.O_RDWR)
        client.lock(opened, WRLCK, start, length, proc_id=7)
        assert not host.free()
        client.clunk(opened)
        assert host.free()
        assert host.flock("w")
        host.flock("u")


def test_locks_survive_while_a_sibling_holds_the_owner(
    share: Share, fid: int, host: HostProcess
) -> None:
    """Both fids locked for one owner: the lock ends with the last of them."""
    client = share.client
    sibling = client.open(share.top, b"file", os.O_RDWR)
    client.lock(fid, WRLCK, 0, 10)
    client.lock(sibling, WRLCK, 20, 10)
    client.clunk(fid)
    assert not host.free(20, 10)
    client.clunk(sibling)
    assert host.free()


@pytest.mark.parametrize("end", ["version", "disconnect", "reset"])
def test_locks_end_with_the_session(share: Share, fid: int, host: HostProcess, end: str) -> None:
    client = share.client
    client.lock(fid, WRLCK, 0, 10, proc_id=1)
    other = client.open(share.top, b"file", os.O_RDWR)
    client.lock(other, RDLCK, 100, 0, proc_id=2)
    assert not host.free()
    if end == "version":
        remount(share)
    elif end == "reset":
        share.machine.reboot()
        remount(share)
    else:
        share.machine.close()
        with mounted(share.daemon, share.export):
            pass
    assert host.free()


def test_read_locks_are_shared(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    reader = client.open(share.top, b"file", os.O_RDONLY)
    assert client.lock(reader, RDLCK, 0, 10, proc_id=1) == LOCK_SUCCESS
    assert client.lock(fid, RDLCK, 0, 10, proc_id=2) == LOCK_SUCCESS
    assert host.fcntl("r", 0, 10)
    assert not host.fcntl("w", 0, 10)
    assert client.lock(fid, WRLCK, 0, 10, proc_id=2) == LOCK_BLOCKED


def test_exclusive_whole_file_lock_on_a_read_only_fid(
    share: Share, fid: int, host: HostProcess
) -> None:
    """flock(LOCK_EX) needs no write permission; the host can hold it as flock alone."""
    client = share.client
    reader = client.open(share.top, b"file", os.O_RDONLY)
    assert client.lock(reader, WRLCK) == LOCK_SUCCESS
    assert not host.flock("r")
    assert client.lock(reader, UNLCK) == LOCK_SUCCESS
    assert host.flock("w")


def test_bad_lock_requests_are_refused(share: Share, fid: int, host: HostProcess) -> None:
    client = share.client
    for fields in (
        (3, 0, 0, 10),  # no such type
        (255, 0, 0, 10),
        (WRLCK, 0, 1 << 63, 1),  # beyond any file
        (WRLCK, 0, 10, 1 << 63),
        (WRLCK, 0, (1 << 63) - 5, 100),
    ):
        kind, flags, start, length = fields
        with fails(errno.EINVAL, errno.EOVERFLOW):
            client.call(T.LOCK, fid, kind, flags, start, length, 1, b"guest")
    unopened = client.walk_to(share.top, b"file")
    with fails(errno.EBADF, errno.EINVAL):
        client.lock(unopened, RDLCK)
    assert client.lock(fid, UNLCK, 5, 5) == LOCK_SUCCESS  # nothing to unlock is no error
    assert host.free()


def test_the_longest_owner_name_is_accepted(share: Share, fid: int) -> None:
    client = share.client
    name = b"\xff" * 1000
    assert client.lock(fid, WRLCK, 0, 5, client_id=name) in (LOCK_SUCCESS,)
    assert client.lock(fid, WRLCK, 0, 5, client_id=name[:-1]) == LOCK_BLOCKED
