"""A 9P2000.u client: what that dialect has in place of 9P2000.L's messages.

Source: the Plan 9 manual, open(5) and stat(5), and the notes on 9P2000.u.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.frontend.client import Client, P9Errno, ReplyError
from tests.frontend.layout import Layout
from tests.frontend.machine import Machine
from tests.frontend.wire import Qid, U

OREAD, OWRITE, ORDWR, OEXEC, OTRUNC, ORCLOSE, OAPPEND = 0, 1, 2, 3, 0x10, 0x40, 0x80
DMDIR, DMAPPEND, DMSYMLINK, DMLINK = 0x80000000, 0x40000000, 0x02000000, 0x01000000
DMDEVICE, DMNAMEDPIPE, DMSOCKET = 0x00800000, 0x00200000, 0x00100000
DMSETUID, DMSETGID, DMSETVTX = 0x00080000, 0x00040000, 0x00010000

_FIXED = struct.Struct("<HIBIQIIIQ")
_IDS = struct.Struct("<III")
_ONES = 0xFFFFFFFF


class Stat(NamedTuple):
    """A stat structure; a fresh one leaves everything alone when it is sent in Twstat."""

    type: int = 0xFFFF
    dev: int = _ONES
    qid: Qid = Qid(0xFF, _ONES, 2**64 - 1)
    mode: int = _ONES
    atime: int = _ONES
    mtime: int = _ONES
    length: int = 2**64 - 1
    name: bytes = b""
    uid: bytes = b""
    gid: bytes = b""
    muid: bytes = b""
    extension: bytes = b""
    n_uid: int = _ONES
    n_gid: int = _ONES
    n_muid: int = _ONES


def encode_stat(stat: Stat) -> bytes:
    """size[2] and the fields."""
    body = _FIXED.pack(stat.type, stat.dev, *stat.qid, *stat[3:7])
    body += b"".join(struct.pack("<H", len(text)) + text for text in stat[7:12])
    body += _IDS.pack(*stat[12:])
    return struct.pack("<H", len(body)) + body


def decode_stats(data: bytes) -> Iterator[tuple[int, Stat]]:
    """The structures that directory data consists of, and each one's size."""
    while data:
        size = 2 + int.from_bytes(data[:2], "little")
        if len(data) < size:
            raise ReplyError(f"a part of a stat structure: {data[:64]!r}")
        kind, dev, *qid, mode, atime, mtime, length = _FIXED.unpack_from(data, 2)
        at, texts = 2 + _FIXED.size, []
        for _ in range(5):
            end = at + 2 + int.from_bytes(data[at : at + 2], "little")
            texts.append(data[at + 2 : end])
            at = end
        if at + _IDS.size != size:
            raise ReplyError(f"a stat structure of {size} bytes with {at + _IDS.size} in it")
        numbers = (kind, dev, Qid(*qid), mode, atime, mtime, length)
        yield size, Stat._make((*numbers, *texts, *_IDS.unpack_from(data, at)))
        data = data[size:]


class DialectUClient(Client):
    """A client whose sessions are of 9P2000.u. In Linux every reply's buffer holds an Rerror."""

    def __init__(self, machine: Machine, layout: Layout | None = None) -> None:
        super().__init__(machine, layout)
        self.smallest_reply = 7 + 256

    def version(self, msize: int = 512000, version: bytes = b"9P2000.u") -> tuple[int, bytes]:
        return super().version(msize, version)

    def open_fid(self, fid: int, mode: int = OREAD) -> tuple[Qid, int]:
        """Topen."""
        qid, iounit = self.call(U.OPEN, fid, mode)
        return qid, iounit

    def walk_open(self, fid: int, *names: bytes, mode: int = OREAD) -> int:
        """A new fid of a file, open."""
        opened = self.walk_to(fid, *names)
        try:
            self.open_fid(opened, mode)
        except P9Errno:
            self.clunk(opened)
            raise
        return opened

    def make(
        self, fid: int, name: bytes, perm: int = 0o644, mode: int = OREAD, extension: bytes = b""
    ) -> int:
        """Tcreate in a directory whose fid stays; returns the new file's."""
        created = self.walk_to(fid)
        try:
            self.call(U.CREATE, created, name, perm, mode, extension)
        except P9Errno:
            self.clunk(created)
            raise
        return created

    def stat(self, fid: int, *names: bytes) -> Stat:
        """Tstat, of a file below the fid where names are given."""
        target = self.walk_to(fid, *names) if names else fid
        try:
            [(_, stat)] = decode_stats(self.call(U.STAT, target)[0])
        finally:
            if names:
                self.clunk(target)
        return stat

    def wstat(self, fid: int, **fields: Any) -> None:
        """Twstat that changes these fields."""
        self.call(U.WSTAT, fid, encode_stat(Stat(**fields)))

    def stats(self, fid: int, count: int = 8192) -> Iterator[Stat]:
        """What an open directory reads as, from its start."""
        offset = 0
        while data := self.read(fid, offset, count):
            for size, stat in decode_stats(data):
                offset += size
                yield stat
