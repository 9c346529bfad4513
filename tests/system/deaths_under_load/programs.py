"""Programs of a guest: each works in a directory of its own, with one request in flight.

A program is a generator: it yields requests and is sent their replies. What it does is drawn from
its number, and nobody else touches what it uses. So two runs of so many rounds are the same, reply
by reply, whatever happens to the workers that serve them. `Program.replies` records them, for the
comparison. Most requests fail, or do something else, when they are done twice.

Inode numbers may differ between runs. So a program checks itself that a file's qid stays the same
under all of its names, and is no other file's.
"""

from __future__ import annotations

import errno
import os
import random
import zlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from tests.frontend.client import (
    AT_REMOVEDIR,
    GETATTR_ALL,
    LOCK_SUCCESS,
    SET_MODE,
    SET_SIZE,
    UNLCK,
    WRLCK,
    Attr,
    P9Errno,
)
from tests.frontend.wire import NOFID, RLERROR, Kind, Qid, Reply, T, decode_entries
from tests.system.deaths_under_load.held_locks import LOCKED, UNLOCKED, Locks

ROOT = 0
FIDS = 100
"""The numbers of a program's fids begin at a multiple of this."""
DIRECTORY, DATA, GONE, LOCKED_FID, LIST, FILE, OTHER, VALUE = range(8)
LISTED = [b"entry%d" % i for i in range(40)]
SIZE = 20_000
OWN = NOFID  # no change of the group

Request = tuple[Kind, tuple[Any, ...]]
Steps = Generator[Request, Reply, None]
Asking = Generator[Request, Reply, Any]


