"""Nothing outside the export is reached, and no special file of the host is opened."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, SET_MODE, SET_SIZE, P9Errno
from tests.frontend.daemon import Daemon
from tests.system.share import IS_ROOT, Share, as_user, fails, mounted


@pytest.fixture(params=["root", "user"] if IS_ROOT else ["user"])
def share(request: pytest.FixtureRequest, share: Share) -> Iterator[Share]:
    """A guest of root's daemon, and one of an ordinary user's."""
    if request.param == "root" or not IS_ROOT:
        yield share
    else:
        with as_user("--security-model", "none") as other:
            yield other


@pytest.fixture
def outside(scratch: Path) -> Iterator[Path]:
    """A directory beside the export with a file that no guest may see, though the daemon may."""
    path = scratch / "outside"
    path.mkdir()
    path.chmod(0o777)
    (path / "secret").write_bytes(b"secret")
    (path / "secret").chmod(0o666)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("what", ["path", "exports"])
def test_the_hosts_root_can_be_exported(scratch: Path, what: str) -> None:
    """It is the host's, and not that of the daemon, with its own /proc and all exports."""
    other = scratch / "other"
    other.mkdir(exist_ok=True)
    exports = [word for each in ("a,path=/", f"b,path={other}", "c,path=/") for word in (
        "--export", f"name={each},readonly=on"
    )]  # fmt: skip
    words = ["--path", "/", "--readonly"] if what == "path" else exports
    options = ["--multidevs", "remap", "--security-model", "none", "--force"]
    with Daemon(*words, *options) as daemon, mounted(daemon, Path("/")) as share:
        for names in [[]] if what == "path" else [[b"a"], [b"c"]]:
            found = set(share.client.listing(share.root, *names))
            assert found == set(map(os.fsencode, os.listdir("/")))
            with fails(errno.ENOENT):
                share.client.walk_to(share.root, *names, b"exports")


@pytest.mark.parametrize("target", ["absolute", "relative", "up", "proc"])
def test_symlinks_are_never_followed(share: Share, outside: Path, target: str) -> None:
    client = share.client
    text = {
        "absolute": str(outside),
        "relative": os.path.relpath(outside, share.host),
        "up": "..",
        "proc": f"/proc/{os.getpid()}/root{outside}",
    }[target]
    os.symlink(text, share.path("link"))
    assert len(client.walk(share.top, 90, b"link", b"secret")) == 1
    fid = client.walk_to(share.top, b"link")
    for request in (
        lambda: client.walk(fid, 91, b"secret"),
        lambda: client.walk(fid, 91, b".."),
        lambda: client.lopen(fid, os.O_RDONLY),
        lambda: client.mkdir(fid, b"new"),
        lambda: client.create(fid, b"new"),
        lambda: client.unlinkat(fid, b"secret"),
        lambda: client.renameat(fid, b"secret", share.top, b"got"),
        lambda: client.setattr(fid, SET_SIZE, size=0),
    ):
        with fails(errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENOENT, errno.EBADF):
            request()
    assert os.listdir(outside) == ["secret"]


def test_symlinks_inside_are_not_followed_either(share: Share) -> None:
    """The guest resolves symlinks itself; a server that helped would race."""
    client = share.client
    os.mkdir(share.path("d"))
    share.put("d/file", b"data")
    os.symlink("d", share.path("link"))
    os.symlink("file", share.path("d/flink"))
    assert len(client.walk(share.top, 90, b"link", b"file")) == 1
    with fails(errno.ELOOP):
        client.open(share.top, [b"d", b"flink"])


def test_creation_does_not_follow_a_symlink(share: Share, outside: Path) -> None:
    client = share.client
    for name, target in ((b"hit", "secret"), (b"new", "created")):
        os.symlink(str(outside / target), share.path(os.fsdecode(name)))
        for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_EXCL):
            with fails(errno.ELOOP, errno.EEXIST):
                client.create(share.top, name, flags | os.O_CREAT)
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_names_with_slashes_do_not_leave(share: Share, outside: Path) -> None:
    client = share.client
    up = os.path.relpath(outside, share.host).encode()
    for name in (up + b"/secret", bytes(outside) + b"/secret", b"../" * 10 + b"etc/passwd"):
        for request in (
            lambda n=name: client.walk(share.top, 90, n),
            lambda n=name: client.create(share.top, n),
            lambda n=name: client.unlinkat(share.top, n),
            lambda n=name: client.renameat(share.top, n, share.top, b"got"),
            lambda n=name: client.mkdir(share.top, n),
        ):
            with pytest.raises(P9Errno):
                request()
    assert os.listdir(outside) == ["secret"]
    assert os.listdir(share.host) == []


