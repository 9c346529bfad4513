"""A daemon that may hold few descriptors, and a crowd of files that has it evict all others."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.ordinary_user import as_ordinary_user
from tests.system.share import (
    IS_ROOT,
    Share,
    mounted,
)

USER = 12345
# Without any capability: CAP_DAC_READ_SEARCH would open files by handle.
AS_USER = as_ordinary_user(USER, USER)
WITHOUT_HANDLES = ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-dac_read_search"]
if not IS_ROOT:
    WITHOUT_HANDLES = []
LIMIT = 256
CROWD = 600
"""Files enough to evict all that was idle before."""


@dataclass
class Place:
    """Where and as whom the daemon serves."""

    parent: str
    privileged: bool


PLACES = [
    pytest.param(
        Place(parent, privileged),
        id=f"{os.path.basename(parent)}-{'root' if privileged else 'user'}",
        marks=[
            pytest.mark.skipif(privileged and not IS_ROOT, reason="needs root"),
            *([pytest.mark.full] if parent == "/dev/shm" and privileged else []),
        ],
    )
    for parent in (tempfile.gettempdir(), "/dev/shm")
    for privileged in (True, False)
]
"""Both file systems are served by a user, who reopens by paths; by handles, as root does, both are
reopened alike, so that one is for the full matrix."""


@contextlib.contextmanager
def serving(
    place: Place,
    limit: int,
    *args: str,
    speaks: type[Client] = Client,
    runner: Sequence[str] = (),
) -> Iterator[Share]:
    """A daemon that may have `limit` files open, run by `runner` if any, and a guest."""
    export = Path(tempfile.mkdtemp(prefix="v9-eviction-", dir=place.parent))
    wrapper = ["prlimit", f"--nofile={limit}:{limit}"]
    if IS_ROOT and not place.privileged:
        wrapper += AS_USER
    model = "passthrough" if place.privileged else "none"
    wrapper += runner
    daemon = Daemon("--path", str(export), "--security-model", model, *args, wrapper=wrapper)
    if IS_ROOT and not place.privileged:
        os.chown(export, USER, USER)
        os.chown(daemon.directory, USER, USER)
    try:
        with daemon, mounted(daemon, export, speaks=speaks) as share:
            yield share
            assert daemon.fd_count() < limit
            daemon.check_output()
    finally:
        shutil.rmtree(export, ignore_errors=True)


def own(share: Share, *names: str) -> None:
    """Gives what the test made on the host to the daemon's user."""
    status = os.stat(share.host)
    for name in names:
        os.chown(share.path(name), status.st_uid, status.st_gid)


def put(share: Share, name: str, data: str) -> None:
    """A file of the daemon's user."""
    share.put(name, data.encode())
    own(share, name)


def mkdir(share: Share, name: str) -> None:
    os.mkdir(share.path(name))
    own(share, name)


def age() -> None:
    """Waits until the birth times of new files are conclusive."""
    time.sleep(0.2)


def shown(share: Share) -> set[str]:
    """What the daemon has open below the export."""
    return {path for path in share.daemon.fds().values() if path.startswith(f"{share.host}/")}


def evict(share: Share, *gone: str) -> None:
    """Walks to a crowd of files, until nothing below the names `gone` has a descriptor left."""
    if not os.path.exists(share.path("crowd")):
        mkdir(share, "crowd")
        for i in range(CROWD):
            put(share, f"crowd/{i}", "")
        age()
    crowd = share.client.walk_to(share.top, b"crowd")
    fids = [share.client.walk_to(crowd, b"%d" % i) for i in range(CROWD)]
    for fid in (*fids, crowd):
        share.client.clunk(fid)
    left = {path for path in shown(share) for name in gone if f"/{name}" in path}
    assert not left, f"still open: {left}"


def look_at_many(share: Share, directories: int, files: int, first: int = 0) -> dict[int, int]:
    """Live fids of so many directories, from the `first` on, with so many files each; their inode
    numbers by fid."""
    client = share.client
    fids: dict[int, int] = {}
    for d in range(first, first + directories):
        mkdir(share, f"d{d}")
        above = client.walk_to(share.top, b"d%d" % d)
        fids[above] = os.stat(share.path(f"d{d}")).st_ino
        for f in range(files):
            name = f"d{d}/f{f}"
            put(share, name, f"{d} {f}")
            fid = client.walk_to(above, b"f%d" % f)
            fids[fid] = os.stat(share.path(name)).st_ino
    for number, (fid, ino) in enumerate(fids.items()):
        attr = client.getattr(fid)
        assert attr.qid.path == ino and attr.nlink
        if number % 40 == 1 and stat.S_ISREG(attr.mode):
            use(share, fid, ino)
    return fids


def use(share: Share, fid: int, ino: int) -> None:
    """Opens, reads and writes through a clone of a fid of a file."""
    client = share.client
    clone = client.walk_to(fid)
    client.lopen(clone, os.O_RDWR)
    data = client.read(clone, 0, 100)
    assert client.write(clone, len(data), b"!") == 1
    attr = client.getattr(fid)
    assert (attr.qid.path, attr.size) == (ino, len(data) + 1)
    client.clunk(clone)
