"""A device, and the upcalls of its serving threads.

Serving threads call Python for requests that C does not answer (csrc/request/upcall.c), one request
per call, several threads at a time, even of one device. Every method may be called from any thread.
Late replies to a closed device fail with ESTALE and touch no freed memory.
"""

import errno
import itertools
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from vhost9p.native import descriptors
from vhost9p.native.export import Export
from vhost9p.native.fids import FidTable
from vhost9p.native.hidden_paths import HiddenPaths
from vhost9p.native.library import check, ffi, lib
from vhost9p.native.refusals import Refusal, refusal_of


def initialise() -> None:
    """Once per process, before the first device: the SIGBUS handler for guest memory."""
    check(lib.v9_init())


def address_space() -> int:
    """Returns the size of the process's address space in bytes."""
    return int(lib.v9_address_space())


class Request:
    """A request of the guest. A later reply is sent once, with `reply`, from any thread."""

    __slots__ = ("_device", "seq", "slot", "tag")

    def __init__(self, device: "Device", slot: int, seq: int, tag: int) -> None:
        self._device = device
        self.slot = slot
        self.seq = seq
        self.tag = tag

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the request while it is in flight."""
        return self.slot, self.seq

    def reply(self, data: bytes) -> None:
        """Sends a later reply. It is no error if the request was aborted meanwhile."""
        device = self._device
        with device._answering:
            if device._native:
                lib.v9_reply(device._native, self.slot, self.seq, data, len(data))


class Handler(Protocol):
    """Called by serving threads, several at a time. Raises OSError to answer with an errno."""

    def request(self, data: bytes, request: Request) -> bytes | None:
        """Answers a T-message with an R-message, or None: later."""

    def try_lock(
        self,
        fid: int,
        writable: int,
        holder: tuple[int, int, bytes, int],
        kind: int,
        span: tuple[int, int],
        flock: int,
        request: int,
    ) -> bool:
        """Takes a lock of a pinned fid, given by its handle, or releases one; False if another
        process holds it. `holder` is the file (device, inode) and the process (client_id, proc_id),
        `span` start and length of a Tlock, `request` a number that names the request, also when it
        runs again."""

    def question_device(self, st_dev: int, mnt_id: int, fd: int) -> None:
        """Decides what a device stands for, and installs that. `fd` is a file on it."""

    def question_group(self, device: int, st_ino: int) -> None:
        """Decides the group of an inode of a device index, and installs that."""

    def question_mount(self, mnt_id: int, generation: int, fd: int) -> None:
        """Decides which entries of a mount need a stat, and installs that. `fd` is on the mount."""

    def flush(self, key: tuple[int, int]) -> None:
        """Reports that a request with a later reply was flushed."""

    def fault(self, error: BaseException) -> None:
        """Another method has raised what nobody expected."""

    def broken(self, reason: str) -> None:
        """The ring is broken."""

    def failure(self, data: bytes, code: int, refusal: Refusal, said: OSError | None) -> None:
        """A request fails with an errno, and is answered afterwards. `data` is its message, without
        the data of a Twrite, and `said` the error of a request that Python answers."""

    def failures_omitted(self, count: int) -> None:
        """So many failures before the next one were too many to be reported."""


# ---- upcalls: what C calls (csrc/request/api.h) ---------------------------------------------

_devices: dict[int, "Device"] = {}


class _Said(threading.local):
    """The last request that this thread has answered with an error."""

    request = b""
    error: OSError | None = None


_said = _Said()
_numbers = itertools.count(1)


def _failed(kind: type[BaseException], error: BaseException, trace: TracebackType) -> None:
    """Handles an unexpected exception of an upcall: the guest gets EIO."""
    number = trace.tb_frame.f_locals["number"]  # the upcall's own, as all of them name it
    _devices[number].handler.fault(error)


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
        _said.request, _said.error = message, error
        return -(error.errno or errno.EIO)
    if answer is None:
        return 0
    length = len(answer)
    if length > device.msize_max:
        return -errno.EMSGSIZE
    ffi.memmove(reply, answer, length)
    return length


@ffi.def_extern(error=-errno.EIO, onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_lock(
    number: int,
    fid: int,
    writable: int,
    st_dev: int,
    st_ino: int,
    client_id: Any,
    client_size: int,
    proc_id: int,
    kind: int,
    start: int,
    length: int,
    flock: int,
    request: int,
) -> int:
    """Takes or releases a lock without waiting."""
    holder = (st_dev, st_ino, ffi.unpack(client_id, client_size), proc_id)
    try:
        handler = _devices[number].handler
        if handler.try_lock(fid, writable, holder, kind, (start, length), flock, request):
            return 0
    except OSError as error:
        return -(error.errno or errno.EIO)
    return -errno.EAGAIN


@ffi.def_extern(error=-errno.EIO, onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_question(number: int, kind: int, a: int, b: int, fd: int) -> int:
    """Answers a question of a handler in C."""
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
    """Reports a flushed request."""
    _devices[number].handler.flush((slot, seq))


@ffi.def_extern(onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_broken(number: int, reason: Any) -> None:
    """A ring is broken."""
    _devices[number].handler.broken(ffi.string(reason).decode(errors="replace"))


@ffi.def_extern(onerror=_failed)  # type: ignore[untyped-decorator]
def v9_up_failure(number: int, data: Any, size: int, code: int, refusal: Any, omitted: int) -> None:
    """A request fails."""
    handler = _devices[number].handler
    message = ffi.unpack(data, size)
    if omitted:
        handler.failures_omitted(omitted)
    said = _said.error if _said.request == message else None
    handler.failure(message, code, refusal_of(refusal), said)


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

    def keep_exports(self, indexes: Collection[int]) -> None:
        """After a death, before `recover`: the device has the exports with these indexes. What the
        guest has of others is lost. Raises OSError."""
        count, native = len(indexes), self.native
        check(lib.v9_device_keep_exports(native, self.max_fids, list(indexes), count))

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
        handler: Handler,
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
        self._number = next(_numbers)
        _devices[self._number] = self
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
            del _devices[self._number]
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
            del _devices[self._number]

    def try_suspects(self) -> None:
        """Runs the requests that may have ended the process before, one at a time. All exports are
        set, and no other device of the process serves."""
        lib.v9_device_try_suspects(self._native)

    def begin(self) -> None:
        """Serves from now on."""
        lib.v9_device_begin(self._native)

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
