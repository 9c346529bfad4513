"""A device: its memory, its ring, its fids, and what the guest and the frontend agree upon.

Its serving threads call Python for what C does not answer (vhost9p/native/upcalls.py). Every method
may be called from any thread. A late reply to a closed device is dropped and touches no freed
memory.
"""

import errno
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from vhost9p.native import upcalls
from vhost9p.native.export import Export
from vhost9p.native.fids import FidTable
from vhost9p.native.hidden_paths import HiddenPaths
from vhost9p.native.library import check, ffi, lib


def initialise() -> None:
    """Once per process, before the first device: the SIGBUS handler for guest memory."""
    check(lib.v9_init())


def address_space() -> int:
    """Returns the size of the process's address space in bytes."""
    return int(lib.v9_address_space())


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
    """Those of them that are evicted."""
    threads: int
    broken: bool


class Session(NamedTuple):
    """See Device.session."""

    msize: int
    dialect_u: bool
    ring_size: int


class Blame(Enum):
    """Whom a death is blamed on (csrc/request/suspects.h)."""

    NOBODY = lib.V9_BLAME_NOBODY
    ALL = lib.V9_BLAME_ALL
    """All requests that ran are suspects."""
    ONE = lib.V9_BLAME_ONE
    """The only one that ran, or that was on trial."""


class Poison(NamedTuple):
    """A request at which processes died."""

    type: int
    tag: int
    dialect_u: bool
    size: int
    """Of the message, in bytes."""
    head: bytes
    """How the message begins."""


