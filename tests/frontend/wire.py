"""9P2000.L and 9P2000.u messages as bytes: an encoder and decoder of the frontend's own.

A message is size[4] type[1] tag[2] and fields, all little-endian; a string is len[2] and bytes.
A message's fields are one letter each, in wire order:

    b u8, h u16, w u32, q u64, s string, Q qid, S h-counted strings, R h-counted qids,
    d w-counted bytes

Source: the Plan 9 manual, section 5, and the protocol description of the diod server.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

HEADER = struct.Struct("<IBH")
NOTAG = 0xFFFF
NOFID = 0xFFFFFFFF
RLERROR = 7
RERROR = 107


class T(IntEnum):
    """Request types; a request's reply is the next number."""

    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    XATTRWALK = 30
    XATTRCREATE = 32
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    AUTH = 102
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


class U(IntEnum):
    """Request types that only 9P2000.u has."""

    OPEN = 112
    CREATE = 114
    STAT = 124
    WSTAT = 126


Kind = T | U

REQUEST_FIELDS: dict[Kind, str] = {
    T.STATFS: "w",  # fid
    T.LOPEN: "ww",  # fid flags
    T.LCREATE: "wswww",  # fid name flags mode gid
    T.SYMLINK: "wssw",  # dfid name target gid
    T.MKNOD: "wswwww",  # dfid name mode major minor gid
    T.RENAME: "wws",  # fid dfid name
    T.READLINK: "w",  # fid
    T.GETATTR: "wq",  # fid request_mask
    T.SETATTR: "wwwwwqqqqq",  # fid valid mode uid gid size atime(s, ns) mtime(s, ns)
    T.XATTRWALK: "wws",  # fid newfid name
    T.XATTRCREATE: "wsqw",  # fid name size flags
    T.READDIR: "wqw",  # fid offset count
    T.FSYNC: "ww",  # fid datasync
    T.LOCK: "wbwqqws",  # fid type flags start length proc_id client_id
    T.GETLOCK: "wbqqws",  # fid type start length proc_id client_id
    T.LINK: "wws",  # dfid fid name
    T.MKDIR: "wsww",  # dfid name mode gid
    T.RENAMEAT: "wsws",  # olddirfid oldname newdirfid newname
    T.UNLINKAT: "wsw",  # dirfid name flags
    T.VERSION: "ws",  # msize version
    T.AUTH: "wssw",  # afid uname aname n_uname
    T.ATTACH: "wwssw",  # fid afid uname aname n_uname
    T.FLUSH: "h",  # oldtag
    T.WALK: "wwS",  # fid newfid names
    T.READ: "wqw",  # fid offset count
    T.WRITE: "wqd",  # fid offset data
    T.CLUNK: "w",  # fid
    T.REMOVE: "w",  # fid
    U.OPEN: "wb",  # fid mode
    U.CREATE: "wswbs",  # fid name perm mode extension
    U.STAT: "w",  # fid
    U.WSTAT: "ws",  # fid stat
}

REPLY_FIELDS: dict[int, str] = {
    RLERROR: "w",  # ecode
    T.STATFS + 1: "wwqqqqqqw",  # type bsize blocks bfree bavail files ffree fsid namelen
    T.LOPEN + 1: "Qw",  # qid iounit
    T.LCREATE + 1: "Qw",  # qid iounit
    T.SYMLINK + 1: "Q",
    T.MKNOD + 1: "Q",
    T.RENAME + 1: "",
    T.READLINK + 1: "s",
    T.GETATTR + 1: "qQwwwqqqqqqqqqqqqqqq",
    T.SETATTR + 1: "",
    T.XATTRWALK + 1: "q",
    T.XATTRCREATE + 1: "",
    T.READDIR + 1: "d",
    T.FSYNC + 1: "",
    T.LOCK + 1: "b",
    T.GETLOCK + 1: "bqqws",
    T.LINK + 1: "",
    T.MKDIR + 1: "Q",
    T.RENAMEAT + 1: "",
    T.UNLINKAT + 1: "",
    T.VERSION + 1: "ws",
    T.AUTH + 1: "Q",
    T.ATTACH + 1: "Q",
    T.FLUSH + 1: "",
    T.WALK + 1: "R",
    T.READ + 1: "d",
    T.WRITE + 1: "w",
    T.CLUNK + 1: "",
    T.REMOVE + 1: "",
    RERROR: "sw",  # ename errno
    U.OPEN + 1: "Qw",  # qid iounit
    U.CREATE + 1: "Qw",  # qid iounit
    U.STAT + 1: "s",  # stat
    U.WSTAT + 1: "",
}

