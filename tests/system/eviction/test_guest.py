"""Evicted files go on for the guest as if nothing had happened, whatever it does itself."""

from __future__ import annotations

import errno
import os

import pytest

from tests.frontend.client import SET_MODE, SET_SIZE
from tests.frontend.dialect_u import DialectUClient
from tests.system.eviction.crowd import (
    CROWD,
    LIMIT,
    Place,
    age,
    evict,
    look_at_many,
    mkdir,
    put,
    serving,
)
from tests.system.share import (
    Share,
    fails,
)


def test_more_files_than_descriptors_are_all_reached(tight: Share) -> None:
    """All are looked at again, some opened, read and written, and every one is the right one."""
    look_at_many(tight, directories=20, files=150)


def test_open_files_are_evicted_and_go_on(tight: Share, place: Place) -> None:
    """More open files than descriptors; each keeps its access mode and its data. An ordinary user's
    that are open for writing keep their descriptors, so there are fewer of them."""
    client = tight.client
    fids = {}
    writers = CROWD if place.privileged else LIMIT // 2
    for i in range(CROWD):
        put(tight, f"f{i}", f"number {i}")
        flags = os.O_RDWR | os.O_TRUNC if i % 2 else os.O_WRONLY
        if i % 3 or i > writers:
            flags = os.O_RDONLY
        fids[i] = client.open(tight.top, b"f%d" % i, flags), flags
    for _ in range(2):
        for i, (fid, flags) in fids.items():
            expected = b"" if flags & os.O_TRUNC else b"number %d" % i
            if flags == os.O_WRONLY:
                with fails(errno.EBADF):
                    client.read(fid, 0, 100)
                assert client.write(fid, 0, b"number") == 6
            elif flags & os.O_TRUNC:
                client.write(fid, 0, b"again")
                assert client.read(fid, 0, 100) == b"again"
                client.setattr(fid, SET_SIZE, size=0)
            else:
                assert client.read(fid, 0, 100) == expected
                with fails(errno.EBADF):
                    client.write(fid, 0, b"x")
    client.renameat(tight.top, b"f1", tight.top, b"f2")  # over an open file
    assert client.read(fids[1][0], 0, 100) == b"number 1"
    assert client.read(fids[2][0], 0, 100) == b"number 2"


def test_evicted_files_follow_the_guests_renames(tight: Share) -> None:
    """Of files and of directories above, more often than the journal of renames is long."""
    client = tight.client
    mkdir(tight, "a")
    mkdir(tight, "a/b")
    put(tight, "a/b/file", "data")
    put(tight, "a/bb", "other")
    put(tight, "a/plain", "plain")
    age()
    file, other = (
        client.walk_to(tight.top, b"a", b"b", b"file"),
        client.walk_to(tight.top, b"a", b"bb"),
    )
    plain = client.walk_to(tight.top, b"a", b"plain")
    evict(tight, "a/")
    above = client.walk_to(tight.top, b"a")
    client.renameat(above, b"plain", tight.top, b"b")
    client.renameat(above, b"b", tight.top, b"c")
    client.renameat(tight.top, b"c", above, b"d")
    client.rename(client.walk_to(above, b"d"), tight.top, b"e")
    assert client.getattr(file).qid.path == os.stat(tight.path("e/file")).st_ino
    evict(tight, "a/", "e/")
    for i in range(200):
        client.renameat(tight.top, b"e%d" % (i - 1) if i else b"e", tight.top, b"e%d" % i)
    client.lopen(file, os.O_RDONLY)
    assert client.read(file, 0, 10) == b"data"
    client.lopen(other, os.O_RDONLY)
    assert client.read(other, 0, 10) == b"other"

    client.lopen(plain, os.O_RDONLY)
    assert client.read(plain, 0, 10) == b"plain"


