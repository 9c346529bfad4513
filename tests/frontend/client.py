"""A 9P2000.L client over a virtqueue, in the manner of Linux's: many requests in flight.

`submit` puts a request into the ring and returns a Ticket; `wait` returns its decoded reply. The
methods named after requests do both and return plain values; they raise P9Errno where the server
answers Rlerror. Of every reply it is checked that used.len is its size[4], that tag and type fit
the request, and that nothing behind its buffer was touched.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.frontend import PATIENCE, wire
from tests.frontend.layout import Buffers, Layout, with_empty
from tests.frontend.machine import Machine
from tests.frontend.wire import NOFID, DirEntry, Kind, Qid, Reply, T

ZERO_COPY_ABOVE = 1024  # bytes of data, in Linux
IO_HEADER = 24  # what Linux keeps of msize for the header of a read or write

AT_REMOVEDIR = 0x200
GETATTR_BASIC = 0x7FF
GETATTR_ALL = 0x3FFF

SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME, SET_CTIME = (1 << i for i in range(7))
SET_ATIME_VALUE, SET_MTIME_VALUE = 1 << 7, 1 << 8

RDLCK, WRLCK, UNLCK = 0, 1, 2
LOCK_BLOCK = 1
LOCK_SUCCESS, LOCK_BLOCKED, LOCK_ERROR, LOCK_GRACE = range(4)


class P9Errno(OSError):
    """The server answered Rlerror or Rerror; `errno` is its number."""


class ReplyError(Exception):
    """The server's reply breaks the protocol."""


class Dropped(Exception):
    """The request came back with used.len 0: it has no reply."""


@dataclass(eq=False)
class Ticket:
    """A request in flight. `reply` is set once it is back."""

    kind: int
    tag: int
    buffers: Buffers
    reply: bytes | None = None


class Attr(NamedTuple):
    """Rgetattr."""

    valid: int
    qid: Qid
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    blksize: int
    blocks: int
    atime_sec: int
    atime_nsec: int
    mtime_sec: int
    mtime_nsec: int
    ctime_sec: int
    ctime_nsec: int
    btime_sec: int
    btime_nsec: int
    gen: int
    data_version: int


class Statfs(NamedTuple):
    """Rstatfs."""

    type: int
    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    fsid: int
    namelen: int


class Lock(NamedTuple):
    """Rgetlock."""

    type: int
    start: int
    length: int
    proc_id: int
    client_id: bytes


