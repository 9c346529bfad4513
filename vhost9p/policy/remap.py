"""multidevs=remap: every (device, inode) gets a unique qid.path, which stays the same until the
host reboots.

Paths. A path is the inode shifted left, with a suffix in the freed low bits (see `suffix`). Each
suffix belongs to one group: a device, and the high bits that the shift drops. A path determines its
suffix, the suffix determines the group, and the group with the remaining bits determines device and
inode: so no two files share a path. Inodes are mostly small, so a device needs one or two groups,
and paths stay short. A new group, with the next free suffix, is created for the first inode that
fits no group of its device. After 65535 groups files are numbered one by one: path = number << 33 |
the 65536th suffix, which has 33 bits.

Devices. Bind mounts of one file system must share groups, or hard links across them would look like
different files. But the kernel reuses a free device number for the next tmpfs, whose files must not
be taken for the old ones. Two superblocks that exist at the same time never have the same number.
So a file seen with (st_dev, file system id) on a new mount belongs to a known device with the same
pair if

  * a mount on which that device was seen still exists: both exist now, so they are the same; or
  * it is the same file system, mounted again or seen from a new copy of the mount namespace, in
    which all mounts have new ids (as when a service manager restarts the daemon): the pair names a
    block device and a UUID, or a mount on which the device was seen had the same root, by inode
    and birth time in nanoseconds.

Otherwise it is a new device. Without unique mount ids (Linux 6.8) and without birth times, a reused
device number on a reused mount number passes for the old device.

Every decision is written to the state file before it is installed, so before a guest sees it. After
a restart all undamaged records are valid; numbers that damaged records may have assigned are never
assigned again.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from vhost9p.native.qidmap import DeviceFlag, QidMap
from vhost9p.policy.mounts import Mount, MountTable, MountWatch, Probe
from vhost9p.policy.state import Record, StateFile
from vhost9p.policy.suffix import suffix

log = logging.getLogger(__name__)

MAX_GROUPS = 65535
MAX_FILES = 1_000_000
MAX_FILES_LIMIT = (1 << 31) - 1
SINGLE = suffix(MAX_GROUPS + 1)
MASK64 = (1 << 64) - 1

MOUNTS_KEPT = 64
"""Mounts remembered per device: the first and the latest. Others are examined again when seen."""

WASTE = 1000
"""A state file is rewritten at start if its obsolete records outnumber the others by this many."""


class Kind(IntEnum):
    """Kinds of records in the state file, with the meaning of device, a, b, c, d."""

    DEVICE = 1
    """device index, st_dev, file system id"""
    MOUNT = 2
    """device index, mount id, mount number, root's inode, root's birth time"""
    GROUP = 3
    """device index, suffix index, top bits"""
    FILE = 4
    """device index, inode, number"""
    RESERVED = 5
    """0, devices, groups, files: the numbers that may have been assigned"""


@dataclass(slots=True)
class Device:
    """A file system, or a part of one with its own st_dev."""

    index: int
    st_dev: int
    fs_id: int
    mounts: list[Mount] = field(default_factory=list)

    def is_named_for_good(self) -> bool:
        """Whether st_dev and file system id alone identify this file system.

        Any file system may get an anonymous number (major 0). The id is a hash of the UUID
        (statfs(2)), else the device number again or 0, with an empty upper half. Only stacked file
        systems (overlayfs) pass on another's id, and they have major 0.
        """
        return os.major(self.st_dev) != 0 and self.fs_id >> 32 != 0

    def is_seen_again_on(self, mount: Mount) -> bool:
        """Whether `mount`, with the same pair, is this device mounted again."""
        return self.is_named_for_good() or any(mount.has_same_root(known) for known in self.mounts)

    def add_mount(self, mount: Mount) -> None:
        """Remembers that the device was seen on this mount."""
        if len(self.mounts) == MOUNTS_KEPT:
            del self.mounts[1]
        self.mounts.append(mount)

    def records(self) -> list[Record]:
        """Returns the device's records for the state file."""
        device = Record(Kind.DEVICE, self.index, self.st_dev, self.fs_id)
        return [device, *(Record(Kind.MOUNT, self.index, *mount) for mount in self.mounts)]


