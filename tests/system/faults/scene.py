"""A directory in which one request is made that meets a fault, and what the host sees there.

A Scene is one guest of a daemon with an injector. Each case begins in a new, empty directory `d` of
the export, with fid DIR, and leaves nothing: `clear` removes, as the guest, what is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.frontend.client import AT_REMOVEDIR, P9Errno
from tests.frontend.daemon import Daemon
from tests.system.faults.injector import Injector
from tests.system.share import Share, mounted
from vhost9p.native.quota import USAGE_OFFSET
from vhost9p.policy.usage import scan

DIR, FILE, OPEN, SUB, NEW, OTHER = range(100, 106)
"""Fids: the directory, a file, an open one, another directory, and what requests make."""

METADATA = b".virtfs_metadata"
MAPPED_FILE = (METADATA, METADATA + b"_root")
QUOTA = ("--quota-bytes", "1GiB", "--quota-inodes", "1000000")

EVICTIONS = 6

Tree = dict[bytes, tuple[object, ...]]


def evict(client: Any, share: Share, injector: Injector, name: bytes) -> None:
    """Has the descriptors closed of all that can be reopened, until none is below a name: a step
    that gets no descriptor evicts others, and is repeated."""
    below = os.fsdecode(share.path(name))
    for _ in range(EVICTIONS):
        if not any(path.startswith(below) for path in share.daemon.fds().values()):
            break
        with injector.failing(errno.EMFILE, 1), suppress(P9Errno):
            client.walk(share.root, OTHER + 1, b"..")
            client.clunk(OTHER + 1)


@dataclass
class Scene:
    """See the module. `client` is the guest's, of either dialect."""

    share: Share
    injector: Injector
    model: str
    state: Path | None
    """Where the usage is kept, with a quota."""
    tolerates_orphans = False
    """Whether metadata that belong to no file may be there."""
    _missed: tuple[int, int] = (0, 0)
    """Bytes and inodes that are known to be missing in it."""

    @property
    def client(self) -> Any:
        return self.share.client

    @property
    def folder(self) -> bytes:
        return self.share.path(b"d")

    # ---- the directory

    def begin(self) -> None:
        """Makes it, instead of what a failed test has left."""
        if os.path.lexists(self.folder):
            self.clear()
        self.mkdir(self.share.top, b"d")
        self.client.walk(self.share.top, DIR, b"d")

    def mkdir(self, fid: int, name: bytes) -> None:
        """Makes a directory in whatever dialect."""
        if hasattr(self.client, "make"):
            self.client.clunk(self.client.make(fid, name, 0x80000000 | 0o755))
        else:
            self.client.mkdir(fid, name)

    def clear(self) -> None:
        """Forgets all fids, and removes the directory with all that is in it."""
        for fid in range(DIR, OTHER + 1):
            with suppress(P9Errno):
                self.client.clunk(fid)
        self._remove(self.share.top, b"d", self.folder)

    def _remove(self, dfid: int, name: bytes, path: bytes) -> None:
        """Removes a directory that `dfid` has under `name`, with its entries, as the guest."""
        fid = self.client.walk_to(dfid, name)
        for entry in os.scandir(path):
            if entry.name == METADATA and self.model == "mapped-file":
                continue
            if entry.is_dir(follow_symlinks=False):
                self._remove(fid, entry.name, entry.path)
            else:
                self._unlink(fid, entry.name)
        if hasattr(self.client, "make"):
            self.client.remove(fid)
        else:
            self.client.clunk(fid)
            self.client.unlinkat(dfid, name, AT_REMOVEDIR)

    def _unlink(self, fid: int, name: bytes) -> None:
        if hasattr(self.client, "make"):
            self.client.remove(self.client.walk_to(fid, name))
        else:
            self.client.unlinkat(fid, name)

    def evict(self) -> None:
        """Evicts what is in the directory."""
        evict(self.client, self.share, self.injector, b"d")

    # ---- what the host sees

    def tree(self, *, times: bool = False) -> Tree:
        """All that is in the directory, with its attributes and, if asked for, whether the mtime
        is in second 9."""
        found: Tree = {}
        self._look(self.folder, b"d", found, times=times)
        return found

    def _look(self, path: bytes, name: bytes, found: Tree, *, times: bool) -> None:
        st = os.lstat(path)
        is_dir = stat.S_ISDIR(st.st_mode)
        content: object = None
        if stat.S_ISREG(st.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in _keys(path)}
        # An empty directory for metadata is none of them.
        if not (is_dir and os.path.basename(path) == METADATA):
            is_meta = os.path.basename(os.path.dirname(path)) == METADATA
            links = 0 if is_dir or is_meta else st.st_nlink
            found[name] = (oct(st.st_mode), st.st_uid, st.st_gid, links, st.st_rdev, content)
            found[name] += (xattrs, times and int(st.st_mtime) == 9)
        if is_dir:
            for entry in os.scandir(path):
                if not (self.tolerates_orphans and _is_orphan(path, entry.name)):
                    self._look(entry.path, name + b"/" + entry.name, found, times=times)

    def is_locked(self, name: bytes) -> bool:
        """Whether some byte of a file is locked, by fcntl(2) or flock(2)."""
        with open(self.folder + b"/" + name, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(file, fcntl.LOCK_UN)
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
            return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)

    def account(self) -> str:
        """What is wrong with the quota's account: it must be what a scan finds, or show that it is
        not, so that the next daemon counts anew."""
        if not self.state:
            return ""
        (path,) = self.state.glob("*.usage")
        counted = struct.unpack_from("<qqQ", path.read_bytes(), USAGE_OFFSET)
        root_fd = os.open(self.share.export, os.O_PATH)
        try:
            found = scan(root_fd, MAPPED_FILE if self.model == "mapped-file" else ())
        finally:
            os.close(root_fd)
        missed = (found.bytes - counted[0], found.inodes - counted[1])
        if missed == self._missed or counted[2]:
            return ""
        self._missed = missed
        return f"the account has {counted} for {found}"


def _is_orphan(folder: bytes, name: bytes) -> bool:
    """Whether a name is that of metadata, and their file is not there."""
    above, last = os.path.split(folder)
    return last == METADATA and (name == METADATA or not os.path.lexists(above + b"/" + name))


def _keys(path: bytes) -> list[str]:
    with suppress(OSError):
        return os.listxattr(path, follow_symlinks=False)
    return []


@contextmanager
def a_scene(folder: Path, model: str, *, quota: bool, speaks: type[Any]) -> Iterator[Scene]:
    """A daemon with an injector, and its guest."""
    export, state = folder / "export", folder / "state"
    export.mkdir()
    state.mkdir(mode=0o700)
    injector = Injector(folder)
    args = ["--path", str(export), "--state-dir", str(state), "--security-model", model]
    args += ["--multidevs", "remap", *(QUOTA if quota else ())]
    with (
        Daemon(*args, *injector.args, env=injector.env) as daemon,
        mounted(daemon, export, n_uname=os.geteuid(), speaks=speaks) as share,
    ):
        assert injector.works, "no serving thread was found"
        yield Scene(share, injector, model, state if quota else None)


Send = Callable[[Scene], object]


def result_of(send: Send, scene: Scene) -> tuple[int, object]:
    """0 and the answer, or the errno and None."""
    try:
        return 0, send(scene)
    except P9Errno as error:
        return error.errno or errno.EIO, None
