"""What asks a policy: lookups in the qid map that are repeated once the policy has decided."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vhost9p.native.qidmap import FileKey, QidMap, UnknownDevice, UnknownGroup
from vhost9p.policy.mounts import MountTable
from vhost9p.policy.multidevs import MultidevsPolicy
from vhost9p.policy.remap import MAX_FILES, RemapPolicy
from vhost9p.policy.state import StateFile

BOOT = bytes(range(16))


def no_probe(fd: int) -> FileKey:
    """For files that are on no mount."""
    raise AssertionError(f"no mount should be looked at (descriptor {fd})")


def path_of(qidmap: QidMap, policy: MultidevsPolicy, st_dev: int, ino: int) -> int:
    """qid.path of a made-up file, which is on no mount."""
    while True:
        try:
            return qidmap.lookup(st_dev, 0, ino)[1]
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
