"""Servers that are not careful, to show that the attack wins against them.

A fid is a descriptor with O_PATH here too, and a name is resolved in the directory of its fid.
What makes a server naive is one mistake at a time:

- Mistake.FOLLOW: a name is resolved without O_NOFOLLOW, and the type of what is opened is not
  looked at.
- Mistake.LOOK_FIRST: name and type are looked at, and then resolved again: a symlink or FIFO wins
  if it comes between.
- Mistake.CLIMB: `..` is left to the kernel, save in the root.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from tests.frontend import wire
from tests.frontend.client import AT_REMOVEDIR, SET_MODE, SET_MTIME, SET_SIZE
from tests.frontend.wire import RLERROR, Kind, T
from tests.system.host_attacks.requests import Request

QID = struct.Struct("<BIQ")


class Mistake(Enum):
    FOLLOW = auto()
    LOOK_FIRST = auto()
    CLIMB = auto()


def _qid(status: os.stat_result) -> bytes:
    return QID.pack(0x80 if stat.S_ISDIR(status.st_mode) else 0, 0, status.st_ino)


def _is_ordinary(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)


class Naive:
    """See the module. It serves `top`."""

    def __init__(self, top: str, mistake: Mistake) -> None:
        self._mistake = mistake
        self._root = os.open(top, os.O_PATH | os.O_DIRECTORY)
        self._fids: dict[int, int] = {}
        self._opened: dict[int, int] = {}
        self._values: dict[int, bytes] = {}
        self._handlers: dict[Kind, Callable[..., bytes]] = {
            T.ATTACH: self._attach,
            T.WALK: self._walk,
            T.GETATTR: self._getattr,
            T.SETATTR: self._setattr,
            T.LOPEN: self._lopen,
            T.LCREATE: self._lcreate,
            T.READ: self._read,
            T.WRITE: self._write,
            T.READDIR: self._readdir,
            T.READLINK: self._readlink,
            T.XATTRWALK: self._xattrwalk,
            T.UNLINKAT: self._unlinkat,
            T.MKDIR: self._mkdir,
            T.RENAMEAT: self._renameat,
            T.CLUNK: self._clunk,
        }

    def __enter__(self) -> Naive:
        return self

    def __exit__(self, *_: object) -> None:
        for fid in list(self._fids):
            self._clunk(fid)
        os.close(self._root)

    def play(self, requests: Sequence[Request]) -> Sequence[bytes]:
        return [self._answer(*request) for request in requests]

    def _answer(self, kind: Kind, fields: tuple[Any, ...]) -> bytes:
        try:
            if kind not in self._handlers:
                raise OSError(errno.EOPNOTSUPP, "")
            return wire.message(kind + 1, 0, self._handlers[kind](*fields))
        except KeyError:
            return wire.message(RLERROR, 0, struct.pack("<I", errno.EBADF))
        except OSError as error:
            return wire.message(RLERROR, 0, struct.pack("<I", error.errno or errno.EIO))

    # ---- names

    def _resolve(self, fd: int, name: bytes) -> int:
        if name == b"..":
            is_root = os.path.samestat(os.fstat(fd), os.fstat(self._root))
            if self._mistake is not Mistake.CLIMB or is_root:
                return os.dup(self._root)
            return os.open("..", os.O_PATH, dir_fd=fd)
        looks_first = self._mistake is Mistake.LOOK_FIRST
        if looks_first and not _is_ordinary(os.stat(name, dir_fd=fd, follow_symlinks=False)):
            raise OSError(errno.ELOOP, "")
        return os.open(name, os.O_PATH | self._no_follow, dir_fd=fd)

    @property
    def _no_follow(self) -> int:
        return os.O_NOFOLLOW if self._mistake is Mistake.CLIMB else 0

    def _attach(self, fid: int, *_: object) -> bytes:
        self._fids[fid] = os.dup(self._root)
        return _qid(os.fstat(self._root))

    def _walk(self, fid: int, newfid: int, names: Sequence[bytes]) -> bytes:
        at, qids = os.dup(self._fids[fid]), []
        try:
            for name in names:
                reached = self._resolve(at, name)
                os.close(at)
                at = reached
                qids.append(_qid(os.fstat(at)))
        except OSError:
            os.close(at)
            raise
        self._fids[newfid] = at
        return struct.pack("<H", len(qids)) + b"".join(qids)

    def _unlinkat(self, dfid: int, name: bytes, flags: int) -> bytes:
        remove = os.rmdir if flags & AT_REMOVEDIR else os.unlink
        remove(name, dir_fd=self._fids[dfid])
        return b""

    def _mkdir(self, dfid: int, name: bytes, mode: int, gid: int) -> bytes:
        os.mkdir(name, mode, dir_fd=self._fids[dfid])
        return QID.pack(0, 0, 0)

    def _renameat(self, old: int, oldname: bytes, new: int, newname: bytes) -> bytes:
        os.rename(oldname, newname, src_dir_fd=self._fids[old], dst_dir_fd=self._fids[new])
        return b""

    # ---- files

    def _path(self, fid: int) -> str:
        return f"/proc/self/fd/{self._fids[fid]}"

    def _getattr(self, fid: int, mask: int) -> bytes:
        status = os.fstat(self._fids[fid])
        numbers = (0, 0, status.st_size, 0, 0, 0, 0, int(status.st_mtime), *[0] * 7)
        mode = struct.pack("<III", status.st_mode, status.st_uid, status.st_gid)
        return struct.pack("<Q", mask) + _qid(status) + mode + struct.pack("<15Q", *numbers)

    def _setattr(self, fid: int, valid: int, mode: int, *more: int) -> bytes:
        if valid & SET_MODE:
            os.chmod(self._path(fid), mode)
        if valid & SET_SIZE:
            os.truncate(self._path(fid), more[2])
        if valid & SET_MTIME:
            os.utime(self._path(fid))
        return b""

    def _lopen(self, fid: int, flags: int) -> bytes:
        if self._mistake is Mistake.CLIMB and not _is_ordinary(os.fstat(self._fids[fid])):
            raise OSError(errno.ENXIO, "")
        self._opened[fid] = os.open(self._path(fid), flags | os.O_NONBLOCK)
        return QID.pack(0, 0, 0) + bytes(4)

    def _lcreate(self, fid: int, name: bytes, flags: int, mode: int, gid: int) -> bytes:
        flags |= os.O_CREAT | os.O_NONBLOCK | self._no_follow
        self._opened[fid] = os.open(name, flags, mode, dir_fd=self._fids[fid])
        return QID.pack(0, 0, 0) + bytes(4)

    def _read(self, fid: int, offset: int, count: int) -> bytes:
        value = self._values.get(fid)
        data = os.pread(self._opened[fid], count, offset) if value is None else value[:count]
        return struct.pack("<I", len(data)) + data

    def _write(self, fid: int, offset: int, data: bytes) -> bytes:
        return struct.pack("<I", os.pwrite(self._opened[fid], data, offset))

    def _readdir(self, fid: int, offset: int, count: int) -> bytes:
        names = [os.fsencode(name) for name in os.listdir(self._opened[fid])]
        entries = [
            QID.pack(0, 0, 0) + struct.pack("<QBH", number, 0, len(name)) + name
            for number, name in enumerate(names, 1)
        ]
        data = b"".join(entries)
        return struct.pack("<I", len(data)) + data

    def _readlink(self, fid: int) -> bytes:
        text = os.readlink(b"", dir_fd=self._fids[fid])
        return struct.pack("<H", len(text)) + text

    def _xattrwalk(self, fid: int, newfid: int, name: bytes) -> bytes:
        value = os.getxattr(self._path(fid), name) if name else b""
        self._fids[newfid] = os.dup(self._fids[fid])
        self._values[newfid] = value
        return struct.pack("<Q", len(value))

    def _clunk(self, fid: int) -> bytes:
        for table in (self._fids, self._opened):
            with suppress(KeyError):
                os.close(table.pop(fid))
        self._values.pop(fid, None)
        return b""