class Area:
    """The memory of a device with so many fids: `memory` (native/shared_memory.py), or some of its
    own. A process that is cloned from this one has it, too: it can go on with the device after the
    process that served it has died."""

    def __init__(self, max_fids: int, memory: Any = None, trace: Any = None) -> None:
        """`trace` is memory for records of requests (trace/memory.py). Raises OSError."""
        self.max_fids = max_fids
        self.trace = trace
        self.is_taken_over = False
        """Whether `recover` has found a device that a process has left."""
        self.native: Any = (
            lib.v9_device_at(memory, max_fids) if memory else lib.v9_device_reserve(max_fids)
        )
        if not self.native:
            raise OSError(errno.ENOMEM, f"no memory for {max_fids} fids")

    @property
    def answered(self) -> int:
        """How many requests of the guest were answered, by all processes."""
        return int(lib.v9_device_answered(self.native))

    @property
    def msize(self) -> int:
        """Bytes; the message size that the guest has negotiated with who has served it. Anything
        may be there."""
        found = ffi.new("struct v9_device_view *")
        lib.v9_device_view(self.native, found)
        return int(found.msize)

    def recover(self) -> bool:
        """After a death: makes the device good again, so that `Device` goes on with it. False if
        nobody has served it yet. Raises OSError."""
        self.is_taken_over = bool(check(lib.v9_device_recover(self.native, self.max_fids)))
        return self.is_taken_over

    @property
    def running(self) -> int:
        """After a death: how many requests ran."""
        return int(lib.v9_device_running(self.native, self.max_fids))

    @property
    def is_trying(self) -> bool:
        """After a death: whether one of them was on trial."""
        return bool(lib.v9_device_is_trying(self.native))

    def blame(self, blame: Blame) -> None:
        """After a death, before `recover`: the requests that ran are blamed for it, or not."""
        lib.v9_device_blame(self.native, self.max_fids, blame.value)

    def poisons(self) -> Iterator[Poison]:
        """Yields the requests of a recovered device that will be answered with EIO, since processes
        died at them."""
        found = ffi.new("struct v9_poison *")
        slot = 0
        while lib.v9_device_poison(self.native, slot, found):
            slot = found.slot + 1
            yield Poison(
                found.type,
                found.tag,
                found.dialect == lib.V9_9P2000U,
                found.size,
                bytes(ffi.buffer(found.data, found.data_size)),
            )

    def lose_fids(self) -> None:
        """After a death, before `recover`: the fids are given up, and the requests in flight will
        be answered with EIO. Raises OSError."""
        check(lib.v9_device_lose_fids(self.native, self.max_fids))

    def lose_all(self) -> None:
        """The same of all: nobody has served the device."""
        lib.v9_device_lose_all(self.native, self.max_fids)

    def keep_exports(self, indexes: Collection[int]) -> bool:
        """Of a device that was recovered, before `Device` goes on with it: it has the exports with
        these indexes. What the guest has of others is lost, and their descriptors are nobody's.
        Returns whether anything was. Raises OSError."""
        count, native = len(indexes), self.native
        return bool(check(lib.v9_device_keep_exports(native, self.max_fids, list(indexes), count)))

    def hide(self, index: int, root: bytes, paths: HiddenPaths) -> None:
        """The same, before `keep_exports`, of what an export at `root` hides."""
        lib.v9_device_hide(self.native, self.max_fids, index, root, paths.native)

    def session_descriptors(self) -> list[int]:
        """The descriptors that the frontend has set up; -1: none."""
        count = lib.v9_device_session_descriptors(self.native, ffi.NULL, 0)
        fds = ffi.new("int32_t[]", count)
        lib.v9_device_session_descriptors(self.native, fds, count)
        return list(fds)

    def lose_descriptors(self, known: Sequence[int], instead: Sequence[int]) -> None:
        """After a death, before `recover`, if all descriptors are lost: those of
        `session_descriptors` have other numbers now. Raises OSError ESTALE if the device has
        others."""
        check(
            lib.v9_device_lose_descriptors(self.native, self.max_fids, known, instead, len(known))
        )

    @property
    def lost_fids(self) -> int:
        """How many fids of a device that was recovered after that stand for files that cannot be
        reopened."""
        return int(lib.v9_device_lost_fids(self.native))

    def descriptors(self) -> list[int]:
        """The descriptors that a recovered device has."""
        count = lib.v9_device_descriptors(self.native, ffi.NULL, 0)
        fds = ffi.new("int32_t[]", count)
        lib.v9_device_descriptors(self.native, fds, count)
        return list(fds)

    def adopt_orphans(self, owned: Collection[int]) -> bool:
        """After `recover`: the requests get back what they have created and opened, unless it is
        `owned`, by any device or the keeper. Whether the device has more descriptors now."""
        fds = ffi.new("int32_t[]", list(owned))
        return bool(lib.v9_device_adopt_orphans(self.native, fds, len(fds)))


