"""Memory that processes share by a file, for what csrc keeps there, and how that is laid out
(csrc/layout.py)."""

from typing import Any

from vhost9p.native.library import ffi, lib


def layout() -> list[str]:
    """Returns each field of the structs that lie in such memory, with its offset and size."""
    fields = ffi.unpack(lib.v9_layout, lib.v9_layout_count)
    return [f"{ffi.string(each.name).decode()} {each.offset} {each.size}" for each in fields]


def connection_size() -> int:
    """Returns how many bytes a connection takes."""
    return int(lib.v9_connection_size())


def device_size(max_fids: int) -> int:
    """Returns how many bytes a device of so many fids takes."""
    return int(lib.v9_device_size(max_fids))


def map_shared(fd: int, offset: int, size: int, address: int) -> Any:
    """Maps a part of a file at an address, or anywhere if that is 0. Returns a pointer, which is
    false if there is no room."""
    return lib.v9_process_map(fd, offset, size, address)


def unmap(base: Any, size: int) -> None:
    """Takes such a mapping back."""
    lib.v9_process_unmap(base, size)


def part(base: Any, offset: int) -> Any:
    """Returns a pointer to what is so many bytes behind `base`."""
    return ffi.cast("uint8_t *", base) + offset
