"""An error of the host's write-back reaches the guest's next Tfsync, whoever saw it before.

The disk's image lies in a file system that gets full: then the kernel cannot write back what a
guest has written. It reports that once to each descriptor that is open at the time.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.system.faults.disk import make_disk, mounted_disk
from tests.system.faults.injector import Injector, lacks
from tests.system.faults.scene import evict
from tests.system.share import Share, fails, mounted, needs_root

pytestmark = [needs_root, pytest.mark.skipif(lacks() is not None, reason=str(lacks()))]

DATA = b"data" * 65536


@dataclass
class Disk:
    """`share` is on the disk; `store` has its image, and no room for much more."""

    share: Share
    injector: Injector
    store: Path

    @contextmanager
    def full(self) -> Iterator[None]:
        """Nothing new can be written to the image meanwhile."""
        filler = self.store / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        yield
        filler.unlink()

    @contextmanager
    def loses(self, fid: int) -> Iterator[None]:
        """The guest writes DATA by this fid, which the host cannot write back."""
        with self.full():
            self.share.client.write(fid, 0, DATA)
            subprocess.run(["sync", "--file-system", self.share.host], check=False)
            yield

    def is_lost(self) -> bool:
        """Whether the host itself learns of the error by an fsync of file f, as the first."""
        fd = os.open(self.share.path("f"), os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            return error.errno in (errno.EIO, errno.ENOSPC)
        finally:
            os.close(fd)
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    injector = Injector(tmp_path)
    with ExitStack() as stack:
        store = stack.enter_context(mounted_disk(tmp_path / "store", "size=8M", kind="tmpfs"))
        make_disk(store / "image", "^has_journal")
        top = stack.enter_context(mounted_disk(store / "image", "loop"))
        args = ["--path", str(top), "--security-model", "passthrough"]
        daemon = stack.enter_context(Daemon(*args, *injector.args, env=injector.env))
        share = stack.enter_context(mounted(daemon, top, n_uname=0))
        yield Disk(share, injector, store)


@pytest.mark.parametrize("evicted", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_the_next_fsync_reports_a_lost_write(disk: Disk, evicted: bool, seen: bool) -> None:
    """`seen`: another process has been told already."""
    client, top = disk.share.client, disk.share.top
    fid = client.create(top, b"f", os.O_RDWR)
    client.fsync(fid)
    with disk.loses(fid):
        if seen:
            assert disk.is_lost()
        if evicted:
            evict(client, disk.share, disk.injector, b"f")
    with fails(errno.EIO, errno.ENOSPC):
        client.fsync(fid)
    client.write(fid, 0, DATA)
    client.fsync(fid)
    assert disk.share.get("f") == DATA


@pytest.mark.parametrize("evicted", [False, True])
def test_it_is_reported_after_the_worker_has_died(disk: Disk, evicted: bool) -> None:
    """Once."""
    client, top = disk.share.client, disk.share.top
    fid = client.create(top, b"f", os.O_RDWR)
    client.fsync(fid)
    with disk.loses(fid):
        if evicted:
            evict(client, disk.share, disk.injector, b"f")
    os.kill(disk.share.daemon.worker, signal.SIGKILL)
    with fails(errno.EIO, errno.ENOSPC):
        client.fsync(fid)
    client.fsync(fid)


def test_a_fid_that_wrote_nothing_learns_of_it_too(disk: Disk) -> None:
    client, top = disk.share.client, disk.share.top
    fid = client.create(top, b"f", os.O_RDWR)
    reader = client.open(top, b"f", os.O_RDONLY)
    client.fsync(fid)
    with disk.full():
        evict(client, disk.share, disk.injector, b"f")
        client.write(fid, 0, DATA)
        with fails(errno.EIO, errno.ENOSPC):
            client.fsync(fid)
    with fails(errno.EIO, errno.ENOSPC):
        client.fsync(reader)
    client.fsync(reader)
