"""Which descriptors the session of each device needs, in memory that main, keeper and worker share.

The worker writes it whenever they change; main copies the descriptors then (copies.py), so that a
new keeper can go on if the keeper dies. The list of a device is, by position: the connection's
socket, the descriptor of SET_BACKEND_REQ_FD, those for kicks, for notifications (call, err), and of
each region of guest memory; -1 where there is none. These are numbers in the table that keeper and
worker share.

A list is written with a generation, which is odd meanwhile, so that a reader sees a whole one. A
worker that an attacker controls can write anything here: main gets copies then that it never uses
itself, and the VM's next keeper gets them, which could have had them anyway.
"""

import mmap
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from vhost9p import memory_file
from vhost9p.vhost_user.messages import MAX_MEM_SLOTS

_HEAD = struct.Struct("=QI")
"""The generation, and how many numbers follow."""
_NUMBER = 4
SLOT = 4096
"""Bytes of a device."""
FDS_MAX = 5 + MAX_MEM_SLOTS
assert _HEAD.size + FDS_MAX * _NUMBER <= SLOT


class Listed(NamedTuple):
    """The descriptors of a device."""

    generation: int
    fds: list[int]


class Inventory:
    """That of a VM with so many devices. Processes forked from this one share it."""

    def __init__(self, devices: int, fd: int = -1, bell: int = -1) -> None:
        """That of the file `fd` and the eventfd `bell`, which are owned from now on, or a new one.
        Raises OSError."""
        self.devices = devices
        self.fd = memory_file.create("vhost9p-inventory") if fd < 0 else fd
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) if bell < 0 else bell
        """Readable when a list has changed."""
        os.ftruncate(self.fd, SLOT * devices)
        self._memory = mmap.mmap(self.fd, SLOT * devices)

    def read(self, device: int) -> Listed | None:
        """Returns the list of a device, counted from 0; None if it is being written, or damaged."""
        generation, count = _HEAD.unpack_from(self._memory, SLOT * device)
        if generation % 2 or count > FDS_MAX:
            return None
        fds = list(struct.unpack_from(f"={count}i", self._memory, SLOT * device + _HEAD.size))
        again, _ = _HEAD.unpack_from(self._memory, SLOT * device)
        return Listed(generation, fds) if again == generation else None

    def write(self, device: int, fds: Sequence[int], *, anew: bool) -> None:
        """In a worker: the descriptors of a device are these now. Does nothing if they had the same
        numbers before, unless they may be others nevertheless (`anew`). Only one thread of a device
        calls it."""
        at = SLOT * device
        listed = self.read(device)
        if listed and listed.fds == fds and not anew:
            return
        generation = _HEAD.unpack_from(self._memory, at)[0] | 1
        _HEAD.pack_into(self._memory, at, generation, len(fds))
        struct.pack_into(f"={len(fds)}i", self._memory, at + _HEAD.size, *fds)
        _HEAD.pack_into(self._memory, at, (generation + 1) % 2**64, len(fds))
        os.eventfd_write(self.bell, 1)

    def silence(self) -> None:
        """In main, before it looks: the bell rings for later changes only. Never blocks, even if a
        worker has read the bell's count, and made its descriptor one that blocks."""
        with suppress(BlockingIOError):
            os.preadv(self.bell, [bytearray(8)], -1, os.RWF_NOWAIT)

    def close(self) -> None:
        """In main, when the VM has ended."""
        self._memory.close()
        os.close(self.fd)
        os.close(self.bell)


class Loss:
    """What the first worker of a keeper has to know whose VM has lost all other descriptors: for
    each device, which numbers those of its list had, and have now; None: the list had changed in
    the instant of the death. Processes cloned from this one share it."""

    def __init__(self, devices: Sequence[tuple[list[int], list[int]] | None]) -> None:
        self.devices = devices
        self._settled = mmap.mmap(-1, 1)

    @property
    def fds(self) -> list[int]:
        """The descriptors, by their numbers now."""
        return [fd for each in self.devices if each for fd in each[1] if fd >= 0]

    @property
    def is_due(self) -> bool:
        """Whether no worker has yet taken note of it."""
        return not self._settled[0]

    def settled(self) -> None:
        """A worker has, in the state of each device."""
        self._settled[0] = 1
