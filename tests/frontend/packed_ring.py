"""The driver's side of a packed virtqueue (virtio 1.3, section 2.8).

Driver and device go round one ring of descriptors. The driver's place and turn say where the next
chain goes; the device's are followed by counting the descriptors of what comes back. A chain has a
buffer id, which it keeps from `add` to `poll`, and takes its descriptors in a row, over the ring's
end if need be; its first descriptor's flags are written last.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from tests.frontend.memory import GuestMemory
from tests.frontend.ring import INDIRECT, NEXT, WRITE, Completion, Ring, RingError, Segment

AVAIL = 1 << 7
USED = 1 << 15
ENABLE, DISABLE, DESC = range(3)
TURN = 1 << 15

_DESCRIPTOR = struct.Struct("<QIHH")


class _Chain(NamedTuple):
    slots: int
    table: int | None  # gpa of the indirect table


class PackedRing(Ring):
    """See the module. `desc` is the ring, `avail` the driver's event area, `used` the device's."""

    start = 0x80008000

    def __init__(self, memory: GuestMemory, size: int = 128, *, event_idx: bool = True) -> None:
        super().__init__(memory, size, event_idx=event_idx)
        self.desc = memory.alloc(16 * size, 4096)
        self.avail = memory.alloc(4, 4)
        self.used = memory.alloc(4, 4)
        self.reset()

    def reset(self, start: int = 0) -> None:
        """Clears the ring as a driver does before it starts the device anew."""
        self.memory.fill(self.desc, 16 * self.size)
        self.memory.fill(self.avail, 4)
        self.memory.fill(self.used, 4)
        self.place = self.last_used = 0
        self.turn = self.used_turn = True
        self.added = 0  # descriptors since the last kick
        self.free = self.size
        self.ids = list(range(self.size))
        self.in_flight: dict[int, _Chain] = {}
        self._forget()

    # ---- the driver

    def add(
        self,
        readable: Sequence[Segment],
        writable: Sequence[Segment],
        *,
        indirect: bool = True,
        table: int | None = None,
    ) -> int:
        """Makes a chain available; returns its buffer id. The device is not kicked."""
        entries = [(gpa, size, 0) for gpa, size in readable]
        entries += [(gpa, size, WRITE) for gpa, size in writable]
        own = None
        if indirect:
            data = b"".join(_DESCRIPTOR.pack(gpa, size, 0, flags) for gpa, size, flags in entries)
            own = self.memory.alloc(len(data)) if table is None else None
            where = own if own is not None else table
            assert where is not None
            self.memory.write(where, data)
            entries = [(where, len(data), INDIRECT)]
        if len(entries) > self.free:
            raise RingError(f"{len(entries)} descriptors wanted, {self.free} are free")
        buffer_id = self.ids.pop(0)
        self.in_flight[buffer_id] = _Chain(len(entries), own)
        self.free -= len(entries)
        self._publish(entries, buffer_id)
        return buffer_id

    def _publish(self, entries: Sequence[tuple[int, int, int]], buffer_id: int) -> None:
        first, first_flags = self.place, 0
        for i, (gpa, size, said) in enumerate(entries):
            flags = said | (NEXT if i + 1 < len(entries) else 0) | (AVAIL if self.turn else USED)
            if i == 0:
                first_flags = flags
                self.memory.write(self.desc + 16 * first, struct.pack("<QIH", gpa, size, buffer_id))
            else:
                entry = _DESCRIPTOR.pack(gpa, size, buffer_id, flags)
                self.memory.write(self.desc + 16 * self.place, entry)
            self._advance()
        self.memory.store16(self.desc + 16 * first + 14, first_flags)
        self.added += len(entries)

    def _advance(self) -> None:
        self.place += 1
        if self.place == self.size:
            self.place, self.turn = 0, not self.turn

    def kick(self, *, force: bool = False) -> bool:
        """Notifies the device if it wants that, or always; says whether it did."""
        self._fence()
        new, old = self.place, self.place - self.added
        self.added = 0
        flags = self.memory.load16(self.used + 2)
        wanted = flags != DISABLE
        if flags == DESC and self.event_idx:
            event = self.memory.load16(self.used)
            at = event & ~TURN
            if bool(event & TURN) != self.turn:
                at -= self.size
            wanted = (new - at - 1) & 0xFFFF < (new - old) & 0xFFFF
        return self._notify(wanted, force)

    def poll(self) -> list[Completion]:
        """Takes what the device has returned."""
        done: list[Completion] = []
        while True:
            _, length, head, flags = _DESCRIPTOR.unpack(
                self.memory.read(self.desc + 16 * self.last_used, 16)
            )
            if bool(flags & AVAIL) != self.used_turn or bool(flags & USED) != self.used_turn:
                return done
            chain = self.in_flight.pop(head, None)
            if chain is None:
                raise RingError(f"the device returned {head}, which is not in flight")
            self.ids.append(head)
            self.free += chain.slots
            if chain.table is not None:
                self.memory.free(chain.table)
            self.last_used += chain.slots
            if self.last_used >= self.size:
                self.last_used, self.used_turn = self.last_used - self.size, not self.used_turn
            done.append(Completion(head, length))

    def _is_back(self) -> bool:
        flags = self.memory.load16(self.desc + 16 * self.last_used + 14)
        return bool(flags & AVAIL) == self.used_turn == bool(flags & USED)

    def _arm(self) -> bool:
        """Asks for a call by the next chain that comes back; says whether one is back already."""
        if self.event_idx:
            self.memory.store16(self.avail, self.last_used | (TURN if self.used_turn else 0))
        self.memory.store16(self.avail + 2, DESC if self.event_idx else ENABLE)
        self._fence()
        return self._is_back()

    def silence(self, *, silent: bool = True) -> None:
        """Asks not to be called at all, or to be called for each chain."""
        self.memory.store16(self.avail + 2, DISABLE if silent else ENABLE)
