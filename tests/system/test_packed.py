"""Packed rings: the same requests over the other layout, whatever the driver does with it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, RDLCK, UNLCK
from tests.frontend.daemon import Daemon
from tests.frontend.layout import Layout
from tests.frontend.wire import T
from tests.system.conftest import Common
from tests.system.share import SECURITY, Share, fails, mounted

DEPTH = 32


@pytest.fixture(params=[True, False], ids=["event_idx", "flags"])
def packed(common: Common, folder: str, request: pytest.FixtureRequest) -> Iterator[Share]:
    """A guest with a packed ring of a size that is no power of two."""
    daemon = common.running()
    with mounted(
        daemon, common.export, folder, packed=True, ring_size=48, event_idx=request.param
    ) as share:
        yield share
    common.check()


def test_it_is_negotiated(packed: Share) -> None:
    assert packed.machine.features >> 34 & 1


def test_a_day_of_a_guest(packed: Share) -> None:
    client = packed.client
    fid = client.create(packed.top, b"file", os.O_RDWR)
    data = os.urandom(300_000)
    assert client.write(fid, 0, data) == len(data)
    assert client.read_all(fid) == data
    client.mkdir(packed.top, b"dir")
    assert sorted(client.listing(packed.top)) == [b"dir", b"file"]
    with fails(errno.ENOENT):
        client.open(packed.top, b"nothing")
    client.unlinkat(packed.top, b"file")
    client.fsync(fid)
    assert os.listdir(packed.host) == ["dir"]


@pytest.mark.parametrize("indirect", [True, False], ids=["indirect", "direct"])
def test_a_packed_ring_goes_round_and_round(packed: Share, indirect: bool) -> None:
    """Many turns of the ring; direct chains cross its end."""
    layout = Layout(indirect=indirect, readable=(5, 3), writable=(7, 9))
    packed.put("file", bytes(range(256)))
    fid = packed.client.open(packed.top, b"file")
    for i in range(500):
        assert packed.client.read(fid, i % 256, 1, layout) == bytes([i % 256])


def test_many_at_once_and_out_of_order(packed: Share) -> None:
    """A lock that waits comes after what was asked later."""
    client = packed.client
    packed.put("file", bytes(range(256)) * 16)
    fid, locked = (client.open(packed.top, b"file") for _ in range(2))
    with open(packed.path("file"), "rb") as host:
        for _ in range(20):
            fcntl.flock(host, fcntl.LOCK_EX)
            lock = client.submit_lock(locked, RDLCK)
            reads = [client.submit(T.READ, fid, i, 1) for i in range(DEPTH - 2)]
            packed.machine.ring.kick()
            for i, ticket in reversed(list(enumerate(reads))):
                assert client.wait(ticket).fields[0] == bytes([i])
            fcntl.flock(host, fcntl.LOCK_UN)
            assert client.wait(lock).fields[0] == LOCK_SUCCESS
            client.lock(locked, UNLCK)


def test_it_goes_on_where_it_stopped(packed: Share) -> None:
    client = packed.client
    packed.put("file", b"contents")
    fid = client.open(packed.top, b"file")
    for _ in range(70):
        base = packed.machine.stop()
        ring = packed.machine.ring
        turn = 0x8000 if ring.turn else 0  # type: ignore[attr-defined]
        assert base & 0xFFFF == ring.place | turn  # type: ignore[attr-defined]
        assert base >> 16 == base & 0xFFFF  # all is back
        packed.machine.start()
        assert client.read(fid, 0, 8) == b"contents"


def test_a_reboot_begins_anew(packed: Share) -> None:
    packed.client.getattr(packed.top)
    packed.machine.reboot()
    packed.client.version()
    packed.client.attach(9)
    assert packed.client.getattr(9).mode & 0o170000 == 0o040000


def test_a_silent_driver_is_not_called(packed: Share) -> None:
    ring = packed.machine.ring
    fid = packed.client.walk_to(packed.top)
    ring.called()
    ring.silence()
    ticket = packed.client.submit(T.GETATTR, fid, 0)
    ring.kick()
    while ticket.reply is None:
        for done in ring.poll():
            packed.client.finish(done.head, done.length)
    assert ring.called() == 0
    ring.silence(silent=False)
    packed.client.getattr(fid)


def test_split_may_be_all_that_is_offered(scratch: Path) -> None:
    with (
        Daemon("--path", str(scratch), *SECURITY, "--ring", "split") as daemon,
        mounted(daemon, scratch) as share,
    ):
        assert not share.machine.device_features >> 34 & 1
        assert share.machine.device_features >> 29 & 1


def test_the_device_goes_back_to_split(common: Common, folder: str) -> None:
    """What the next driver negotiates counts."""
    with mounted(common.running(), common.export, folder, packed=True) as share:
        assert share.client.getattr(share.top).mode & 0o170000 == 0o040000
    with mounted(common.running(), common.export, folder) as split:
        assert not split.machine.features >> 34 & 1
        assert split.client.getattr(split.top).mode & 0o170000 == 0o040000
    common.check()
