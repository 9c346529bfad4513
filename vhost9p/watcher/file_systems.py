"""Which file systems a VM's exports consist of, and the group that has all their events.

These are the file system of each export's directory, and those that are mounted below it, as far
as the guest sees them. Each is marked as a whole, so a directory costs nothing, however many there
are; events from elsewhere in it are told apart later (places.py).
"""

import errno
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence

from vhost9p import procfs
from vhost9p.changes import records
from vhost9p.changes.records import MOVED_FROM, MOVED_TO, RENAME
from vhost9p.config import Config, DeviceConfig
from vhost9p.exports import view_of
from vhost9p.native import fanotify
from vhost9p.policy.mounts import KERNEL_TYPES, MountLine, MountTable
from vhost9p.watcher.places import DIRECTORY, Mount, Place, Places, path_of

LACKS_MAX = 16
"""Places that are named as not watched, for each device."""
_UNWATCHED = KERNEL_TYPES | {b"autofs"}
"""What is no data; what is mounted by autofs has a line of its own."""
_EVENTS = records.MODIFY | records.ATTRIB | records.CREATE | records.DELETE | records.ONDIR
_REASONS = dict.fromkeys(
    (errno.ENODEV, errno.EOPNOTSUPP, errno.EXDEV),
    "the kernel reports no changes of this file system",
)


class FileSystems:
    """Those of the devices for which `wanted` says so. Paths in `config` are those of this
    process's mount namespace, whose mounts `table` has."""

    def __init__(self, config: Config, wanted: Sequence[bool], table: MountTable) -> None:
        """Raises OSError: nothing can be watched."""
        self._table = table
        self.lacks: dict[int, list[str]] = {}
        """By device, what is not watched, and why."""
        self.group = fanotify.open_group()
        """The open fanotify group, which does not wait when it is read."""
        devices = enumerate(zip(config.devices, wanted, strict=True))
        self.places = Places(
            [
                place
                for number, (device, is_wanted) in devices
                if is_wanted
                for place in self._open(number, device)
            ],
            self._covers,
        )
        self._mounts = self._list()
        for (number, point), places in self._mounts.items():
            self._watch(number, point, places)
        self._marks = self._count_marks()

    @property
    def have_changed(self) -> bool:
        """Whether mounts have come or gone, so that others are to be watched. Raises OSError."""
        return self._list() != self._mounts or self._count_marks() != self._marks

    def _count_marks(self) -> int:
        """Returns how many file systems are watched. Each mark goes with its file system, and what
        is mounted next may have the same numbers. Raises OSError."""
        with open(procfs.path(f"self/fdinfo/{self.group}"), "rb") as file:
            return sum(line.startswith(b"fanotify sdev:") for line in file)

    @property
    def mounts_change(self) -> int:
        """The descriptor on which poll(2) reports POLLPRI when any mount of the host comes or
        goes."""
        return self._table.watched

    def _open(self, device: int, config: DeviceConfig) -> Iterator[Place]:
        for export in config.exports:
            path = export.place or export.path
            try:
                root = os.open(path, DIRECTORY)
            except OSError as error:
                self._lack(device, export.path, error)
                continue
            has_others = config.multidevs != "forbid"
            yield Place(device, view_of(config, export), root, has_others)

    def _list(self) -> dict[tuple[int, bytes], tuple[int, ...]]:
        """Returns the mounts at and below the exports, by number and path, with the places that
        show each. Raises OSError."""
        found: dict[tuple[int, bytes], list[int]] = {}
        lines = self._table.read().values()
        for i, place in enumerate(self.places.all):
            path = path_of(place.root)
            found.setdefault((self._table.number_of(place.root), path), []).append(i)
            for line in _below(path, lines) if place.has_others else ():
                found.setdefault((line.number, line.point), []).append(i)
        return {mount: tuple(places) for mount, places in found.items()}

    def _covers(self) -> dict[int, list[bytes]]:
        """Returns what Places needs. Raises OSError."""
        roots = tuple(path_of(place.root) for place in self.places.all)
        found: dict[int, list[bytes]] = {}
        for line in self._table.read(anew=True).values():
            if line.point.startswith(roots):
                found.setdefault(line.parent, []).append(line.point + b"/")
        return found

    def _watch(self, number: int, path: bytes, places: Collection[int]) -> None:
        """Raises OSError: the process lacks something."""
        here = (self.places.all[i].root for i in places)
        kept = next((root for root in here if path_of(root) == path), -1)
        try:
            fd = os.open(path, DIRECTORY)
        except NotADirectoryError:
            return  # a single file
        except OSError as error:
            self._lack_all(places, path, error)
            return
        try:
            if self._table.number_of(fd) != number:
                return  # another mount covers it
            _mark(self.group, fd)
            st_dev = os.fstat(fd).st_dev
            self.places.add(_id_of(fd), Mount(kept, number, path, st_dev, tuple(places)))
        except OSError as error:
            self._lack_all(places, path, error)
        finally:
            os.close(fd)

    def _lack_all(self, places: Iterable[int], point: bytes, error: OSError) -> None:
        for place in (self.places.all[i] for i in places):
            self._lack(place.device, os.fsdecode(place.view.base + _rest(place, point)), error)

    def _lack(self, device: int, what: str, error: OSError) -> None:
        lacks = self.lacks.setdefault(device, [])
        if len(lacks) < LACKS_MAX:
            lacks.append(f"{what}: {_REASONS.get(error.errno or 0, error.strerror)}")


def _rest(place: Place, path: bytes) -> bytes:
    """The path of a mount below the export."""
    return path[len(path_of(place.root)) :]


def _below(path: bytes, lines: Iterable[MountLine]) -> Iterator[MountLine]:
    for line in lines:
        if line.point.startswith(path) and line.fs_type not in _UNWATCHED:
            yield line


def _mark(group: int, folder: int) -> None:
    """Raises OSError."""
    try:
        fanotify.mark_file_system(group, _EVENTS | RENAME, folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # before Linux 5.17
            raise
        fanotify.mark_file_system(group, _EVENTS | MOVED_FROM | MOVED_TO, folder)


def _id_of(folder: int) -> bytes:
    """Returns the id of a file system as events have it. Raises OSError."""
    number = os.fstatvfs(folder).f_fsid
    return struct.pack("=II", number & 0xFFFF_FFFF, number >> 32)
