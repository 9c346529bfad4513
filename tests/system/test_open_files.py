"""Files that are unlinked, renamed or replaced while fids hold them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.frontend.client import (
    AT_REMOVEDIR,
    SET_ATIME,
    SET_ATIME_VALUE,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_VALUE,
    SET_SIZE,
    SET_UID,
    P9Errno,
)
from tests.frontend.wire import T
from tests.system.share import IS_ROOT, Share, fails


@pytest.fixture(params=["guest", "host"])
def gone(share: Share, request: pytest.FixtureRequest) -> int:
    """An open fid whose file has been unlinked by one side."""
    fid = share.client.create(share.top, b"file")
    share.client.write(fid, 0, b"0123456789")
    if request.param == "guest":
        share.client.unlinkat(share.top, b"file")
    else:
        os.unlink(share.path("file"))
    return fid


def test_unlinked_file_is_read_and_written(share: Share, gone: int) -> None:
    client = share.client
    assert client.read(gone, 3, 4) == b"3456"
    assert client.write(gone, 8, b"abc") == 3
    attr = client.getattr(gone)
    assert (attr.size, attr.nlink) == (11, 0)
    client.fsync(gone)


def test_unlinked_file_is_changed(share: Share, gone: int) -> None:
    """fchmod, fchown, ftruncate, futimens; a name that was made again is not touched."""
    client = share.client
    path = share.put("file", b"another")
    os.chmod(path, 0o600)
    os.utime(path, (1, 1))
    client.setattr(gone, SET_SIZE, size=5)
    client.setattr(gone, SET_MODE, mode=0o4711)
    client.setattr(
        gone,
        SET_MTIME | SET_MTIME_VALUE | SET_ATIME | SET_ATIME_VALUE,
        mtime=(5, 5),
        atime=(6, 6),
    )
    attr = client.getattr(gone)
    assert (attr.size, attr.mode & 0o7777, attr.mtime_sec, attr.atime_sec) == (5, 0o4711, 5, 6)
    if IS_ROOT:
        client.setattr(gone, SET_UID | SET_GID, uid=1000, gid=1001)
        attr = client.getattr(gone)
        assert (attr.uid, attr.gid) == (1000, 1001)
    status = os.stat(path)
    assert (status.st_mode & 0o7777, status.st_size, status.st_mtime) == (0o600, 7, 1)
    assert status.st_uid == os.geteuid()


def test_unlinked_file_has_xattrs(share: Share, gone: int) -> None:
    client = share.client
    path = share.put("file")
    try:
        os.setxattr(path, "user.probe", b"1")
    except OSError as error:
        pytest.skip(f"the scratch directory has no user xattrs: {error}")
    client.setxattr(gone, b"user.name", b"value")
    assert client.getxattr(gone, b"user.name") == b"value"
    assert "user.name" not in os.listxattr(path)
    with fails(errno.ENODATA):
        client.getxattr(gone, b"user.probe")


def test_unlinked_file_is_cloned_and_opened_again(share: Share, gone: int) -> None:
    """As through /proc/self/fd in the guest."""
    client = share.client
    clone = client.walk_to(gone)
    client.lopen(clone, os.O_RDWR)
    client.write(clone, 0, b"X")
    assert client.read(gone, 0, 3) == b"X12"


def test_unlinked_file_cannot_be_linked_or_renamed(share: Share, gone: int) -> None:
    client = share.client
    with fails(errno.ENOENT):
        client.link(share.top, client.walk_to(gone), b"again")
    request: Callable[[], object]
    for request in (
        lambda: client.rename(client.walk_to(gone), share.top, b"again"),
        lambda: client.remove(client.walk_to(gone)),
    ):
        with fails(errno.ENOENT, errno.ESTALE):
            request()
    assert os.listdir(share.host) == []


def test_removed_name_that_was_made_again_is_safe(share: Share) -> None:
    """Tremove and Trename go by fid: another file of the same name must not be hit."""
    client = share.client
    share.put("file", b"old")
    fids = [client.walk_to(share.top, b"file") for _ in range(2)]
    os.unlink(share.path("file"))
    share.put("file", b"new")
    request: Callable[[], object]
    for request in (
        lambda: client.rename(fids[0], share.top, b"x"),
        lambda: client.remove(fids[1]),
    ):
        with fails(errno.ENOENT, errno.ESTALE):
            request()
    assert share.get("file") == b"new"


@pytest.mark.parametrize("side", ["guest", "host"])
def test_renamed_file_stays_open(share: Share, side: str) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    fid = client.create(share.top, b"a")
    unopened = client.walk_to(share.top, b"a")
    clone = client.walk_to(fid)
    if side == "guest":
        client.renameat(share.top, b"a", client.walk_to(share.top, b"d"), b"b")
    else:
        os.rename(share.path("a"), share.path("d/b"))
    client.write(fid, 0, b"data")
    client.setattr(fid, SET_MODE, mode=0o640)
    for by_name in (unopened, clone):
        if side == "host":
            with fails(errno.ENOENT):
                client.lopen(by_name, os.O_RDONLY)
        else:
            client.lopen(by_name, os.O_RDONLY)
            assert client.read(by_name, 0, 10) == b"data"
    assert share.get("d/b") == b"data"
    assert os.stat(share.path("d/b")).st_mode & 0o777 == 0o640


@pytest.mark.parametrize("side", ["guest", "host"])
def test_replaced_file_keeps_its_contents(share: Share, side: str) -> None:
    """What editors do: write a new file and rename it over the old one."""
    client = share.client
    share.put("file", b"old")
    share.put("new", b"new")
    fid = client.open(share.top, b"file")
    before = client.getattr(fid).qid.path
    if side == "guest":
        client.renameat(share.top, b"new", share.top, b"file")
    else:
        os.rename(share.path("new"), share.path("file"))
    assert client.read(fid, 0, 10) == b"old"
    attr = client.getattr(fid)
    assert (attr.nlink, attr.qid.path) == (0, before)
    other = client.open(share.top, b"file")
    assert client.read(other, 0, 10) == b"new"
    assert client.getattr(other).qid.path != before


def test_file_removed_by_the_host_is_gone_for_names_only(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    fid = client.walk_to(share.top, b"file")
    os.unlink(share.path("file"))
    for by_name in (
        lambda: client.walk_to(share.top, b"file"),
        lambda: client.walk_to(fid),
        lambda: client.getattr(fid),
    ):
        with fails(errno.ENOENT):
            by_name()


def test_renamed_directory_is_followed_by_its_fids(share: Share) -> None:
    client = share.client
    os.makedirs(share.path("a/b"))
    fid = client.walk_to(share.top, b"a", b"b")
    client.renameat(share.top, b"a", share.top, b"c")
    client.create(fid, b"file")
    client.mkdir(fid, b"d")
    assert sorted(os.listdir(share.path("c/b"))) == [b"d", b"file"]
    client.renameat(fid, b"file", fid, b"again")
    client.unlinkat(fid, b"again")
    assert os.listdir(share.path("c/b")) == [b"d"]


@pytest.mark.parametrize("side", ["guest", "host"])
def test_removed_directory(share: Share, side: str) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    fid = client.walk_to(share.top, b"d")
    if side == "guest":
        client.unlinkat(share.top, b"d", AT_REMOVEDIR)
        assert client.getattr(fid).nlink == 0
    else:
        os.rmdir(share.path("d"))
    for request in (
        lambda: client.mkdir(fid, b"x"),
        lambda: client.create(fid, b"x"),
        lambda: client.walk(fid, 90, b"x"),
    ):
        with fails(errno.ENOENT, errno.ESTALE):
            request()


def test_clunk_closes_the_hosts_file(share: Share) -> None:
    """An unlinked file's space is free again once its last fid is gone."""
    client = share.client
    fids = [client.create(share.top, b"file")]
    fids.append(client.open(share.top, b"file"))
    deleted = os.fsdecode(share.path("file")) + " (deleted)"
    client.unlinkat(share.top, b"file")
    for fid in fids:
        assert deleted in share.daemon.fds().values()
        client.clunk(fid)
    assert deleted not in share.daemon.fds().values()


def test_fid_used_and_clunked_at_once(share: Share) -> None:
    """Requests on a fid and its clunk in one batch: each is answered, nothing is mixed up."""
    client = share.client
    share.put("file", b"data" * 1000)
    for _ in range(20):
        fid = client.open(share.top, b"file")
        tickets = [client.submit(T.READ, fid, 0, 4000, kick=False) for _ in range(10)]
        tickets.append(client.submit(T.CLUNK, fid, kick=False))
        tickets += [client.submit(T.READ, fid, 0, 4000, kick=False) for _ in range(10)]
        client.ring.kick()
        for ticket in tickets:
            try:
                client.wait(ticket)
            except P9Errno as error:
                assert error.errno == errno.EBADF
        with fails(errno.EBADF):
            client.clunk(fid)
