"""The fid table of a device, for the handlers in Python."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vhost9p.native.export import Attr
from vhost9p.native.library import check, ffi, lib

FID_UPCALL: int = lib.V9_FID_UPCALL
FID_LOCKS: int = lib.V9_FID_LOCKS


@dataclass(frozen=True, slots=True)
class Fid:
    """A pinned fid: its descriptors stay open while it is held, whatever the guest does."""

    number: int
    handle: int
    path_fd: int
    meta_fd: int
    io_fd: int
    io_flags: int
    export: int
    uid: int
    flags: int
    qid_type: int
    qid_version: int
    qid_path: int
    st_dev: int
    st_ino: int


class FidTable:
    """What the guest's fids stand for. Safe to use from several threads."""

    def __init__(self, device: Any) -> None:
        self._device = device

    @contextmanager
    def get(self, number: int) -> Iterator[Fid]:
        """Pins a fid for the length of a `with` block; OSError EBADF if there is none."""
        info = ffi.new("struct v9_fid_info *")
        check(lib.v9_fid_get(self._device, number, info))
        try:
            yield Fid(
                number,
                info.handle,
                info.path_fd,
                info.meta_fd,
                info.io_fd,
                info.io_flags,
                info.export,
                info.uid,
                info.flags,
                info.qid.type,
                info.qid.version,
                info.qid.path,
                info.st_dev,
                info.st_ino,
            )
        finally:
            lib.v9_fid_put(self._device, info.handle)

    def add(
        self, number: int, path_fd: int, export: int, uid: int, flags: int, attr: Attr | None
    ) -> None:
        """Enters a fid; takes `path_fd` (-1 for an xattr fid) over unless it raises."""
        native = attr.native if attr else ffi.new("struct v9_attr *")
        check(lib.v9_fid_add(self._device, number, path_fd, export, uid, flags, native))

    def become(self, fid: Fid, path_fd: int, io_fd: int, io_flags: int, attr: Attr) -> None:
        """Makes the number stand for a created, open file; takes both descriptors over."""
        check(lib.v9_fid_become(self._device, fid.handle, path_fd, io_fd, io_flags, attr.native))

    def set_flags(self, fid: Fid, flags: int) -> None:
        """Replaces the FID_* flags."""
        check(lib.v9_fid_set_flags(self._device, fid.handle, flags))

    def clunk(self, number: int) -> None:
        """Removes a fid; OSError EBADF if there is none."""
        check(lib.v9_fid_clunk(self._device, number))

    def clear(self) -> None:
        """Removes all fids."""
        lib.v9_fid_clear(self._device)
