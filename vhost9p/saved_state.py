"""The saved state of a device: a file in memory that outlives its workers, and the code that wrote
it.

Main creates one for each device when it starts a keeper, and keeps its descriptor. The keeper maps
all but the first page before it clones workers (shared_state.py), so no worker can change what that
page says: a line of JSON with the number of the format, a fingerprint, and where the parts are.
docs/upgrade.md describes the format.

The parts hold pointers into themselves, so every process has them at the same address. That lies
where nothing else is ever mapped: an address space begins with the program's own mappings at its
end, and with programs without address randomisation at its beginning.

A change of a struct that lies in the parts makes another format, and needs another number: a test
fails if the fingerprint changes and the number does not. A fingerprint that is not this code's own
under the same number means that somebody forgot that, and is refused, too.
"""

import functools
import hashlib
import json
import mmap
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any, Self

from vhost9p import memory_file
from vhost9p.fs import lock_records
from vhost9p.native import shared_memory

FORMAT = 1
PAGE = 4096
FIRST_ADDRESS = 0x2000_0000_0000
ALIGNMENT = 1 << 30
"""Of addresses, which also leaves a gap between two states."""


class Unreadable(Exception):
    """This code cannot go on with a state; the text says why."""


@functools.cache
def fingerprint() -> str:
    """Returns what changes whenever the layout of the parts does."""
    constants = {
        name: value
        for name, value in vars(lock_records).items()
        if name.isupper() and isinstance(value, int)
    }
    text = [platform.machine(), *shared_memory.layout(), lock_records.BODY.format]
    text += [f"{name} {value}" for name, value in sorted(constants.items())]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def _round_up(size: int, to: int) -> int:
    return -(-size // to) * to


@dataclass(frozen=True)
class Header:
    """The first line of a state. Sizes are in bytes."""

    format: int
    fingerprint: str
    address: int
    """Where the parts are in memory; they begin with the second page of the file."""
    max_fids: int
    connection: int
    """Sizes: of the connection (csrc/server/connection.c),"""
    locks: int
    """the records of locks (fs/lock_records.py),"""
    device: int
    """and the device (csrc/server/device.c). Each begins on a page of its own, in this order."""

    @classmethod
    def new(cls, max_fids: int, address: int) -> Self:
        """Of a state in this code's format."""
        sizes = (
            shared_memory.connection_size(),
            lock_records.SIZE,
            shared_memory.device_size(max_fids),
        )
        return cls(FORMAT, fingerprint(), address, max_fids, *sizes)

    @property
    def offsets(self) -> tuple[int, int, int, int]:
        """Where the parts begin in memory, and where the last one ends."""
        first = _round_up(self.connection, PAGE)
        second = first + _round_up(self.locks, PAGE)
        return 0, first, second, second + _round_up(self.device, PAGE)

    @property
    def next_address(self) -> int:
        """Where the state of the next device of the VM may be."""
        return _round_up(self.address + self.offsets[3] + ALIGNMENT, ALIGNMENT)


@dataclass(frozen=True)
class Parts:
    """A state that is mapped."""

    at_home: bool
    """Whether it is at its address: else no other process can go on with it but by a clone."""
    connection: Any
    locks: mmap.mmap
    device: Any


class SavedState:
    """The file of a state, open as `fd`."""

    def __init__(self, fd: int, header: Header) -> None:
        """Takes ownership of the descriptor."""
        self.fd = fd
        self.header = header

    @classmethod
    def create(cls, max_fids: int, address: int) -> Self:
        """An empty one. Raises OSError."""
        header = Header.new(max_fids, address)
        fd = memory_file.create("vhost9p-state")
        os.ftruncate(fd, PAGE + header.offsets[3])
        os.pwrite(fd, json.dumps(asdict(header)).encode() + b"\n", 0)
        return cls(fd, header)

    @classmethod
    def open(cls, fd: int) -> Self:
        """One that other code has written. Raises Unreadable, OSError."""
        line = os.pread(fd, PAGE, 0).partition(b"\n")[0]
        try:
            values = json.loads(line)
            number = values["format"]
        except (ValueError, TypeError, KeyError):
            raise Unreadable("the saved state has no header that can be read") from None
        if number != FORMAT:
            raise Unreadable(
                f"the saved state has format {number}, and this version reads {FORMAT} only"
            )
        if values.get("fingerprint") != fingerprint():
            raise Unreadable(
                f"the saved state is laid out otherwise than format {FORMAT} of this version"
            )
        return cls(fd, Header(**values))

    def map(self, *, anywhere: bool) -> Parts:
        """Maps the parts. If there is no room at their address, OSError is raised; or, if the state
        is a new one (`anywhere`), they come to lie elsewhere."""
        connection, locks, device, size = self.header.offsets
        address = self.header.address
        base = shared_memory.map_shared(self.fd, PAGE, size, address)
        at_home = bool(base)
        if not base and anywhere:
            base = shared_memory.map_shared(self.fd, PAGE, size, 0)
        if not base:
            raise OSError(0, f"the memory at {address:#x} is in use")
        return Parts(
            at_home,
            shared_memory.part(base, connection),
            mmap.mmap(self.fd, self.header.locks, offset=PAGE + locks),
            shared_memory.part(base, device),
        )

    def try_map(self) -> None:
        """Maps the parts for a moment. Raises OSError."""
        parts = self.map(anywhere=False)
        parts.locks.close()
        shared_memory.unmap(parts.connection, self.header.offsets[3])

    def close(self) -> None:
        """Closes the file; its mappings stay."""
        os.close(self.fd)
