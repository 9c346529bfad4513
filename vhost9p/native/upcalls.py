"""The upcalls of serving threads: what C calls in Python, and which device's handler answers.

Serving threads call Python for requests that C does not answer (csrc/request/upcall.c), one request
per call, several threads at a time, even of one device. An unexpected exception is logged, and the
guest gets EIO.
"""

import errno
import itertools
import threading
from types import TracebackType
from typing import Any, Protocol

from vhost9p.native import descriptors
from vhost9p.native.library import ffi, lib
from vhost9p.native.refusals import Refusal, refusal_of


class Request:
    """A request of the guest. A later reply is sent once, with `reply` or
    `fail`, from any thread."""

    __slots__ = ("_device", "seq", "slot", "tag")

    def __init__(self, device: "Served", slot: int, seq: int, tag: int) -> None:
        self._device = device
        self.slot = slot
        self.seq = seq
        self.tag = tag

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the request while it is in flight, also when it runs again in another
        worker."""
        return self.slot, self.seq

    def reply(self, data: bytes) -> None:
        """Sends a later reply. It is no error if the request was aborted meanwhile."""
        self._device.reply(self.slot, self.seq, data)

    def fail(self, code: int) -> None:
        """The same with an errno, which is logged and counted as any failure."""
        self._device.fail(self.slot, self.seq, code)


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


class Served(Protocol):
    """What the upcalls need of a device."""

    handler: Handler
    msize_max: int
    """Bytes."""

    def reply(self, slot: int, seq: int, data: bytes) -> None:
        """Sends a later reply to a request, if it and the device are still there."""

    def fail(self, slot: int, seq: int, code: int) -> None:
        """The same with an errno."""


# ---- the devices -----------------------------------------------------------------------------

_devices: dict[int, Served] = {}
_numbers = itertools.count(1)


def register(device: Served) -> int:
    """Returns the number by which C names the device in its calls, until `forget`."""
    number = next(_numbers)
    _devices[number] = device
    return number


def forget(number: int) -> None:
    """C calls for this device no more."""
    del _devices[number]


# ---- what C calls (csrc/request/api.h) -------------------------------------------------------


class _Said(threading.local):
    """The last request that this thread has answered with an error."""

    request = b""
    error: OSError | None = None


_said = _Said()


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
