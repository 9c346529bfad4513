"""Which directories a device's exports are, for the process that watches them: the worker says so
in the head of the device's ring (ring.py).

A path may lead elsewhere by now, where the exports are not mounts of the VM's own. So the watcher
takes the worker's descriptors, which are in the keeper's table, too. A worker that an attacker
controls can say anything: it makes the watcher look at what it could open itself, and hears of
changes there.
"""

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from vhost9p.changes.ring import Ring

_ROOT = struct.Struct("=QIi")
"""st_ino, st_dev (the kernel's has 32 bits) and the descriptor, all of which anybody may have
written; zeros: there is none."""


class Root(NamedTuple):
    """The directory of an export."""

    st_ino: int
    st_dev: int
    fd: int
    """Of the worker."""

    def is_same(self, other: "Root") -> bool:
        """Whether both are the same directory, whatever descriptors it has."""
        return self[:2] == other[:2]

    @classmethod
    def of(cls, fd: int) -> "Root":
        """That of an open directory. Raises OSError."""
        found = os.fstat(fd)
        return cls(found.st_ino, found.st_dev & 0xFFFF_FFFF, fd)


def write(ring: Ring, fds: Sequence[int]) -> None:
    """Called by a worker, for the exports in their order. Raises OSError."""
    packed = b"".join(_ROOT.pack(*Root.of(fd)) for fd in fds)
    ring.spare[:] = packed.ljust(len(ring.spare), b"\0")


def read(ring: Ring, count: int) -> list[Root]:
    """Returns those of so many exports, in their order."""
    memory = bytes(ring.spare)
    return [Root(*_ROOT.unpack_from(memory, number * _ROOT.size)) for number in range(count)]