def test_evicted_files_that_lose_their_names_stay_what_they_are(tight: Share) -> None:
    """What loses its name while it is evicted stays what it is: by unlinkat, by a rename over it,
    by remove, and a directory by rmdir."""
    client = tight.client
    names = ["unlinked", "covered", "removed", "open"]
    for name in (*names, "cover"):
        put(tight, name, name)
    mkdir(tight, "directory")
    age()
    fids = {name: client.walk_to(tight.top, name.encode()) for name in (*names, "directory")}
    inos = {name: os.stat(tight.path(name)).st_ino for name in fids}
    client.lopen(fids["open"], os.O_RDWR)
    evict(tight, *(name for name in fids if name != "open"))
    client.unlinkat(tight.top, b"unlinked")
    client.renameat(tight.top, b"cover", tight.top, b"covered")
    client.remove(client.walk_to(tight.top, b"removed"))
    client.unlinkat(tight.top, b"directory", 0x200)
    client.unlinkat(tight.top, b"open")
    for name in ("unlinked", "removed", "open", "directory"):
        put(tight, name, "impostor")
    evict(tight)
    for name, fid in fids.items():
        attr = client.getattr(fid)
        assert (attr.qid.path, attr.nlink) == (inos[name], 0), name
    for name in names:
        if name != "open":
            client.lopen(fids[name], os.O_RDONLY)
        assert client.read(fids[name], 0, 100) == name.encode()


def test_metadata_of_an_unlinked_file_stay(place: Place) -> None:
    """Under mapped-file they are in another file, whose name goes with the file's."""
    with serving(place, LIMIT, "--security-model", "mapped-file") as share:
        client = share.client
        fids = {}
        for name in (b"kept", b"unlinked"):
            client.clunk(client.create(share.top, name, mode=0o4711, gid=77))
            fids[name] = client.walk_to(share.top, name)
        age()
        evict(share, "kept", "unlinked")
        client.unlinkat(share.top, b"unlinked")
        evict(share, "kept")
        for fid in fids.values():
            attr = client.getattr(fid)
            assert (attr.mode & 0o7777, attr.gid) == (0o4711, 77)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_may_not_be_reopened_keeps_its_descriptor(tight: Share, when: str) -> None:
    """What may not be opened again keeps its descriptor: the permission was checked at the time."""
    client = tight.client
    fid = client.create(tight.top, b"file", os.O_RDWR)
    if when == "before":
        client.setattr(fid, SET_MODE, mode=0o400)
    evict(tight)
    if when == "after":
        readers = [client.open(tight.top, b"crowd") for _ in range(CROWD)]
        for reader in readers:
            client.clunk(reader)
        client.setattr(fid, SET_MODE, mode=0o400)
    hold = [client.open(tight.top, b"crowd") for _ in range(CROWD)]
    assert client.write(fid, 0, b"data") == 4
    assert client.read(fid, 0, 9) == b"data"
    assert len(hold) > LIMIT


def test_symlinks_and_special_files_are_restored(tight: Share) -> None:
    client = tight.client
    os.symlink("target", tight.path("link"))
    os.mkfifo(tight.path("fifo"))
    age()
    link, fifo = (client.walk_to(tight.top, name) for name in (b"link", b"fifo"))
    evict(tight, "link", "fifo")
    assert client.readlink(link) == b"target"
    assert client.getattr(fifo).qid.path == os.stat(tight.path("fifo")).st_ino
    with fails(errno.ENXIO):
        client.lopen(fifo, os.O_RDONLY)


def test_a_directory_that_is_being_read_keeps_its_position(tight: Share) -> None:
    """Its position survives pressure, although files vanish from it meanwhile."""
    client = tight.client
    mkdir(tight, "full")
    for i in range(400):
        put(tight, f"full/{i}", "")
    age()
    fid = client.open(tight.top, b"full")
    seen: set[bytes] = set()
    offset = 0
    while entries := client.readdir(fid, offset, 4000):
        for entry in entries:
            seen.add(entry.name)
            if entry.name not in (b".", b".."):
                os.unlink(tight.path(f"full/{os.fsdecode(entry.name)}"))
        offset = entries[-1].offset
        evict(tight)
    assert len(seen) == 402
    assert os.listdir(tight.path("full")) == []


def test_each_fid_of_9p2000u_keeps_its_own_name(place: Place) -> None:
    """There each walk has a descriptor of its own, whose name is what Tremove removes and Twstat
    renames."""
    with serving(place, LIMIT, speaks=DialectUClient) as share:
        client = share.client
        assert isinstance(client, DialectUClient)
        put(share, "one", "data")
        os.link(share.path("one"), share.path("two"))
        age()
        one, two, third = (client.walk_to(share.top, name) for name in (b"one", b"two", b"two"))
        evict(share, "one", "two")
        client.wstat(third, name=b"three")
        assert [client.stat(fid).name for fid in (one, third)] == [b"one", b"three"]
        evict(share, "one", "two", "three")
        client.remove(one)
        assert sorted(os.listdir(share.host)) == ["crowd", "three"]
        client.remove(third)
        client.open_fid(two)
        assert client.read(two, 0, 100) == b"data"
