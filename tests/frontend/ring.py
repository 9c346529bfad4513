"""The driver's side of a virtqueue in guest memory: what all have, and the split one (virtio 1.3,
section 2.7).

The descriptor table and the avail ring belong to the driver, the used ring to the device. A
request is a chain: readable segments, then writable ones, either as an indirect table (one ring
slot, any length) or as ring descriptors. Indices run freely modulo 65536.

Order of memory accesses: this code relies on x86's and on CPython: stores are not reordered with
stores, and `_fence` (a lock's atomic instruction) is the full barrier that must stand between
publishing avail.idx and reading whether the device wants a kick, and between writing used_event
and looking at used.idx.

Low-level methods (`write_descriptor`, `publish`) make malformed chains.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.frontend import PATIENCE
from tests.frontend.memory import GuestMemory, Region

NEXT = 1
WRITE = 2
INDIRECT = 4

NO_NOTIFY = 1  # used.flags
NO_INTERRUPT = 1  # avail.flags

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")

Segment = tuple[int, int]  # gpa, length in bytes


class RingError(Exception):
    """The device broke the rules of the virtqueue."""


class Completion(NamedTuple):
    head: int
    length: int  # bytes written, as the device says


class _Chain(NamedTuple):
    slots: list[int]
    table: int | None  # gpa of the indirect table


class Ring:
    """A virtqueue with its three descriptors: kick, call and err.

    `size` is the number of slots; `event_idx` says whether the feature was negotiated. `desc`,
    `avail` and `used` are what SET_VRING_ADDR calls so. A subclass has the layout: `reset`, `add`,
    `kick`, `poll`, `_arm`, `silence`, and the `start` that SET_VRING_BASE has for a new ring.
    """

    desc: int
    avail: int
    used: int
    start = 0

    def __init__(self, memory: GuestMemory, size: int, *, event_idx: bool) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.err_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.kicks = 0
        self.signals = 0  # sum of what the call descriptor counted
        self._lock = threading.Lock()

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            os.close(fd)

    def _forget(self) -> None:
        """What a reset does to the descriptors and counts."""
        self.kicks = self.signals = 0
        for fd in (self.kick_fd, self.call_fd, self.err_fd):
            self._drain(fd)

    def _fence(self) -> None:
        with self._lock:
            pass

    @staticmethod
    def _drain(fd: int) -> int:
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(fd)
        return 0

    def reset(self, start: int = 0) -> None:
        raise NotImplementedError

    def add(
        self,
        readable: Sequence[Segment],
        writable: Sequence[Segment],
        *,
        indirect: bool = True,
        table: int | None = None,
    ) -> int:
        raise NotImplementedError

    def kick(self, *, force: bool = False) -> bool:
        raise NotImplementedError

    def poll(self) -> list[Completion]:
        raise NotImplementedError

    def _arm(self) -> bool:
        raise NotImplementedError

    def _notify(self, wanted: bool, force: bool) -> bool:
        if wanted or force:
            os.eventfd_write(self.kick_fd, 1)
            self.kicks += 1
        return wanted or force

    def kick_only(self) -> None:
        """Notifies the device without a look at the ring, which may be out of reach."""
        os.eventfd_write(self.kick_fd, 1)

    def wait(self, timeout: float = PATIENCE) -> list[Completion]:
        """Waits for the call descriptor until at least one chain is back.

        Raises TimeoutError, or RingError where chains are back but nobody called.
        """
        deadline = time.monotonic() + timeout
        while True:
            done = self.poll()
            if done:
                return done
            if self._arm():
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.call_fd], [], [], left)[0]:
                if self.poll():
                    raise RingError("chains came back without a call")
                raise TimeoutError(f"no chain came back within {timeout} s")
            self.signals += self._drain(self.call_fd)

    def wait_at_most(self, seconds: float) -> list[Completion]:
        """Returns chains that are back, or none after so many seconds. Their call may follow."""
        done = self.poll()
        if not done and not self._arm():
            select.select([self.call_fd], [], [], seconds)
            self.signals += self._drain(self.call_fd)
            done = self.poll()
        return done

    def called(self) -> int:
        """What the call descriptor has counted since the last look."""
        return self._drain(self.call_fd)

    def wait_broken_or_used(self, timeout: float = PATIENCE) -> bool:
        """Waits until the ring is broken (true) or a chain is back (false)."""
        deadline = time.monotonic() + timeout
        while not self._arm():
            left = max(deadline - time.monotonic(), 0)
            ready = select.select([self.err_fd, self.call_fd], [], [], left)[0]
            if not ready:
                raise TimeoutError(f"neither err nor call was signalled within {timeout} s")
            if self.err_fd in ready:
                return True
            self.signals += self._drain(self.call_fd)  # it may be late, of a chain before
        return False

    def wait_broken(self, timeout: float = PATIENCE) -> None:
        """Waits until the device signals the err descriptor."""
        if not select.select([self.err_fd], [], [], timeout)[0]:
            raise TimeoutError(f"the err descriptor was not signalled within {timeout} s")
        self._drain(self.err_fd)


class SplitRing(Ring):
    """See the module. The rings lie in `region`, or anywhere."""

    def __init__(
        self,
        memory: GuestMemory,
        size: int = 128,
        *,
        event_idx: bool = True,
        region: Region | None = None,
    ) -> None:
        super().__init__(memory, size, event_idx=event_idx)
        self.desc = memory.alloc(16 * size, 4096, region)
        self.avail = memory.alloc(6 + 2 * size, 2, region)
        self.used = memory.alloc(6 + 8 * size, 4, region)
        self.reset()

    def reset(self, start: int = 0) -> None:
        """Clears the ring as a driver does before it starts the device anew.

        `start` is where the running indices begin: 0 for a driver, else near their wrap.
        """
        self.memory.fill(self.desc, 16 * self.size)
        self.memory.fill(self.avail, 6 + 2 * self.size)
        self.memory.fill(self.used, 6 + 8 * self.size)
        self.avail_idx = self.last_used = self._kicked_idx = start
        self.memory.store16(self.avail + 2, start)
        self.memory.store16(self.used + 2, start)
        self.free = list(range(self.size))
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
        """Makes a chain available; returns its head. The device is not kicked.

        `table` is memory for the indirect table, else it is allocated; the ring frees neither
        the caller's table nor the segments.
        """
        entries = [(gpa, size, 0) for gpa, size in readable]
        entries += [(gpa, size, WRITE) for gpa, size in writable]
        if not indirect:
            return self._add_direct(entries)
        data = b"".join(
            _DESCRIPTOR.pack(gpa, size, flags | (NEXT if i + 1 < len(entries) else 0), i + 1)
            for i, (gpa, size, flags) in enumerate(entries)
        )
        own = self.memory.alloc(len(data)) if table is None else None
        where = own if own is not None else table
        assert where is not None
        self.memory.write(where, data)
        head = self.take_slots(1)[0]
        self.write_descriptor(head, where, len(data), INDIRECT, 0)
        self.in_flight[head] = _Chain([head], own)
        self.publish(head)
        return head

    def _add_direct(self, entries: Sequence[tuple[int, int, int]]) -> int:
        slots = self.take_slots(len(entries))
        for i, (gpa, size, flags) in enumerate(entries):
            last = i + 1 == len(entries)
            following = 0 if last else slots[i + 1]
            self.write_descriptor(slots[i], gpa, size, flags | (0 if last else NEXT), following)
        self.in_flight[slots[0]] = _Chain(slots, None)
        self.publish(slots[0])
        return slots[0]

    def take_slots(self, count: int) -> list[int]:
        """Reserves ring descriptors."""
        if count > len(self.free):
            raise RingError(f"{count} descriptors wanted, {len(self.free)} are free")
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def write_descriptor(self, slot: int, gpa: int, size: int, flags: int, following: int) -> None:
        """Writes one descriptor of the ring's table, whatever it says."""
        self.memory.write(self.desc + 16 * slot, _DESCRIPTOR.pack(gpa, size, flags, following))

    def publish(self, head: int) -> None:
        """Puts a head (any number) into the avail ring and advances avail.idx."""
        self.memory.store16(self.avail + 4 + 2 * (self.avail_idx % self.size), head)
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.memory.store16(self.avail + 2, self.avail_idx)

    def kick(self, *, force: bool = False) -> bool:
        """Notifies the device if it wants that, or always; says whether it did."""
        self._fence()
        new, old = self.avail_idx, self._kicked_idx
        self._kicked_idx = new
        if self.event_idx:
            event = self.memory.load16(self.used + 4 + 8 * self.size)
            wanted = (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not self.memory.load16(self.used) & NO_NOTIFY
        return self._notify(wanted, force)

    def poll(self) -> list[Completion]:
        """Takes what the device has returned."""
        done = []
        used_idx = self.memory.load16(self.used + 2)
        if (used_idx - self.last_used) & 0xFFFF > self.size:
            raise RingError(f"used.idx went from {self.last_used} to {used_idx}")
        while self.last_used != used_idx:
            at = self.used + 4 + 8 * (self.last_used % self.size)
            head, length = _USED.unpack(self.memory.read(at, 8))
            chain = self.in_flight.pop(head, None)
            if chain is None:
                raise RingError(f"the device returned {head}, which is not in flight")
            self.free += chain.slots
            if chain.table is not None:
                self.memory.free(chain.table)
            self.last_used = (self.last_used + 1) & 0xFFFF
            done.append(Completion(head, length))
        return done

    def _arm(self) -> bool:
        """Asks for a call by the next chain that comes back; says whether one is back already."""
        self.memory.store16(self.avail + 4 + 2 * self.size, self.last_used)  # used_event
        self._fence()
        return self.memory.load16(self.used + 2) != self.last_used

    def silence(self, *, silent: bool = True) -> None:
        """Sets avail.flags' wish not to be interrupted (used without EVENT_IDX)."""
        self.memory.store16(self.avail, NO_INTERRUPT if silent else 0)
