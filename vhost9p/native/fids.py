"""The fid table of a device, for the handlers in Python."""

import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

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


class Stream(NamedTuple):
    """What is known of a fid that has the stream open (struct v9_stream)."""

    start: int
    """The position at offset 0, modulo 2**64."""
    lost: int = 0
    """The offset at which lines are missing, if `is_lost`."""
    end: int = 0
    """The offset behind the last reply."""
    last: int = 0
    """The request that got nothing after a reply that was short (stream.read of p9)."""
    flags: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether lines are missing."""
        return bool(self.flags & lib.V9_STREAM_LOST)

    @property
    def is_cut(self) -> bool:
        """Whether the line before them is not whole."""
        return bool(self.flags & lib.V9_STREAM_CUT)

    @property
    def is_short(self) -> bool:
        """Whether the client goes on asking for the rest of what it wanted."""
        return bool(self.flags & lib.V9_STREAM_SHORT)

    @property
    def is_inside(self) -> bool:
        """Whether the last reply has ended inside a line."""
        return bool(self.flags & lib.V9_STREAM_INSIDE)

    @property
    def waits(self) -> bool:
        """Whether a read waits for lines."""
        return bool(self.flags & lib.V9_STREAM_WAITS)

    def with_flags(self, **flags: bool) -> Self:
        """The same, with some of these properties changed."""
        value = self.flags
        for name, is_set in flags.items():
            bit = _STREAM_FLAGS[name]
            value = value | bit if is_set else value & ~bit
        return self._replace(flags=value)


_STREAM_FLAGS: dict[str, int] = {
    "is_lost": lib.V9_STREAM_LOST,
    "is_cut": lib.V9_STREAM_CUT,
    "is_short": lib.V9_STREAM_SHORT,
    "is_inside": lib.V9_STREAM_INSIDE,
}


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

    def link(self, directory: Self, name: bytes) -> None:
        """Gives the file one more name, in a directory. OSError EROFS, EXDEV."""
        check(lib.v9_fid_link(self._device, self.handle, directory.handle, name))

    def rename(self, name: bytes) -> None:
        """Renames the file within the directory in which the guest reached it. OSError EROFS;
        ENOENT if the file has lost its name, EBUSY for an export's root."""
        check(lib.v9_fid_rename(self._device, self.handle, name))

    def unlink(self) -> None:
        """Removes the name by which the guest reached the file. Errors as of `rename`."""
        check(lib.v9_fid_unlink(self._device, self.handle))

    def sync(self) -> None:
        """Makes the file durable, whether it is open or not."""
        check(lib.v9_fid_sync(self._device, self.handle))


FACTS_ASK = 2**64 - 1
"""V9_FACTS_ASK."""


class Facts(NamedTuple):
    """What is known of a file of the host without asking a server for it."""

    known: bool
    mode: int = 0
    uid: int = 0
    gid: int = 0
    attributes: int = 0
    """STATX_ATTR_* (statx(2))."""
    acl: bytes | None = None
    """The attribute of its access ACL, empty without one; None: not known."""

    @classmethod
    def of(cls, native: Any) -> Self:
        """From the C struct."""
        if not native.known:
            return cls(known=False)
        size = native.acl_size
        acl = None if size < 0 else bytes(ffi.buffer(native.acl, size))
        return cls(True, native.mode, native.uid, native.gid, native.attributes, acl)


def facts_of(fd: int) -> Facts:
    """What is known of the file of a descriptor, and what its server has to be asked for."""
    out = ffi.new("struct v9_file_facts *")
    lib.v9_file_facts(fd, FACTS_ASK, out)
    return Facts.of(out)


class View(NamedTuple):
    """What is known of a fid at once."""

    uid: int
    export: int
    path: bytes | None
    """The name by which the guest has reached it, below the export's root; None: it has none any
    more."""
    facts: Facts


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
        self.access = ffi.new("int32_t *")
        self.dents = ffi.new("uint8_t[]", DIRENTS_MAX)
        self.ended: tuple[int, View | None] = (0, None)


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

    def view(self, number: int) -> View | None:
        """Returns what is known of a fid without a call that may wait; None if there is none."""
        out = ffi.new("struct v9_fid_view *")
        (ended, known), self._room.ended = self._room.ended, (number, None)
        if lib.v9_fid_look(self._device, number, out):
            return known if ended == number else None
        path = (b"..." if out.path_cut else b"") + bytes(ffi.buffer(out.path, out.path_size))
        return View(out.uid, out.export, path if out.path_known else None, Facts.of(out.facts))

    def remember(self, number: int) -> None:
        """Remembers what is known of a fid for the next `view` of this thread, when the fid has
        ended."""
        self._room.ended = (number, self.view(number))

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

    def stream(self, fid: Fid) -> Stream:
        """What is known of a fid that has the stream open; OSError EBADF for any other."""
        out = ffi.new("struct v9_stream *")
        check(lib.v9_fid_get_stream(self._device, fid.handle, out))
        return Stream(out.start, out.lost, out.end, out.last, out.more)

    def set_stream(self, fid: Fid, to: Stream) -> None:
        """Stores that."""
        lib.v9_fid_set_stream(self._device, fid.handle, ffi.new("struct v9_stream *", to))

    def open_for_locks(self, handle: int) -> tuple[int, int]:
        """Opens a separate descriptor of a pinned fid's file, which is open: for writing too if the
        host allows it, so that it can hold any lock. Returns it and its access mode; OSError ENOLCK
        if no descriptor is left."""
        access = self._room.access
        return check(lib.v9_fid_open_for_locks(self._device, handle, access)), access[0]

    def clunk(self, handle: int) -> None:
        """Frees a fid's number; OSError EBADF if it was free already."""
        check(lib.v9_fid_clunk(self._device, handle))

    def read_dir(self, fid: Fid, position: int, size: int) -> list[Entry]:
        """Entries of a fid's open directory from a position on (0: from the first), out of about
        `size` bytes of it; none at its end."""
        dents, size = self._room.dents, max(DIRENTS_MIN, min(size, DIRENTS_MAX))
        got = check(lib.v9_fid_read_dir(self._device, fid.handle, position, dents, size))
        return list(_entries(memoryview(ffi.buffer(dents, got))))

    def clear(self) -> None:
        """Removes all fids, since a session begins. OSError ESTALE if the next session has begun
        already: its fids must stay."""
        check(lib.v9_fid_clear(self._device))