class Client:
    """A client on a started machine. `layout` replaces Linux's layout of every request."""

    def __init__(self, machine: Machine, layout: Layout | None = None) -> None:
        self.machine = machine
        self.ring = machine.ring
        self.layout = layout
        self.msize = 8192
        self.error = wire.RLERROR
        self.smallest_reply = 11  # Rlerror
        self.in_flight: dict[int, Ticket] = {}  # by head
        self._tags = list(range(self.ring.size))
        self._fids = itertools.count(1000)

    # ---- requests in flight

    def submit(
        self,
        kind: Kind,
        *fields: Any,
        tag: int | None = None,
        layout: Layout | None = None,
        kick: bool = True,
    ) -> Ticket:
        """Encodes a request and makes it available. Tags are reused at once, the lowest first."""
        if tag is None:
            tag = self._tags.pop(0)
        layout = layout or self.layout or _linux_layout(kind, fields)
        capacity = layout.reply_size
        if capacity is None:
            capacity = max(wire.reply_capacity(kind, fields), self.smallest_reply)
        return self.submit_raw(wire.encode(kind, tag, *fields), capacity, layout, kick=kick)

    def submit_raw(
        self, data: bytes, capacity: int, layout: Layout | None = None, *, kick: bool = True
    ) -> Ticket:
        """Makes any bytes available as a request with a reply buffer of `capacity` bytes."""
        layout = layout or Layout()
        buffers = Buffers.place(self.machine.memory, layout, data, capacity)
        readable, writable = buffers.readable, buffers.writable
        if layout.empty:
            readable, writable = with_empty(readable), with_empty(writable)
        head = self.ring.add(readable, writable, indirect=layout.indirect)
        kind, tag = (data[4], int.from_bytes(data[5:7], "little")) if len(data) >= 7 else (0, 0)
        ticket = Ticket(kind, tag, buffers)
        self.in_flight[head] = ticket
        if kick:
            self.ring.kick()
        return ticket

    def reap(self, timeout: float = PATIENCE) -> list[Ticket]:
        """Waits until at least one request is back, and returns those that are."""
        return [self.finish(done.head, done.length) for done in self.ring.wait(timeout)]

    def finish(self, head: int, length: int) -> Ticket:
        """Takes a chain that is back: checks and collects its reply."""
        ticket = self.in_flight.pop(head)
        buffers = ticket.buffers
        if length > sum(size for _, size in buffers.writable):
            raise ReplyError(f"used.len {length} is above the buffer's size")
        if not buffers.intact():
            raise ReplyError("the device wrote behind the reply's buffer")
        ticket.reply = buffers.gather(length)
        buffers.free()
        if ticket.tag < self.ring.size:
            self._tags.insert(0, ticket.tag)
        return ticket

    def wait_raw(self, ticket: Ticket, timeout: float = PATIENCE) -> bytes:
        """The reply's bytes; raises Dropped if the request came back without one."""
        while ticket.reply is None:
            self.reap(timeout)
        if not ticket.reply:
            raise Dropped
        return ticket.reply

    def wait(self, ticket: Ticket, timeout: float = PATIENCE) -> Reply:
        """The decoded reply. Raises P9Errno, ReplyError, Dropped or TimeoutError."""
        reply = wire.decode(self.wait_raw(ticket, timeout))
        if reply.tag != ticket.tag:
            raise ReplyError(f"tag {reply.tag} in the reply to {ticket.tag}")
        if reply.type == self.error:
            raise P9Errno(reply.fields[-1], os.strerror(reply.fields[-1]))
        if reply.type != ticket.kind + 1:
            raise ReplyError(f"reply of type {reply.type} to a request of type {ticket.kind}")
        return reply

    def wait_for(self, count: int, tickets: list[Ticket]) -> tuple[list[Ticket], list[Ticket]]:
        """Waits until at least `count` of these requests are back: which of them, several threads
        decide. Returns those that are back, and the others."""
        while True:
            back = [each for each in tickets if each.reply is not None]
            if len(back) >= count:
                return back, [each for each in tickets if each.reply is None]
            self.reap()

    def call(self, kind: Kind, *fields: Any, layout: Layout | None = None) -> tuple[Any, ...]:
        """Sends a request, waits for it, and returns the reply's fields."""
        return self.wait(self.submit(kind, *fields, layout=layout)).fields

    # ---- sessions and fids

    def new_fid(self) -> int:
        """A fid number that this client has not used yet."""
        return next(self._fids)

    def version(self, msize: int = 512000, version: bytes = b"9P2000.L") -> tuple[int, bytes]:
        """Tversion; takes over the msize. Returns msize and version."""
        ticket = self.submit(T.VERSION, msize, version, tag=wire.NOTAG)
        self.msize, answer = self.wait(ticket).fields
        self.error = wire.RERROR if answer == b"9P2000.u" else wire.RLERROR
        return self.msize, answer

    def auth(self, afid: int, uname: bytes = b"", aname: bytes = b"", n_uname: int = NOFID) -> Qid:
        qid: Qid = self.call(T.AUTH, afid, uname, aname, n_uname)[0]
        return qid

    def attach(
        self,
        fid: int,
        n_uname: int = 0xFFFFFFFF,
        *,
        uname: bytes = b"nobody",
        aname: bytes = b"",
        afid: int = NOFID,
    ) -> Qid:
        qid: Qid = self.call(T.ATTACH, fid, afid, uname, aname, n_uname)[0]
        return qid

    def walk(self, fid: int, newfid: int, *names: bytes) -> list[Qid]:
        """Twalk as it is; fewer qids than names mean that newfid does not exist."""
        qids: list[Qid] = self.call(T.WALK, fid, newfid, names)[0]
        return qids

    def walk_to(self, fid: int, *names: bytes) -> int:
        """A new fid at the end of the names. A partial walk is ENOENT, as in Linux."""
        newfid = self.new_fid()
        if len(self.walk(fid, newfid, *names)) < len(names):
            raise P9Errno(2, "partial walk")
        return newfid

    def clunk(self, fid: int) -> None:
        self.call(T.CLUNK, fid)

    def remove(self, fid: int) -> None:
        self.call(T.REMOVE, fid)

    # ---- files

    def lopen(self, fid: int, flags: int) -> tuple[Qid, int]:
        """Opens a fid; returns qid and iounit."""
        qid, iounit = self.call(T.LOPEN, fid, flags)
        return qid, iounit

    def open(self, fid: int, names: bytes | Sequence[bytes], flags: int = os.O_RDONLY) -> int:
        """Walks to a file and opens it; returns the new fid."""
        opened = self.walk_to(fid, *([names] if isinstance(names, bytes) else names))
        try:
            self.lopen(opened, flags)
        except P9Errno:
            self.clunk(opened)
            raise
        return opened

    def lcreate(
        self, fid: int, name: bytes, flags: int = os.O_RDWR, mode: int = 0o644, gid: int = 0
    ) -> tuple[Qid, int]:
        """Tlcreate as it is: the directory's fid becomes the file's."""
        qid, iounit = self.call(T.LCREATE, fid, name, flags, mode, gid)
        return qid, iounit

    def create(
        self, fid: int, name: bytes, flags: int = os.O_RDWR, mode: int = 0o644, gid: int = 0
    ) -> int:
        """Creates a file in a directory whose fid stays; returns the file's open fid."""
        created = self.walk_to(fid)
        try:
            self.lcreate(created, name, flags, mode, gid)
        except P9Errno:
            self.clunk(created)
            raise
        return created

    def read(self, fid: int, offset: int, count: int, layout: Layout | None = None) -> bytes:
        """One Tread."""
        data: bytes = self.call(T.READ, fid, offset, count, layout=layout)[0]
        if len(data) > count:
            raise ReplyError(f"Rread of {len(data)} bytes, {count} were asked for")
        return data

    def write(self, fid: int, offset: int, data: bytes, layout: Layout | None = None) -> int:
        """One Twrite; returns the bytes that were written."""
        written: int = self.call(T.WRITE, fid, offset, data, layout=layout)[0]
        if written > len(data):
            raise ReplyError(f"Rwrite of {written} bytes, {len(data)} were sent")
        return written

    def read_all(self, fid: int) -> bytes:
        """A file's contents by reads of the largest size."""
        data = b""
        while part := self.read(fid, len(data), self.msize - IO_HEADER):
            data += part
        return data

    def fsync(self, fid: int, datasync: int = 0) -> None:
        self.call(T.FSYNC, fid, datasync)

    def readdir(self, fid: int, offset: int = 0, count: int = 8192) -> list[DirEntry]:
        """One Treaddir."""
        data: bytes = self.call(T.READDIR, fid, offset, count)[0]
        if len(data) > count:
            raise ReplyError(f"Rreaddir of {len(data)} bytes, {count} were asked for")
        return wire.decode_entries(data)

    def entries(self, fid: int, count: int = 8192) -> Iterator[DirEntry]:
        """All entries of an open directory, from the start."""
        offset = 0
        while part := self.readdir(fid, offset, count):
            yield from part
            offset = part[-1].offset

    def listing(self, fid: int, *names: bytes) -> dict[bytes, DirEntry]:
        """The entries of a directory by name, without . and .. (each exactly once)."""
        opened = self.open(fid, names, os.O_RDONLY | os.O_DIRECTORY)
        entries = list(self.entries(opened))
        self.clunk(opened)
        found = {entry.name: entry for entry in entries}
        if len(found) != len(entries):
            raise ReplyError("an entry was listed twice")
        del found[b"."], found[b".."]
        return found

    # ---- attributes

    def getattr(self, fid: int, mask: int = GETATTR_ALL) -> Attr:
        return Attr(*self.call(T.GETATTR, fid, mask))

    def setattr(
        self,
        fid: int,
        valid: int,
        *,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        atime: tuple[int, int] = (0, 0),
        mtime: tuple[int, int] = (0, 0),
    ) -> None:
        self.call(T.SETATTR, fid, valid, mode, uid, gid, size, *atime, *mtime)

    def statfs(self, fid: int) -> Statfs:
        return Statfs(*self.call(T.STATFS, fid))

    def xattrwalk(self, fid: int, newfid: int, name: bytes = b"") -> int:
        """Txattrwalk; an empty name lists. Returns the size."""
        size: int = self.call(T.XATTRWALK, fid, newfid, name)[0]
        return size

    def xattrcreate(self, fid: int, name: bytes, size: int, flags: int = 0) -> None:
        self.call(T.XATTRCREATE, fid, name, size, flags)

    def getxattr(self, fid: int, name: bytes = b"") -> bytes:
        """An xattr's value, or the list of names, as Linux's client reads it."""
        newfid = self.new_fid()
        size = self.xattrwalk(fid, newfid, name)
        value = b""
        while len(value) < size and (part := self.read(newfid, len(value), size - len(value))):
            value += part
        self.clunk(newfid)
        return value

    def setxattr(self, fid: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Sets an xattr as Linux's client does."""
        newfid = self.walk_to(fid)
        try:
            self.xattrcreate(newfid, name, len(value), flags)
            done = 0
            while done < len(value):
                done += self.write(newfid, done, value[done : done + self.msize - IO_HEADER])
        except P9Errno:
            self.clunk(newfid)
            raise
        self.clunk(newfid)

    def removexattr(self, fid: int, name: bytes) -> None:
        """Removes an xattr as Linux's client does: replaces it by nothing."""
        self.setxattr(fid, name, b"", os.XATTR_REPLACE)

    # ---- names

    def mkdir(self, dfid: int, name: bytes, mode: int = 0o755, gid: int = 0) -> Qid:
        qid: Qid = self.call(T.MKDIR, dfid, name, mode, gid)[0]
        return qid

    def mknod(
        self, dfid: int, name: bytes, mode: int, rdev: tuple[int, int] = (0, 0), gid: int = 0
    ) -> Qid:
        qid: Qid = self.call(T.MKNOD, dfid, name, mode, *rdev, gid)[0]
        return qid

    def symlink(self, dfid: int, name: bytes, target: bytes, gid: int = 0) -> Qid:
        qid: Qid = self.call(T.SYMLINK, dfid, name, target, gid)[0]
        return qid

    def readlink(self, fid: int) -> bytes:
        target: bytes = self.call(T.READLINK, fid)[0]
        return target

    def link(self, dfid: int, fid: int, name: bytes) -> None:
        self.call(T.LINK, dfid, fid, name)

    def rename(self, fid: int, dfid: int, name: bytes) -> None:
        self.call(T.RENAME, fid, dfid, name)

    def renameat(self, olddirfid: int, oldname: bytes, newdirfid: int, newname: bytes) -> None:
        self.call(T.RENAMEAT, olddirfid, oldname, newdirfid, newname)

    def unlinkat(self, dirfid: int, name: bytes, flags: int = 0) -> None:
        self.call(T.UNLINKAT, dirfid, name, flags)

    # ---- locks

    def lock(
        self,
        fid: int,
        kind: int,
        start: int = 0,
        length: int = 0,
        *,
        proc_id: int = 1,
        client_id: bytes = b"guest",
        flags: int = 0,
    ) -> int:
        """Tlock; returns its status."""
        status: int = self.call(T.LOCK, fid, kind, flags, start, length, proc_id, client_id)[0]
        return status

    def submit_lock(
        self,
        fid: int,
        kind: int,
        start: int = 0,
        length: int = 0,
        *,
        proc_id: int = 1,
        client_id: bytes = b"guest",
    ) -> Ticket:
        """A blocking Tlock that is not waited for."""
        return self.submit(T.LOCK, fid, kind, LOCK_BLOCK, start, length, proc_id, client_id)

    def getlock(
        self,
        fid: int,
        kind: int,
        start: int = 0,
        length: int = 0,
        *,
        proc_id: int = 1,
        client_id: bytes = b"guest",
    ) -> Lock:
        """Tgetlock: the lock that is in the way, or one of type UNLCK."""
        return Lock(*self.call(T.GETLOCK, fid, kind, start, length, proc_id, client_id))

    def flush(self, ticket: Ticket) -> None:
        """Tflush of a request; returns when Rflush is back."""
        self.call(T.FLUSH, ticket.tag)


def _linux_layout(kind: Kind, fields: Sequence[Any]) -> Layout:
    if kind in (T.READ, T.READDIR) and fields[2] > ZERO_COPY_ABOVE:
        return Layout(writable=(11,))
    if kind == T.WRITE and len(fields[2]) > ZERO_COPY_ABOVE:
        return Layout(readable=(23,))
    return Layout()
