"""Requests that Python answers, whose worker is killed before or after one of their system calls:
each is done once, and its reply is the right one."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.client import (
    LOCK_BLOCKED,
    LOCK_SUCCESS,
    UNLCK,
    WRLCK,
    Client,
    P9Errno,
    Ticket,
)
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient, Stat, encode_stat
from tests.frontend.traced import Traced
from tests.frontend.wire import NOFID, Kind, T, U
from tests.system.host_locks import is_locked, is_locked_by_flock
from tests.system.share import Share, mounted, needs_root, remount, serve

pytestmark = [
    needs_root,  # it traces processes that are confined
    pytest.mark.skipif(platform.machine() != "x86_64", reason="knows x86-64's system calls"),
    pytest.mark.long,
]

SECONDS = 10.0
MISSES = 3
"""So often in a row a request has to be answered before a point for that to lie behind it: another
thread may have taken it, while the traced one was stopped."""
GUEST, OTHER = (1, b"guest"), (2, b"another")
WHOLE, RANGE = (0, 0), (10, 5)
Case = Generator[tuple[Kind, tuple[Any, ...]], tuple[Any, ...], None]
"""Yields the request, and is sent the fields of its reply; an error is thrown into it."""
names = (b"file%d" % number for number in count())


class Locked:
    """A file that the guest has open."""

    def __init__(self, share: Share) -> None:
        self.client = share.client
        self.name = next(names)
        self.path = share.put(self.name, b"data")
        self.fid = share.client.open(share.top, self.name, os.O_RDWR)

    def check(self, start: int, length: int, *, locked: bool) -> None:
        fd = os.open(self.path, os.O_RDWR)
        assert is_locked(fd, start, length) == locked
        if (start, length) == WHOLE:
            assert is_locked_by_flock(fd) == locked
        os.close(fd)

    def request(
        self, kind: int, span: tuple[int, int], who: tuple[int, bytes] = GUEST
    ) -> tuple[Kind, tuple[Any, ...]]:
        return T.LOCK, (self.fid, kind, 0, *span, *who)


def lock_whole(share: Share) -> Case:
    file = Locked(share)
    assert (yield file.request(WRLCK, WHOLE)) == (LOCK_SUCCESS,)
    file.check(*WHOLE, locked=True)
    file.client.clunk(file.fid)
    file.check(*WHOLE, locked=False)


def lock_range(share: Share) -> Case:
    file = Locked(share)
    assert (yield file.request(WRLCK, RANGE)) == (LOCK_SUCCESS,)
    file.check(*RANGE, locked=True)
    file.check(0, 10, locked=False)
    assert file.client.lock(file.fid, UNLCK, *RANGE) == LOCK_SUCCESS
    file.check(*RANGE, locked=False)
    file.client.clunk(file.fid)


def unlock_whole(share: Share) -> Case:
    file = Locked(share)
    file.client.lock(file.fid, WRLCK)
    assert (yield file.request(UNLCK, WHOLE)) == (LOCK_SUCCESS,)
    file.check(*WHOLE, locked=False)
    file.client.clunk(file.fid)


def unlock_a_part(share: Share) -> Case:
    file = Locked(share)
    file.client.lock(file.fid, WRLCK)
    assert (yield file.request(UNLCK, RANGE)) == (LOCK_SUCCESS,)
    file.check(*RANGE, locked=False)
    file.check(0, 10, locked=True)
    file.client.clunk(file.fid)
    file.check(*WHOLE, locked=False)


def lock_that_another_has(share: Share) -> Case:
    file = Locked(share)
    assert file.client.lock(file.fid, WRLCK, proc_id=OTHER[0], client_id=OTHER[1]) == LOCK_SUCCESS
    assert (yield file.request(WRLCK, RANGE)) == (LOCK_BLOCKED,)
    file.check(*WHOLE, locked=True)
    file.client.clunk(file.fid)


def clunk_of_a_lock(share: Share) -> Case:
    file = Locked(share)
    file.client.lock(file.fid, WRLCK)
    yield T.CLUNK, (file.fid,)
    file.check(*WHOLE, locked=False)
    with pytest.raises(P9Errno) as error:
        file.client.getattr(file.fid)
    assert error.value.errno == errno.EBADF


def attach(share: Share) -> Case:
    fid = share.client.new_fid()
    reply = yield T.ATTACH, (fid, NOFID, b"", b"", NOFID)
    assert reply[0] == share.client.getattr(share.root).qid
    share.client.clunk(fid)


def attach_to_a_number_in_use(share: Share) -> Case:
    with pytest.raises(P9Errno) as error:
        yield T.ATTACH, (share.top, NOFID, b"", b"", NOFID)
    assert error.value.errno == errno.EBADF


def version(share: Share) -> Case:
    file = Locked(share)
    file.client.lock(file.fid, WRLCK)
    yield T.VERSION, (512000, b"9P2000.L")
    file.check(*WHOLE, locked=False)
    remount(share)


def remove(share: Share) -> Case:
    file = Locked(share)
    yield T.REMOVE, (file.fid,)
    assert not os.path.exists(file.path)
    with pytest.raises(P9Errno) as error:
        file.client.getattr(file.fid)
    assert error.value.errno == errno.EBADF


LINUX = [
    *(lock_whole, lock_range, unlock_whole, unlock_a_part, lock_that_another_has),
    *(clunk_of_a_lock, attach, attach_to_a_number_in_use, version, remove),
]


# ---- 9P2000.u ------------------------------------------------------------------------------------


def create(share: Share) -> Case:
    fid, name = share.client.walk_to(share.top), next(names)
    yield U.CREATE, (fid, name, 0o640, 2, b"")
    assert share.client.write(fid, 0, b"text") == 4
    assert share.get(name) == b"text"
    share.client.clunk(fid)


def create_a_directory(share: Share) -> Case:
    fid, name = share.client.walk_to(share.top), next(names)
    yield U.CREATE, (fid, name, 0x80000000 | 0o750, 0, b"")
    assert os.path.isdir(share.path(name))
    share.client.clunk(fid)


def create_a_symlink(share: Share) -> Case:
    fid, name = share.client.walk_to(share.top), next(names)
    yield U.CREATE, (fid, name, 0x02000000 | 0o777, 0, b"target")
    assert os.readlink(share.path(name)) == b"target"
    share.client.clunk(fid)


def create_what_is_there(share: Share) -> Case:
    fid, name = share.client.walk_to(share.top), next(names)
    share.put(name, b"data")
    with pytest.raises(P9Errno) as error:
        yield U.CREATE, (fid, name, 0o640, 2, b"")
    assert error.value.errno == errno.EEXIST
    share.client.clunk(fid)


def wstat(share: Share) -> Case:
    old, new = next(names), next(names)
    share.put(old, b"data")
    fid = share.client.walk_to(share.top, old)
    yield U.WSTAT, (fid, encode_stat(Stat(mode=0o604, length=2, name=new)))
    assert share.get(new) == b"da" and not os.path.exists(share.path(old))
    assert os.stat(share.path(new)).st_mode & 0o777 == 0o604
    share.client.clunk(fid)


def stat(share: Share) -> Case:
    name = next(names)
    share.put(name, b"data")
    fid = share.client.walk_to(share.top, name)
    yield U.STAT, (fid,)
    share.client.clunk(fid)


def remove_u(share: Share) -> Case:
    name = next(names)
    path = share.put(name, b"data")
    yield T.REMOVE, (share.client.walk_to(share.top, name),)
    assert not os.path.exists(path)


DIALECT_U = [create, create_a_directory, create_a_symlink, create_what_is_there, wstat, stat]
DIALECT_U += [remove_u]


# ---- deaths --------------------------------------------------------------------------------------


def is_answered(share: Share) -> bool:
    ring = share.machine.ring
    return share.machine.memory.load16(ring.used + 2) != ring.last_used


def die_at(share: Share, daemon: Daemon, case: Case, point: int) -> bool:
    """Runs a case whose worker dies at this point of its request; false if that was answered
    before."""
    kind, fields = next(case)
    until = time.monotonic() + SECONDS
    client = share.client
    with Traced(daemon.worker, until) as thread:
        ticket = client.submit(kind, *fields)
        left = point
        while left and not is_answered(share):
            thread.step(until)
            left -= 1
    finish(client, case, ticket)
    return not left


def finish(client: Client, case: Case, ticket: Ticket) -> None:
    """Has the case look at its reply, to its end."""
    failure: P9Errno | None = None
    try:
        fields = client.wait(ticket).fields
    except P9Errno as error:
        failure = error
    with pytest.raises(StopIteration):
        case.throw(failure) if failure else case.send(fields)


def die_everywhere(
    export: Path, speaks: type[Client], make: Callable[[Share], Case], stride: int
) -> None:
    with serve(export) as daemon, mounted(daemon, export, speaks=speaks) as share:
        point, missed = 1, 0
        while missed < MISSES:
            if die_at(share, daemon, make(share), point):
                point, missed = point + stride, 0
            else:
                missed += 1
        assert point > 2, "no worker died inside the request"


STRIDES = [5, pytest.param(1, marks=pytest.mark.full)]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("make", LINUX)
def test_a_request_is_done_once(export: Path, make: Callable[[Share], Case], stride: int) -> None:
    die_everywhere(export, Client, make, stride)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("make", DIALECT_U)
def test_a_request_of_dialect_u_is_done_once(
    export: Path, make: Callable[[Share], Case], stride: int
) -> None:
    die_everywhere(export, DialectUClient, make, stride)
