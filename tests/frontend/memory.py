"""Guest memory as a VMM shares it: regions of memfds, with guest-physical and frontend addresses.

A region has three addresses: the guest-physical one (gpa) that descriptors hold, the frontend's
own user address (uva) that ring addresses are given in, and an offset in a memfd. QEMU cuts one
memfd into several regions (RAM below 640 KiB, below 4 GiB, above), so several regions may share
one. The uvas here are numbers of our choice, unlike any gpa, so that a backend that mixes the
address spaces up fails. Nothing here translates for the backend; `read` and `write` are what the
guest's processor does.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

PAGE = 4096
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UVA_BASE = 0x7F55_0000_0000
_UVA_SHIFT = 0x1_2345_6000  # added per region: equal distances in gpa are unequal in uva


class GuestMemoryError(Exception):
    """Guest memory is exhausted, or an address lies outside it: a mistake of the test."""


class Memfd:
    """A memfd that regions are cut from; closed with the last of its regions."""

    def __init__(self, size: int, name: str = "guest-ram") -> None:
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        self.size = size
        os.ftruncate(self.fd, size)

    def truncate(self, size: int) -> None:
        """Shrinks the file under the backend's mapping; its next access there is a SIGBUS."""
        os.ftruncate(self.fd, size)
        self.size = size

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(eq=False)
class Region:
    """One entry of the memory table, mapped in this process too."""

    gpa: int
    size: int
    uva: int
    mmap_offset: int
    memfd: Memfd
    map: mmap.mmap
    view: memoryview
    words: memoryview  # the same bytes as native 16-bit words, for single-store access
    free: list[tuple[int, int]] = field(default_factory=list)  # (gpa, size), by address

    @property
    def end(self) -> int:
        return self.gpa + self.size

    def holds(self, gpa: int, size: int) -> bool:
        return self.gpa <= gpa and gpa + size <= self.end

    def unmap(self) -> None:
        self.words.release()
        self.view.release()
        self.map.close()


class GuestMemory:
    """A guest's memory: the table of regions, access by gpa, and an allocator."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._allocated: dict[int, tuple[Region, int]] = {}
        self._serial = 0

    def add_region(
        self, gpa: int, size: int, memfd: Memfd | None = None, mmap_offset: int = 0
    ) -> Region:
        """Maps a region of a (new) memfd; it is used by allocations at once."""
        memfd = memfd or Memfd(mmap_offset + size)
        mapped = mmap.mmap(memfd.fd, size, offset=mmap_offset)
        view = memoryview(mapped)
        self._serial += 1
        region = Region(
            gpa=gpa,
            size=size,
            uva=_UVA_BASE + gpa + self._serial * _UVA_SHIFT,
            mmap_offset=mmap_offset,
            memfd=memfd,
            map=mapped,
            view=view,
            words=view.cast("H"),
            free=[(gpa, size)],
        )
        self.regions.append(region)
        return region

    def remove_region(self, region: Region) -> None:
        """Forgets a region; what was allocated there must not be used again."""
        self.regions.remove(region)
        self._allocated = {g: a for g, a in self._allocated.items() if a[0] is not region}
        region.unmap()
        if all(other.memfd is not region.memfd for other in self.regions):
            region.memfd.close()

    def close(self) -> None:
        for region in list(self.regions):
            self.remove_region(region)

    def region_of(self, gpa: int, size: int = 1) -> Region:
        """The region that holds all of [gpa, gpa+size)."""
        for region in self.regions:
            if region.holds(gpa, size):
                return region
        raise GuestMemoryError(f"no region holds [{gpa:#x}, {gpa + size:#x})")

    def uva(self, gpa: int) -> int:
        """The frontend's address of a guest-physical one."""
        region = self.region_of(gpa)
        return region.uva + gpa - region.gpa

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes at gpa; may span regions that touch."""
        return b"".join(bytes(part) for part in self._parts(gpa, size))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Stores bytes at gpa; may span regions that touch."""
        source = memoryview(data)
        for part in self._parts(gpa, len(source)):
            part[:] = source[: len(part)]
            source = source[len(part) :]

    def fill(self, gpa: int, size: int, value: int = 0) -> None:
        for part in self._parts(gpa, size):
            part[:] = bytes([value]) * len(part)

    def load16(self, gpa: int) -> int:
        """One 16-bit load, never torn (struct's little-endian codes go byte by byte)."""
        region = self.region_of(gpa, 2)
        return int(region.words[(gpa - region.gpa) >> 1])

    def store16(self, gpa: int, value: int) -> None:
        """One 16-bit store, never torn."""
        region = self.region_of(gpa, 2)
        region.words[(gpa - region.gpa) >> 1] = value & 0xFFFF

    def _parts(self, gpa: int, size: int) -> Iterator[memoryview]:
        while size > 0:
            region = self.region_of(gpa)
            take = min(size, region.end - gpa)
            start = gpa - region.gpa
            yield region.view[start : start + take]
            gpa += take
            size -= take

    def alloc(self, size: int, align: int = 16, region: Region | None = None) -> int:
        """Reserves bytes (first fit, `region` only if given); returns their gpa."""
        for candidate in [region] if region else self.regions:
            gpa = _carve(candidate, size, align)
            if gpa is not None:
                self._allocated[gpa] = (candidate, size)
                return gpa
        raise GuestMemoryError(f"no {size} bytes of guest memory are left")

    def free(self, gpa: int) -> None:
        """Gives an allocation back; ignored when its region has been removed."""
        entry = self._allocated.pop(gpa, None)
        if entry is None:
            return
        region, size = entry
        region.free.append((gpa, size))
        region.free.sort()
        merged: list[tuple[int, int]] = []
        for start, length in region.free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        region.free = merged


def _carve(region: Region, size: int, align: int) -> int | None:
    """Takes `size` bytes out of the region's free list, or None."""
    size = max(size, 1)
    for index, (start, length) in enumerate(region.free):
        gpa = -(-start // align) * align
        spare = start + length - (gpa + size)
        if spare < 0:
            continue
        rest = [(start, gpa - start), (gpa + size, spare)]
        region.free[index : index + 1] = [piece for piece in rest if piece[1]]
        return gpa
    return None


def pc_memory(low: int = 32 * MIB, high: int = 224 * MIB) -> GuestMemory:
    """Memory as QEMU's pc and q35 machines cut it: one memfd, the VGA hole, RAM above 4 GiB."""
    memory = GuestMemory()
    memfd = Memfd(low + high)
    memory.add_region(0xC0000, low - 0xC0000, memfd, 0xC0000)
    memory.add_region(4 * GIB, high, memfd, low)
    memory.add_region(0, 0xA0000, memfd, 0)
    return memory
