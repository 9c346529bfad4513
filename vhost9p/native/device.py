"""A device and the hub that brings its upcalls to Python.

One thread per process waits in `Hub.run`; every other method may be called from any thread. A
device that was closed answers ESTALE to late replies instead of touching freed memory.
"""

import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vhost9p.native import descriptors
from vhost9p.native.export import Export
from vhost9p.native.fids import FidTable
from vhost9p.native.library import Layout, check, ffi, lib

log = logging.getLogger(__name__)

BATCH = 8
"""Upcalls taken at once. In the next batch all devices have their turns again: this many are what
one guest's upcall waits for, at most and beside its own, where another one makes very many."""
BATCH_BYTES = 16384
"""Room for the bytes of a batch, most of whose requests have far fewer than 8192."""
assert BATCH_BYTES >= lib.V9_UP_SIZE


def initialise() -> None:
    """Once per process, before the first device: the SIGBUS handler for guest memory."""
    check(lib.v9_init())


class Upcall:
    """A question or a request of a serving thread; csrc/vhost9p.h tells the kinds apart.

    A request is answered once, with `reply` or `fail`, and a question with `resume` or `fail`; from
    any thread.
    """

    REQUEST = lib.V9_UP_REQUEST
    DEVICE = lib.V9_UP_DEVICE
    GROUP = lib.V9_UP_GROUP
    FLUSH = lib.V9_UP_FLUSH
    BROKEN = lib.V9_UP_BROKEN
    MOUNT = lib.V9_UP_MOUNT

    __slots__ = ("_device", "a", "b", "data", "fd", "kind", "seq", "slot", "tag")

    def __init__(
        self,
        device: "Device",
        kind: int,
        slot: int,
        seq: int,
        tag: int,
        data: bytes,
        fd: int,
        a: int,
        b: int,
    ) -> None:
        self._device = device
        self.kind = kind
        self.slot = slot
        self.seq = seq
        self.tag = tag
        self.data = data
        self.fd = fd
        self.a = a
        self.b = b

    @property
    def key(self) -> tuple[int, int]:
        """Names the request while it is in flight."""
        return self.slot, self.seq

    def reply(self, data: bytes) -> None:
        """Answers a request. One that was cut off meanwhile is no error."""
        device = self._device
        with device._answering:
            if device._native:
                lib.v9_reply(device._native, self.slot, self.seq, data, len(data))

    def fail(self, code: int) -> None:
        """Answers with an errno, in the dialect of the session."""
        device = self._device
        with device._answering:
            if device._native:
                lib.v9_fail(device._native, self.slot, self.seq, code)

    def resume(self) -> None:
        """Runs the request again whose question was answered."""
        device = self._device
        with device._answering:
            if device._native:
                lib.v9_resume(device._native, self.slot, self.seq)

    def payload(self, offset: int, size: int) -> bytes:
        """Bytes of the request that `data` lacks; OSError ESTALE if it was cut off."""
        out = ffi.new("uint8_t[]", size)
        device = self._device
        with device._answering:
            if not device._native:
                raise OSError(errno.ESTALE, "the device is closed")
            got = check(lib.v9_gather(device._native, self.slot, self.seq, offset, out, size))
        return bytes(ffi.buffer(out, got))


Handler = Callable[[Upcall], None]

UPCALL = Layout("struct v9_upcall")
assert UPCALL.names == ("device", "kind", "slot", "seq", "tag", "at", "size", "fd", "a", "b")


class Hub:
    """Hands upcalls to the devices' handlers, in order, on the thread that calls `run`."""

    def __init__(self) -> None:
        self._native = lib.v9_hub_new()
        if not self._native:
            raise MemoryError("no memory for the hub")
        self._devices: dict[int, Device] = {}
        self._numbers = itertools.count(1)

    def run(self) -> None:
        """Serves until `close`."""
        batch, room = ffi.new("struct v9_upcall[]", BATCH), ffi.new("uint8_t[]", BATCH_BYTES)
        upcalls, data = memoryview(ffi.buffer(batch)), ffi.buffer(room)
        while count := lib.v9_hub_wait(self._native, batch, BATCH, room, BATCH_BYTES):
            for fields in UPCALL.iter_unpack(upcalls[: count * UPCALL.size]):
                number, kind, slot, seq, tag, at, size, fd, a, b = fields
                device = self._devices.get(number)
                if device:
                    lib.v9_budget_charge(device.account)
                    upcall = Upcall(device, kind, slot, seq, tag, data[at : at + size], fd, a, b)
                    try:
                        device.handler(upcall)
                    except Exception:
                        log.exception("an upcall of kind %d failed", kind)
                elif fd >= 0:
                    descriptors.close(fd)

    def close(self) -> None:
        """Makes `run` return."""
        lib.v9_hub_close(self._native)

    def register(self, device: "Device") -> tuple[int, Any]:
        """Gives a new device its number; returns it and the native hub."""
        number = next(self._numbers)
        self._devices[number] = device
        return number, self._native

    def forget(self, number: int) -> None:
        """No upcall that comes from now on is this device's."""
        del self._devices[number]


@dataclass(frozen=True, slots=True)
class Stats:
    """Live counts of a device."""

    fids: int
    inflight: int
    requests: int
    upcalls: int
    signals: int
    nodes: int
    """Files that fids stand for."""
    parked: int
    """Those of them whose descriptors were given up."""
    threads: int
    broken: bool