class Program:
    """See the module. `locks` says what it holds; it has two of them."""

    def __init__(self, number: int, locks: Locks) -> None:
        self.number = number
        self.name = b"program%d" % number
        self.rounds = 0
        self.replies: list[str] = []
        self._locks = locks
        self._for_ever, self._now = 2 * number, 2 * number + 1
        self._random = random.Random(number)
        self._first = FIDS * (number + 1)
        self._proc_id = number + 1
        self._data = bytearray(SIZE)
        self.qids: dict[bytes, int] = {}
        """Of all files that it has made, by their names."""

    def run(self, is_over: Callable[[Program], bool]) -> Steps:
        """Yields requests until it `is_over`, which is asked after each round."""
        yield from self._begin()
        rounds = (
            *(self._write, self._append, self._names, self._directories, self._attributes),
            *(self._values, self._lock, self._list, self._links, self._removed),
        )
        while not is_over(self):
            for each in self._random.sample(rounds, len(rounds)):
                yield from each()
            self.rounds += 1

    def end(self) -> Steps:
        """Gives up what is there all the time."""
        self._locks.set_changing(self._for_ever)
        for which in (LIST, LOCKED_FID, GONE, DATA, DIRECTORY):
            yield from self._clunk(which)

    def record(self, kind: Kind, reply: Reply) -> None:
        """Takes a note of a reply, without what may differ."""
        self.replies.append(f"{kind.name} {describe(kind, reply)}")

    # ---- requests -----------------------------------------------------------------------------

    def _fid(self, which: int) -> int:
        return self._first + which

    def _ask(self, kind: Kind, *fields: Any) -> Asking:
        """One request; returns the reply's fields. Raises P9Errno."""
        reply = yield kind, fields
        if reply.type == RLERROR:
            raise P9Errno(reply.fields[-1], f"{kind.name} of {self.name!r}")
        assert reply.type == kind + 1
        return reply.fields

    def _fails(self, expected: int, kind: Kind, *fields: Any) -> Asking:
        """One request that has to fail."""
        try:
            yield from self._ask(kind, *fields)
        except P9Errno as error:
            assert error.errno == expected, error
        else:
            raise AssertionError(f"no error: {kind.name} of {self.name!r}")

    def _walk(self, which: int, *names: bytes) -> Asking:
        """Has a fid stand for a file below the program's directory."""
        fields = yield from self._ask(T.WALK, self._fid(DIRECTORY), self._fid(which), names)
        assert len(fields[0]) == len(names)
        if names:
            self._check_qid(b"/".join(names), fields[0][-1])

    def _open(self, which: int, flags: int, *names: bytes) -> Asking:
        yield from self._walk(which, *names)
        yield from self._ask(T.LOPEN, self._fid(which), flags)

    def _create(self, which: int, name: bytes, flags: int = os.O_RDWR) -> Asking:
        yield from self._walk(which)
        fields = yield from self._ask(
            T.LCREATE, self._fid(which), name, flags | os.O_CREAT | os.O_EXCL, 0o640, OWN
        )
        self._new_qid(name, fields[0])

    def _clunk(self, which: int) -> Asking:
        yield from self._ask(T.CLUNK, self._fid(which))

    def _getattr(self, which: int) -> Asking:
        return Attr(*(yield from self._ask(T.GETATTR, self._fid(which), GETATTR_ALL)))

    def _unlink(self, name: bytes, flags: int = 0) -> Asking:
        yield from self._ask(T.UNLINKAT, self._fid(DIRECTORY), name, flags)
        del self.qids[name]

    def _mkdir(self, name: bytes) -> Asking:
        fields = yield from self._ask(T.MKDIR, self._fid(DIRECTORY), name, 0o750, OWN)
        self._new_qid(name, fields[0])

    def _new_qid(self, name: bytes, qid: Qid) -> None:
        assert qid.path not in self.qids.values(), f"{name!r} is another file of {self.name!r}"
        self.qids[name] = qid.path

    def _check_qid(self, name: bytes, qid: Qid) -> None:
        assert self.qids.setdefault(name, qid.path) == qid.path, f"{self.name!r}: {name!r}"

    # ---- what is there all the time -------------------------------------------------------------

    def _begin(self) -> Steps:
        fid = self._fid(DIRECTORY)
        yield from self._ask(T.MKDIR, ROOT, self.name, 0o755, OWN)
        yield from self._ask(T.WALK, ROOT, fid, [self.name])
        yield from self._create(DATA, b"data")
        yield from self._ask(T.WRITE, self._fid(DATA), 0, bytes(self._data))
        yield from self._create(GONE, b"gone")
        yield from self._unlink(b"gone")
        yield from self._create(LOCKED_FID, b"locked")
        yield from self._take_lock(0, 0, self._for_ever)
        yield from self._create(FILE, b"log")
        yield from self._clunk(FILE)
        yield from self._mkdir(b"list")
        yield from self._walk(LIST, b"list")
        for name in LISTED:
            yield from self._ask(T.MKNOD, self._fid(LIST), name, 0o100644, 0, 0, OWN)
        yield from self._ask(T.LOPEN, self._fid(LIST), os.O_RDONLY)

    def _take_lock(self, start: int, length: int, which: int) -> Asking:
        fields = yield from self._ask(
            T.LOCK, self._fid(LOCKED_FID if which == self._for_ever else DATA), WRLCK, 0, start,
            length, self._proc_id, b"guest",
        )  # fmt: skip
        assert fields[0] == LOCK_SUCCESS
        self._locks.set(which, LOCKED)

    # ---- what each round does -------------------------------------------------------------------

    def _write(self) -> Steps:
        """Anywhere in a file, and reads it again."""
        for _ in range(3):
            data = self._random.randbytes(self._random.choice((1, 100, 4096)))
            at = self._random.randrange(SIZE - len(data))
            fields = yield from self._ask(T.WRITE, self._fid(DATA), at, data)
            assert fields[0] == len(data)
            self._data[at : at + len(data)] = data
            begin = self._random.randrange(SIZE)
            fields = yield from self._ask(T.READ, self._fid(DATA), begin, 6000)
            assert fields[0] == self._data[begin : begin + 6000]
        yield from self._ask(T.FSYNC, self._fid(DATA), 0)

    def _append(self) -> Steps:
        """To a file that is cut when it has become long."""
        yield from self._open(FILE, os.O_WRONLY | os.O_APPEND, b"log")
        size = (yield from self._getattr(FILE)).size
        for _ in range(3):
            line = b"line of round %d\n" % self.rounds
            yield from self._ask(T.WRITE, self._fid(FILE), 0, line)
            size += len(line)
            assert (yield from self._getattr(FILE)).size == size
        if size > 3000:
            yield from self._ask(T.SETATTR, self._fid(FILE), SET_SIZE, 0, 0, 0, 100, 0, 0, 0, 0)
        yield from self._clunk(FILE)

    def _names(self) -> Steps:
        """One file gets names, and loses them."""
        top = self._fid(DIRECTORY)
        yield from self._create(FILE, b"new")
        yield from self._walk(OTHER)
        again = (self._fid(OTHER), b"new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, OWN)
        yield from self._fails(errno.EEXIST, T.LCREATE, *again)
        yield from self._clunk(OTHER)
        yield from self._ask(T.WRITE, self._fid(FILE), 0, b"some text")
        yield from self._ask(T.LINK, top, self._fid(FILE), b"link")
        self.qids[b"link"] = self.qids[b"new"]
        yield from self._ask(T.RENAMEAT, top, b"new", top, b"renamed")
        self.qids[b"renamed"] = self.qids.pop(b"new")
        assert (yield from self._getattr(FILE)).nlink == 2
        yield from self._open(OTHER, os.O_RDONLY, b"link")
        assert (yield from self._ask(T.READ, self._fid(OTHER), 5, 100))[0] == b"text"
        yield from self._clunk(OTHER)
        yield from self._unlink(b"link")
        yield from self._ask(T.RENAME, self._fid(FILE), top, b"last")
        self.qids[b"last"] = self.qids.pop(b"renamed")
        yield from self._fails(errno.ENOENT, T.UNLINKAT, top, b"renamed", 0)
        yield from self._unlink(b"last")
        assert (yield from self._getattr(FILE)).nlink == 0
        yield from self._clunk(FILE)

    def _directories(self) -> Steps:
        """A directory with a file in it is moved."""
        top = self._fid(DIRECTORY)
        yield from self._mkdir(b"dir")
        yield from self._fails(errno.EEXIST, T.MKDIR, top, b"dir", 0o700, OWN)
        yield from self._walk(OTHER, b"dir")
        yield from self._ask(T.LCREATE, self._fid(OTHER), b"inner", os.O_WRONLY, 0o600, OWN)
        yield from self._ask(T.RENAMEAT, top, b"dir", top, b"moved")
        self.qids[b"moved"] = self.qids.pop(b"dir")
        yield from self._fails(errno.ENOTEMPTY, T.UNLINKAT, top, b"moved", AT_REMOVEDIR)
        yield from self._ask(T.REMOVE, self._fid(OTHER))
        yield from self._unlink(b"moved", AT_REMOVEDIR)

    def _attributes(self) -> Steps:
        """Mode, and a size that is there again afterwards."""
        fid, mode = self._fid(DATA), self._random.randrange(0o600, 0o777)
        yield from self._ask(T.SETATTR, fid, SET_MODE, mode, 0, 0, 0, 0, 0, 0, 0)
        size = self._random.randrange(SIZE)
        for each in (size, SIZE):
            yield from self._ask(T.SETATTR, fid, SET_SIZE, 0, 0, 0, each, 0, 0, 0, 0)
            assert (yield from self._getattr(DATA)).size == each
        self._data[size:] = bytes(SIZE - size)

    def _values(self) -> Steps:
        """An extended attribute is created, read, and removed."""
        value = b"value of round %d" % self.rounds
        for size, flags in ((len(value), os.XATTR_CREATE), (0, os.XATTR_REPLACE)):
            yield from self._walk(VALUE, b"data")
            yield from self._ask(T.XATTRCREATE, self._fid(VALUE), b"user.name", size, flags)
            if size:
                yield from self._ask(T.WRITE, self._fid(VALUE), 0, value[:4])
                yield from self._ask(T.WRITE, self._fid(VALUE), 4, value[4:])
            yield from self._clunk(VALUE)
            read = (T.XATTRWALK, self._fid(DATA), self._fid(VALUE), b"user.name")
            if not size:
                yield from self._fails(errno.ENODATA, *read)
                continue
            assert (yield from self._ask(*read))[0] == size
            assert (yield from self._ask(T.READ, self._fid(VALUE), 0, 100))[0] == value
            yield from self._clunk(VALUE)

    def _lock(self) -> Steps:
        """A range of a file."""
        start, length = self._locks.range_of(self._now)
        yield from self._take_lock(start, length, self._now)
        asked = (self._fid(DATA), WRLCK, start, length, 999, b"another")
        fields = yield from self._ask(T.GETLOCK, *asked)
        assert fields[0] == WRLCK
        self._locks.set_changing(self._now)
        yield from self._ask(
            T.LOCK, self._fid(DATA), UNLCK, 0, start, length, self._proc_id, b"guest"
        )
        self._locks.set(self._now, UNLOCKED)
        fields = yield from self._ask(T.GETLOCK, *asked)
        assert fields[0] == UNLCK
        self._locks.set_changing(self._now)

    def _list(self) -> Steps:
        """A directory is listed in small parts: each entry is there once."""
        names: list[bytes] = []
        offset = 0
        while True:
            fields = yield from self._ask(T.READDIR, self._fid(LIST), offset, 300)
            entries = decode_entries(fields[0])
            if not entries:
                break
            names += (entry.name for entry in entries)
            offset = entries[-1].offset
            for entry in entries:
                if entry.name in LISTED:
                    self._check_qid(b"list/" + entry.name, entry.qid)
        assert sorted(names) == sorted([b".", b"..", *LISTED])

    def _links(self) -> Steps:
        top = self._fid(DIRECTORY)
        yield from self._ask(T.SYMLINK, top, b"symlink", b"target", OWN)
        yield from self._walk(FILE, b"symlink")
        assert (yield from self._ask(T.READLINK, self._fid(FILE)))[0] == b"target"
        yield from self._clunk(FILE)
        yield from self._unlink(b"symlink")
        yield from self._fails(errno.ENOENT, T.UNLINKAT, top, b"symlink", 0)

    def _removed(self) -> Steps:
        """A file that has no name any more."""
        text = b"round %d" % self.rounds
        yield from self._ask(T.WRITE, self._fid(GONE), 0, text)
        assert (yield from self._ask(T.READ, self._fid(GONE), 0, len(text)))[0] == text
        assert (yield from self._getattr(GONE)).nlink == 0


def describe(kind: Kind, reply: Reply) -> str:
    """A reply without numbers of inodes, places in directories, and times."""
    if reply.type == RLERROR:
        return errno.errorcode[reply.fields[-1]]
    if kind == T.READDIR:
        return "entries"
    if kind == T.READ:
        return f"{len(reply.fields[0])} bytes, {zlib.crc32(reply.fields[0])}"
    if kind == T.GETATTR:
        attr = Attr(*reply.fields)
        return f"{attr.mode:o} {attr.nlink} {attr.uid} {attr.gid} {attr.size}"
    return repr([_without_inode(field) for field in reply.fields])


def _without_inode(field: Any) -> Any:
    if isinstance(field, Qid):
        return field.type
    if isinstance(field, Sequence) and not isinstance(field, bytes | str):
        return [_without_inode(each) for each in field]
    return field
