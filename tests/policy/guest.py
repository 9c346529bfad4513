"""What asks a policy: lookups in the qid map that are repeated once the policy has decided."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vhost9p.native.library import check, ffi, lib
from vhost9p.native.qidmap import FileKey, QidMap
from vhost9p.policy.mounts import MountTable
from vhost9p.policy.multidevs import MultidevsPolicy
from vhost9p.policy.remap import MAX_FILES, RemapPolicy
from vhost9p.policy.state import StateFile

BOOT = bytes(range(16))


class Unknown(LookupError):
    """The map lacks an entry."""


class UnknownDevice(Unknown):
    """(st_dev, mount id) has not been installed."""


class UnknownGroup(Unknown):
    """No group and no single entry of device index `device` fits the inode."""

    def __init__(self, device: int, ino: int) -> None:
        super().__init__(f"inode {ino:#x} of device {device}")
        self.device = device


def lookup(qidmap: QidMap, st_dev: int, mnt_id: int, ino: int) -> tuple[int, int]:
    """(device index, qid.path) of a file, as C finds it.

    Raises UnknownDevice, UnknownGroup, or OSError (ENODEV) where the device is denied.
    """
    device = ffi.new("uint32_t *")
    path = ffi.new("uint64_t *")
    result = lib.v9_qidmap_lookup(qidmap.native, st_dev, mnt_id, ino, device, path)
    if result == -lib.V9_NO_DEVICE:
        raise UnknownDevice(f"device {st_dev:#x} on mount {mnt_id}")
    if result == -lib.V9_NO_GROUP:
        raise UnknownGroup(device[0], ino)
    check(result)
    return device[0], path[0]


def no_probe(fd: int) -> FileKey:
    """For files that are on no mount."""
    raise AssertionError(f"no mount should be looked at (descriptor {fd})")


def path_of(qidmap: QidMap, policy: MultidevsPolicy, st_dev: int, ino: int) -> int:
    """qid.path of a made-up file, which is on no mount."""
    while True:
        try:
            return lookup(qidmap, st_dev, 0, ino)[1]
        except UnknownDevice:
            policy.device(st_dev, 0, -1)
        except UnknownGroup as unknown:
            policy.group(unknown.device, ino)


class Remap:
    """A remap policy with its map. With `directory`, its state file is there."""

    def __init__(self, directory: Path | None = None, *, max_files: int = MAX_FILES) -> None:
        state = open_state(directory) if directory else None
        self.qidmap = QidMap()
        self.policy = RemapPolicy(self.qidmap, MountTable(), no_probe, state, max_files=max_files)

    def path(self, st_dev: int, ino: int) -> int:
        """qid.path of a made-up file."""
        return path_of(self.qidmap, self.policy, st_dev, ino)


@contextmanager
def remap(directory: Path | None = None, *, max_files: int = MAX_FILES) -> Iterator[Remap]:
    """A Remap that is closed at the end."""
    made = Remap(directory, max_files=max_files)
    yield made
    made.policy.close()


def open_state(directory: Path, key: str = "key", boot: bytes = BOOT) -> StateFile:
    """The state file of `key` in `directory`."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return StateFile(fd, key, boot=boot)
    finally:
        os.close(fd)
