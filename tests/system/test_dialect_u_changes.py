"""What 9P2000.u changes: Tcreate, Twstat, Tremove; under the mapped security models too."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frontend import wire
from tests.frontend.client import Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import (
    DMAPPEND,
    DMDEVICE,
    DMDIR,
    DMLINK,
    DMNAMEDPIPE,
    DMSETGID,
    DMSETUID,
    DMSETVTX,
    DMSOCKET,
    DMSYMLINK,
    ORCLOSE,
    ORDWR,
    OREAD,
    OTRUNC,
    OWRITE,
    DialectUClient,
)
from tests.frontend.wire import U
from tests.system.kinds import make_all
from tests.system.share import Share, fails, mounted, needs_root


@pytest.fixture
def speaks() -> type[Client]:
    return DialectUClient


# ---- Tcreate --------------------------------------------------------------------------------


def test_tcreate_makes_a_file(share: Share, client: DialectUClient) -> None:
    fid = client.make(share.top, b"new", DMSETUID | DMSETVTX | 0o751, ORDWR)
    status = os.stat(share.path("new"))
    assert stat.S_IMODE(status.st_mode) == 0o5751
    assert client.write(fid, 0, b"data") == 4
    assert client.read(fid, 0, 9) == b"data"
    found = client.stat(fid)
    assert (found.name, found.length) == (b"new", 4)
    with fails(errno.EBADF):
        client.call(U.CREATE, fid, b"more", 0o644, OREAD, b"")
    with fails(errno.EEXIST):
        client.make(share.top, b"new", 0o644, ORDWR | OTRUNC)
    assert share.get("new") == b"data"


def test_tcreate_makes_a_directory(share: Share, client: DialectUClient) -> None:
    fid = client.make(share.top, b"dir", DMDIR | DMSETVTX | 0o775)
    assert stat.S_IMODE(os.stat(share.path("dir")).st_mode) == 0o1775
    share.put("dir/inside")
    assert sorted(each.name for each in client.stats(fid)) == [b".", b"..", b"inside"]
    with fails(errno.EISDIR):
        client.make(share.top, b"no", DMDIR | 0o755, OWRITE)
    with fails(errno.EEXIST):
        client.make(share.top, b"dir", DMDIR | 0o755)
    assert sorted(os.listdir(share.host)) == ["dir"]


def test_tcreate_makes_links_fifos_and_sockets(share: Share, client: DialectUClient) -> None:
    share.put("file", b"data")
    file = client.walk_to(share.top, b"file")
    link = client.make(share.top, b"link", DMSYMLINK, OREAD, b"../\xff")
    assert os.readlink(share.path("link")) == b"../\xff"
    assert client.stat(link).extension == b"../\xff"
    fifo = client.make(share.top, b"fifo", DMNAMEDPIPE | 0o640)
    assert stat.S_ISFIFO(os.lstat(share.path("fifo")).st_mode)
    client.make(share.top, b"sock", DMSOCKET | 0o640)
    assert stat.S_ISSOCK(os.lstat(share.path("sock")).st_mode)
    hard = client.make(share.top, b"hard", DMLINK, OREAD, b"%d\n" % file)
    assert os.path.samefile(share.path("hard"), share.path("file"))
    assert client.stat(hard)[7:12:4] == (b"hard", b"HARDLINKCOUNT 2")
    for fid in (link, fifo, hard):  # they stand for what was made, and are not open
        with fails(errno.EBADF):
            client.read(fid, 0, 10)
    client.open_fid(hard)
    assert client.read(hard, 0, 10) == b"data"


@needs_root
def test_tcreate_makes_devices(share: Share, client: DialectUClient) -> None:
    client.make(share.top, b"null", DMDEVICE | 0o600, OREAD, b"c 1 3")
    client.make(share.top, b"disk", DMDEVICE | 0o600, OREAD, b"b 4095 1048575\n")
    assert os.stat(share.path("null")).st_rdev == os.makedev(1, 3)
    status = os.stat(share.path("disk"))
    assert stat.S_ISBLK(status.st_mode)
    assert status.st_rdev == os.makedev(4095, 1048575)
    assert client.stat(share.top, b"disk").extension == b"b 4095 1048575"


HOSTILE = {
    "a device without numbers": (DMDEVICE, b"c", errno.EINVAL),
    "a device of no kind": (DMDEVICE, b"x 1 3", errno.EINVAL),
    "a negative device": (DMDEVICE, b"c -1 3", errno.EINVAL),
    "a great major number": (DMDEVICE, b"c 4096 3", errno.EINVAL),
    "a great minor number": (DMDEVICE, b"b 1 1048576", errno.EINVAL),
    "numbers beyond all bounds": (DMDEVICE, b"c 99999999999999999999 1", errno.EINVAL),
    "a device with more behind it": (DMDEVICE, b"c 1 3 x", errno.EINVAL),
    "a link to nothing": (DMLINK, b"", errno.EINVAL),
    "a link to no number": (DMLINK, b"file", errno.EINVAL),
    "a link to an unknown fid": (DMLINK, b"4242", errno.EBADF),
    "a link to a number that is no fid": (DMLINK, b"4294967296", errno.EINVAL),
    "a target with NUL": (DMSYMLINK, b"a\0b", errno.EINVAL),
    "an empty target": (DMSYMLINK, b"", errno.ENOENT),
    "a target that is too long": (DMSYMLINK, b"t" * 5000, errno.ENAMETOOLONG),
    "two kinds": (DMDIR | DMSYMLINK, b"x", errno.EINVAL),
    "all kinds": (0xFFFFFFFF, b"x", errno.EOPNOTSUPP),
    "append-only": (DMAPPEND | 0o644, b"", errno.EOPNOTSUPP),
    "remove on clunk": (0o644, b"", errno.EOPNOTSUPP),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_tcreate_refuses_what_cannot_be(share: Share, client: DialectUClient, what: str) -> None:
    perm, extension, code = HOSTILE[what]
    mode = ORCLOSE if what == "remove on clunk" else OREAD
    with fails(code):
        client.make(share.top, b"new", perm, mode, extension)
    assert os.listdir(share.host) == []


NAMES = [
    (b"", errno.ENOENT, errno.ENOENT),
    (b".", errno.EEXIST, errno.EBUSY),
    (b"..", errno.EEXIST, errno.EBUSY),
    (b"a/b", errno.EINVAL, errno.EINVAL),
    (b"a\0", errno.EINVAL, errno.EINVAL),
    (b"n" * 256, errno.ENAMETOOLONG, errno.ENAMETOOLONG),
]


@pytest.mark.parametrize(("name", "create", "rename"), NAMES)
def test_what_is_no_name(
    share: Share, client: DialectUClient, name: bytes, create: int, rename: int
) -> None:
    share.put("file")
    file = client.walk_to(share.top, b"file")
    for perm in (0o644, DMDIR, DMSYMLINK, DMLINK, DMNAMEDPIPE):
        with fails(create):
            client.make(share.top, name, perm, OREAD, b"%d" % file)
    if name:  # which leaves the name alone
        with fails(rename):
            client.wstat(file, name=name)
    assert os.listdir(share.host) == ["file"]


@needs_root
def test_owners_of_what_is_created(share: Share, client: DialectUClient) -> None:
    """The user is the attach's; the group the daemon's, or that of a set-gid directory."""
    os.chmod(share.host, 0o777)
    os.mkdir(share.path("team"))
    os.chown(share.path("team"), 0, 5000)
    os.chmod(share.path("team"), 0o2777)
    client.attach(70, 1000)
    kinds = {b"f": 0o644, b"d": DMDIR | 0o755, b"l": DMSYMLINK, b"p": DMNAMEDPIPE | 0o600}
    for path, group in ((b"", os.getegid()), (b"team", 5000)):
        below = client.walk_to(70, share.name, *[path][: len(path)])
        for name, perm in kinds.items():
            client.clunk(client.make(below, name, perm, OREAD, b"x"))
            status = os.lstat(os.path.join(share.path(path), name))
            assert (status.st_uid, status.st_gid) == (1000, group), (path, name)


# ---- Twstat ---------------------------------------------------------------------------------


def test_wstat_changes_what_it_names(share: Share, client: DialectUClient) -> None:
    path = share.put("file", b"0123456789")
    os.utime(path, (100, 200))
    fid = client.walk_to(share.top, b"file")
    client.wstat(fid, mode=DMSETGID | 0o640)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o2640
    client.wstat(fid, atime=1)
    assert (os.stat(path).st_atime, os.stat(path).st_mtime) == (1, 200)
    client.wstat(fid, mtime=0xFFFFFFFE)
    assert (os.stat(path).st_atime, os.stat(path).st_mtime) == (1, 0xFFFFFFFE)
    client.wstat(fid, length=4)
    assert share.get("file") == b"0123"
    assert os.stat(path).st_mtime != 0xFFFFFFFE
    client.wstat(fid, length=6, mtime=77, muid=b"nobody", n_muid=5)
    assert (share.get("file"), os.stat(path).st_mtime) == (b"0123\0\0", 77)


@needs_root
def test_wstat_changes_owners(share: Share, client: DialectUClient) -> None:
    path = share.put("file")
    os.symlink("file", share.path("link"))
    fid, link = client.walk_to(share.top, b"file"), client.walk_to(share.top, b"link")
    client.wstat(fid, n_uid=1000)
    client.wstat(fid, n_gid=1001)
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == (1000, 1001)
    client.wstat(fid, uid=b"1002", gid=b"1003")
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == (1002, 1003)
    client.wstat(fid, uid=b"5", n_uid=6)
    assert os.stat(path).st_uid == 6
    client.wstat(link, n_uid=7)
    assert (os.lstat(share.path("link")).st_uid, os.stat(path).st_uid) == (7, 6)
    for name in (b"root", b"-1", b"4294967295", b"99999999999", b"\xb2"):
        with fails(errno.EINVAL):
            client.wstat(fid, uid=name)
    assert os.stat(path).st_uid == 6


def test_wstat_of_nothing_makes_durable(share: Share, client: DialectUClient) -> None:
    make_all(share)
    client.wstat(client.walk_open(share.top, b"file", mode=OWRITE))
    for name in (b"file", b"dir", b"link", b"fifo"):
        client.wstat(client.walk_to(share.top, name))
    client.wstat(client.walk_open(share.top, b"dir"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"mode": DMDIR | 0o755}, errno.EINVAL),
        ({"mode": DMAPPEND | 0o644}, errno.EOPNOTSUPP),
        ({"type": 1}, errno.EPERM),
        ({"dev": 1}, errno.EPERM),
        ({"qid": wire.Qid(0, 0, 0)}, errno.EPERM),
        ({"extension": b"x"}, errno.EPERM),
        ({"length": 2**63}, errno.EINVAL),
        ({"uid": b"alice"}, errno.EINVAL),
    ],
)
def test_wstat_refuses_what_cannot_be(
    share: Share, client: DialectUClient, fields: dict[str, Any], code: int
) -> None:
    path = share.put("file", b"data")
    before = os.stat(path)
    fid = client.walk_to(share.top, b"file")
    for more in ({}, {"name": b"other"}, {"mtime": 5}):
        with fails(code):
            client.wstat(fid, **{**fields, **more})
    assert os.stat(path) == before
    assert os.listdir(share.host) == ["file"]


def test_wstat_of_sizes_that_there_are_not(share: Share, client: DialectUClient) -> None:
    make_all(share)
    for name, code in ((b"dir", errno.EISDIR), (b"fifo", errno.EINVAL), (b"link", errno.EINVAL)):
        with fails(code):
            client.wstat(client.walk_to(share.top, name), length=0)


def test_wstat_renames_within_the_directory(share: Share, client: DialectUClient) -> None:
    share.put("old", b"data")
    share.put("other", b"gone")
    os.mkdir(share.path("dir"))
    fid = client.walk_to(share.top, b"old")
    client.wstat(fid, name=b"new", muid=b"nobody")
    assert client.stat(fid).name == b"new"
    client.wstat(fid, name=b"other")
    assert share.get("other") == b"data"
    assert sorted(os.listdir(share.host)) == ["dir", "other"]
    with fails(errno.EISDIR):
        client.wstat(fid, name=b"dir")
    client.wstat(client.walk_to(share.top, b"dir"), name=b"folder")
    assert sorted(os.listdir(share.host)) == ["folder", "other"]
    with fails(errno.EBUSY):
        client.wstat(share.root, name=b"root")


# ---- names of hard links --------------------------------------------------------------------


def test_each_fid_keeps_the_name_by_which_it_was_reached(
    share: Share, client: DialectUClient
) -> None:
    share.put("a", b"data")
    for name in "bcd":
        os.link(share.path("a"), share.path(name))
    fids = {name: client.walk_to(share.top, name) for name in (b"a", b"b", b"c", b"d")}
    clone = client.walk_to(fids[b"b"])
    client.remove(clone)
    assert sorted(os.listdir(share.host)) == ["a", "c", "d"]
    client.wstat(fids[b"c"], name=b"e")
    assert sorted(os.listdir(share.host)) == ["a", "d", "e"]
    assert [client.stat(fids[name]).name for name in (b"a", b"c", b"d")] == [b"a", b"e", b"d"]
    client.remove(fids[b"d"])
    client.remove(fids[b"a"])
    assert os.listdir(share.host) == ["e"]
    with fails(errno.EBUSY, errno.ENOENT):
        client.remove(fids[b"b"])  # its name is gone: no other one goes for it


def test_remove_frees_its_fid(share: Share, client: DialectUClient) -> None:
    make_all(share)
    share.put("dir/inside")
    opened = client.walk_open(share.top, b"dir")
    with fails(errno.ENOTEMPTY):
        client.remove(opened)
    with fails(errno.EBADF):  # the fid goes either way
        client.stat(opened)
    os.unlink(share.path("dir/inside"))
    client.remove(client.walk_open(share.top, b"dir"))
    for name in os.listdir(os.fsencode(share.host)):
        client.remove(client.walk_to(share.top, name))
    assert os.listdir(share.host) == []


def test_an_open_file_outlives_its_name(share: Share, client: DialectUClient) -> None:
    fid = client.make(share.top, b"file", 0o600, ORDWR)
    client.write(fid, 0, b"data")
    client.remove(client.walk_to(share.top, b"file"))
    client.wstat(fid, length=2)
    assert client.stat(fid).length == 2
    assert client.read(fid, 0, 9) == b"da"


# ---- the mapped security models -------------------------------------------------------------


@pytest.fixture(params=["mapped-xattr", "mapped-file"])
def mapped(request: pytest.FixtureRequest, scratch: Path) -> Iterator[tuple[DialectUClient, Path]]:
    """A client of an export of each model; fid 2 is its root."""
    export = scratch / request.param
    export.mkdir()
    args = ("--path", str(export), "--security-model", request.param, "--multidevs", "remap")
    with (
        Daemon(*args) as daemon,
        mounted(daemon, export, speaks=DialectUClient, n_uname=1000) as share,
    ):
        assert isinstance(share.client, DialectUClient)
        yield share.client, export
    daemon.check_output()
    shutil.rmtree(export)


def test_mapped_files_are_shown_as_the_guest_made_them(mapped: tuple[DialectUClient, Path]) -> None:
    """Kinds, owners and links that the host does not know of are in every answer."""
    client, export = mapped
    made = {
        b"file": (DMSETUID | 0o751, b""),
        b"link": (DMSYMLINK | 0o777, b"../target"),
        b"null": (DMDEVICE | 0o620, b"c 1 3"),
        b"fifo": (DMNAMEDPIPE | 0o640, b""),
        b"sock": (DMSOCKET | 0o640, b""),
        b"dir": (DMDIR | DMSETVTX | 0o775, b""),
    }
    for name, (perm, extension) in made.items():
        fid = client.make(2, name, perm, OREAD, extension)
        assert client.stat(fid)[3] == perm
        client.clunk(fid)
    assert not os.path.islink(export / "link")
    client.clunk(client.make(2, b"hard", DMLINK, OREAD, b"%d" % client.walk_to(2, b"file")))
    listed = {each.name: each for each in client.stats(client.walk_open(2))}
    assert set(listed) == {b".", b"..", b"hard", *made}
    for name, (perm, extension) in made.items():
        found = client.stat(2, name)
        assert found == listed[name]
        assert (found.mode, found.n_uid, found.uid) == (perm, 1000, b"1000")
        assert found.extension == extension or found.extension.startswith(b"HARDLINKCOUNT")
    assert listed[b"hard"].extension == b"HARDLINKCOUNT 2"
    link = client.walk_to(2, b"link")
    client.wstat(link, name=b"moved")
    client.wstat(client.walk_to(2, b"hard"), mode=0o600, n_uid=5, n_gid=6)
    assert client.stat(2, b"file")[12:14] == (5, 6)
    assert client.stat(2, b"moved").extension == b"../target"
    for name in (b"hard", b"moved", b"null", b"fifo", b"sock", b"dir"):
        client.remove(client.walk_to(2, name))
    assert client.stat(2, b"file").mode == 0o600
    assert [name for name in os.listdir(export) if not name.startswith(".virtfs")] == ["file"]


def test_names_of_mapped_metadata(mapped: tuple[DialectUClient, Path]) -> None:
    client, export = mapped
    file = client.make(2, b"file", 0o644)
    for name in (b".virtfs_metadata", b".virtfs_metadata_root"):
        if "xattr" in export.name:
            client.remove(client.make(2, name, 0o644))
            continue
        with pytest.raises(P9Errno):
            client.make(2, name, 0o644)
        with pytest.raises(P9Errno):
            client.wstat(file, name=name)
        with pytest.raises(P9Errno):
            client.walk_to(2, name)
    assert client.stat(file).name == b"file"
