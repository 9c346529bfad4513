"""A device, and the upcalls of its serving threads.

Serving threads call Python for what C does not answer (csrc/request/upcall.c): each with one
request, on several threads at a time, of one device too. Every method may be called from any
thread. A device that was closed answers ESTALE to late replies instead of touching freed memory.
"""

import errno
import itertools
import logging
import os
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from vhost9p.native import descriptors
from vhost9p.native.export import Export
from vhost9p.native.fids import FidTable
from vhost9p.native.library import check, ffi, lib

log = logging.getLogger(__name__)


def initialise() -> None:
    """Once per process, before the first device: the SIGBUS handler for guest memory."""
    check(lib.v9_init())


def address_space() -> int:
    """How many bytes of addresses the process has."""
    return int(lib.v9_address_space())


class Request:
    """A request of the guest. One that is to be answered later is answered once, with `reply`, from
    any thread."""

    __slots__ = ("_device", "seq", "slot", "tag")

    def __init__(self, device: "Device", slot: int, seq: int, tag: int) -> None:
        self._device = device
        self.slot = slot
        self.seq = seq
        self.tag = tag

    @property
    def key(self) -> tuple[int, int]:
        """Names the request while it is in flight."""
        return self.slot, self.seq

    def reply(self, data: bytes) -> None:
        """Answers later. A request that was cut off meanwhile is no error."""
        device = self._device
        with device._answering:
            if device._native:
                lib.v9_reply(device._native, self.slot, self.seq, data, len(data))

    def payload(self, offset: int, size: int) -> bytes:
        """Bytes of the request that its data lack; OSError ESTALE if it was cut off."""
        out = ffi.new("uint8_t[]", size)
        device = self._device
        with device._answering:
            if not device._native:
                raise OSError(errno.ESTALE, "the device is closed")
            got = check(lib.v9_gather(device._native, self.slot, self.seq, offset, out, size))
        return bytes(ffi.buffer(out, got))


class Handler(Protocol):
    """What serving threads call, several at a time. It raises OSError to answer with an errno."""

    def request(self, data: bytes, request: Request) -> bytes | None:
        """Answers a T-message with an R-message, or None: later. `data` may lack the payload of a
        Twrite."""

    def question_device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """Decides what a device stands for, of which `fd` is a file, and installs that."""

    def question_group(self, device: int, st_ino: int) -> None:
        """Decides the group of an inode of a device index, and installs that."""

    def question_mount(self, mnt_id: int, generation: int, fd: int) -> None:
        """Decides which entries of a mount, which `fd` is on, to look at, and installs that."""

    def flush(self, key: tuple[int, int]) -> None:
        """Nobody waits any more for a request that is to be answered later."""

    def broken(self, reason: str) -> None:
        """The ring is broken."""


# ---- upcalls: what C calls (csrc/vhost9p.h) -------------------------------------------------

_devices: dict[int, "Device"] = {}
_numbers = itertools.count(1)

_faults: set[tuple[str, int]] = set()
"""Places in the code where upcalls have failed."""


def _failed(kind: Any, error: Any, trace: TracebackType) -> None:
    """An upcall has ended with what no upcall should, which the guest is told as EIO. However often
    it makes that happen, a place in the code is logged once."""
    place = [(each.filename, each.lineno or 0) for each in traceback.extract_tb(trace)][-1]
    if place not in _faults:
        _faults.add(place)
        log.error("a request failed as no request should", exc_info=(kind, error, trace))


