"""Decides which entries of a directory need a stat when it is listed under multidevs=remap.

An entry's qid.path follows from its inode number in the directory (d_ino), unless the entry lies on
another device, or the file system's d_ino differs from st_ino:

  * d_ino of a mount point is that of the covered directory or file. If a mount's parent is the
    directory's mount, every entry with the last name of its mount point gets a stat, in whichever
    directory of the parent: the paths in the mount table are relative to the daemon's root, and
    go stale when a directory above is renamed.
  * Subvolumes of btrfs are directories with an st_dev of their own.
  * File systems that make up inode numbers, stack on others or come from other machines promise
    nothing: overlayfs, FUSE, NFS, vfat and more. Every file system counts as one of these unless
    its d_ino is known to be right.

A mount that the daemon cannot see counts as one of these, too: outside its root directory, in
another mount namespace, or unmounted while in use.
"""

import contextlib
import threading
from collections.abc import Iterable

from vhost9p.native.mounts import Look, MountViews
from vhost9p.policy.mounts import MountLine, MountTable

RELIABLE = {
    **dict.fromkeys((b"ext2", b"ext3", b"ext4", b"xfs", b"f2fs"), Look.NAMED),
    **dict.fromkeys((b"tmpfs", b"ramfs", b"rootfs"), Look.NAMED),
    b"btrfs": Look.DIRS,
}
"""File systems whose d_ino is the st_ino of each file with the directory's st_dev: Linux's sources
show that each of them fills both from one inode number."""


class MountTree:
    """The mount table, by parents."""

    def __init__(self, lines: Iterable[MountLine]) -> None:
        self._types: dict[int, bytes] = {}
        self._names: dict[int, set[bytes]] = {}
        for line in lines:
            self._types[line.number] = line.fs_type
            name = line.point.rpartition(b"/")[2]
            if name:  # not the root
                self._names.setdefault(line.parent, set()).add(name)

    def look(self, number: int) -> Look:
        """Returns which entries of the mount with this number always need a stat."""
        return RELIABLE.get(self._types.get(number, b""), Look.ALL)

    def names(self, number: int) -> set[bytes]:
        """Returns the names of all mount points in this mount."""
        return self._names.get(number, set())


class ListingPolicy:
    """Answers C's questions about the mounts of directories, for one device. Thread-safe.

    Create it before the daemon is confined.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        self._mounts = MountTable()
        try:
            self.views = MountViews(self._mounts.watched)
        except BaseException:
            self._mounts.close()
            raise
        self._lock = threading.Lock()
        """Guards the two below. No file of the guest is accessed while it is held."""
        self._tree = MountTree(())
        self._generation = -1

    def close(self) -> None:
        """Frees everything. No export may be using it."""
        self.views.close()
        self._mounts.close()

    def mount(self, mnt_id: int, generation: int, fd: int) -> None:
        """Installs in C which entries need a stat in directories of the mount `mnt_id`, which the
        open file `fd` is on. If that fails, C looks at all of them for now."""
        with contextlib.suppress(OSError), self._lock:
            number = self._mounts.number_of(fd)
            if generation != self._generation:
                self._tree = MountTree(self._mounts.read().values())
                self._generation = generation
            look = self._tree.look(number)
            names = self._tree.names(number) if look is not Look.ALL else ()
            self.views.set(mnt_id, generation, look, names)