class Device:
    """One virtio-9p device: memory, ring, fids, serving threads.

    It lies in `area`, in one of its own if that is None, and goes on with what that holds. No
    request begins before `begin`.
    `threads` is the number that serve at once while none is stuck; `cpus` are those on which they
    may run (empty: any); `poll_us` is the time that they poll before they sleep, in microseconds;
    `msize_max` is in bytes.
    """

    def __init__(
        self,
        handler: upcalls.Handler,
        *,
        threads: int,
        msize_max: int,
        max_fids: int,
        max_xattr: int,
        mem_regions: int,
        mem_bytes: int,
        cpus: Sequence[int] = (),
        poll_us: int = 0,
        times_requests: bool = False,
        area: Area | None = None,
    ) -> None:
        """Raises OSError."""
        native = (area or Area(max_fids)).native
        self.handler = handler
        self.msize_max = msize_max
        self._answering = threading.Lock()
        """Held while `_native` is used for a reply, which may come late."""
        self._native: Any = None
        self._number = upcalls.register(self)
        values = {
            "id": self._number,
            "threads": threads,
            "msize_max": msize_max,
            "max_fids": max_fids,
            "max_xattr": max_xattr,
            "mem_regions": mem_regions,
            "mem_bytes": mem_bytes,
            "awaits_start": 1,
            "poll_us": poll_us,
            "times_requests": times_requests,
        }
        conf = ffi.new("struct v9_device_conf *", values)
        for cpu in cpus:
            conf.cpus[cpu // 64] |= 1 << cpu % 64
        if err := lib.v9_device_start(native, conf):
            upcalls.forget(self._number)
        check(err)
        if area and area.trace:
            lib.v9_device_set_trace(native, area.trace)
        self._native = native
        self.account = int(lib.v9_device_account(self._native))
        """Descriptors opened for the device count against it (csrc/base/budget.h)."""
        self.fids = FidTable(self._native)

    def close(self) -> None:
        """Stops the threads and frees everything; late replies fail."""
        with self._answering:
            native, self._native = self._native, None
        if native and lib.v9_device_free(native):
            upcalls.forget(self._number)

    def reply(self, slot: int, seq: int, data: bytes) -> None:
        """Sends a later reply. It is no error if the request was aborted or the device closed."""
        with self._answering:
            if self._native:
                lib.v9_reply(self._native, slot, seq, data, len(data))

    def fail(self, slot: int, seq: int, code: int) -> None:
        """The same with an errno."""
        with self._answering:
            if self._native:
                lib.v9_reply_error(self._native, slot, seq, code)

    def try_suspects(self) -> None:
        """Runs the requests that may have ended the process before, one at a time. All exports are
        set, and no other device of the process serves."""
        lib.v9_device_try_suspects(self._native)

    def begin(self) -> None:
        """Serves from now on."""
        lib.v9_device_begin(self._native)

    def mark_dirs(self) -> None:
        """Marks the directories that the guest's fids stand for, unless they are marked already."""
        lib.v9_device_mark_dirs(self._native)

    # ---- set-up -----------------------------------------------------------------------------

    def set_exports(self, exports: Mapping[int, Export]) -> None:
        """Sets the exports of the device, by their index; 0 holds the root of the guest's mount."""
        for index in sorted(exports, reverse=True):
            check(lib.v9_device_set_export(self._native, index, exports[index].native))

    def set_features(self, features: int) -> None:
        """The negotiated virtio features. The ring is stopped: EBUSY else, as with the other parts
        of its set-up."""
        check(lib.v9_device_set_features(self._native, features))

    def set_msize(self, msize: int) -> None:
        """The negotiated message size, bytes."""
        lib.v9_device_set_msize(self._native, msize)

    def set_dialect(self, *, dialect_u: bool) -> None:
        """The session's dialect: 9P2000.u, or 9P2000.L."""
        lib.v9_device_set_dialect(self._native, lib.V9_9P2000U if dialect_u else lib.V9_9P2000L)

    def session(self) -> Session:
        """What the guest's session and the frontend have agreed upon."""
        out = ffi.new("struct v9_device_session *")
        lib.v9_device_session(self._native, out)
        return Session(out.msize, out.dialect == lib.V9_9P2000U, out.ring_size)

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

    def mem_count(self) -> int:
        """Returns the number of regions."""
        return int(lib.v9_device_mem_count(self._native))

    def mem_set(self, regions: Sequence[tuple[int, int, int, int, int]]) -> None:
        """Replaces all regions (waits up to 2 s for requests) by these: gpa, size, uva, mmap
        offset, descriptor, which is duplicated. On failure there are none."""
        native = ffi.new("struct v9_region_conf[]", list(regions))
        check(lib.v9_device_mem_set(self._native, native, len(native)))

    def ring_set_num(self, num: int) -> None:
        """Sets the number of the ring's entries; a power of two for a split ring."""
        check(lib.v9_ring_set_num(self._native, num))

    def ring_set_base(self, base: int) -> None:
        """Where the ring goes on, as vhost-user has it."""
        check(lib.v9_ring_set_base(self._native, base))

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        """Where the ring lies, as frontend addresses."""
        check(lib.v9_ring_set_addr(self._native, desc, used, avail))

    def ring_set_kick(self, fd: int | None) -> None:
        """Starts the ring; without a descriptor it is polled. If the set-up is invalid, the OSError
        says what is wrong."""
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
