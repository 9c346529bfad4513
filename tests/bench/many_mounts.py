"""Runs a command with many devices: `python -m tests.bench.many_mounts DIRECTORY COUNT COMMAND…`.

In a mount namespace of its own, in which COUNT file systems are mounted below DIRECTORY/devices,
each with the one file that the driver looks at (ninep_scale.c). They are gone with the command.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 1 << 18


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount_all(directory: Path, count: int) -> None:
    """Leaves the mount namespace and mounts. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    above = directory / "devices"
    above.mkdir(exist_ok=True)
    os.umask(0)
    for number in range(count):
        point = above / f"d{number:04}"
        point.mkdir(exist_ok=True)
        _check(libc.mount(b"none", bytes(point), b"tmpfs", 0, b"size=64k,nr_inodes=8"), str(point))
        os.close(os.open(point / "f", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o400 | number & 0o77))


def main(words: list[str]) -> None:
    """Does not return."""
    directory, count, *command = words
    mount_all(Path(directory), int(count))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
