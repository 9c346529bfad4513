"""Detects where multidevs=forbid cannot work: a file system whose own files have several st_dev.

forbid denies files whose st_dev differs from that of the export's root. On overlayfs without xino
that is every non-directory, on btrfs every subvolume: the guest would be denied files for no
visible reason. So such an export is refused at start.
"""

import os
from collections import deque
from contextlib import closing

from vhost9p.escapes import quoted
from vhost9p.policy.mounts import MountTable

LIMIT = 20_000
"""Entries that are examined. The first file reveals overlayfs; a btrfs subvolume that lies deeper
is denied and logged when the guest gets there."""

ONE_DEVICE = frozenset(
    b"ext2 ext3 ext4 xfs f2fs jfs reiserfs tmpfs ramfs vfat exfat ntfs3 squashfs erofs zfs "
    b"fuse fuseblk virtiofs nfs nfs4 cifs".split()
)
"""File system types whose files all have the superblock's device number."""


def why_not_forbid(root: bytes) -> str | None:
    """Returns why forbid cannot be used for the export at this path; None if it can.

    Raises OSError if `root` cannot be opened.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with closing(MountTable()) as mounts:
            number = mounts.number_of(root_fd)
            line = mounts.read().get(number)
            fs_type = line.fs_type if line else b"unknown"
            if fs_type.split(b".")[0] in ONE_DEVICE:
                return None
            found = _find_other(root, os.fstat(root_fd).st_dev, number, mounts)
    finally:
        os.close(root_fd)
    if found is None:
        return None
    return (
        f"multidevs: forbid cannot be used for {quoted(root)}: one {fs_type.decode()} file "
        f"system shows several device numbers there ({quoted(found)} has another), so "
        "forbid would deny its own files. Use remap"
    )


def _find_other(root: bytes, root_dev: int, number: int, mounts: MountTable) -> bytes | None:
    """Finds a path below `root`, on the same mount, with another st_dev; nearest first."""
    left = LIMIT
    directories = deque([root])
    while directories and left > 0:
        try:
            with os.scandir(directories.popleft()) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        break
                    if entry.stat(follow_symlinks=False).st_dev == root_dev:
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(entry.path)
                    elif _mount_number(entry.path, mounts) == number:
                        return entry.path
        except OSError:
            continue  # unreadable for the daemon, or gone
    return None


def _mount_number(path: bytes, mounts: MountTable) -> int:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return mounts.number_of(fd)
    finally:
        os.close(fd)
