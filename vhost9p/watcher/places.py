"""Where in the guest's mounts a directory is that the kernel names by a file handle.

A handle is opened through a mount that the guest sees, and the kernel says the directory's path
there (proc_pid_fd(5)). What lies below an export's root has that root's path as its beginning, by
whatever name both go at the moment; so the paths that are found are those of now, and not of when
the event happened. A directory over which something is mounted has a path, too, but the guest sees
what is mounted there. One whose path the kernel cannot say, since that has more than 4,095 bytes,
has none here either: no program of the guest could use it in one piece.

What was found is remembered, also that a directory is in no export, until some directory of the
host gets another name or place.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vhost9p import procfs
from vhost9p.changes.records import FSID_SIZE
from vhost9p.changes.report import View
from vhost9p.native.fanotify import open_by_handle

KNOWN_MAX = 16384
"""Directories that are remembered."""
RACES = 64
"""How often paths are read again that have changed meanwhile."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DELETED = b" (deleted)"


class Place(NamedTuple):
    """An export."""

    device: int
    """By its number."""
    view: View
    root: int
    """A descriptor of its directory."""
    has_others: bool
    """Whether the guest sees other file systems below it."""


@dataclass(frozen=True)
class Mount:
    """A mount of a file system at, around or below exports."""

    fd: int
    """A directory in it, open for reading; -1: it is opened each time, so that the host can unmount
    it."""
    number: int
    """Of the mount (proc_pid_mountinfo(5))."""
    path: bytes
    """Where that directory is."""
    st_dev: int
    """Of that directory."""
    places: tuple[int, ...]
    """The exports, by their position in `Places.all`."""


class Gone(Exception):
    """A mount is not where it was."""


class Places:
    """Those of a VM. `find_covers` returns, by the number of a mount, which paths below exports
    have others mounted on it, each with a slash at the end."""

    def __init__(
        self, all: Sequence[Place], find_covers: Callable[[], Mapping[int, Sequence[bytes]]]
    ) -> None:
        self.all = all
        self._find_covers = find_covers
        self._covers: Mapping[int, Sequence[bytes]] | None = None
        self._mounts: dict[bytes, list[Mount]] = {}
        """By the file system's id, as events have it."""
        self._known: dict[bytes, dict[int, list[bytes]]] = {}

    def add(self, file_system: bytes, mount: Mount) -> None:
        """Events of this file system are about files of this mount, too."""
        self._mounts.setdefault(file_system, []).append(mount)

    def find(self, directory: bytes) -> dict[int, list[bytes]]:
        """Returns the paths of a directory (Entry.directory) below each of the exports that it is
        in, by the export's position: empty for its root, else with a slash at the end. There are
        several if the same file system is mounted at several places. Raises OSError, Gone."""
        found = self._known.get(directory)
        if found is None:
            found = self._find(directory)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[directory] = found
        return found

    def forget(self) -> None:
        """Directories have other names, or places."""
        self._known.clear()
        if self._covers:  # mount points below them, too
            self._covers = None

    def forget_mounts(self) -> None:
        """Mounts have come or gone."""
        self._known.clear()
        self._covers = None

    def open(self, directory: bytes) -> int:
        """Returns an O_PATH descriptor of a directory. Raises OSError, Gone."""
        (mount, *_) = self._mounts[directory[:FSID_SIZE]]
        return _open(mount, directory[FSID_SIZE:])

    def _find(self, directory: bytes) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for mount in self._mounts.get(directory[:FSID_SIZE], ()):
            try:
                fd = _open(mount, directory[FSID_SIZE:])
            except OSError as error:
                if error.errno == errno.ESTALE:
                    continue  # it was removed
                raise
            try:
                for place, path in self._below(mount, fd):
                    paths = found.setdefault(place, [])
                    if path not in paths:
                        paths.append(path)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
            finally:
                os.close(fd)
        return found

    def _below(self, mount: Mount, fd: int) -> Iterator[tuple[int, bytes]]:
        for number in mount.places:
            place = self.all[number]
            path, root = _paths_of(fd, place.root)
            if not path.startswith(root) or self._is_covered(mount, path, root):
                continue
            # What is not below the mount's root has the path of the process's root.
            if path != root or os.path.sameopenfile(fd, place.root):
                yield number, path[len(root) :]

    def _is_covered(self, mount: Mount, path: bytes, root: bytes) -> bool:
        """Whether something is mounted over a directory below an export's root. What is mounted
        over the root itself, the guest does not see."""
        if self._covers is None:
            self._covers = self._find_covers()
        covers = self._covers.get(mount.number, ())
        return any(path.startswith(each) for each in covers if each != root)


def _open(mount: Mount, handle: bytes) -> int:
    """Opens a directory through a mount. Raises OSError, Gone."""
    if mount.fd >= 0:
        return open_by_handle(mount.fd, handle)
    try:
        fd = os.open(mount.path, DIRECTORY)
    except FileNotFoundError:
        raise Gone from None
    try:
        if os.fstat(fd).st_dev != mount.st_dev:
            raise Gone
        return open_by_handle(fd, handle)
    finally:
        os.close(fd)


def _paths_of(fd: int, root: int) -> tuple[bytes, bytes]:
    """Returns the paths of two directories as they are at the same time, though the host may rename
    one above both. Raises OSError, also if it does so again and again."""
    before = path_of(root)
    for _ in range(RACES):
        path, after = path_of(fd), path_of(root)
        if after == before:
            return path, after
        before = after
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def path_of(fd: int) -> bytes:
    """Returns the path of an open directory, with a slash at the end; the last one that it had, if
    it was removed. Raises OSError."""
    path = os.readlink(os.fsencode(procfs.proc_path(fd)))
    if path.endswith(_DELETED) and os.fstat(fd).st_nlink == 0:
        path = path.removesuffix(_DELETED)
    return path.rstrip(b"/") + b"/"