@ffi.def_extern(error=-errno.EIO, onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_request(number: int, slot: int, seq: int, data: Any, size: int, reply: Any) -> int:
    """Answers a request."""
    device = _devices[number]
    message = ffi.unpack(data, size)
    try:
        answer = device.handler.request(
            message, Request(device, slot, seq, message[5] | message[6] << 8)
        )
    except OSError as error:
        return -(error.errno or errno.EIO)
    if answer is None:
        return 0
    length = len(answer)
    if length > device.msize_max:
        return -errno.EMSGSIZE
    ffi.memmove(reply, answer, length)
    return length


@ffi.def_extern(error=-errno.EIO, onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_question(number: int, kind: int, a: int, b: int, fd: int) -> int:
    """Decides what a handler in C needs to know."""
    try:
        handler = _devices[number].handler
        if kind == lib.V9_UP_DEVICE:
            handler.question_device(a, b, fd)
        elif kind == lib.V9_UP_MOUNT:
            handler.question_mount(a, b, fd)
        else:
            handler.question_group(a, b)
    except OSError as error:
        return -(error.errno or errno.EIO)
    finally:
        if fd >= 0:
            descriptors.close(fd)
    return 0


@ffi.def_extern(onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_flush(number: int, slot: int, seq: int) -> None:
    """Nobody waits for a request any more."""
    _devices[number].handler.flush((slot, seq))


@ffi.def_extern(onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_broken(number: int, reason: Any) -> None:
    """A ring is broken."""
    _devices[number].handler.broken(ffi.string(reason).decode(errors="replace"))


# ---- devices --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stats:
    """Live counts of a device."""

    fids: int
    inflight: int
    requests: int
    upcalls: int
    signals: int
    inodes: int
    """Files that fids stand for."""
    evicted: int
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
        handler: Handler,
        *,
        threads: int,
        msize_max: int,
        max_fids: int,
        mem_regions: int,
        mem_bytes: int,
        cpus: Sequence[int] = (),
        poll_us: int = 0,
    ) -> None:
        self.handler = handler
        self.msize_max = msize_max
        self._answering = threading.Lock()
        """Held while `_native` is used for an answer, which may come late."""
        self._native: Any = None
        self._number = next(_numbers)
        _devices[self._number] = self
        conf = ffi.new(
            "struct v9_device_conf *",
            {
                "id": self._number,
                "threads": threads,
                "msize_max": msize_max,
                "max_fids": max_fids,
                "mem_regions": mem_regions,
                "mem_bytes": mem_bytes,
                "poll_us": poll_us,
            },
        )
        for cpu in cpus:
            conf.cpus[cpu // 64] |= 1 << cpu % 64
        err = ffi.new("int32_t *")
        self._native = lib.v9_device_new(conf, err)
        if not self._native:
            del _devices[self._number]
            raise OSError(-err[0], os.strerror(-err[0]))
        self.account = int(lib.v9_device_account(self._native))
        """What is opened for the device counts to it (csrc/base/budget.h)."""
        self.fids = FidTable(self._native)

    def close(self) -> None:
        """Stops the threads and frees everything; late answers find nothing."""
        with self._answering:
            native, self._native = self._native, None
        if native and lib.v9_device_free(native):
            del _devices[self._number]

    # ---- set-up -----------------------------------------------------------------------------

    def set_exports(self, exports: Sequence[Export]) -> None:
        """What the device serves from now on; the first holds the root of the guest's mount."""
        for index in reversed(range(len(exports))):
            check(lib.v9_device_set_export(self._native, index, exports[index].native))

    def set_features(self, features: int) -> None:
        """The negotiated virtio features. The ring is stopped: EBUSY else, as with the other parts
        of its set-up."""
        check(lib.v9_device_set_features(self._native, features))

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
            out.inodes,
            out.evicted,
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
        """Starts the ring; without a descriptor it is polled. Where what was set up makes no ring,
        the OSError says what is wrong."""
        reason = ffi.new("const char **")
        err = lib.v9_ring_set_kick(self._native, -1 if fd is None else fd, reason)
        if reason[0]:
            raise OSError(-err, f"the ring cannot start: {ffi.string(reason[0]).decode()}")
        check(err)

    def ring_is_started(self) -> bool:
        """Whether it was started, and not stopped since."""
        return bool(lib.v9_ring_is_started(self._native))

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
