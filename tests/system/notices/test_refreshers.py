"""Refreshes, and guests that refresh: they change nothing on the host, whatever they ask for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMDIR, ORDWR, OREAD, OTRUNC, DialectUClient
from tests.system.notices.notices import (
    CTIME,
    MODE,
    MTIME,
    NAME,
    REFRESH_DATA,
    REFRESH_UID,
    SIZE,
    TOUCH,
    TOUCH_M,
)
from tests.system.share import Share, fails, mounted, serve
from vhost9p.native.export import FORGET_MTIME, REFRESH_MTIME

Change = Callable[[Client, int], object]
CHANGES: dict[str, Change] = {
    "create": lambda client, top: client.create(top, b"new"),
    "mkdir": lambda client, top: client.mkdir(top, b"new"),
    "mknod": lambda client, top: client.mknod(top, b"new", 0o10600),
    "symlink": lambda client, top: client.symlink(top, b"new", b"file"),
    "link": lambda client, top: client.link(top, client.walk_to(top, b"file"), b"new"),
    "rename": lambda client, top: client.rename(client.walk_to(top, b"file"), top, b"new"),
    "renameat": lambda client, top: client.renameat(top, b"file", top, b"new"),
    "unlinkat": lambda client, top: client.unlinkat(top, b"file"),
    "rmdir": lambda client, top: client.unlinkat(top, b"dir", AT_REMOVEDIR),
    "remove": lambda client, top: client.remove(client.walk_to(top, b"file")),
    "setxattr": lambda client, top: client.setxattr(client.walk_to(top, b"file"), b"user.a", b"1"),
    "removexattr": lambda client, top: client.removexattr(client.walk_to(top, b"file"), b"user.b"),
}


@pytest.fixture
def u(daemon: Daemon, export: Path) -> Iterator[Share]:
    """The same in 9P2000.u."""
    with mounted(daemon, export, speaks=DialectUClient) as share:
        yield share


def refresher(share: Share) -> int:
    """The root, for the user whose requests only refresh."""
    root = share.client.new_fid()
    share.client.attach(root, REFRESH_UID)
    return root


# ---- refresh and forget --------------------------------------------------------------------------


@pytest.mark.parametrize("valid", [TOUCH, TOUCH_M])
@pytest.mark.parametrize("seconds", [REFRESH_MTIME, FORGET_MTIME])
def test_a_touch_with_their_times_changes_nothing(share: Share, valid: int, seconds: int) -> None:
    client, path = share.client, share.host / "file"
    fid = client.walk_to(share.top, b"file")
    before = path.stat()
    client.setattr(fid, valid, atime=(seconds, 0), mtime=(seconds, 0))
    assert path.stat() == before
    path.unlink()
    client.setattr(fid, valid, atime=(seconds, 0), mtime=(seconds, 0))
    with fails(errno.ENOENT):
        client.setattr(fid, valid, atime=(seconds, 0), mtime=(seconds + 1, 0))


def test_other_changes_are_none(share: Share) -> None:
    client, path = share.client, share.host / "file"
    fid = client.walk_to(share.top, b"file")
    client.setattr(fid, TOUCH | SIZE, size=2, mtime=(REFRESH_MTIME, 0))
    assert path.stat().st_size == 2, "a size is set, whatever the time"
    client.setattr(fid, MTIME, mtime=(REFRESH_MTIME, 0))
    client.setattr(fid, TOUCH, mtime=(REFRESH_MTIME + 1, 0))
    assert path.stat().st_mtime == REFRESH_MTIME + 1


def test_a_forgotten_fid_finds_nothing_once(share: Share) -> None:
    client = share.client
    fid, opened = client.walk_to(share.top, b"file"), client.open(share.top, b"file")
    other, clone = client.walk_to(share.top, b"file"), client.new_fid()
    client.walk(fid, clone)
    client.setattr(fid, TOUCH, mtime=(FORGET_MTIME, 0))
    later = client.walk_to(share.top, b"file")
    for forgotten in (fid, other):
        with fails(errno.ENOENT):
            client.getattr(forgotten)
        assert client.getattr(forgotten).size == 4
    for known in (opened, clone, later, share.top):
        assert client.getattr(known).size in (4, os.stat(share.host).st_size)


def test_what_was_replaced_is_forgotten_by_its_name(share: Share) -> None:
    """The fid stands for the old file until it is used; other fids of the name may not any more."""
    client = share.client
    old, new = client.walk_to(share.top, b"file"), client.walk_to(share.top, b"file")
    (share.host / "next").write_bytes(b"another")
    (share.host / "next").rename(share.host / "file")
    assert client.getattr(new).size == 7
    client.setattr(old, TOUCH, mtime=(FORGET_MTIME, 0))
    for fid in (old, new):
        with fails(errno.ENOENT):
            client.getattr(fid)
        assert client.getattr(fid).size == 7


def test_a_refresher_changes_nothing(daemon: Daemon, share: Share) -> None:
    client, path = share.client, share.host / "file"
    root, before = client.new_fid(), path.stat()
    client.attach(root, REFRESH_UID)
    fid = client.walk_to(root, b"file")
    client.setattr(fid, SIZE | MTIME | CTIME, size=1000)
    client.setattr(fid, MODE, mode=0o777)
    client.setattr(client.walk_to(root, NAME, b"refresh"), SIZE, size=1)
    with fails(errno.EROFS):
        client.setattr(client.walk_to(share.top, NAME, b"refresh"), SIZE, size=1)
    assert path.stat() == before


@pytest.mark.parametrize("readonly", [[], ["--readonly"]], ids=["writable", "readonly"])
def test_a_refresher_only_pretends_to_write(
    export: Path, tmp_path: Path, readonly: list[str]
) -> None:
    """Any other data, which a guest's kernel may send by his fid, is not lost silently."""
    (export / "file").write_bytes(b"kept")
    before = (export / "file").stat()
    with (
        serve(export, "--notify", *readonly, f"--state-dir={tmp_path}/state") as daemon,
        mounted(daemon, export) as share,
    ):
        client, root = share.client, share.client.new_fid()
        client.attach(root, REFRESH_UID)
        fid = client.walk_to(root, b"file")
        client.lopen(fid, os.O_WRONLY | os.O_TRUNC)
        assert client.write(fid, 1000, REFRESH_DATA) == len(REFRESH_DATA)
        assert client.write(fid, 0, REFRESH_DATA[:1]) == 1
        for data in (b"data", REFRESH_DATA + b"data"):
            with fails(errno.EIO):
                client.write(fid, 0, data)
    after = (export / "file").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert (export / "file").read_bytes() == b"kept"