class RemapPolicy:
    """See MultidevsPolicy. Owns `mounts` and `state`.

    `_lock` covers decisions, which must be in the state file in the order in which they are made.
    Deciding on a device reads mount points, and may wait for their file systems. So it has a lock
    of its own (`_looking`), which is taken first, so that groups can be decided meanwhile.
    `_looking` guards the devices, and orders findings about mounts and reports of unmounts.
    """

    def __init__(
        self,
        qidmap: QidMap,
        mounts: MountTable,
        probe: Probe,
        state: StateFile | None,
        *,
        max_files: int = MAX_FILES,
    ) -> None:
        """`max_files` limits the files that are numbered one by one. Raises ValueError, OSError."""
        if not 0 <= max_files <= MAX_FILES_LIMIT:
            raise ValueError(f"max_files is {max_files}: it must be 0 to {MAX_FILES_LIMIT}")
        self._qidmap = qidmap
        self._mounts = mounts
        self._probe = probe
        self._state = state
        self._max_files = max_files
        self._looking = threading.Lock()
        self._lock = threading.Lock()
        self._watch: MountWatch | None = None
        self._reported: set[int] = set()
        self._by_index: dict[int, Device] = {}
        self._by_key: dict[tuple[int, int], list[Device]] = {}
        self._devices = self._groups = self._files = 0
        self.changed: Callable[[], None] = lambda: None
        if state:
            self._restore(state)

    def close(self) -> None:
        """See MultidevsPolicy."""
        if self._watch:
            self._watch.stop()
            self._watch = None
        self._mounts.close()
        if self._state:
            self._state.close()

    def sizes(self) -> dict[str, int]:
        """See MultidevsPolicy."""
        return {"devices": self._devices, "groups": self._groups, "files": self._files}

    # ---- devices ----------------------------------------------------------------------------

    def device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """See MultidevsPolicy. Mount id 0 means no mount: st_dev alone identifies such a device."""
        with self._looking:
            if mnt_id:
                fs_id = os.fstatvfs(fd).f_fsid & MASK64
                mount = self._mounts.identify(mnt_id, fd, self._probe)
                if not mount.has_unique_id():
                    self._watch_mounts()
            else:
                fs_id = 0
                mount = Mount(0, 0, 0, 0)
            device = self._find_device(st_dev, fs_id, mount)
            with self._lock:
                if device is None:
                    device = Device(self._devices, st_dev, fs_id, [mount])
                    self._persist(*device.records())
                    self._enter(device)
                elif mount not in device.mounts:
                    self._persist(Record(Kind.MOUNT, device.index, *mount))
                    device.add_mount(mount)
            self._qidmap.set_device(st_dev, mnt_id, device.index, DeviceFlag(0))

    def _find_device(self, st_dev: int, fs_id: int, mount: Mount) -> Device | None:
        candidates = self._by_key.get((st_dev, fs_id), [])[::-1]
        for device in candidates:
            if any(mount.is_same(known) for known in device.mounts):
                return device
        for device in candidates:
            if device.is_seen_again_on(mount):
                return device
            if any(self._mounts.is_mounted(known, self._probe) for known in device.mounts):
                return device
        return None

    def _enter(self, device: Device) -> None:
        self._by_index[device.index] = device
        self._by_key.setdefault((device.st_dev, device.fs_id), []).append(device)
        self._devices = max(self._devices, device.index + 1)

    def _watch_mounts(self) -> None:
        """Where mount ids are reused, the map's keys are valid only until an unmount."""
        if self._watch is None:
            self._watch = self._mounts.watch(self._mounts_changed)

    def _mounts_changed(self) -> None:
        with self._looking:
            self._qidmap.forget_devices()

    # ---- groups and files -------------------------------------------------------------------

    def group(self, device: int, ino: int) -> None:
        """See MultidevsPolicy."""
        with self._lock:
            if self._qidmap.has(device, ino):
                return  # another thread has asked at the same time
            if self._groups < MAX_GROUPS:
                self._add_group(device, ino)
            else:
                self._add_file(device, ino)
        self.changed()

    def _add_group(self, device: int, ino: int) -> None:
        n = self._groups + 1
        bits, value = suffix(n)
        top = ino >> (64 - bits)
        self._persist(Record(Kind.GROUP, device, n, top))
        self._groups = n
        self._qidmap.add_group(device, bits, top, value)

    def _add_file(self, device: int, ino: int) -> None:
        if self._files >= self._max_files:
            self._report_once(
                logging.ERROR,
                f"multidevs: remap has numbered {self._files} files one by one, its limit: every "
                "further one is refused (ENFILE). Raise the limit, or export fewer devices",
            )
            raise OSError(errno.ENFILE, "no qid.path is left for the file")
        self._report_once(
            logging.WARNING,
            f"multidevs: remap has used up its {MAX_GROUPS} groups of inodes and numbers further "
            "files one by one, with degraded performance",
        )
        number = self._files + 1
        self._persist(Record(Kind.FILE, device, ino, number))
        self._files = number
        self._qidmap.add_file(device, ino, _single_path(number))

    def _report_once(self, level: int, message: str) -> None:
        if level not in self._reported:
            self._reported.add(level)
            log.log(level, message)

    # ---- the state file ---------------------------------------------------------------------

    def _persist(self, *records: Record) -> None:
        if self._state:
            self._state.append(*records)

    def _restore(self, state: StateFile) -> None:
        """Loads the records of earlier runs, and rewrites the file if that pays."""
        useless = 0
        for record in state.records():
            self._replay(record)
            useless += record.kind in (Kind.MOUNT, Kind.RESERVED)
        useless -= sum(len(device.mounts) for device in self._by_index.values())
        if state.damaged:
            log.warning(
                "the state file %s has %d damaged records: the files that they stand for get new "
                "identities; a guest that has seen them should mount again",
                state.name,
                state.damaged,
            )
            self._devices += state.damaged
            self._groups = min(self._groups + state.damaged, MAX_GROUPS)
            self._files += state.damaged
        if state.damaged or useless > WASTE:
            state.rewrite(self._all_records(state.records()))

    def _replay(self, record: Record) -> None:
        kind, index, a, b, c, d = record
        if kind == Kind.DEVICE:
            self._enter(Device(index, a, b))
        elif kind == Kind.MOUNT:
            if index in self._by_index:
                self._by_index[index].add_mount(Mount(a, b, c, d))
        elif kind == Kind.GROUP:
            bits, value = suffix(a)
            self._qidmap.add_group(index, bits, b, value)
            self._groups = max(self._groups, a)
        elif kind == Kind.FILE:
            self._qidmap.add_file(index, a, _single_path(b))
            self._files = max(self._files, b)
        elif kind == Kind.RESERVED:
            self._devices = max(self._devices, a)
            self._groups = max(self._groups, b)
            self._files = max(self._files, c)

    def _all_records(self, stored: Iterable[Record]) -> Iterator[Record]:
        yield Record(Kind.RESERVED, 0, self._devices, self._groups, self._files)
        for device in self._by_index.values():
            yield from device.records()
        yield from (record for record in stored if record.kind in (Kind.GROUP, Kind.FILE))


def _single_path(number: int) -> int:
    return number << SINGLE.bits | SINGLE.value
