"""A guest that uses fids, and a host that changes the names beneath them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, SET_MODE, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import ORDWR, DialectUClient
from tests.system.share import (
    IS_ROOT,
    SECURITY,
    UNSHARE,
    Share,
    entering,
    fails,
    mounted,
    seen_by_main,
)

MODELS = (SECURITY[1], "mapped-xattr", "mapped-file")
GONE = (errno.ENOENT, errno.ENOTDIR)
in_9p2000_l = pytest.mark.parametrize("edits", ["L"], indirect=True)
"""For a test of what 9P2000.u has no request for."""


@contextmanager
def covered(daemon: Daemon, directory: Path) -> Iterator[Path]:
    """During the block a new tmpfs is mounted over a directory, for a daemon that UNSHARE runs. The
    value is a path of what is mounted."""
    host = entering(daemon)
    subprocess.run([*host, "mount", "-t", "tmpfs", "none", directory], check=True)
    try:
        yield seen_by_main(daemon, directory)
    finally:
        subprocess.run([*host, "umount", "--lazy", directory], check=True)


@contextmanager
def mount_point(export: Path, multidevs: str) -> Iterator[Share]:
    """A guest in an export with a directory m, to be covered, in which a file f has the text 1."""
    (export / "m").mkdir(exist_ok=True)
    (export / "m" / "f").write_bytes(b"1")
    args = ("--path", str(export), *SECURITY, "--multidevs", multidevs)
    with Daemon(*args, wrapper=UNSHARE) as daemon, mounted(daemon, export) as share:
        yield share


@dataclass
class Edits:
    """A guest, and the changes of the host."""

    share: Share

    @property
    def client(self) -> Client:
        return self.share.client

    def put(self, name: str, text: str) -> None:
        """Writes a new file, as editors do."""
        new = self.share.put("new~", text.encode())
        if not IS_ROOT or os.stat(self.share.host).st_uid:
            status = os.stat(self.share.host)
            os.chown(new, status.st_uid, status.st_gid)
        os.rename(new, self.share.path(name))

    def mkdir(self, name: str) -> None:
        os.mkdir(self.share.path(name))
        status = os.stat(self.share.host)
        os.chown(self.share.path(name), status.st_uid, status.st_gid)

    def mv(self, old: str, new: str) -> None:
        os.rename(self.share.path(old), self.share.path(new))

    def rm(self, name: str) -> None:
        path = os.fsdecode(self.share.path(name))
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    def walk(self, name: str) -> int:
        """One step after the other, as the client of one user walks."""
        at = self.share.top
        for component in name.split("/"):
            at = self.client.walk_to(at, component.encode())
        return at

    def ino(self, name: str) -> int:
        return os.lstat(self.share.path(name)).st_ino

    def number(self, fid: int) -> int:
        """The inode number, by Tgetattr or Tstat; the qid's path where there is no remap."""
        if isinstance(self.client, DialectUClient):
            return self.client.stat(fid).qid.path
        return self.client.getattr(fid).qid.path

    def open(self, fid: int, *, write: bool = False) -> int:
        """As open(2) of an entry that is in use: a clone, opened."""
        clone = self.client.walk_to(fid)
        if isinstance(self.client, DialectUClient):
            self.client.open_fid(clone, ORDWR if write else 0)
        else:
            self.client.lopen(clone, os.O_RDWR if write else os.O_RDONLY)
        return clone

    def cat(self, fid: int) -> str:
        clone = self.open(fid)
        data = self.client.read(clone, 0, 1000)
        self.client.clunk(clone)
        return data.decode()

    def is_gone(self, fid: int) -> None:
        """Every request by name fails as one by path would."""
        client = self.client
        requests: list[Callable[[], object]] = [
            lambda: client.walk_to(fid),
            lambda: client.walk_to(fid, b"x"),
            lambda: self.number(fid),
        ]
        if not isinstance(client, DialectUClient):
            requests += [
                lambda: client.lopen(fid, os.O_RDONLY),
                lambda: client.setattr(fid, SET_MODE, mode=0o600),
                lambda: client.statfs(fid),
                lambda: client.getxattr(fid),
                lambda: client.readlink(fid),
                lambda: client.mkdir(fid, b"x"),
                lambda: client.unlinkat(fid, b"x"),
                lambda: client.lcreate(fid, b"x"),
                lambda: client.renameat(fid, b"x", fid, b"y"),
                lambda: client.link(self.share.top, fid, b"y"),
                lambda: client.xattrcreate(fid, b"user.x", 1),
            ]
        for request in requests:
            with fails(*GONE):
                request()


def guest_renames(edits: Edits, directory: int, old: bytes, new: bytes) -> None:
    client = edits.client
    if isinstance(client, DialectUClient):
        fid = client.walk_to(directory, old)
        client.wstat(fid, name=new)
        client.clunk(fid)
    else:
        client.renameat(directory, old, directory, new)


def guest_removes(edits: Edits, directory: int, name: bytes) -> None:
    client = edits.client
    if isinstance(client, DialectUClient):
        client.remove(client.walk_to(directory, name))
    else:
        path = client.walk_to(directory, name)
        is_directory = stat.S_ISDIR(client.getattr(path).mode)
        client.clunk(path)
        client.unlinkat(directory, name, AT_REMOVEDIR if is_directory else 0)