def test_what_a_client_writes_back_by_a_refreshers_fid_is_written(
    export: Path, tmp_path: Path
) -> None:
    """By any fid of the file that is open for writing, as the client might have done itself."""
    (export / "file").write_bytes(b"kept")
    with (
        serve(export, "--notify", f"--state-dir={tmp_path}/state") as daemon,
        mounted(daemon, export) as share,
    ):
        client, root = share.client, share.client.new_fid()
        fids = [client.walk_to(share.top, b"file") for _ in range(3)]
        for fid, flags in zip(
            fids, (os.O_RDONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR), strict=True
        ):
            client.lopen(fid, flags)
        client.attach(root, REFRESH_UID)
        refresher = client.walk_to(root, b"file")
        client.lopen(refresher, os.O_WRONLY)
        assert client.write(refresher, 2, b"data") == 4
        assert (export / "file").read_bytes() == b"kedata"
        client.clunk(fids[-1])
        with fails(errno.EIO):
            client.write(refresher, 0, b"data")


def test_a_readonly_export_is_refreshed_too(export: Path, tmp_path: Path) -> None:
    (export / "file").touch()
    args = ("--notify", "--readonly", f"--state-dir={tmp_path}/state")
    with serve(export, *args) as daemon, mounted(daemon, export) as share:
        client = share.client
        fid = client.walk_to(share.top, b"file")
        client.setattr(fid, TOUCH, mtime=(REFRESH_MTIME, 0))
        with fails(errno.EROFS):
            client.setattr(fid, TOUCH, mtime=(REFRESH_MTIME + 1, 0))
        root = client.new_fid()
        client.attach(root, REFRESH_UID)
        client.setattr(client.walk_to(root, b"file"), SIZE, size=7)


