"""A PC without a running processor, whose devices this process sets up as a guest's firmware would.

Belongs here: QEMU's qtest protocol, PCI configuration, and a virtio-pci device up to DRIVER_OK.

QEMU's `-accel qtest` runs no guest code; reads and writes of ports and memory come as lines over a
socket (QEMU: docs/devel/testing/qtest.rst). Devices behave as in any guest, in QEMU's main loop.
Layouts: PCI Local Bus 3.0 chapter 6, Virtual I/O Device 1.2 section 4.1.4.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

VENDOR_CAPABILITY, MSIX_CAPABILITY = 0x09, 0x11
COMMON, NOTIFY = 1, 2
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
BARS_AT = 0xE0000000  # in the hole for PCI below 4 GiB


class QtestError(Exception):
    """QEMU answered something else than OK, or a device has not what it must have."""


class Qtest:
    """A connection; addresses and values are numbers."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rw", encoding="ascii", newline="\n")
        self.next_bar = BARS_AT

    def command(self, *words: str | int) -> list[str]:
        """Sends a command; returns the words after OK."""
        text = " ".join(word if isinstance(word, str) else hex(word) for word in words)
        self._file.write(text + "\n")
        self._file.flush()
        answer = self._file.readline().split()
        if not answer or answer[0] != "OK":
            raise QtestError(f"qtest: {text}: {' '.join(answer) or 'the connection has ended'}")
        return answer[1:]

    def write(self, address: int, value: int, size: int) -> None:
        self.command("write" + {1: "b", 2: "w", 4: "l", 8: "q"}[size], address, value)

    def read(self, address: int, size: int) -> int:
        return int(self.command("read" + {1: "b", 2: "w", 4: "l", 8: "q"}[size], address)[0], 0)


@dataclass
class PciDevice:
    """The device in a slot of bus 0. `bars` are the addresses that its memory was given."""

    qtest: Qtest
    slot: int
    bars: dict[int, int] = field(default_factory=dict)

    def _select(self, offset: int) -> None:
        self.qtest.command("outl", 0xCF8, 0x80000000 | self.slot << 11 | offset)

    def config(self, offset: int) -> int:
        """The aligned 32 bits of configuration space at an offset."""
        self._select(offset)
        return int(self.qtest.command("inl", 0xCFC)[0], 0)

    def set_config(self, offset: int, value: int) -> None:
        self._select(offset)
        self.qtest.command("outl", 0xCFC, value)

    def enable(self) -> None:
        """Gives every memory BAR a place and turns memory and bus mastering on."""
        index = 0
        while index < 6:
            offset = 0x10 + 4 * index
            kind = self.config(offset)
            self.set_config(offset, 0xFFFFFFFF)
            size = -(self.config(offset) & ~0xF) & 0xFFFFFFFF
            if size and not kind & 1:
                place = -(-self.qtest.next_bar // size) * size
                self.qtest.next_bar = place + size
                self.set_config(offset, place)
                self.bars[index] = place
            if kind & 0b111 == 0b100:  # 64 bits wide
                index += 1
                self.set_config(0x10 + 4 * index, 0)
            index += 1
        self.set_config(4, self.config(4) & 0xFFFF | 0b110)

    def capabilities(self, kind: int) -> list[int]:
        """The offsets of all capabilities of a kind."""
        found, offset = [], self.config(0x34) & 0xFC
        while offset:
            word = self.config(offset)
            if word & 0xFF == kind:
                found.append(offset)
            offset = word >> 8 & 0xFC
        return found

    def enable_msix(self, address: int, data: int) -> None:
        """Makes vector 0 a write of 32 bits of data to an address, whatever is there."""
        (offset,) = self.capabilities(MSIX_CAPABILITY)
        table = self.config(offset + 4)
        entry = self.bars[table & 7] + (table & ~7)
        self.set_config(offset, self.config(offset) | 1 << 31)
        for at, value in ((0, address), (4, 0), (8, data), (12, 0)):
            self.qtest.write(entry + at, value, 4)


class VirtioPci:
    """A modern virtio-pci device with one queue, on a PCI device that is enabled."""

    def __init__(self, pci: PciDevice) -> None:
        self.qtest = pci.qtest
        places: dict[int, int] = {}
        for offset in pci.capabilities(VENDOR_CAPABILITY):
            kind, bar = pci.config(offset) >> 24, pci.config(offset + 4) & 0xFF
            if kind in (COMMON, NOTIFY):
                places.setdefault(kind, pci.bars[bar] + pci.config(offset + 8))
        if COMMON not in places:
            raise QtestError(f"slot {pci.slot} holds no modern virtio device")
        self.common = places[COMMON]

    def _set(self, offset: int, value: int, size: int) -> None:
        self.qtest.write(self.common + offset, value, size)

    def negotiate(self, wanted: int) -> None:
        """Resets the device and takes features, all of which it has to offer."""
        for status in (0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER):
            self._set(20, status, 1)
        for half in (0, 1):
            self._set(0, half, 4)
            offered, bits = self.qtest.read(self.common + 4, 4), wanted >> 32 * half & 0xFFFFFFFF
            if bits & ~offered:
                raise QtestError(f"features {half}: {bits:#x} are wanted of {offered:#x}")
            self._set(8, half, 4)
            self._set(12, bits, 4)
        self._set(20, ACKNOWLEDGE | DRIVER | FEATURES_OK, 1)

    def start(self, size: int, desc: int, avail: int, used: int) -> None:
        """Sets up queue 0, with vector 0, and lets the device begin."""
        self._set(22, 0, 2)
        self._set(24, size, 2)
        self._set(26, 0, 2)
        for offset, address in ((32, desc), (40, avail), (48, used)):
            self._set(offset, address & 0xFFFFFFFF, 4)
            self._set(offset + 4, address >> 32, 4)
        self._set(28, 1, 2)
        self._set(20, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, 1)
