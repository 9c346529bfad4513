"""Which file systems a VM's exports consist of, and the group that has all their events.

These are the file system of each export's directory, and those that are mounted below it, as far
as the guest sees them. Each is marked as a whole, so a directory costs nothing, however many there
are; events from elsewhere in it are told apart later (places.py).

What a guest does itself is left out later, too (watch.py), but for writes, of which there are most:
where the VM has mounts of its own, the kernel makes no event of a write through these, which would
cost the guest's request.
"""

import errno
import json
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from vhost9p import procfs
from vhost9p.changes import records
from vhost9p.changes.records import MOVED_FROM, MOVED_TO, RENAME
from vhost9p.config import Config
from vhost9p.exports import view_of
from vhost9p.native import fanotify
from vhost9p.policy.mounts import KERNEL_TYPES, MountLine, MountTable, number_of
from vhost9p.watcher import apart
from vhost9p.watcher.apart import Outcome
from vhost9p.watcher.places import DIRECTORY, Mount, Place, Places, path_of

LACKS_MAX = 16
"""Places that are named as not watched, for each device,"""
LACKS_SIZE = 32768
"""and bytes of these, as JSON, for all of them: they are one message to main."""
LACK_SIZE = 200
"""Characters of the path of each."""
_UNWATCHED = KERNEL_TYPES | {b"autofs"}
"""What is no data; what is mounted by autofs has a line of its own."""
_EVENTS = records.MODIFY | records.ATTRIB | records.CREATE | records.DELETE | records.ONDIR
_REASONS = dict.fromkeys(
    (errno.ENODEV, errno.EOPNOTSUPP, errno.EXDEV),
    "the kernel reports no changes of this file system",
)


class FileSystems:
    """Those of the devices for which `wanted` says so. Paths in `config` are those of this
    process's mount namespace, whose mounts `table` has, or lead through its descriptors `held`. The
    VM `has_mounts`: nobody else uses those of this namespace."""

    def __init__(
        self,
        config: Config,
        wanted: Sequence[bool],
        table: MountTable,
        held: Collection[int] = (),
        *,
        has_mounts: bool,
    ) -> None:
        """Raises OSError: nothing can be watched."""
        self._table = table
        self._held = held
        self._has_mounts = has_mounts
        self.lacks: dict[int, list[str]] = {}
        """By device, what is not watched, and why."""
        self._room = LACKS_SIZE
        self.hangs = False
        """Whether something is left out since it hangs."""
        self.group = fanotify.open_group()
        """The open fanotify group, which does not wait when it is read."""
        self.places = Places([*self._open(config, wanted)], self._covers)
        self._mounts = self._list()
        self._watch()
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

    def _open(self, config: Config, wanted: Sequence[bool]) -> Iterator[Place]:
        """Raises OSError."""
        exports = [
            (number, device, export)
            for number, device in enumerate(config.devices)
            if wanted[number]
            for export in device.exports
        ]
        steps = [partial(_open, each.place or each.path) for _, _, each in exports]
        roots = apart.try_each(steps, self._held)
        for (number, device, export), root in zip(exports, roots, strict=True):
            if isinstance(root, OSError):
                self._lack(number, export.path, root)
                continue
            has_others = device.multidevs != "forbid"
            yield Place(number, view_of(device, export), root[1][0], has_others)

    def _list(self) -> dict[tuple[int, bytes], tuple[int, ...]]:
        """Returns the mounts at and below the exports, by number and path, with the places that
        show each. Raises OSError."""
        found: dict[tuple[int, bytes], list[int]] = {}
        lines = self._table.read()
        for i, place in enumerate(self.places.all):
            path, number = path_of(place.root), self._table.number_of(place.root)
            found.setdefault((number, path), []).append(i)
            own = lines.get(number)
            for line in _below(path, lines.values()):
                if place.has_others or (own and line.st_dev == own.st_dev):
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

    def _watch(self) -> None:
        """Raises OSError: the process lacks something."""
        roots = [place.root for place in self.places.all]
        kept = {(self._table.number_of(root), path_of(root)): root for root in roots}
        mark = partial(_mark, self.group, is_of_vm=self._has_mounts)
        steps = [partial(mark, *each, kept.get(each, -1)) for each in self._mounts]
        outcomes = apart.try_each(steps, [self.group, *roots])
        for (each, places), found in zip(self._mounts.items(), outcomes, strict=True):
            number, path = each
            if isinstance(found, OSError):
                self._lack_all(places, path, found)
            elif found[0]:
                file_system, st_dev = found[0]
                mount = Mount(kept.get(each, -1), number, path, st_dev, places)
                self.places.add(bytes.fromhex(file_system), mount)

    def _lack_all(self, places: Iterable[int], point: bytes, error: OSError) -> None:
        for place in (self.places.all[i] for i in places):
            self._lack(place.device, os.fsdecode(place.view.base + _rest(place, point)), error)

    def _lack(self, device: int, what: str, error: OSError) -> None:
        self.hangs |= isinstance(error, apart.Hangs)
        lacks = self.lacks.setdefault(device, [])
        shown = what if len(what) <= LACK_SIZE else f"{what[: LACK_SIZE - 1]}…"
        text = f"{shown}: {_REASONS.get(error.errno or 0, error.strerror)}"
        size = len(json.dumps(text))
        if len(lacks) < LACKS_MAX and size <= self._room:
            self._room -= size
            lacks.append(text)


def _rest(place: Place, path: bytes) -> bytes:
    """The path of a mount below the export."""
    return path[len(path_of(place.root)) :]


def _below(path: bytes, lines: Iterable[MountLine]) -> Iterator[MountLine]:
    for line in lines:
        if line.point.startswith(path) and line.fs_type not in _UNWATCHED:
            yield line


def _open(path: str) -> Outcome:
    """A step: opens an export."""
    return None, [os.open(path, DIRECTORY)]


def _mark(group: int, number: int, path: bytes, kept: int, *, is_of_vm: bool) -> Outcome:
    """A step: marks the file system of a mount, which is at a path, or which has a descriptor
    `kept`, and which nobody but the VM uses if it `is_of_vm`. Returns its id, as events have it, in
    hex, and the st_dev of that directory; None if it is not to be watched."""
    try:
        fd = kept if kept >= 0 else os.open(path, DIRECTORY)
    except NotADirectoryError:
        return None, []  # a single file
    try:
        if number_of(fd) != number:
            return None, []  # another mount covers it
        _mark_file_system(group, fd)
        if is_of_vm:
            with suppress(OSError):  # these are left out later, too
                fanotify.ignore_mount(group, records.MODIFY, fd)
        return (_id_of(fd).hex(), os.fstat(fd).st_dev), []
    finally:
        if fd != kept:
            os.close(fd)


def _mark_file_system(group: int, folder: int) -> None:
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