def test_a_map_of_ids_admits_the_refresher(export: Path, tmp_path: Path) -> None:
    own = f"{os.geteuid()}:{os.geteuid()}:1"
    group = f"{os.getegid()}:{os.getegid()}:1"
    others = "1:4294967294" if os.geteuid() == 0 else "0:1"
    ids = [f"--map-uid={own}", f"--map-gid={group}"]
    ids += [f"--forbid-{kind}={others}" for kind in ("uid", "gid")]
    (export / "file").touch()
    daemon = serve(export, "--notify", *ids, f"--state-dir={tmp_path}/state")
    with daemon, mounted(daemon, export, n_uname=os.geteuid()) as share:
        client, root = share.client, share.client.new_fid()
        with fails(errno.EPERM):
            client.attach(client.new_fid(), REFRESH_UID + 1)
        client.attach(root, REFRESH_UID)
        client.setattr(client.walk_to(root, b"file"), SIZE, size=7)


def test_directories_have_one_version(share: Share) -> None:
    client = share.client
    (share.host / "dir").mkdir()
    before = client.walk(share.top, client.new_fid(), b"dir")
    (share.host / "dir" / "file").touch()
    assert client.walk(share.top, client.new_fid(), b"dir") == before
    file = client.walk(share.top, client.new_fid(), b"dir", b"file")
    (share.host / "dir" / "file").write_bytes(b"more")
    after = client.walk(share.top, client.new_fid(), b"dir", b"file")
    assert after[1].version != file[1].version


# ---- whatever else a refresher asks for ----------------------------------------------------------


def test_a_refresher_changes_no_names_and_no_xattrs(share: Share) -> None:
    (share.host / "dir").mkdir()
    root = refresher(share)
    before = (share.host / "file").stat()
    for name, change in CHANGES.items():
        with fails(errno.EROFS):
            change(share.client, root)
        assert sorted(os.listdir(share.host)) == ["dir", "file"], name
    assert (share.host / "file").stat() == before


def test_the_log_says_why_a_refresher_changes_nothing(export: Path, tmp_path: Path) -> None:
    args = ("--notify", "--log-failures", f"--state-dir={tmp_path}/state", "--log-level=debug")
    with serve(export, *args) as daemon, mounted(daemon, export) as share:
        with fails(errno.EROFS):
            share.client.mkdir(refresher(share), b"new")
        daemon.wait_line("Tmkdir '/new'.*: EROFS: a user who only refreshes")


def test_a_refresher_changes_nothing_in_dialect_u(u: Share) -> None:
    client, root = u.client, refresher(u)
    assert isinstance(client, DialectUClient)
    (u.host / "dir").mkdir()
    before = (u.host / "file").stat()
    with fails(errno.EROFS):
        client.make(root, b"new", 0o644, ORDWR)
    with fails(errno.EROFS):
        client.make(root, b"new", DMDIR | 0o755, OREAD)
    fid = client.walk_to(root, b"file")
    client.wstat(fid, length=0)
    client.wstat(fid, mtime=5, atime=5)
    with fails(errno.EROFS):
        client.wstat(fid, name=b"new")
    client.open_fid(fid, ORDWR | OTRUNC)
    with fails(errno.EROFS):
        client.remove(fid)
    assert sorted(os.listdir(u.host)) == ["dir", "file"]
    assert (u.host / "file").stat() == before


def test_a_touch_in_dialect_u_changes_nothing(u: Share) -> None:
    client = u.client
    assert isinstance(client, DialectUClient)
    before = (u.host / "file").stat()
    for seconds in (REFRESH_MTIME, FORGET_MTIME):
        client.wstat(client.walk_to(u.top, b"file"), mtime=seconds, atime=seconds)
        client.wstat(client.walk_to(u.top, NAME, b"refresh"), mtime=seconds)
    assert (u.host / "file").stat() == before
    client.wstat(client.walk_to(u.top, b"file"), mtime=REFRESH_MTIME + 1)
    assert (u.host / "file").stat().st_mtime == REFRESH_MTIME + 1


def test_only_the_guests_root_reads_the_stream(share: Share) -> None:
    """It has names from directories that other users of the guest may not look into."""
    client = share.client
    assert client.getattr(client.walk_to(share.top, NAME, b"events")).mode & 0o777 == 0o400
