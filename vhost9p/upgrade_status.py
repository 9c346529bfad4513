"""By what commands find the daemons that run: how the upgrades of each went, for the command that
asks for one (commands/upgrade.py), and where its control socket is (control/).

Main keeps a file in memory, which whoever may look into the process finds by its name below
/proc/PID/fd. So nobody has to know how a daemon was started, nor of what version it is.

Whoever reads it may be root, and the process anybody's: its descriptors may be anything. So each is
opened without effect first (O_PATH of open(2)). It is read only if the kernel keeps it where it
keeps files in memory, which nobody else can mount and which never wait, and if its owner is the
process's, or root: else a process that was given somebody else's descriptor would get a signal that
ends it.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from vhost9p import memory_file

NAME = "vhost9p-upgrade"
TEXT_MAX = 512
"""Characters, of which JSON makes up to 12 bytes each."""
SIZE = 8192
"""Bytes, which are written at once. A reader who sees a part of old and new reads again."""
PATH_SIZE = 256
"""Bytes behind that, for the path of the control socket; older versions end before."""


@dataclass(frozen=True)
class Status:
    """How the last attempt ended: `count` is its number, 0 before the first."""

    count: int = 0
    succeeded: bool = True
    text: str = ""


class StatusFile:
    """Main's own file: a new one, or the one of this descriptor, which is owned from now on."""

    def __init__(self, fd: int = -1) -> None:
        """Raises OSError."""
        self.fd = memory_file.create(NAME) if fd < 0 else fd
        os.set_inheritable(self.fd, False)
        self._status = (fd >= 0 and _parse(os.pread(fd, SIZE, 0))) or Status()
        self._write()

    def report(self, *, succeeded: bool, text: str) -> None:
        """An attempt has ended. Raises OSError."""
        self._status = Status(self._status.count + 1, succeeded, text[:TEXT_MAX])
        self._write()

    def announce(self, path: str) -> None:
        """The control socket is there. Raises OSError."""
        os.pwrite(self.fd, os.fsencode(path).ljust(PATH_SIZE, b"\0"), SIZE)

    def _write(self) -> None:
        os.pwrite(self.fd, json.dumps(asdict(self._status)).encode().ljust(SIZE), 0)


def find(pid: int) -> int:
    """Returns a descriptor of a daemon's file, for `read`; -1 if the process is none, or has ended.
    Raises OSError."""
    folder = f"/proc/{pid}/fd"
    owners = {0, _owner(pid)}
    for number in os.listdir(folder):
        with suppress(OSError), _opened(f"{folder}/{number}", os.O_PATH) as fd:
            if _is_status(fd, owners):
                return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    return -1


def find_all(*, with_same_files: bool) -> list[int]:
    """Returns the daemons that this user may look into; if asked for, only those that see the same
    files (mount namespace)."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            other = os.stat(f"/proc/{pid}/ns/mnt") != os.stat("/proc/self/ns/mnt")
            if with_same_files and other:
                continue
            if (fd := find(pid)) >= 0:
                os.close(fd)
                found.append(pid)
    # A process that a daemon has just created has its descriptors for a moment.
    return sorted(pid for pid in found if parent_of(pid) not in {-1, *found})


def control_of(pid: int) -> str:
    """Returns where the control socket of a daemon is; empty if it has none. Raises OSError."""
    if (fd := find(pid)) < 0:
        return ""
    try:
        return os.fsdecode(os.pread(fd, PATH_SIZE, SIZE).partition(b"\0")[0])
    finally:
        os.close(fd)


def _owner(pid: int) -> int:
    """Returns the effective uid of a process. Raises OSError."""
    return _field(pid, b"Uid:", 2)


def parent_of(pid: int) -> int:
    """Returns the parent of a process; -1 if it has ended."""
    with suppress(OSError):
        return _field(pid, b"PPid:", 1)
    return -1


def _field(pid: int, name: bytes, number: int) -> int:
    """Returns a word of a line of proc_pid_status(5); -1 if there is none. Raises OSError."""
    with open(f"/proc/{pid}/status", "rb") as file:
        return next((int(line.split()[number]) for line in file if line.startswith(name)), -1)


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_status(fd: int, owners: set[int]) -> bool:
    """Looks at nothing of a file system but the kernel's own. Raises OSError."""
    if os.readlink(f"/proc/self/fd/{fd}") != f"/memfd:{NAME} (deleted)":
        return False
    own = memory_file.create("vhost9p-compared")
    try:
        if _mount(fd) != _mount(own):
            return False
    finally:
        os.close(own)
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_uid in owners


def _mount(fd: int) -> bytes:
    """The mount that a file is on (proc_pid_fdinfo(5)). Raises OSError."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        return next((line for line in file if line.startswith(b"mnt_id:")), b"")


def read(fd: int) -> Status | None:
    """Returns what a daemon says; None if it is no such thing. Raises OSError."""
    for _ in range(100):
        if status := _parse(os.pread(fd, SIZE, 0)):
            return status
    return None


def _parse(data: bytes) -> Status | None:
    """None: it is being written."""
    with suppress(ValueError, TypeError, RecursionError):
        status = Status(**json.loads(data))
        kinds = type(status.count), type(status.succeeded), type(status.text)
        return status if kinds == (int, bool, str) else None
    return None