class Device:
    """One virtio-9p device: memory, ring, fids, serving threads.

    `threads` is how many serve at once while none is stuck, `cpus` where they may run (empty:
    anywhere), `poll_us` how many microseconds they look for requests before they sleep;
    `msize_max` is in bytes.
    """

    def __init__(
        self,
        hub: Hub,
        handler: Handler,
        *,
        threads: int,
        msize_max: int,
        max_fids: int,
        cpus: Sequence[int] = (),
        poll_us: int = 0,
    ) -> None:
        self._hub = hub
        self.handler = handler
        self._answering = threading.Lock()
        """Held while `_native` is used for an answer, which may come late."""
        self._native: Any = None
        self._number, native_hub = hub.register(self)
        conf = ffi.new(
            "struct v9_device_conf *",
            {
                "id": self._number,
                "threads": threads,
                "msize_max": msize_max,
                "max_fids": max_fids,
                "poll_us": poll_us,
            },
        )
        for cpu in cpus:
            conf.cpus[cpu // 64] |= 1 << cpu % 64
        err = ffi.new("int32_t *")
        self._native = lib.v9_device_new(native_hub, conf, err)
        if not self._native:
            hub.forget(self._number)
            raise OSError(-err[0], os.strerror(-err[0]))
        self.account = int(lib.v9_device_account(self._native))
        """What is opened for the device counts to it (csrc/budget.h)."""
        self.fids = FidTable(self._native)

    def close(self) -> None:
        """Stops the threads and frees everything; late answers find nothing."""
        with self._answering:
            native, self._native = self._native, None
        if native:
            self._hub.forget(self._number)
            lib.v9_device_free(native)

    # ---- set-up -----------------------------------------------------------------------------

    def set_exports(self, exports: Sequence[Export]) -> None:
        """What the device serves from now on; the first holds the root of the guest's mount."""
        for index in reversed(range(len(exports))):
            check(lib.v9_device_set_export(self._native, index, exports[index].native))

    def set_features(self, features: int) -> None:
        """The negotiated virtio features."""
        lib.v9_device_set_features(self._native, features)

    def set_msize(self, msize: int) -> None:
        """The negotiated message size, bytes."""
        lib.v9_device_set_msize(self._native, msize)

    def set_dialect(self, *, unix: bool) -> None:
        """The session's dialect: 9P2000.u, or 9P2000.L."""
        lib.v9_device_set_dialect(self._native, lib.V9_9P2000U if unix else lib.V9_9P2000L)

    def stats(self) -> Stats:
        """Live counts."""
        out = ffi.new("struct v9_device_stats *")
        lib.v9_device_stats(self._native, out)
        return Stats(
            out.fids,
            out.inflight,
            out.requests,
            out.upcalls,
            out.signals,
            out.nodes,
            out.parked,
            out.threads,
            bool(out.broken),
        )

    def reset(self, *, keep_memory: bool) -> None:
        """Ring stopped (waits up to 2 s for requests), fids gone, and so is memory if not kept."""
        lib.v9_device_reset(self._native, keep_memory)

    def mem_add(self, gpa: int, size: int, uva: int, mmap_offset: int, fd: int) -> None:
        """Adds a region of guest memory; the descriptor is duplicated."""
        check(lib.v9_device_mem_add(self._native, gpa, size, uva, mmap_offset, fd))

    def mem_remove(self, gpa: int, size: int, uva: int) -> None:
        """Removes a region (waits up to 2 s for requests)."""
        check(lib.v9_device_mem_remove(self._native, gpa, size, uva))

    def mem_set(self, regions: Sequence[tuple[int, int, int, int, int]]) -> None:
        """Replaces all regions (waits up to 2 s for requests) by these: gpa, size, uva, mmap
        offset, descriptor, which is duplicated. On failure there are none."""
        native = ffi.new("struct v9_region_conf[]", list(regions))
        check(lib.v9_device_mem_set(self._native, native, len(native)))

    def ring_set_num(self, num: int) -> None:
        """Entries of the ring; of a split one a power of two."""
        check(lib.v9_ring_set_num(self._native, num))

    def ring_set_base(self, base: int) -> None:
        """Where the ring goes on, as vhost-user has it."""
        check(lib.v9_ring_set_base(self._native, base))

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        """Where the ring lies, as frontend addresses."""
        check(lib.v9_ring_set_addr(self._native, desc, used, avail))

    def ring_set_kick(self, fd: int | None) -> None:
        """Starts the ring; without a descriptor it is polled."""
        check(lib.v9_ring_set_kick(self._native, -1 if fd is None else fd))

    def ring_set_call(self, fd: int | None) -> None:
        """What signals completions; without a descriptor nothing does."""
        check(lib.v9_ring_set_call(self._native, -1 if fd is None else fd))

    def ring_set_err(self, fd: int | None) -> None:
        """What signals a broken ring."""
        check(lib.v9_ring_set_err(self._native, -1 if fd is None else fd))

    def ring_enable(self, enable: bool) -> None:
        """Enables or disables the ring."""
        check(lib.v9_ring_enable(self._native, enable))

    def ring_pause(self) -> None:
        """Takes no more requests; returns at once."""
        lib.v9_ring_pause(self._native)

    def ring_drain(self, timeout_ms: int) -> int:
        """After `ring_pause`: waits for what is in flight; returns where the ring stands,
        as vhost-user has it."""
        return int(lib.v9_ring_drain(self._native, timeout_ms))
