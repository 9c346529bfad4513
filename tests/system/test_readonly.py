"""--readonly: every request that would change something is EROFS, all others work."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import (
    AT_REMOVEDIR,
    LOCK_SUCCESS,
    RDLCK,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    UNLCK,
)
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMDIR, DMSYMLINK, ORDWR, OTRUNC, OWRITE, DialectUClient
from tests.system.share import SECURITY, Share, fails, mounted


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Iterator[Daemon]:
    export = scratch / "readonly"
    (export / "d").mkdir(parents=True)
    (export / "empty").mkdir()
    (export / "file").write_bytes(b"data")
    (export / "link").symlink_to("file")
    with Daemon("--path", str(export), *SECURITY, "--readonly") as daemon:
        yield daemon


@pytest.fixture
def frozen(daemon: Daemon, scratch: Path) -> Iterator[Share]:
    export = scratch / "readonly"
    with mounted(daemon, export) as share:
        before = state(export)
        yield share
        assert state(export) == before
    daemon.check_output()


def state(export: Path) -> list[tuple[str, os.stat_result]]:
    """Everything about the tree but access times, which reading may change."""
    found = []
    for path in sorted([export, *export.rglob("*")]):
        status = os.lstat(path)
        found.append((str(path), os.stat_result([*status[:7], 0, *status[8:10]])))
    return found


CHANGES: dict[str, Callable[[Share, int], object]] = {
    "create": lambda s, f: s.client.create(s.top, b"new"),
    "create existing": lambda s, f: s.client.create(s.top, b"file", os.O_RDWR | os.O_CREAT),
    "write open": lambda s, f: s.client.lopen(f, os.O_WRONLY),
    "read-write open": lambda s, f: s.client.lopen(f, os.O_RDWR),
    "truncating open": lambda s, f: s.client.lopen(f, os.O_RDONLY | os.O_TRUNC),
    "mkdir": lambda s, f: s.client.mkdir(s.top, b"new"),
    "mknod": lambda s, f: s.client.mknod(s.top, b"new", 0o100644),
    "symlink": lambda s, f: s.client.symlink(s.top, b"new", b"x"),
    "link": lambda s, f: s.client.link(s.top, f, b"new"),
    "unlinkat": lambda s, f: s.client.unlinkat(s.top, b"file"),
    "rmdir": lambda s, f: s.client.unlinkat(s.top, b"empty", AT_REMOVEDIR),
    "remove": lambda s, f: s.client.remove(f),
    "rename": lambda s, f: s.client.rename(f, s.top, b"new"),
    "renameat": lambda s, f: s.client.renameat(s.top, b"file", s.top, b"new"),
    "chmod": lambda s, f: s.client.setattr(f, SET_MODE, mode=0o600),
    "chown": lambda s, f: s.client.setattr(f, SET_UID | SET_GID, uid=1, gid=1),
    "truncate": lambda s, f: s.client.setattr(f, SET_SIZE, size=0),
    "utimes": lambda s, f: s.client.setattr(f, SET_ATIME | SET_MTIME),
    "setxattr": lambda s, f: s.client.setxattr(f, b"user.new", b"value"),
    "removexattr": lambda s, f: s.client.removexattr(f, b"user.new"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_refused(frozen: Share, change: str) -> None:
    fid = frozen.client.walk_to(frozen.top, b"file")
    with fails(errno.EROFS):
        CHANGES[change](frozen, fid)


def test_reading_works(frozen: Share) -> None:
    client = frozen.client
    fid = client.open(frozen.top, b"file")
    assert client.read(fid, 0, 100) == b"data"
    with fails(errno.EBADF, errno.EROFS):
        client.write(fid, 0, b"x")
    assert set(client.listing(frozen.top)) == {b"d", b"empty", b"file", b"link"}
    assert client.readlink(client.walk_to(frozen.top, b"link")) == b"file"
    assert client.getattr(fid).size == 4
    assert client.statfs(fid).namelen == 255
    assert client.getxattr(fid) is not None
    client.fsync(fid)


def test_read_locks_work(frozen: Share) -> None:
    fid = frozen.client.open(frozen.top, b"file")
    assert frozen.client.lock(fid, RDLCK) == LOCK_SUCCESS
    assert frozen.client.lock(fid, UNLCK) == LOCK_SUCCESS
    assert frozen.client.getlock(fid, RDLCK).type == UNLCK


# ---- 9P2000.u -------------------------------------------------------------------------------


@pytest.fixture
def dialect_u(daemon: Daemon, scratch: Path) -> Iterator[DialectUClient]:
    """A client of the other dialect; fid 2 is the export."""
    export = scratch / "readonly"
    with mounted(daemon, export, speaks=DialectUClient) as share:
        before = state(export)
        assert isinstance(share.client, DialectUClient)
        yield share.client
        assert state(export) == before
    daemon.check_output()


DIALECT_U_CHANGES: dict[str, Callable[[DialectUClient, int], object]] = {
    "create": lambda u, f: u.make(2, b"new", 0o644),
    "mkdir": lambda u, f: u.make(2, b"new", DMDIR | 0o755),
    "symlink": lambda u, f: u.make(2, b"new", DMSYMLINK, extension=b"x"),
    "write open": lambda u, f: u.open_fid(f, OWRITE),
    "read-write open": lambda u, f: u.open_fid(f, ORDWR),
    "truncating open": lambda u, f: u.open_fid(f, OTRUNC),
    "remove": lambda u, f: u.remove(f),
    "rename": lambda u, f: u.wstat(f, name=b"new"),
    "chmod": lambda u, f: u.wstat(f, mode=0o600),
    "chown": lambda u, f: u.wstat(f, n_uid=1),
    "truncate": lambda u, f: u.wstat(f, length=0),
    "utimes": lambda u, f: u.wstat(f, mtime=5),
}


@pytest.mark.parametrize("change", DIALECT_U_CHANGES)
def test_change_is_refused_in_the_other_dialect(dialect_u: DialectUClient, change: str) -> None:
    fid = dialect_u.walk_to(2, b"file")
    with fails(errno.EROFS):
        DIALECT_U_CHANGES[change](dialect_u, fid)


def test_reading_works_in_the_other_dialect(dialect_u: DialectUClient) -> None:
    fid = dialect_u.walk_open(2, b"file")
    assert dialect_u.read(fid, 0, 100) == b"data"
    dialect_u.wstat(fid)  # fsync(2)
    names = {each.name for each in dialect_u.stats(dialect_u.walk_open(2))}
    assert names == {b".", b"..", b"d", b"empty", b"file", b"link"}
    assert dialect_u.stat(2, b"link").extension == b"file"
