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

    # ---- changes of names -------------------------------------------------------------------

    @contextmanager
    def _changing(self, fid: Fid) -> Iterator[bool]:
        """Nothing is parked meanwhile; tells whether something is already (csrc/idle.h)."""
        parked = lib.v9_names_begin(self._device, fid.export)
        try:
            yield bool(parked)
        finally:
            lib.v9_names_end(self._device, fid.export)

    @contextmanager
    def removing(self, fid: Fid, name: bytes = b"") -> Iterator[None]:
        """The block removes entry `name` of a directory, or the name by which a file was reached:
        what it stands for keeps its descriptor."""
        with self._changing(fid) as parked:
            if parked:
                lib.v9_names_rescue(self._device, fid.export, fid.path_fd, name)
            yield

    @contextmanager
    def renaming(self, fid: Fid, name: bytes, directory: Fid | None, new: bytes) -> Iterator[None]:
        """The block renames entry `name` of a directory, or b"" the file of a fid itself, to
        `new` in `directory`; None: it stays in its own. What is renamed over keeps its descriptor,
        and what is parked its way."""
        with self._changing(fid) as parked:
            paths = self._rescue(fid, name, directory, new) if parked else None
            yield
            if paths:
                lib.v9_names_renamed(self._device, fid.export, *paths)

    def _rescue(
        self, fid: Fid, name: bytes, directory: Fid | None, new: bytes
    ) -> tuple[bytes, bytes] | None:
        """Brings back what is renamed, and what is renamed over. Of a directory, the old path and
        the new one, for what is below it."""
        is_directory = lib.v9_names_rescue(self._device, fid.export, fid.path_fd, name)
        old_path = self._path(fid, name) if is_directory or directory is None else b""
        if directory is not None:
            lib.v9_names_rescue(self._device, fid.export, directory.path_fd, new)
            new_path = self._path(directory, new) if is_directory else b""
        else:
            parent, slash, _ = old_path.rpartition(b"/")
            new_path = parent + slash + new
            lib.v9_names_rescue(self._device, fid.export, -1, new_path)
        return (old_path, new_path) if is_directory and old_path and new_path else None

    def _path(self, fid: Fid, name: bytes) -> bytes:
        """A path below the export's root; b"" for what has none."""
        out = ffi.new("char[]", lib.V9_PATH_SIZE)
        size = lib.v9_names_path(self._device, fid.export, fid.path_fd, name, out)
        return bytes(ffi.buffer(out, max(size, 0)))

    def clear(self) -> None:
        """Removes all fids."""
        lib.v9_fid_clear(self._device)
