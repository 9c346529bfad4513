"""Quotas of two exports under one tag, as a guest's tools see them."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, Mounted, scratch_export
from vhost9p.native.quota import USAGE_OFFSET
from vhost9p.policy.usage import scan

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

BLOCK = 4096
CONFIG = """
socket: {socket}
tag: host0
state_dir: {state}
exports:
  - {{name: a, path: {base}/a, quota: {{bytes: 4MiB, inodes: 30, error: EDQUOT}}}}
  - {{name: b, path: {base}/b, quota: {{bytes: 1MiB}}}}
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the daemon keeps what is used; its configuration is beside."""
    return tmp_path_factory.mktemp("daemon") / "state"


@pytest.fixture(scope="module")
def share(boot_shared: Boot, state: Path) -> Iterator[Mounted]:
    """a and b below one mount."""
    with scratch_export() as base:
        (base / "a").mkdir()
        (base / "b").mkdir()
        socket = base.parent / f"{base.name}.sock"
        config = state.with_name("vm.yaml")
        config.write_text(CONFIG.format(base=base, socket=socket, state=state))
        with Daemon("--config", str(config), socket=False):
            vm = boot_shared("full", [socket])
            vm.mount("host0", MOUNT)
            yield Mounted(Daemon(), base, vm)
            vm.kill()


def df(share: Mounted, export: str) -> tuple[int, ...]:
    """Size, used and available blocks of 4 KiB, then the same of inodes."""
    fields = "size,used,avail,itotal,iused,iavail"
    return tuple(map(int, share.sh(f"df -B{BLOCK} --output={fields} {export}").split()[-6:]))


def found(share: Mounted) -> set[tuple[int, int]]:
    """Bytes and inodes of the exports as scans find them."""
    usages = (scan(os.open(share.export / name, os.O_PATH)) for name in "ab")
    return {(usage.bytes, usage.inodes) for usage in usages}


def kept(state: Path) -> set[tuple[int, int]]:
    """Bytes and inodes of the exports as the daemon has them."""
    pages = (path.read_bytes() for path in state.glob("*.usage"))
    return {struct.unpack_from("<qq", page, USAGE_OFFSET) for page in pages}


@pytest.mark.parametrize("cache", ["none", "mmap"])
def test_df_follows_filling_and_emptying_under_a_quota(
    share: Mounted, state: Path, cache: str
) -> None:
    share.remount(cache)
    root = os.stat(share.export / "a").st_blocks // 8
    assert df(share, "a") == (1024, root, 1024 - root, 30, 0, 30)
    assert df(share, "b")[:3] == (256, root, 256 - root)

    full = share.sh("dd if=/dev/zero of=a/fill bs=64k count=100 conv=fsync 2>&1", check=False)
    assert "Disk quota exceeded" in full
    size, used, free, _, inodes, _ = df(share, "a")
    assert (size, free, inodes) == (1024, 0, 1) and used == 1024
    assert df(share, "b")[:3] == (256, root, 256 - root)  # each has its own
    full = share.sh("dd if=/dev/zero of=b/fill bs=64k count=100 conv=fsync 2>&1", check=False)
    assert "No space left on device" in full

    # Open files keep their blocks after their names.
    share.sh("exec 3<a/fill; rm a/fill; df -k a | grep -q ' 100% '; exec 3<&-")
    assert df(share, "a") == (1024, root, 1024 - root, 30, 0, 30)

    share.sh("rm b/fill; cp /usr/bin/bash b/; cmp /usr/bin/bash b/bash", check=False)
    assert df(share, "b")[2] == 0  # it is larger
    touched = share.sh("for i in $(seq 40); do touch a/$i; done 2>&1", check=False)
    assert "Disk quota exceeded" in touched and df(share, "a")[3:] == (30, 30, 0)
    share.sh("rm a/1; mkdir a/dir; ln a/2 a/link; mv a/3 a/dir; rm a/4; ln -s x a/4")
    assert df(share, "a")[3:] == (30, 30, 0)
    share.sh("rm -r a/* b/*; dd if=/dev/zero of=a/again bs=64k count=60 conv=fsync 2>&1")
    assert df(share, "a")[3:] == (30, 1, 29)
    share.vm.umount(MOUNT)
    assert kept(state) == found(share)
    share.vm.mount("host0", MOUNT)
    share.sh("rm a/again")
