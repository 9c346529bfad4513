"""How much memory C takes for a device at most, whatever its guest does; in bytes."""

from typing import NamedTuple

from vhost9p.native.library import ffi, lib


class DeviceMemory(NamedTuple):
    """See struct v9_device_memory."""

    files: int
    values: int
    requests: int
    thread: int
    slots: int
    threads: int


def of_device(max_fids: int, msize_max: int) -> DeviceMemory:
    """Returns what a device may take."""
    out = ffi.new("struct v9_device_memory *")
    lib.v9_device_memory(max_fids, msize_max, out)
    return DeviceMemory(*(int(getattr(out, name)) for name in DeviceMemory._fields))


def of_quota(accounts: int) -> int:
    """Returns what a quota may take that knows so many files."""
    return int(lib.v9_quota_memory(accounts))


def of_qidmap(entries: int) -> int:
    """Returns what a map of so many groups and files may take."""
    return int(lib.v9_qidmap_memory(entries))
