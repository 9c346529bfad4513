"""mountinfo, and this process's own mounts; what needs new mounts is in namespace_cases."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhost9p.native.qidmap import FileKey
from vhost9p.policy.mounts import Mount, MountLine, MountTable, parse_mountinfo


@pytest.fixture
def table() -> Iterator[MountTable]:
    made = MountTable()
    yield made
    made.close()


def probe(fd: int) -> FileKey:
    """As on a kernel without ids that are never reused."""
    found = os.fstat(fd)
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    (number,) = (line.split()[1] for line in text.splitlines() if line.startswith("mnt_id"))
    return FileKey(int(number), found.st_ino, 42)


def test_mountinfo_is_parsed() -> None:
    text = (
        b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        b"90 27 0:45 /@home/\\134x /mnt/a\\040b\\011\\012 rw shared:3 master:1 "
        b"- btrfs /dev/b\\040 rw\n"
        b"91 90 0:46 / /mnt/- rw unbindable - fuse.sshfs - rw\n"
    )
    assert parse_mountinfo(text) == {
        27: MountLine(27, 1, os.makedev(254, 0), b"/", b"/", b"ext4"),
        90: MountLine(90, 27, os.makedev(0, 45), b"/@home/\\x", b"/mnt/a b\t\n", b"btrfs"),
        91: MountLine(91, 90, os.makedev(0, 46), b"/", b"/mnt/-", b"fuse.sshfs"),
    }


def test_reads_the_mounts_of_this_process(table: MountTable) -> None:
    lines = table.read()
    assert b"proc" in {line.fs_type for line in lines.values()}
    assert b"/" in {line.point for line in lines.values()}
    assert all(line.number == number for number, line in lines.items())


def test_identifies_the_mount_of_a_file(table: MountTable) -> None:
    fd = os.open("/proc/self", os.O_PATH)
    mount = table.identify(probe(fd).mnt_id, fd, probe)
    os.close(fd)
    assert mount == (mount.number, mount.number, os.stat("/proc").st_ino, 42)
    assert not mount.has_unique_id()
    assert table.read()[mount.number].point == b"/proc"
    assert table.is_mounted(mount, probe)
    assert not table.is_mounted(mount._replace(root_born=43), probe)
    assert not table.is_mounted(mount._replace(mnt_id=1 << 40), probe)
    assert not table.is_mounted(mount._replace(number=1 << 30), probe)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_is_not_taken_for_an_answer(
    table: MountTable, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fd = os.open("/proc", os.O_PATH)
    mount = table.identify(probe(fd).mnt_id, fd, probe)
    real = os.open

    def scarce(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == b"proc":
            raise OSError(code, "")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", scarce)
    with pytest.raises(OSError) as failed:
        table.is_mounted(mount, probe)
    assert failed.value.errno == code
    os.close(fd)


def test_without_the_root_only_the_id_counts() -> None:
    unique = Mount(5000, 50, 0, 0)
    assert unique.is_same(Mount(5000, 50, 2, 3))
    assert not unique.is_same(Mount(5001, 50, 0, 0))
    assert not unique.has_same_root(Mount(5001, 50, 0, 0))
    reusable = Mount(50, 50, 2, 3)
    assert reusable.is_same(Mount(50, 50, 2, 3))
    assert not reusable.is_same(Mount(50, 50, 2, 4))
    assert reusable.has_same_root(Mount(51, 51, 2, 3))
