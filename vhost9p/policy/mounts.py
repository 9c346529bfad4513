"""The host's mounts: /proc/self/mountinfo (proc_pid_mountinfo(5)), and how a mount is distinguished
from a later one with the same numbers.

A mount has a *number*, which mountinfo and fdinfo show and the kernel reuses at once. Since Linux
6.8 it also has an id that is never reused, which only statx shows. Without ids, or if a mount is a
copy in a new namespace (a service manager copies all mounts whenever it restarts a confined
daemon), the mount's root identifies it: the inode and its birth time in nanoseconds.

A MountTable opens everything when it is created, so it keeps working after the daemon is confined.
"""

import errno
import os
import re
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vhost9p import procfs, threads
from vhost9p.native.qidmap import FileKey

KERNEL_TYPES = frozenset(
    b"bpf cgroup cgroup2 debugfs devpts devtmpfs mqueue proc securityfs sysfs tracefs".split()
)
"""File systems that are interfaces to the kernel. Every root file system has mounts of them, and
they hold no data that two exports could share."""

Probe = Callable[[int], FileKey]
"""Reads the key of an open file (O_PATH is enough); raises OSError."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountLine:
    """A line of mountinfo. `st_dev` is the superblock's; its files may show others (btrfs)."""

    number: int
    parent: int
    st_dev: int
    root: bytes
    point: bytes
    fs_type: bytes


def parse_mountinfo(text: bytes) -> dict[int, MountLine]:
    """Returns the lines of mountinfo by mount number, with paths decoded (octal escapes)."""
    lines = {}
    for line in text.splitlines():
        fields = line.split(b" ")
        # Optional fields end at the "-"; the file system's type follows.
        dash = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        number = int(fields[0])
        lines[number] = MountLine(
            number,
            int(fields[1]),
            os.makedev(int(major), int(minor)),
            _unescape(fields[3]),
            _unescape(fields[4]),
            _unescape(fields[dash + 1]),
        )
    return lines


def mounts_by_point(process: str) -> dict[bytes, MountLine]:
    """Returns the mounts that a process sees, of several at one point the uppermost. Raises
    OSError."""
    with open(procfs.path(f"{process}/mountinfo"), "rb") as table:
        return {line.point: line for line in parse_mountinfo(table.read()).values()}


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)


class Mount(NamedTuple):
    """A mount, as seen through a file on it. `root_ino` is 0 if the root cannot be reached (another
    mount covers it); `root_btime` (ns) is 0 then too, and if the file system has no birth times."""

    mnt_id: int
    number: int
    root_ino: int
    root_btime: int

    def has_unique_id(self) -> bool:
        """Whether the kernel never gives `mnt_id` to another mount."""
        return self.mnt_id != self.number

    def is_same(self, other: "Mount") -> bool:
        """Whether both are the same mount, seen at different times."""
        if self.mnt_id != other.mnt_id:
            return False
        return self.has_unique_id() or self[2:] == other[2:]

    def has_same_root(self, other: "Mount") -> bool:
        """Whether both provably have the same directory (or file) as their root."""
        return self.root_btime != 0 and self[2:] == other[2:]


