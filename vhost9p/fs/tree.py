"""A guest's tree: the drivers of its exports.

A device has one export, or several, which appear as the only directories of a first one. Files
refer to their export by its index; C crosses from one export to another when a walk does
(csrc/fs/attributes.c, v9_export_step).
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from xxhash import xxh3_128_hexdigest

from vhost9p.fs.driver import Attr, Driver


class Tree:
    """Drivers by the index of their export; `names` are the names of the others in the first one's
    root."""

    def __init__(
        self, drivers: Mapping[int, Driver], names: Mapping[bytes, int] | None = None
    ) -> None:
        self._drivers = drivers
        self._names = names or {}

    def driver(self, export: int) -> Driver:
        """The driver that serves the files of an export."""
        return self._drivers[export]

    def name(self, export: int) -> bytes:
        """The name under which an export's root appears; b"/" for the guest's root."""
        return next((name for name, index in self._names.items() if index == export), b"/")

    def attach(self, path: bytes, uid: int) -> tuple[int, int, Attr]:
        """Attaches a user (0xFFFFFFFF: unnamed) to the root (an empty path), an export, or a
        directory below one.

        Returns the export's index, an O_PATH descriptor and its attributes; raises OSError.
        """
        components = deque(name for name in path.split(b"/") if name not in (b"", b"."))
        while components and components[0] == b"..":  # ".." of the root is the root
            components.popleft()
        export = self._names.get(components[0], 0) if components else 0
        if export:
            components.popleft()
        driver = self._drivers[export]
        driver.admit(uid)
        return export, *driver.attach(b"/".join(components))


@contextmanager
def own_directory(folder_fd: int, key: str, suffix: str) -> Iterator[int]:
    """Yields a descriptor of a directory of the daemon's own, which every user may read: the one
    for the key in the folder `folder_fd`, so that the guest finds the same one after a restart of
    the daemon. Raises OSError."""
    name = xxh3_128_hexdigest(key.encode(errors="surrogateescape")) + suffix
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder_fd)
    fd = os.open(
        name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd
    )
    try:
        os.fchmod(fd, 0o755)
        yield fd
    finally:
        os.close(fd)


def open_meeting_place(folder_fd: int, key: str, names: Sequence[bytes]) -> int:
    """Opens (O_PATH) the directory in which several exports appear: it has an empty directory for
    each name and nothing else. Raises OSError; ENOTEMPTY if it contains other files."""
    with own_directory(folder_fd, key, ".exports") as fd:
        there = {os.fsencode(entry) for entry in os.listdir(fd)}
        for stale in there - set(names):
            os.rmdir(stale, dir_fd=fd)
        for missing in set(names) - there:
            os.mkdir(missing, 0o755, dir_fd=fd)
        return os.open(".", os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
