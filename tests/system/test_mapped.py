"""security_model mapped-xattr and mapped-file, as a guest's client sees them."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import SET_GID, SET_MODE, SET_SIZE, SET_UID, Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMDEVICE, DMNAMEDPIPE, DMSYMLINK, OREAD, DialectUClient
from tests.frontend.wire import NOFID, T
from tests.system.conftest import Common
from tests.system.share import Share, fails, mounted

MODELS = ("mapped-xattr", "mapped-file")
META = b".virtfs_metadata"
HIDDEN = (META, META + b"_root")
ANN = 1000
QTDIR, QTSYMLINK = 0x80, 0x02


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=["warn", "remap"])
def mapped(scratch: Path, model: str, request: pytest.FixtureRequest) -> Iterator[Common]:
    """A daemon for this file."""
    options = ("--security-model", model, "--multidevs", request.param)
    common = Common(scratch / f"{model}-{request.param}", *options)
    yield common
    common.stop()


@pytest.fixture
def share(mapped: Common, request: pytest.FixtureRequest) -> Iterator[Share]:
    """A guest in a new directory."""
    folder = mapped.export / f"t{abs(hash(request.node.name))}"
    folder.mkdir()
    with mounted(mapped.running(), mapped.export, folder.name, n_uname=0) as share:
        yield share
    mapped.check()


KINDS: dict[bytes, tuple[Callable[[Client, int], object], int]] = {
    b"reg": (lambda c, top: c.clunk(c.create(top, b"reg", mode=0o4751)), stat.S_IFREG | 0o4751),
    b"dir": (lambda c, top: c.mkdir(top, b"dir", 0o1777), stat.S_IFDIR | 0o1777),
    b"link": (lambda c, top: c.symlink(top, b"link", b"/to/here"), stat.S_IFLNK | 0o777),
    b"chr": (
        lambda c, top: c.mknod(top, b"chr", stat.S_IFCHR | 0o620, (5, 300)),
        stat.S_IFCHR | 0o620,
    ),
    b"blk": (
        lambda c, top: c.mknod(top, b"blk", stat.S_IFBLK | 0o600, (8, 1)),
        stat.S_IFBLK | 0o600,
    ),
    b"fifo": (lambda c, top: c.mknod(top, b"fifo", stat.S_IFIFO | 0o644), stat.S_IFIFO | 0o644),
    b"sock": (lambda c, top: c.mknod(top, b"sock", stat.S_IFSOCK | 0o7), stat.S_IFSOCK | 0o7),
}


def qid_type(mode: int) -> int:
    return QTDIR if stat.S_ISDIR(mode) else QTSYMLINK if stat.S_ISLNK(mode) else 0


def test_files_of_every_kind_are_mapped(share: Share) -> None:
    client = share.client
    for make, _ in KINDS.values():
        make(client, share.top)
    for _ in range(2):  # with fids of the files, and after they have gone
        for name, (_, mode) in KINDS.items():
            fid = client.walk_to(share.top, name)
            attr = client.getattr(fid)
            assert (attr.mode, attr.uid, attr.gid) == (mode, 0, 0)
            assert attr.qid.type == qid_type(mode)
            host = os.lstat(share.path(name)).st_mode
            assert host == (stat.S_IFDIR | 0o700 if stat.S_ISDIR(mode) else stat.S_IFREG | 0o600)
            client.clunk(fid)
    chr_fid = client.walk_to(share.top, b"chr")
    assert client.getattr(chr_fid).rdev == 5 << 8 | 300 & 0xFF | (300 >> 8) << 20
    assert client.readlink(client.walk_to(share.top, b"link")) == b"/to/here"


def test_listings_tell_the_guests_types(share: Share) -> None:
    client = share.client
    for make, _ in KINDS.values():
        make(client, share.top)
    os.symlink("x", share.path("hostlink"))
    os.mkfifo(share.path("hostfifo"))
    share.put("hostfile")
    expected = {name: mode for name, (_, mode) in KINDS.items()} | {
        b"hostlink": stat.S_IFLNK,
        b"hostfifo": stat.S_IFIFO,
        b"hostfile": stat.S_IFREG,
    }
    listed = client.listing(share.top)
    assert set(listed) - {b".", b".."} == set(expected)
    for name, mode in expected.items():
        assert listed[name].type == stat.S_IFMT(mode) >> 12, name
        assert listed[name].qid.type == qid_type(mode), name


def test_only_files_and_directories_are_opened(share: Share) -> None:
    client = share.client
    for make, _ in KINDS.values():
        make(client, share.top)
    os.symlink("reg", share.path("hostlink"))
    os.mkfifo(share.path("hostfifo"))
    for name, code in (
        (b"link", errno.ELOOP),
        (b"hostlink", errno.ELOOP),
        (b"chr", errno.ENXIO),
        (b"blk", errno.ENXIO),
        (b"fifo", errno.ENXIO),
        (b"sock", errno.ENXIO),
        (b"hostfifo", errno.ENXIO),
    ):
        fid = client.walk_to(share.top, name)
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with fails(code):
                client.lopen(fid, flags)
        with fails(errno.EINVAL, errno.ELOOP, errno.ENXIO):
            client.setattr(fid, SET_SIZE, size=0)
        client.clunk(fid)
    assert share.get("link") == b"/to/here"
    client.open(share.top, b"reg", os.O_RDWR)
    client.open(share.top, b"dir")


def test_symlinks_of_host_and_guest_are_read(share: Share) -> None:
    client = share.client
    os.symlink("real", share.path("host"))
    client.symlink(share.top, b"long", b"x" * 4095)
    assert client.readlink(client.walk_to(share.top, b"host")) == b"real"
    assert client.readlink(client.walk_to(share.top, b"long")) == b"x" * 4095
    with open(share.path("long"), "ab") as file:
        file.write(b"y")
    with fails(errno.ENAMETOOLONG):
        client.readlink(client.walk_to(share.top, b"long"))
    share.put("plain", b"target")
    with fails(errno.EINVAL):
        client.readlink(client.walk_to(share.top, b"plain"))


def test_open_files_keep_their_attributes(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"a", os.O_RDWR, 0o640)
    client.setattr(fid, SET_UID | SET_GID, uid=7, gid=8)
    client.renameat(share.top, b"a", share.top, b"b")
    client.clunk(client.create(share.top, b"a", os.O_RDWR, 0o600))
    client.unlinkat(share.top, b"b")
    client.clunk(client.create(share.top, b"b", os.O_RDWR, 0o600))
    attr = client.getattr(fid)
    assert (attr.mode, attr.uid, attr.gid, attr.nlink) == (stat.S_IFREG | 0o640, 7, 8, 0)
    client.setattr(fid, SET_MODE | SET_UID, mode=0o604, uid=9)
    attr = client.getattr(fid)
    assert (attr.mode, attr.uid, attr.gid) == (stat.S_IFREG | 0o604, 9, 8)
    for name in (b"a", b"b"):
        other = client.getattr(client.walk_to(share.top, name))
        assert (other.mode, other.uid) == (stat.S_IFREG | 0o600, 0)


def test_attributes_in_9p2000_u(share: Share) -> None:
    """What metadata say of a file, with its target or its numbers, also when its name is gone."""
    client = DialectUClient(share.machine)
    client.version()
    client.attach(share.root, n_uname=0)
    client.walk(share.root, share.top, share.name)
    expected = {
        b"reg": (0o640, b"HARDLINKCOUNT 1"),
        b"link": (DMSYMLINK | 0o777, b"/to/here"),
        b"chr": (DMDEVICE | 0o620, b"c 5 300"),
        b"fifo": (DMNAMEDPIPE | 0o644, b""),
    }
    for name, (perm, extension) in expected.items():
        content = extension if perm & (DMSYMLINK | DMDEVICE) else b""
        client.clunk(client.make(share.top, name, perm, extension=content))
    found = {each.name: each for each in client.stats(client.walk_open(share.top))}
    fids = {name: client.walk_to(share.top, name) for name in expected}
    for name, (perm, extension) in expected.items():
        assert (found[name].mode, found[name].extension) == (perm, extension)
        # To read a target is an access, perhaps in the next second.
        assert found[name]._replace(atime=0) == client.stat(fids[name])._replace(atime=0)
        client.call(T.REMOVE, client.walk_to(share.top, name))
        gone = client.stat(fids[name])
        assert (gone.mode, gone.name) == (perm, name)
        if name != b"reg":
            assert gone.extension == extension


def test_a_file_gets_metadata_while_it_is_open(share: Share) -> None:
    """The host made it; what the guest changes stays with it when its name goes."""
    share.put("host")
    fid = share.client.open(share.top, b"host", os.O_RDWR)
    share.client.setattr(fid, SET_MODE | SET_UID, mode=0o604, uid=9)
    assert share.client.getattr(fid).uid == 9
    share.client.unlinkat(share.top, b"host")
    share.client.setattr(fid, SET_MODE, mode=0o640)
    attr = share.client.getattr(fid)
    assert (attr.mode, attr.uid) == (stat.S_IFREG | 0o640, 9)


def test_a_users_write_drops_set_ids(share: Share) -> None:
    client = share.client
    client.setattr(share.top, SET_MODE, mode=0o777)
    client.clunk(client.create(share.top, b"file"))
    for uid, mode, left in (
        (ANN, 0o6777, 0o777),
        (ANN, 0o2767, 0o2767),  # not executable by the group: mandatory locking's old mark
        (0, 0o6777, 0o6777),
        (NOFID, 0o6777, 0o6777),
    ):
        root = client.new_fid()
        client.attach(root, uid)
        fid = client.walk_to(root, share.name, b"file")
        client.setattr(fid, SET_MODE, mode=mode)
        client.lopen(fid, os.O_WRONLY)
        client.write(fid, 0, b"new")
        assert stat.S_IMODE(client.getattr(fid).mode) == left
    assert stat.S_IMODE(os.stat(share.path("file")).st_mode) == 0o600


# ---- extended attributes -------------------------------------------------------------------------

# acl(5), in the xattr's form: version, and (tag, permissions, id) of each entry.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, NOFID), (2, 7, ANN), (4, 4, NOFID), (16, 7, NOFID), (32, 4, NOFID))
)


def test_attributes_that_keep_metadata_are_out_of_reach(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"f")
    client.setxattr(fid, b"user.mine", b"1")
    client.setxattr(fid, b"trusted.overlay.opaque", b"y")
    client.setxattr(fid, b"system.posix_acl_access", ACL)
    names = {b"user.mine", b"trusted.overlay.opaque", b"system.posix_acl_access"}
    assert set(client.getxattr(fid).split(b"\0")) - {b""} == names
    for name in (b"user.virtfs.uid", b"user.virtfs.mode", b"user.virtfs.anything"):
        with fails(errno.ENODATA):
            client.getxattr(fid, name)
        with fails(errno.EPERM):
            client.setxattr(fid, name, b"\0\0\0\0")
        with fails(errno.EPERM):
            client.removexattr(fid, name)
    assert client.getxattr(fid, b"trusted.overlay.opaque") == b"y"
    assert client.getxattr(fid, b"system.posix_acl_access") == ACL
    client.removexattr(fid, b"system.posix_acl_access")
    client.removexattr(fid, b"system.posix_acl_access")
    with fails(errno.ENODATA):
        client.getxattr(fid, b"system.posix_acl_access")


def test_attributes_are_where_qemu_keeps_them(share: Share, model: str) -> None:
    fid = share.client.create(share.top, b"f")
    share.client.setxattr(fid, b"system.posix_acl_access", ACL)
    names = os.listxattr(share.path("f"))
    if model == "mapped-xattr":
        assert os.getxattr(share.path("f"), "user.virtfs.system.posix_acl_access") == ACL
        assert os.getxattr(share.path("f"), "user.virtfs.mode") == struct.pack("<I", 0o100644)
        assert "system.posix_acl_access" not in names
    else:
        assert names == ["system.posix_acl_access"]
        text = share.get(META + b"/f")
        assert text == b"virtfs.uid=0\nvirtfs.gid=0\nvirtfs.mode=33188\n"


# ---- hidden names --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(scratch: Path) -> Iterator[Daemon]:
    """A daemon of mapped-file whose export has metadata of everything."""
    export = scratch / "hidden"
    export.mkdir()
    with Daemon("--path", str(export), "--security-model", "mapped-file") as daemon:
        with mounted(daemon, export) as share:
            share.client.setattr(share.top, SET_MODE, mode=0o755)
            share.client.mkdir(share.top, b"d")
            share.client.clunk(share.client.create(share.top, b"f"))
        yield daemon


@pytest.fixture
def hidden(files: Daemon, scratch: Path) -> Iterator[Share]:
    export = scratch / "hidden"
    with mounted(files, export) as share:
        before = sorted(str(path) for path in export.rglob("*"))
        yield share
        assert sorted(str(path) for path in export.rglob("*")) == before
    files.check_output()


USES: dict[str, Callable[[Share, int, bytes], object]] = {
    "create": lambda s, f, n: s.client.create(s.top, n, os.O_RDWR),
    "create new": lambda s, f, n: s.client.create(s.top, n, os.O_RDWR | os.O_EXCL),
    "mkdir": lambda s, f, n: s.client.mkdir(s.top, n),
    "mknod": lambda s, f, n: s.client.mknod(s.top, n, stat.S_IFIFO | 0o600),
    "symlink": lambda s, f, n: s.client.symlink(s.top, n, b"f"),
    "link": lambda s, f, n: s.client.link(s.top, f, n),
    "rename": lambda s, f, n: s.client.rename(f, s.top, n),
    "renameat from": lambda s, f, n: s.client.renameat(s.top, n, s.top, b"x"),
    "renameat to": lambda s, f, n: s.client.renameat(s.top, b"f", s.top, n),
    "unlink": lambda s, f, n: s.client.unlinkat(s.top, n),
    "rmdir": lambda s, f, n: s.client.unlinkat(s.top, n, 0x200),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("use", USES)
def test_hidden_names_are_refused(hidden: Share, use: str, name: bytes) -> None:
    fid = hidden.client.walk_to(hidden.top, b"f")
    with fails(errno.EINVAL):
        USES[use](hidden, fid, name)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_names_are_not_there(hidden: Share, name: bytes) -> None:
    client = hidden.client
    assert os.path.lexists(hidden.path(name))
    assert set(client.listing(hidden.top)) - {b".", b".."} == {b"d", b"f"}
    with fails(errno.ENOENT):
        client.walk(hidden.top, 90, name)
    assert len(client.walk(hidden.top, 90, b"d", b"..", name, b"f")) == 2
    with fails(errno.ENOENT):
        client.attach(91, 0, aname=name)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_names_of_the_other_dialect(hidden: Share, name: bytes) -> None:
    client = DialectUClient(hidden.machine)
    client.version()
    client.attach(1)
    fid = client.walk_to(1, b"f")
    for use in (
        lambda: client.make(1, name),
        lambda: client.make(1, name, 0x80000000 | 0o755),
        lambda: client.wstat(fid, name=name),
    ):
        with fails(errno.EINVAL):
            use()
    with pytest.raises(P9Errno):
        client.walk_to(1, name)
    listed = {each.name for each in client.stats(client.walk_open(1, mode=OREAD))}
    assert listed - {b".", b".."} == {b"d", b"f"}
