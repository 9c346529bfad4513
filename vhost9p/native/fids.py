"""The fid table of a device, for the handlers in Python."""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from vhost9p.native import descriptors
from vhost9p.native.export import Attr
from vhost9p.native.library import Layout, check, ffi, lib

DIRENTS_MIN = 1024
"""Bytes that hold any one directory entry, also where names of 255 characters are longer."""
DIRENTS_MAX = 32768
DIRENT = struct.Struct("=QQH")  # getdents64(2): d_ino, d_off, d_reclen; d_type and d_name follow
NAME_AT = DIRENT.size + 1

INFO = Layout("struct v9_fid_info")
assert INFO.names == (
    *("handle", "path_fd", "meta_fd", "io_fd", "io_flags"),
    *("uid", "flags", "export", "st_dev", "st_ino"),
)


class SetAttr(NamedTuple):
    """Changes of a file's attributes: the fields of Tsetattr (struct v9_setattr in
    csrc/fs/api.h)."""

    valid: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime_sec: int = 0
    atime_nsec: int = 0
    mtime_sec: int = 0
    mtime_nsec: int = 0


class Fid:
    """A pinned fid: its descriptors stay open until the end of a `with` block, whatever the guest
    does. -1 stands for no descriptor."""

    __slots__ = ("_device", "number", *INFO.names)

    def __init__(self, device: Any, number: int, values: tuple[int, ...]) -> None:
        self._device = device
        self.number = number
        (  # as INFO names them
            self.handle,
            self.path_fd,
            self.meta_fd,
            self.io_fd,
            self.io_flags,
            self.uid,
            self.flags,
            self.export,
            self.st_dev,
            self.st_ino,
        ) = values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        lib.v9_fid_put(self._device, self.handle)

    def setattr(self, to: SetAttr) -> None:
        """Changes attributes of the file. OSError EROFS if its export is read-only, EINVAL for
        invalid values, EPERM for an owner that the guest may not use."""
        check(lib.v9_fid_setattr(self._device, self.handle, ffi.new("struct v9_setattr *", to)))


class Entry(NamedTuple):
    """An entry of a directory: its name, the inode number that the directory has for it, and the
    position behind it."""

    name: bytes
    ino: int
    position: int


def _entries(dents: memoryview) -> Iterator[Entry]:
    at = 0
    while at < len(dents):
        ino, position, size = DIRENT.unpack_from(dents, at)
        name, _, _ = bytes(dents[at + NAME_AT : at + size]).partition(b"\0")
        yield Entry(name, ino, position)
        at += size


class _Room(threading.local):
    """What C fills, once for each thread."""

    def __init__(self) -> None:
        self.info = ffi.new("struct v9_fid_info *")
        self.bytes = ffi.buffer(self.info)
        self.dents = ffi.new("uint8_t[]", DIRENTS_MAX)


_OWN_DIRECTORY = 2**64 - 1
"""V9_OWN_DIRECTORY (csrc/server/api.h)."""


