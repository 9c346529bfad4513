"""What changes names: Tmkdir, Tmknod, Tsymlink, Tlink, Tunlinkat, Tremove, Trename(at)."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable

import pytest

from tests.frontend.client import AT_REMOVEDIR, P9Errno
from tests.system.share import IS_ROOT, Share, fails, needs_root

ODD_NAMES = [
    b"\xff\xfe\x80",
    b"new\nline\ttab",
    b" ",
    b"-rf",
    b"...",
    b"a\\b",
    "ünïcödé-日本".encode(),
    b"n" * 255,
    b"\xf0" * 255,
]

# What makes an entry, each with a name of the caller's.
MAKERS: dict[str, Callable[[Share, bytes], object]] = {
    "create": lambda s, name: s.client.create(s.top, name, os.O_RDWR | os.O_CREAT | os.O_EXCL),
    "mkdir": lambda s, name: s.client.mkdir(s.top, name),
    "mknod": lambda s, name: s.client.mknod(s.top, name, stat.S_IFIFO | 0o600),
    "symlink": lambda s, name: s.client.symlink(s.top, name, b"target"),
    "link": lambda s, name: s.client.link(s.top, s.client.walk_to(s.top, b"old"), name),
    "rename": lambda s, name: s.client.rename(s.client.walk_to(s.top, b"old"), s.top, name),
    "renameat": lambda s, name: s.client.renameat(s.top, b"old", s.top, name),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_names_of_any_bytes_are_created_and_walked_to(share: Share, maker: str) -> None:
    rest = [bytes([b]) for b in range(1, 256) if bytes([b]) not in (b" ", b".", b"/")]
    names = [*ODD_NAMES, *random.Random(maker).sample(rest, 40)]
    for name in names:
        share.put("old")
        MAKERS[maker](share, name)
        assert os.path.lexists(share.path(name))
        share.client.clunk(share.client.walk_to(share.top, name))
    listed = share.client.listing(share.top)
    assert set(listed) - {b"old"} == set(names)
    assert set(os.listdir(os.fsencode(share.host))) - {b"old"} == set(names)


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_no_name_is_refused(share: Share, maker: str) -> None:
    share.put("old")
    os.mkdir(share.path("d"))
    before = set(os.listdir(share.export))
    for name in (b"", b".", b"..", b"a/b", b"/etc", b"../up", b"d/", b"a\0b", b"n" * 256):
        with pytest.raises(P9Errno) as caught:
            MAKERS[maker](share, name)
        allowed = {errno.EINVAL, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG}
        assert caught.value.errno in {*allowed, errno.EBUSY, errno.ENOTEMPTY}, name
    assert sorted(os.listdir(share.host)) == ["d", "old"]
    assert os.listdir(share.path("d")) == []
    assert set(os.listdir(share.export)) == before


@pytest.mark.parametrize("maker", [m for m in MAKERS if not m.startswith("rename")])
def test_existing_name_is_refused(share: Share, maker: str) -> None:
    share.put("old", b"old")
    share.put("there", b"data")
    with fails(errno.EEXIST):
        MAKERS[maker](share, b"there")
    assert share.get("there") == b"data"


@pytest.mark.parametrize("maker", MAKERS)
def test_directory_that_is_a_file(share: Share, maker: str) -> None:
    share.put("old")
    share.put("file")
    share.client.walk(share.top, 90, b"file")
    top, share.top = share.top, 90
    try:
        with fails(errno.ENOTDIR, errno.EBADF, errno.ENOENT):
            MAKERS[maker](share, b"name")
    finally:
        share.top = top


@pytest.mark.parametrize("mode", [0o777, 0o000, 0o1777, 0o700])
def test_mkdir_creates_a_directory(share: Share, mode: int) -> None:
    qid = share.client.mkdir(share.top, b"d", mode)
    status = os.stat(share.path("d"))
    assert stat.S_ISDIR(status.st_mode)
    assert status.st_mode & 0o7777 == mode
    assert qid.type == 0x80
    assert qid.path == share.client.getattr(share.client.walk_to(share.top, b"d")).qid.path


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK])
def test_mknod_creates_fifos_and_sockets(share: Share, kind: int) -> None:
    share.client.mknod(share.top, b"node", kind | 0o623)
    assert os.lstat(share.path("node")).st_mode == kind | 0o623
    assert share.client.getattr(share.client.walk_to(share.top, b"node")).mode == kind | 0o623


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_mknod_creates_devices_for_root(share: Share, kind: int) -> None:
    if not IS_ROOT:
        with fails(errno.EPERM):
            share.client.mknod(share.top, b"node", kind | 0o600, (1, 3))
        return
    share.client.mknod(share.top, b"node", kind | 0o600, (259, 70_000))
    status = os.lstat(share.path("node"))
    assert stat.S_IFMT(status.st_mode) == kind
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (259, 70_000)
    attr = share.client.getattr(share.client.walk_to(share.top, b"node"))
    assert attr.rdev == status.st_rdev


def test_mknod_of_a_directory_is_refused(share: Share) -> None:
    for mode in (stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, 0xFFFFFFFF):
        with pytest.raises(P9Errno):
            share.client.mknod(share.top, b"node", mode)
    assert os.listdir(share.host) == []


@pytest.mark.parametrize("target", [b"t", b"/etc/passwd", b"../..", b"\xff\n", b"x" * 4095])
def test_symlinks_are_created_and_read(share: Share, target: bytes) -> None:
    client = share.client
    qid = client.symlink(share.top, b"link", target)
    assert qid.type == 0x02
    assert os.readlink(share.path("link")) == target
    fid = client.walk_to(share.top, b"link")
    assert client.readlink(fid) == target
    assert client.getattr(fid).size == len(target)


def test_bad_symlink_targets_are_refused(share: Share) -> None:
    for target in (b"", b"a\0b", b"x" * 4096):
        with fails(errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG):
            share.client.symlink(share.top, b"link", target)
    assert os.listdir(share.host) == []


def test_readlink_of_what_is_no_link(share: Share) -> None:
    share.put("file")
    for fid in (share.top, share.client.walk_to(share.top, b"file")):
        with fails(errno.EINVAL, errno.ENOENT):
            share.client.readlink(fid)


def test_hard_links_are_created(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    os.mkdir(share.path("d"))
    fid = client.walk_to(share.top, b"file")
    client.link(client.walk_to(share.top, b"d"), fid, b"again")
    assert os.stat(share.path("d/again")).st_ino == os.stat(share.path("file")).st_ino
    assert client.getattr(fid).nlink == 2
    assert client.getattr(client.walk_to(share.top, b"d", b"again")).qid.path == (
        client.getattr(fid).qid.path
    )
    with fails(errno.EPERM):
        client.link(share.top, client.walk_to(share.top, b"d"), b"dir")


def test_hard_link_to_a_symlink_is_not_to_its_target(share: Share) -> None:
    os.symlink("nowhere", share.path("link"))
    share.client.link(share.top, share.client.walk_to(share.top, b"link"), b"again")
    assert os.readlink(share.path("again")) == b"nowhere"


def test_unlink_removes_a_name(share: Share) -> None:
    client = share.client
    share.put("file")
    os.symlink("file", share.path("link"))
    os.mkfifo(share.path("fifo"))
    os.mkdir(share.path("d"))
    for name in (b"link", b"fifo", b"file"):
        client.unlinkat(share.top, name)
    with fails(errno.ENOENT):
        client.unlinkat(share.top, b"file")
    with fails(errno.EISDIR, errno.EPERM):
        client.unlinkat(share.top, b"d")
    client.unlinkat(share.top, b"d", AT_REMOVEDIR)
    assert os.listdir(share.host) == []


def test_rmdir_removes_an_empty_directory(share: Share) -> None:
    client = share.client
    share.put("file")
    os.makedirs(share.path("d/inner"))
    os.symlink("d", share.path("link"))
    with fails(errno.ENOTEMPTY):
        client.unlinkat(share.top, b"d", AT_REMOVEDIR)
    for name in (b"file", b"link"):
        with fails(errno.ENOTDIR):
            client.unlinkat(share.top, name, AT_REMOVEDIR)
    client.unlinkat(client.walk_to(share.top, b"d"), b"inner", AT_REMOVEDIR)
    client.unlinkat(share.top, b"d", AT_REMOVEDIR)
    assert sorted(os.listdir(share.host)) == ["file", "link"]


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"d/file", b"a\0b"], ids=repr)
@pytest.mark.parametrize("flags", [0, AT_REMOVEDIR])
def test_unlink_of_what_is_no_name(share: Share, name: bytes, flags: int) -> None:
    os.mkdir(share.path("d"))
    share.put("d/file")
    with pytest.raises(P9Errno):
        share.client.unlinkat(share.client.walk_to(share.top, b"d"), name, flags)
    assert os.listdir(share.path("d")) == [b"file"]


def test_unlink_with_unknown_flags_is_refused(share: Share) -> None:
    share.put("file")
    with fails(errno.EINVAL):
        share.client.unlinkat(share.top, b"file", 0x10000)
    assert os.listdir(share.host) == ["file"]


def test_unlink_through_an_open_directory(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    share.put("d/file")
    os.mkdir(share.path("d/inner"))
    opened = client.open(share.top, b"d", os.O_RDONLY | os.O_DIRECTORY)
    client.unlinkat(opened, b"file")
    client.unlinkat(opened, b"inner", AT_REMOVEDIR)
    assert os.listdir(share.path("d")) == []


def test_remove_frees_its_fid_even_where_it_fails(share: Share) -> None:
    """Tremove frees its fid, also where it fails."""
    client = share.client
    share.put("file")
    os.mkdir(share.path("d"))
    share.put("d/file")
    for name, codes in ((b"file", ()), (b"d", (errno.ENOTEMPTY,))):
        fid = client.walk_to(share.top, name)
        if codes:
            with fails(*codes):
                client.remove(fid)
        else:
            client.remove(fid)
        with fails(errno.EBADF):
            client.getattr(fid)
    assert os.listdir(share.host) == ["d"]
    client.remove(client.walk_to(share.top, b"d", b"file"))
    client.remove(client.walk_to(share.top, b"d"))
    assert os.listdir(share.host) == []


def test_remove_of_the_root_is_refused(share: Share) -> None:
    clone = share.client.walk_to(share.root)
    with pytest.raises(P9Errno):
        share.client.remove(clone)
    assert share.export.is_dir()


def renames(share: Share, old: bytes, new: bytes, how: str) -> None:
    client = share.client
    if how == "renameat":
        client.renameat(share.top, old, share.top, new)
    else:
        client.rename(client.walk_to(share.top, old), share.top, new)


@pytest.mark.parametrize("how", ["rename", "renameat"])
class TestRename:
    """What rename(2) does, by either request."""

    def test_to_a_new_name(self, share: Share, how: str) -> None:
        share.put("a", b"data")
        renames(share, b"a", b"b", how)
        assert os.listdir(share.host) == ["b"]

    def test_onto_a_file(self, share: Share, how: str) -> None:
        share.put("a", b"new")
        share.put("b", b"old")
        renames(share, b"a", b"b", how)
        assert os.listdir(share.host) == ["b"]
        assert share.get("b") == b"new"

    def test_onto_itself(self, share: Share, how: str) -> None:
        share.put("a", b"data")
        os.link(share.path("a"), share.path("b"))
        renames(share, b"a", b"a", how)
        renames(share, b"a", b"b", how)
        assert sorted(os.listdir(share.host)) == ["a", "b"]

    def test_errors(self, share: Share, how: str) -> None:
        share.put("file")
        os.makedirs(share.path("d/inner"))
        os.mkdir(share.path("empty"))
        with fails(errno.EISDIR):
            renames(share, b"file", b"empty", how)
        with fails(errno.ENOTDIR):
            renames(share, b"empty", b"file", how)
        with fails(errno.ENOTEMPTY, errno.EEXIST):
            renames(share, b"empty", b"d", how)
        with fails(errno.ENOENT):
            renames(share, b"none", b"x", how)
        renames(share, b"d", b"empty", how)
        assert sorted(os.listdir(share.host)) == ["empty", "file"]

    def test_into_its_own_child(self, share: Share, how: str) -> None:
        client = share.client
        os.makedirs(share.path("d/inner"))
        inner = client.walk_to(share.top, b"d", b"inner")
        with fails(errno.EINVAL):
            if how == "rename":
                client.rename(client.walk_to(share.top, b"d"), inner, b"x")
            else:
                client.renameat(share.top, b"d", inner, b"x")

    def test_across_directories(self, share: Share, how: str) -> None:
        client = share.client
        os.makedirs(share.path("one/sub"))
        os.mkdir(share.path("two"))
        share.put("one/sub/file", b"data")
        one, two = client.walk_to(share.top, b"one"), client.walk_to(share.top, b"two")
        inside = client.walk_to(share.top, b"one", b"sub", b"file")
        if how == "rename":
            client.rename(client.walk_to(one, b"sub"), two, b"moved")
        else:
            client.renameat(one, b"sub", two, b"moved")
        assert share.get("two/moved/file") == b"data"
        # A fid below what was moved is still the file, and knows its way up.
        assert client.getattr(inside).size == 4
        up = client.walk_to(share.top, b"two", b"moved")
        assert client.walk(up, client.new_fid(), b"..")[0].path == client.getattr(two).qid.path


def test_renamed_fid_stays_the_file(share: Share) -> None:
    client = share.client
    share.put("a", b"data")
    fid = client.walk_to(share.top, b"a")
    client.rename(fid, share.top, b"b")
    client.rename(fid, share.top, b"c")
    assert os.listdir(share.host) == ["c"]
    client.lopen(fid, os.O_RDONLY)
    assert client.read(fid, 0, 10) == b"data"


def test_rename_of_the_root_is_refused(share: Share) -> None:
    with pytest.raises(P9Errno):
        share.client.rename(share.client.walk_to(share.root), share.top, b"x")
    assert os.listdir(share.host) == []


@needs_root
def test_gid_of_the_request_is_the_files(share: Share) -> None:
    client = share.client
    client.create(share.top, b"file", gid=4321)
    client.mkdir(share.top, b"d", gid=4321)
    client.mknod(share.top, b"fifo", stat.S_IFIFO | 0o600, gid=4321)
    client.symlink(share.top, b"link", b"target", gid=4321)
    for name in os.listdir(share.host):
        assert os.lstat(share.path(name)).st_gid == 4321, name
