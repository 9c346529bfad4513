"""Treaddir: listings, offsets, huge directories, directories that change meanwhile."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.frontend.client import IO_HEADER, P9Errno
from tests.frontend.wire import T
from tests.system.share import Share, fails

DT = {"dir": 4, "file": 8, "link": 10, "fifo": 1, "sock": 12}
MANY = 100_000


def open_dir(share: Share, *names: bytes) -> int:
    return share.client.open(share.top, names, os.O_RDONLY | os.O_DIRECTORY)


def test_listing_tells_names_types_and_identities(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("dir"))
    share.put("file")
    os.symlink("nowhere", share.path("link"))
    os.mkfifo(share.path("fifo"))
    os.mknod(share.path("sock"), stat.S_IFSOCK | 0o600)
    entries = client.listing(share.top)
    assert {entry.name.decode(): entry.type for entry in entries.values()} == DT
    for name, entry in entries.items():
        (qid,) = client.walk(share.top, client.new_fid(), name)
        assert (entry.qid.type, entry.qid.path) == (qid.type, qid.path)


def test_dot_and_dotdot_are_listed(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    found = {entry.name: entry for entry in client.entries(open_dir(share, b"d"))}
    assert set(found) == {b".", b".."}
    inner = client.walk(share.top, 90, b"d")[0]
    assert found[b"."].qid.path == inner.path
    assert found[b".."].qid.path == client.getattr(share.top).qid.path


def test_dotdot_of_the_root_is_the_root(share: Share) -> None:
    client = share.client
    clone = client.walk_to(share.root)
    client.lopen(clone, os.O_RDONLY)
    found = {entry.name: entry for entry in client.entries(clone)}
    root = client.getattr(share.root).qid.path
    assert found[b".."].qid.path == found[b"."].qid.path == root


@pytest.mark.parametrize("count", [100, 300, 1000, 4096, 32768, 500_000])
def test_a_listing_goes_on_where_it_ended(share: Share, count: int) -> None:
    """Each piece goes on where the last one ended, with names from short to long."""
    names = {b"%03d" % i + b"x" * (i % 60) for i in range(300)}
    for name in names:
        share.put(os.fsdecode(name))
    found = [entry.name for entry in share.client.entries(open_dir(share), count)]
    assert len(found) == len(set(found)) == 302
    assert set(found) - {b".", b".."} == names


def test_any_offset_that_was_returned_may_be_resumed(share: Share) -> None:
    for i in range(50):
        share.put(f"file{i}")
    client = share.client
    fid = open_dir(share)
    whole = list(client.entries(fid))
    for i in (0, 25, 49, 3):
        assert client.readdir(fid, whole[i].offset) == whole[i + 1 :]
    assert client.readdir(fid, whole[-1].offset) == []
    assert client.readdir(fid, 0) == whole


def test_room_for_no_entry_is_an_error(share: Share) -> None:
    """An empty answer would say that the directory has ended."""
    share.put("n" * 200)
    fid = open_dir(share)
    offset = 0
    with fails(errno.EINVAL, errno.ENOBUFS):
        while part := share.client.readdir(fid, offset, 60):
            offset = part[-1].offset
        pytest.fail("the listing ended without the long name")


def test_files_are_not_listed(share: Share) -> None:
    share.put("file")
    fid = share.client.open(share.top, b"file")
    with fails(errno.ENOTDIR, errno.EBADF):
        share.client.readdir(fid)
    with fails(errno.EBADF):
        share.client.readdir(share.top)


def test_rewinding_shows_new_entries(share: Share) -> None:
    client = share.client
    fid = open_dir(share)
    assert len(list(client.entries(fid))) == 2
    share.put("new")
    assert {entry.name for entry in client.entries(fid)} == {b".", b"..", b"new"}


def test_removal_while_listing_skips_nothing(share: Share) -> None:
    """What rm -rf does: entries go while the listing goes on, through the open fid."""
    client = share.client
    for i in range(1000):
        share.put(f"file{i}")
    fid = open_dir(share)
    offset = 0
    while part := client.readdir(fid, offset, 2000):
        for entry in part:
            if entry.name not in (b".", b".."):
                client.unlinkat(fid, entry.name)
        offset = part[-1].offset
    assert os.listdir(share.host) == []


def test_removed_directory_lists_nothing(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    fid = open_dir(share, b"d")
    os.rmdir(share.path("d"))
    try:
        assert {entry.name for entry in client.readdir(fid)} <= {b".", b".."}
    except P9Errno as error:
        assert error.errno == errno.ENOENT


def test_two_readers_of_one_fid(share: Share) -> None:
    """Requests on one fid at different offsets do not disturb each other."""
    client = share.client
    for i in range(400):
        share.put(f"file{i}")
    fid = open_dir(share)
    whole = list(client.entries(fid))
    tickets = [(i, client.submit(T.READDIR, fid, whole[i].offset, 400)) for i in range(0, 400, 7)]
    for i, ticket in tickets:
        client.wait(ticket)
        assert ticket.reply is not None
        assert whole[i + 1].name in ticket.reply


def test_a_hundred_thousand_entries_are_listed_once(share: Share) -> None:
    client = share.client
    directory = share.path("many")
    os.mkdir(directory)
    first = os.path.join(directory, b"0")
    with open(first, "wb"):
        pass
    for i in range(1, MANY):
        # Links are cheap to make; a file has 65,000 of them at most.
        if i % 50_000 == 0:
            first = os.path.join(directory, b"%d" % i)
            with open(first, "wb"):
                pass
        else:
            os.link(first, os.path.join(directory, b"%d" % i))
    fid = open_dir(share, b"many")
    names = [entry.name for entry in client.entries(fid, client.msize - IO_HEADER)]
    assert len(names) == MANY + 2
    assert set(names) == {b"%d" % i for i in range(MANY)} | {b".", b".."}