class FidTable:
    """Maps the guest's fids to files. Thread-safe."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._room = _Room()

    def get(self, number: int) -> Fid:
        """Pins a fid, for a `with` block; OSError EBADF if there is none."""
        room = self._room
        check(lib.v9_fid_get(self._device, number, room.info))
        return Fid(self._device, number, INFO.unpack_from(room.bytes))

    def find(self, number: int) -> int:
        """Returns a fid's handle, even if its file cannot be reopened; OSError EBADF if there is
        none."""
        out = ffi.new("uint64_t *")
        check(lib.v9_fid_find(self._device, number, out))
        return int(out[0])

    def add(
        self,
        number: int,
        path_fd: int,
        export: int,
        uid: int,
        attr: Attr,
    ) -> int:
        """Adds a fid and returns its handle. Takes ownership of `path_fd` unless it raises."""
        handle = ffi.new("uint64_t *")
        where = (self._device, number, path_fd, export)
        check(lib.v9_fid_add(*where, uid, attr.native, handle))
        return int(handle[0])

    def become(
        self, fid: Fid, name: bytes, path_fd: int, io_fd: int, io_flags: int, attr: Attr
    ) -> None:
        """Makes a directory's fid number refer to the file that was created there. Takes ownership
        of both descriptors unless it raises."""
        made = ffi.new("struct v9_created *", (path_fd, -1, io_fd, io_flags))
        check(lib.v9_fid_become(self._device, fid.handle, name, made, attr.native))

    def mark(self, handle: int, flags: int) -> None:
        """Adds FID_* flags; OSError EBADF if the fid has lost its number, or is not open."""
        check(lib.v9_fid_mark(self._device, handle, flags))

    def clunk(self, handle: int) -> None:
        """Frees a fid's number; OSError EBADF if it was free already."""
        check(lib.v9_fid_clunk(self._device, handle))

    def read_dir(self, fid: Fid, position: int, size: int) -> list[Entry]:
        """Entries of a fid's open directory from a position on (0: from the first), out of about
        `size` bytes of it; none at its end."""
        dents, size = self._room.dents, max(DIRENTS_MIN, min(size, DIRENTS_MAX))
        got = check(lib.v9_fid_read_dir(self._device, fid.handle, position, dents, size))
        return list(_entries(memoryview(ffi.buffer(dents, got))))

    # ---- changes of names -------------------------------------------------------------------

    @contextmanager
    def own_name(self, fid: Fid) -> Iterator[tuple[int, bytes]]:
        """See vhost9p.p9.fids."""
        name = ffi.new("char[]", lib.V9_NAME_SIZE)
        directory = check(lib.v9_names_own(self._device, fid.handle, name))
        try:
            yield directory, ffi.string(name)
        finally:
            descriptors.close(directory)

    def removing(self, fid: Fid, name: bytes = b"") -> "_Change":
        """Brackets the removal of entry `name` of a directory, or of the name by which the guest
        reached a file. The removed file keeps its descriptor."""

        def prepare() -> None:
            check(lib.v9_names_before_loss(self._device, fid.export, fid.path_fd, name))

        def done() -> None:
            lib.v9_names_lost(self._device, fid.handle, name)

        return _Change(self._device, fid.export, prepare, done)

    def renaming(self, fid: Fid, name: bytes, directory: Fid | None, new: bytes) -> "_Change":
        """Brackets the rename of entry `name` of a directory, or of a fid's file itself (b""), to
        `new` in `directory` (None: its own). A file that is replaced keeps its descriptor, and
        evicted files keep their reopen recipes."""

        def prepare() -> tuple[bytes, bytes] | None:
            return self._prepare_rename(fid, name, directory, new)

        def done() -> None:
            into = _OWN_DIRECTORY if directory is None else directory.handle
            lib.v9_names_moved(self._device, fid.handle, name, into, new)

        return _Change(self._device, fid.export, prepare, done)

    def _prepare_rename(
        self, fid: Fid, name: bytes, directory: Fid | None, new: bytes
    ) -> tuple[bytes, bytes] | None:
        """Restores the renamed file and the one that it replaces. Returns the old and the new path
        of a directory, for the files below it."""
        is_directory = check(lib.v9_names_before_loss(self._device, fid.export, fid.path_fd, name))
        old_path = self._path(fid, name) if is_directory or directory is None else b""
        if directory is not None:
            check(lib.v9_names_before_loss(self._device, fid.export, directory.path_fd, new))
            new_path = self._path(directory, new) if is_directory else b""
        else:
            parent, slash, _ = old_path.rpartition(b"/")
            new_path = parent + slash + new
            check(lib.v9_names_before_loss(self._device, fid.export, -1, new_path))
        return (old_path, new_path) if is_directory and old_path and new_path else None

    def _path(self, fid: Fid, name: bytes) -> bytes:
        """A path below the export's root; b"" for what has none."""
        out = ffi.new("char[]", lib.V9_PATH_SIZE)
        size = lib.v9_names_path(self._device, fid.export, fid.path_fd, name, out)
        return bytes(ffi.buffer(out, max(size, 0)))

    def clear(self) -> None:
        """Removes all fids, since a session begins. OSError ESTALE if the next session has begun
        already: its fids must stay."""
        check(lib.v9_fid_clear(self._device))


class _Change:
    """Brackets a change of names in an export: nothing is evicted meanwhile (csrc/fid/evict.h). If
    files are evicted or cached already, `prepare` runs first, and returns the old and the new path
    of a directory that the block renames; no other change runs then. `done` runs if the block
    succeeds."""

    __slots__ = ("_device", "_done", "_export", "_prepare", "_prepared", "_renamed")

    def __init__(
        self,
        device: Any,
        export: int,
        prepare: Callable[[], tuple[bytes, bytes] | None],
        done: Callable[[], None],
    ) -> None:
        self._device = device
        self._export = export
        self._prepare = prepare
        self._prepared = False
        self._done = done
        self._renamed: tuple[bytes, bytes] | None = None

    def __enter__(self) -> None:
        kinds = lib.V9_NAMES_FILE | lib.V9_NAMES_DIRECTORY
        self._prepared = bool(lib.v9_names_begin(self._device, self._export, kinds))
        if self._prepared:
            lib.v9_names_lock(self._device, self._export)
            try:
                self._renamed = self._prepare()
            except BaseException:
                self._end()
                raise

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._done()
        if self._renamed and kind is None:
            lib.v9_names_renamed(self._device, self._export, *self._renamed)
        self._end()

    def _end(self) -> None:
        if self._prepared:
            lib.v9_names_unlock(self._device, self._export)
        lib.v9_names_end(self._device, self._export)