class MountTable:
    """Reads the mounts of the namespace and root directory in which it was created.

    poll(2) reports each change of the mounts on the descriptor `watched` once, to the first caller.
    So either `watch` or one other caller polls it. `read` has a descriptor of its own, and reads
    and parses the table once per change for all callers: otherwise a thousand new mounts would have
    it parsed a thousand times.
    """

    def __init__(self) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._fds: list[int] = []
        try:
            self._mountinfo = self._keep(os.open(procfs.path("self/mountinfo"), flags))
            self._changes = select.poll()
            self._changes.register(self._mountinfo, select.POLLPRI)
            self.watched = self._keep(os.open(procfs.path("self/mountinfo"), flags))
            self._fdinfo = self._keep(os.open(procfs.path("self/fdinfo"), flags | os.O_DIRECTORY))
            self._root = self._keep(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise
        self._lock = threading.Lock()
        """Guards `_lines`, and lets one thread at a time read them. No other lock is taken under
        it."""
        self._lines: dict[int, MountLine] | None = None

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Closes its descriptors. Stop a watch first."""
        while self._fds:
            os.close(self._fds.pop())

    def read(self, *, anew: bool = False) -> dict[int, MountLine]:
        """Returns all mounts by number; do not change the result. Paths of mount points date from
        the last mount or unmount, even if a directory above was renamed since, unless they are to
        be read `anew`."""
        with self._lock:
            if self._changes.poll(0) or self._lines is None or anew:
                self._lines = self._read()
            return self._lines

    def _read(self) -> dict[int, MountLine]:
        chunks: list[bytes] = []
        offset = 0
        while chunk := os.pread(self._mountinfo, 1 << 16, offset):
            chunks.append(chunk)
            offset += len(chunk)
        return parse_mountinfo(b"".join(chunks))

    def number_of(self, fd: int) -> int:
        """Returns the mount number of an open file (proc_pid_fdinfo(5))."""
        info = os.open(str(fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fdinfo)
        try:
            return _number_in(os.read(info, 4096))
        finally:
            os.close(info)

    def identify(self, mnt_id: int, fd: int, probe: Probe) -> Mount:
        """Returns the mount that the open file `fd` is on; `mnt_id` is from `probe`.

        Raises OSError if descriptors or memory run out.
        """
        number = self.number_of(fd)
        seen = self._look(number, probe)
        if seen is None or seen.mnt_id != mnt_id:
            return Mount(mnt_id, number, 0, 0)
        return seen

    def is_mounted(self, mount: Mount, probe: Probe) -> bool:
        """Whether the mount provably still exists: False also if another covers it.

        Raises OSError if descriptors or memory run out.
        """
        seen = self._look(mount.number, probe)
        return seen is not None and mount.is_same(seen)

    def _look(self, number: int, probe: Probe) -> Mount | None:
        """Returns the mount with this number, seen at its mount point."""
        seen = self._look_at(self.read().get(number), probe)
        if seen is None:  # a directory above may have been renamed
            seen = self._look_at(self._read().get(number), probe)
        return seen

    def _look_at(self, line: MountLine | None, probe: Probe) -> Mount | None:
        if line is None:
            return None
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            root = os.open(line.point.lstrip(b"/") or b".", flags, dir_fd=self._root)
            try:
                if self.number_of(root) != line.number:
                    return None
                key = probe(root)
            finally:
                os.close(root)
        except OSError as err:
            if err.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # the error is not about the mount
            return None
        return Mount(key.mnt_id, line.number, key.ino, key.btime)

    def watch(self, changed: Callable[[], None]) -> "MountWatch":
        """Calls `changed` on a separate thread after each mount or unmount."""
        return MountWatch(self.watched, changed)


def number_of(fd: int) -> int:
    """The same as MountTable.number_of, in a process that may open files of /proc. Raises
    OSError."""
    with open(procfs.path(f"self/fdinfo/{fd}"), "rb") as info:
        return _number_in(info.read(4096))


def _number_in(fdinfo: bytes) -> int:
    found = re.search(rb"^mnt_id:\s*(\d+)$", fdinfo, re.MULTILINE)
    return int(found[1]) if found else 0


class MountWatch:
    """A thread that polls mountinfo, which signals each change as POLLPRI."""

    def __init__(self, mountinfo: int, changed: Callable[[], None]) -> None:
        self._mountinfo = mountinfo
        self._changed = changed
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="mounts", daemon=True)
        threads.start(self._thread)

    def stop(self) -> None:
        """Ends the thread."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._mountinfo, select.POLLPRI)
        poll.register(self._stop, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop in ready:
                return
            self._changed()
