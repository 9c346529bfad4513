"""Which entries of a directory have to be looked at when it is listed under multidevs=remap.

An entry's qid.path follows from the number that the directory tells for it (d_ino), unless the
entry lies on another device, or the file system's directories tell other numbers than its files:

  * A mount point's number is that of the covered directory, or file. Where a mount's parent is the
    directory's own mount, whatever has the last name of its mount point is looked at. Which
    directory of the parent it lies in is left open: the paths in the mount table are the daemon's
    own, relative to its root, and go stale whenever a directory above is renamed.
  * btrfs has subvolumes, directories with an st_dev of their own.
  * File systems that make up their inode numbers, lie on others or come from other machines
    promise nothing: overlayfs, FUSE, NFS, vfat and more. All but those that are known to tell
    the truth are taken for such.

Mounts that cannot be seen (outside the daemon's root directory or in another mount namespace, or
unmounted while they are in use) are none of those known.
"""

import contextlib
import threading
from collections.abc import Iterable

from vhost9p.native.mounts import Look, MountViews
from vhost9p.policy.mounts import MountLine, MountTable

TRUTHFUL = {
    **dict.fromkeys((b"ext2", b"ext3", b"ext4", b"xfs", b"f2fs"), Look.NAMED),
    **dict.fromkeys((b"tmpfs", b"ramfs", b"rootfs"), Look.NAMED),
    b"btrfs": Look.DIRS,
}
"""File systems whose directories tell of each file the st_ino that stat(2) does, and where it has
their own st_dev: by Linux's sources, each of them fills both from one inode number."""


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
        """Which entries of the mount with this number are to be looked at in any case."""
        return TRUTHFUL.get(self._types.get(number, b""), Look.ALL)

    def names(self, number: int) -> set[bytes]:
        """The names on which something is mounted somewhere in this mount."""
        return self._names.get(number, set())


class ListingPolicy:
    """Answers for one device what C asks about the mounts of directories. Thread-safe.

    To be made before the daemon is confined.
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
        """Guards the two below; what is called meanwhile looks at no file of the guest's."""
        self._tree = MountTree(())
        self._generation = -1

    def close(self) -> None:
        """Frees everything. No export may be using it."""
        self.views.close()
        self._mounts.close()

    def mount(self, mnt_id: int, generation: int, fd: int) -> None:
        """Tells C which entries to look at in directories of the mount `mnt_id`, on which the open
        file `fd` lies. Where that fails, C looks at all of them, for the time being."""
        with contextlib.suppress(OSError), self._lock:
            number = self._mounts.number_of(fd)
            if generation != self._generation:
                self._tree = MountTree(self._mounts.read().values())
                self._generation = generation
            look = self._tree.look(number)
            names = self._tree.names(number) if look is not Look.ALL else ()
            self.views.set(mnt_id, generation, look, names)
