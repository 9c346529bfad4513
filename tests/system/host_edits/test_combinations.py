"""Host edits together with eviction, quotas, and many requests at once."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.frontend.client import Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.wire import T
from tests.system.eviction.crowd import LIMIT, Place, age, evict, serving
from tests.system.host_edits.edits import Edits, guest_removes
from tests.system.share import SECURITY, fails, mounted, needs_root


@pytest.mark.parametrize("privileged", [pytest.param(True, marks=needs_root), False])
@pytest.mark.parametrize("speaks", [Client, DialectUClient])
def test_evicted_fids_stand_for_their_names(privileged: bool, speaks: type[Client]) -> None:
    """Files, and directories above, whose descriptors were given up."""
    place = Place("/dev/shm", privileged)
    with serving(place, LIMIT, speaks=speaks) as share:
        edits = Edits(share)
        for name in ("tree", "tree/e", "other", "other/e"):
            edits.mkdir(name)
        edits.put("tree/e/f", "one")
        edits.put("other/e/f", "two")
        edits.put("gone", "gone")
        edits.put("plain", "old")
        edits.put("unlinked", "unlinked")
        age()
        fid, gone, plain = edits.walk("tree/e/f"), edits.walk("gone"), edits.walk("plain")
        unlinked = edits.walk("unlinked")
        evict(share, "tree", "gone", "plain", "unlinked")
        edits.mv("tree", "away")
        edits.mv("other", "tree")
        edits.rm("gone")
        edits.put("plain", "new")
        guest_removes(edits, share.top, b"unlinked")
        edits.put("unlinked", "impostor")
        assert edits.cat(fid) == "two"
        assert edits.cat(plain) == "new"
        edits.is_gone(gone)
        age()
        evict(share, "tree", "plain")
        edits.mv("tree", "other")
        edits.mv("away", "tree")
        assert edits.cat(unlinked) == "unlinked"
        assert edits.cat(fid) == "one"
        edits.put("gone", "back")
        assert edits.cat(gone) == "back"


def test_quotas_count_what_has_the_name(export: Path) -> None:
    """What a fid comes to stand for is held by its quota, and what it stood for is let go."""
    with (
        Daemon("--path", str(export), *SECURITY, "--quota-bytes", "10MiB") as daemon,
        mounted(daemon, export) as share,
    ):
        edits = Edits(share)
        edits.put("f", "one")
        fid = edits.walk("f")
        for turn in range(10):
            edits.put("f", str(turn))
            assert edits.cat(fid) == str(turn)
            opened = edits.open(fid, write=True)
            share.client.write(opened, 0, b"x" * 100000)
            share.client.clunk(opened)
        with fails(errno.ENOSPC):
            opened = edits.open(fid, write=True)
            for at in range(0, 11 << 20, 1 << 17):
                share.client.write(opened, at, b"x" * (1 << 17))


def test_each_of_many_requests_gets_one_of_the_files_of_the_name(export: Path) -> None:
    """Batches of requests on one fid: each is answered by one of the files that had the name."""
    with (
        Daemon("--path", str(export), *SECURITY, "--threads", "4") as daemon,
        mounted(daemon, export) as share,
    ):
        edits, client = Edits(share), share.client
        edits.mkdir("d")
        edits.put("d/f", "0")
        fid = edits.walk("d/f")
        for turn in range(200):
            before = edits.ino("d/f")
            tickets = [client.submit(T.GETATTR, fid, 0x3FFF, kick=False) for _ in range(20)]
            client.ring.kick()
            if turn % 2:
                edits.put("d/f", str(turn))
            else:
                edits.mv("d", "old")
                edits.mkdir("next")
                edits.put("next/f", str(turn))
                edits.mv("next", "d")
                shutil.rmtree(os.fsdecode(share.path("old")))
            after = edits.ino("d/f")
            for ticket in tickets:
                with contextlib.suppress(P9Errno):  # between two names
                    assert client.wait(ticket).fields[1].path in (before, after)
            assert edits.number(fid) == after


def test_a_name_that_the_guest_moves_is_never_missing(export: Path) -> None:
    """A name that the guest itself is moving is never found missing."""
    with (
        Daemon("--path", str(export), *SECURITY, "--threads", "4") as daemon,
        mounted(daemon, export) as share,
    ):
        edits, client = Edits(share), share.client
        edits.mkdir("a")
        edits.put("a/f", "text")
        fid = edits.walk("a/f")
        number = edits.number(fid)
        for turn in range(200):
            old, new = (b"a", b"b") if turn % 2 == 0 else (b"b", b"a")
            looks = [client.submit(T.GETATTR, fid, 0x3FFF, kick=False) for _ in range(10)]
            rename = client.submit(T.RENAMEAT, share.top, old, share.top, new, kick=False)
            looks += [client.submit(T.GETATTR, fid, 0x3FFF, kick=False) for _ in range(30)]
            client.ring.kick()
            for look in looks:
                assert client.wait(look).fields[1].path == number
            client.wait(rename)
