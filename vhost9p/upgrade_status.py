"""How the upgrades of a daemon went, for the command that asks for one (upgrade_command.py).

Main keeps a file in memory, which whoever may look into the process finds by its name below
/proc/PID/fd. A daemon has no socket for commands, so there is none to be guarded.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass

from vhost9p import memory_file

NAME = "vhost9p-upgrade"
SIZE = 4096
"""Bytes, which are written at once. A reader who sees a part of old and new reads again."""


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
        self._status = Status(self._status.count + 1, succeeded, text[: SIZE // 8])
        self._write()

    def _write(self) -> None:
        os.pwrite(self.fd, json.dumps(asdict(self._status)).encode().ljust(SIZE), 0)


def read(pid: int) -> Status | None:
    """Returns the status of a daemon; None if the process is none, or has ended. Raises
    PermissionError."""
    folder = f"/proc/{pid}/fd"
    with suppress(FileNotFoundError, ProcessLookupError):
        for number in os.listdir(folder):
            path = f"{folder}/{number}"
            with suppress(FileNotFoundError, ProcessLookupError):
                if os.readlink(path) == f"/memfd:{NAME} (deleted)":
                    return _read(path)
    return None


def _read(path: str) -> Status | None:
    for _ in range(100):
        with open(path, "rb") as file:
            if status := _parse(file.read()):
                return status
    return None


def _parse(data: bytes) -> Status | None:
    """None: it is being written."""
    with suppress(ValueError, TypeError):
        return Status(**json.loads(data))
    return None
