"""Guests that refresh files change nothing on the host, whatever else they ask for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMDIR, ORDWR, OREAD, OTRUNC, DialectUClient
from tests.system.share import Share, fails, mounted, serve
from tests.system.test_notices import NAME, REFRESH_UID
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
def daemon(export: Path, tmp_path: Path) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    (export / "dir").mkdir(exist_ok=True)
    with serve(export, "--notify", f"--state-dir={tmp_path}/state") as daemon:
        yield daemon
        daemon.check_output()


@pytest.fixture
def share(daemon: Daemon, export: Path) -> Iterator[Share]:
    with mounted(daemon, export) as share:
        yield share


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


def test_a_refresher_changes_no_names_and_no_xattrs(share: Share) -> None:
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
