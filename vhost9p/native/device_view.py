"""What another process sees of a device and its connection: numbers, from copies of their memory
(csrc/server/device.c, csrc/request/counts.h). Anything may be there, if a worker was taken over."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from vhost9p.native.library import Layout, ffi, lib

COUNTS_SIZE = int(ffi.sizeof("struct v9_export_counts"))
"""Bytes of the counts of an export."""
_TYPE_SIZE = int(ffi.sizeof("struct v9_type_counts"))
_VIEW = Layout("struct v9_device_view")
BOUNDS_S = tuple(
    lib.V9_LATENCY_FIRST_NS * 2**bucket / 1e9 for bucket in range(lib.V9_LATENCY_BUCKETS - 1)
)
"""Of the buckets of a histogram, in seconds; the last one has none."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """See struct v9_device_view."""

    requests: int
    answered: int
    upcalls: int
    signals: int
    values_bytes: int
    guest_memory: int
    fids: int
    inodes: int
    evicted: int
    values: int
    inflight: int
    rate_limited: int
    dead: int
    threads: int
    regions: int
    msize: int
    dialect: int
    started: int
    broken: int
    ring_size: int

    @property
    def dialect_name(self) -> str:
        """As a guest names it."""
        return "9P2000.u" if self.dialect == lib.V9_9P2000U else "9P2000.L"


def view_size() -> int:
    """Returns how many bytes of a device's memory `view` needs."""
    return int(lib.v9_device_view_size())


def view(copy: bytes) -> DeviceView:
    """Returns what the copy of a device's memory shows."""
    found = ffi.new("struct v9_device_view *")
    lib.v9_device_view(ffi.from_buffer(copy), found)
    return DeviceView(*_VIEW.unpack(ffi.buffer(found)))


def is_connected(copy: bytes) -> bool:
    """Whether the copy of a connection's memory shows one that is open."""
    record: Any = ffi.cast("struct v9_connection *", ffi.from_buffer(copy))
    return bool(record.stage == lib.V9_CONNECTION_OPEN)


def connection_view_size() -> int:
    """Returns how many bytes of a connection's memory `is_connected` needs."""
    return int(ffi.sizeof("struct v9_connection"))


def counts_at(index: int) -> int:
    """Returns where in a device's memory the counts of an export begin, by its index."""
    return int(lib.v9_device_counts_at(index))


class TypeCounts(NamedTuple):
    """Of the requests of a type."""

    type: int
    """Of the T-message; 0: another one."""
    requests: int
    seconds: float
    """That those took whose time was taken,"""
    buckets: list[int]
    """by BOUNDS_S."""


class ExportCounts(NamedTuple):
    """See struct v9_export_counts."""

    read: int
    written: int
    throttled: int
    waited: float
    """Seconds."""
    errors: dict[int, int]
    """Replies by errno; 0: another one."""
    types: list[TypeCounts]


def counts(copy: bytes) -> ExportCounts:
    """Returns the counts of an export from a copy of COUNTS_SIZE bytes, without zeros."""
    found: Any = ffi.cast("struct v9_export_counts *", ffi.from_buffer(copy))
    errors = {code: count for code, count in enumerate(found.errors) if count}
    types = list(_types(found))
    return ExportCounts(
        found.read, found.written, found.throttled, found.waited_ns / 1e9, errors, types
    )


def _types(found: Any) -> Iterator[TypeCounts]:
    for number, each in enumerate(found.types):
        if each.requests:
            yield TypeCounts(2 * number, each.requests, each.ns / 1e9, list(each.buckets))