def test_directory_moved_out_leads_nowhere(share: Share, outside: Path) -> None:
    """A fid that is open stays good where the host moves its directory; its parent is not the
    guest's. The others stand for names that nothing has any more."""
    client = share.client
    os.makedirs(share.path("d/inner"))
    share.put("d/inner/file", b"data")
    unopened = client.walk_to(share.top, b"d")
    moved = client.open(share.top, b"d")
    inner = client.open(unopened, b"inner")
    os.rename(share.path("d"), outside / "d")
    with fails(errno.ENOENT):
        client.walk(unopened, 90, b"..", b"secret")
    for fid, ups in ((moved, 1), (inner, 2)):
        try:
            qids = client.walk(fid, 90, *[b".."] * ups, b"secret")
        except P9Errno as error:
            assert error.errno in (errno.ENOENT, errno.ESTALE, errno.EXDEV, errno.EACCES)
        else:
            assert len(qids) <= ups
            inodes = {os.stat(path).st_ino for path in (outside, outside.parent)}
            root = client.getattr(share.root).qid.path
            assert all(qid.path == root or qid.path not in inodes for qid in qids)
    assert client.getattr(client.walk_to(moved, b"inner", b"file")).size == 4


def test_listing_of_a_moved_directory_hides_its_parent(share: Share, outside: Path) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    fid = client.open(share.top, b"d")
    os.rename(share.path("d"), outside / "d")
    found = {entry.name: entry for entry in client.entries(fid)}
    own = client.getattr(fid).qid.path
    root = client.getattr(share.root).qid.path
    assert found[b"."].qid.path == own
    assert found[b".."].qid.path in (own, root)


@pytest.fixture(params=["fifo", "socket", "char", "block"])
def special(share: Share, request: pytest.FixtureRequest) -> Iterator[bytes]:
    """A node that only the host may open."""
    name = b"node"
    path = share.path(name)
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            sock.listen()
            status = os.stat(share.host)
            os.chown(path, status.st_uid, status.st_gid)
            yield name
        return
    elif not IS_ROOT:
        pytest.skip("needs root")
    elif request.param == "char":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    else:
        os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(7, 200))
    status = os.stat(share.host)
    os.chown(path, status.st_uid, status.st_gid)
    yield name


def test_special_files_are_not_opened(share: Share, special: bytes) -> None:
    """Neither with success nor with a wait for the other end."""
    client = share.client
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK):
        with pytest.raises(P9Errno):
            client.open(share.top, special, flags)
        with pytest.raises(P9Errno):
            client.create(share.top, special, flags | os.O_CREAT)
    fid = client.walk_to(share.top, special)
    for request in (
        lambda: client.lopen(fid, os.O_RDONLY),
        lambda: client.read(fid, 0, 10),
        lambda: client.setattr(fid, SET_SIZE, size=0),
    ):
        with pytest.raises(P9Errno):
            request()


def test_special_files_are_seen_and_managed(share: Share, special: bytes) -> None:
    client = share.client
    fid = client.walk_to(share.top, special)
    assert client.getattr(fid).mode == os.lstat(share.path(special)).st_mode
    assert special in client.listing(share.top)
    client.setattr(fid, SET_MODE, mode=0o640)
    assert os.lstat(share.path(special)).st_mode & 0o777 == 0o640
    client.link(share.top, fid, b"linked")
    client.renameat(share.top, b"linked", share.top, b"renamed")
    client.rename(fid, share.top, b"again")
    client.unlinkat(share.top, b"renamed")
    client.remove(fid)
    assert os.listdir(share.host) == []


def test_inode_swapped_for_a_fifo_is_not_opened(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    fid = client.walk_to(share.top, b"file")
    os.unlink(share.path("file"))
    os.mkfifo(share.path("file"))
    with fails(errno.ENXIO):
        client.lopen(fid, os.O_RDONLY)
    with pytest.raises(P9Errno):
        client.open(share.top, b"file")


def test_removal_stays_inside(share: Share, outside: Path) -> None:
    client = share.client
    os.symlink(str(outside), share.path("link"))
    with fails(errno.ENOTDIR):
        client.unlinkat(share.top, b"link", AT_REMOVEDIR)
    client.remove(client.walk_to(share.top, b"link"))
    assert os.listdir(outside) == ["secret"]