_NUMBERS = {"b": struct.Struct("<B"), "h": struct.Struct("<H")}
_NUMBERS |= {"w": struct.Struct("<I"), "q": struct.Struct("<Q")}
_QID = struct.Struct("<BIQ")


class WireError(Exception):
    """A reply is not a well-formed message."""


class Qid(NamedTuple):
    type: int
    version: int
    path: int


class Reply(NamedTuple):
    """A decoded R-message."""

    type: int
    tag: int
    fields: tuple[Any, ...]


def message(kind: int, tag: int, body: bytes) -> bytes:
    """A message with a right size, whatever its body."""
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body


def _string(value: bytes) -> bytes:
    return struct.pack("<H", len(value)) + value


def encode(kind: Kind, tag: int, *values: Any) -> bytes:
    """A T-message of its fields in wire order; names are bytes."""
    fields = REQUEST_FIELDS[kind]
    if len(fields) != len(values):
        raise WireError(f"{kind.name} has {len(fields)} fields, {len(values)} were given")
    body = b""
    for letter, value in zip(fields, values, strict=True):
        if letter in _NUMBERS:
            body += _NUMBERS[letter].pack(value)
        elif letter == "s":
            body += _string(value)
        elif letter == "S":
            body += struct.pack("<H", len(value)) + b"".join(map(_string, value))
        else:
            body += struct.pack("<I", len(value)) + value
    return message(kind, tag, body)


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise WireError(f"{size} bytes are missing at {self.at} of {self.data[:64]!r}")
        self.at += size
        return part

    def number(self, letter: str) -> int:
        form = _NUMBERS[letter]
        return int(form.unpack(self.take(form.size))[0])

    def qid(self) -> Qid:
        return Qid(*_QID.unpack(self.take(_QID.size)))

    def field(self, letter: str) -> Any:
        if letter in _NUMBERS:
            return self.number(letter)
        if letter == "s":
            return self.take(self.number("h"))
        if letter == "Q":
            return self.qid()
        if letter == "R":
            return [self.qid() for _ in range(self.number("h"))]
        return self.take(self.number("w"))


def decode(data: bytes) -> Reply:
    """Decodes a whole R-message; every byte has to belong to a field."""
    cursor = _Cursor(data)
    size, kind, tag = HEADER.unpack(cursor.take(HEADER.size))
    if size != len(data):
        raise WireError(f"size[4] is {size} in a reply of {len(data)} bytes")
    if kind not in REPLY_FIELDS:
        raise WireError(f"reply of unknown type {kind}")
    fields = tuple(cursor.field(letter) for letter in REPLY_FIELDS[kind])
    if cursor.at != len(data):
        raise WireError(f"{len(data) - cursor.at} bytes too many in a reply of type {kind}")
    return Reply(kind, tag, fields)


class DirEntry(NamedTuple):
    """One entry of Rreaddir; `offset` continues after it."""

    qid: Qid
    offset: int
    type: int  # DT_*
    name: bytes


def decode_entries(data: bytes) -> list[DirEntry]:
    """The entries of Rreaddir's data: qid[13] offset[8] type[1] name[s]."""
    cursor = _Cursor(data)
    entries = []
    while cursor.at < len(data):
        qid, offset, kind = cursor.qid(), cursor.number("q"), cursor.number("b")
        entries.append(DirEntry(qid, offset, kind, cursor.field("s")))
    return entries


def reply_capacity(kind: int, fields: Sequence[Any]) -> int:
    """Bytes that a Linux client (6.1 or newer) gives the reply to a request."""
    if kind in (T.READ, T.READDIR):
        return 11 + int(fields[2])
    if kind == T.WALK:
        return max(9 + 13 * len(fields[2]), 11)
    return 8192 if kind == T.READLINK else 4096
