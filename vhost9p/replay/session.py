"""Repeats recorded requests, one after the other in the order of their replies.

Nobody could ask before a reply was there, so that order is one in which the guest might have asked.
Fids keep their numbers. A trace that begins in the middle of a session has fids that exist already:
the first request that names one says where it was (capture.py), and a walk from the root gets it
there; it is opened if it is read or written before it is opened. A fid whose place is not known, as
of an attribute's value, is left out with all its requests, and so is what a Tflush has cancelled.

What the trace does not hold of data that is written is zeros. Positions in directories are the
host's: a read that goes on does so where the one before has ended. In 9P2000.u that is a Tread.
"""

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vhost9p.p9.codec import Qid
from vhost9p.p9.constants import HEADER_SIZE, LOCK_FLAGS_BLOCK, NOFID, NONUNAME, Dialect
from vhost9p.p9.messages import Tattach, Tversion
from vhost9p.replay.compare import Table, difference
from vhost9p.replay.frontend import MESSAGE_MAX, Frontend
from vhost9p.trace.capture import Captured
from vhost9p.trace.notation import LAYOUTS, REQUESTS, Message, read

MSIZE = 512000
NOTAG = 0xFFFF
WALK_MAX = 16
ROOTS = NOFID - 1
"""The first of our own fids, counted downwards: one for each user of the guest."""
OPEN = frozenset({"Tread", "Twrite", "Treaddir", "Tfsync", "Tlock", "Tgetlock"})
"""Requests that need an open fid."""
OPENING = frozenset({"Tlopen", "Topen", "Tlcreate", "Tcreate"})
ENDING = frozenset({"Tclunk", "Tremove"})
_OFFSET = HEADER_SIZE + 4
"""Of a Tread's, Twrite's and Treaddir's offset."""
QTDIR = 0x80
_LOCK_FLAGS = HEADER_SIZE + 5


class Difference(NamedTuple):
    """A reply that is not as it was."""

    number: int
    """Of the request in the trace, counted from 1."""
    request: str
    path: str
    text: str


def fids_of(request: Message) -> Iterator[int]:
    """The fids of files that a request names, and that have to exist."""
    if request.name in {"Tversion", "Tauth", "Tattach", "Tflush"}:
        return
    for key in ("fid", "dfid", "newdirfid"):
        if key in request.fields:
            yield request.fields[key]


def opened_how(captured: Sequence[Captured], begin: int, fid: int) -> int | None:
    """Returns the flags with which a fid is open that exists before a request; None: it is not."""
    flags: int | None = None
    for each in captured[begin:]:
        request = read(each.request)
        if fid not in fids_of(request) or request.fields.get("fid") != fid:
            continue
        if request.name in OPENING or request.name in ENDING:
            break
        if request.name in OPEN and flags is None:
            flags = os.O_RDONLY
        if request.name == "Twrite":
            flags = os.O_RDWR
    return flags


class Session:
    """A mount of a daemon, in which the requests of a trace are repeated."""

    def __init__(self, frontend: Frontend, captured: Sequence[Captured]) -> None:
        self._frontend = frontend
        self._captured = captured
        self._msize = 0
        """0: no session has begun."""
        self._fids: set[int] = set()
        self._left_out: set[int] = set()
        """Fids that the guest had, and that are not to be had here."""
        self._directories: set[int] = set()
        """Fids of directories that are open."""
        self._roots: dict[int, int] = {}
        """By user."""
        self._positions: dict[int, dict[int, int]] = {}
        """Of an open directory: where we are when the guest was somewhere."""
        self._ends: dict[int, int] = {}
        """Where the last read of a directory has ended."""
        self._listed: dict[int, tuple[int, int]] = {}
        """Bytes of entries since the beginning of a directory: recorded, and now."""
        self.table = Table()

    def run(self) -> Iterator[Difference]:
        """Repeats all; yields differences. Raises NoReply."""
        for i, each in enumerate(self._captured):
            request = read(each.request)
            if why_not(each, request) or not self._prepare(i, each, request):
                self.table.skip(request.name)
                continue
            reply, took = self._ask(self._adapted(each, request), request)
            recorded, now = read(each.reply), read(reply)
            lists = self._lists(request)
            text = difference(recorded, now, is_list=lists) if each.reply else ""
            if lists and not text:
                text = self._list(request, recorded, now, reply)
            self._note(request, recorded, now)
            self.table.add(request.name, each.took, took, differs=bool(text))
            if text:
                yield Difference(i + 1, request.name, each.paths[0] if each.paths else "", text)

    def _ask(self, data: bytes, request: Message) -> tuple[bytes, int]:
        tag = NOTAG if request.name == "Tversion" else 1
        data = data[:5] + struct.pack("<H", tag) + data[HEADER_SIZE:]
        return self._frontend.ask(data, max(self._msize, MSIZE))

    # ---- before a request -------------------------------------------------------------------

    def _prepare(self, number: int, each: Captured, request: Message) -> bool:
        """Sees to the session and the fids. Returns whether the request can be repeated."""
        if request.name == "Tversion":
            return True
        if not self._msize:
            self._begin(each)
        return all(self._reach(number, each, fid) for fid in fids_of(request))

    def _begin(self, each: Captured) -> None:
        """A session that the guest has begun before the trace."""
        dialect = Dialect.U if each.is_u else Dialect.L
        data = Tversion(MSIZE, dialect.value).encode(NOTAG)
        reply = read(self._frontend.ask(data, MSIZE)[0])
        self._msize = int(reply.fields.get("msize", MSIZE))

    def _reach(self, number: int, each: Captured, fid: int) -> bool:
        """Sees that a fid exists. Returns whether it does."""
        if fid in self._fids or fid in self._left_out:
            return fid in self._fids
        path = each.fid_paths.get(fid)
        if path is not None and self._walk(self._root(each), fid, path):
            self._fids.add(fid)
            flags = opened_how(self._captured, number, fid)
            if flags is not None:
                self._open(fid, flags, is_u=each.is_u)
            return True
        if path is None:
            self._left_out.add(fid)
        return path is not None  # the reply says what is wrong

    def _root(self, each: Captured) -> int:
        uid = NONUNAME if each.uid is None else each.uid
        if uid not in self._roots:
            fid = self._roots[uid] = ROOTS - len(self._roots)
            attach = Tattach(fid, NOFID, b"", b"", uid).encode(1)
            self._frontend.ask(attach, self._msize)
        return self._roots[uid]

    def _walk(self, root: int, fid: int, path: str) -> bool:
        names = [os.fsencode(name) for name in path.split("/") if name]
        begin = root
        for at in range(0, max(len(names), 1), WALK_MAX):
            some = names[at : at + WALK_MAX]
            body = struct.pack("<IIH", begin, fid, len(some))
            body += b"".join(struct.pack("<H", len(name)) + name for name in some)
            reply = self._own("Twalk", body)
            if reply.error or len(reply.fields.get("qids", ())) < len(some):
                return False
            begin = fid
        return True

    def _open(self, fid: int, flags: int, *, is_u: bool) -> None:
        if is_u:
            reply = self._own("Topen", struct.pack("<IB", fid, flags))
        else:
            reply = self._own("Tlopen", struct.pack("<II", fid, flags))
        self._note_opened(fid, reply)

    def _own(self, name: str, body: bytes) -> Message:
        """A request that is not in the trace."""
        head = struct.pack("<IBH", HEADER_SIZE + len(body), REQUESTS[name], 1)
        return read(self._frontend.ask(head + body, self._msize)[0])

    def _adapted(self, each: Captured, request: Message) -> bytes:
        """The message as it is sent here: whole, and with our positions."""
        data = bytearray(each.request.ljust(each.request_size, b"\0"))
        if self._lists(request):
            struct.pack_into("<Q", data, _OFFSET, self._position(request))
        elif request.name == "Tlock":
            data[_LOCK_FLAGS] &= ~LOCK_FLAGS_BLOCK  # what it has waited for has happened
        return bytes(data)

    def _lists(self, request: Message) -> bool:
        """Whether a request reads a directory."""
        is_read = request.name == "Tread" and request.fields["fid"] in self._directories
        return is_read or request.name == "Treaddir"

    def _position(self, request: Message) -> int:
        """Where we read on; the reply's entries end behind that."""
        fid, offset = request.fields["fid"], request.fields["offset"]
        if not offset:
            self._positions[fid] = {0: 0}
            self._listed[fid] = 0, 0
        known = self._positions.setdefault(fid, {})
        self._ends[fid] = known.setdefault(offset, self._ends.get(fid, offset))
        return self._ends[fid]

    # ---- after it ---------------------------------------------------------------------------

    def _list(self, request: Message, recorded: Message, now: Message, reply: bytes) -> str:
        """Reads a directory to the end if the guest has; returns how that differs."""
        if now.error or recorded.error:
            return ""
        fid = request.fields["fid"]
        before, after = self._listed.get(fid, (0, 0))
        before += recorded.fields.get("count", 0)
        after += self._end(fid, request.name, reply)
        if not recorded.fields.get("count"):
            while count := self._end(fid, request.name, self._next_entries(fid, request.name)):
                after += count
        self._listed[fid] = before, after
        if recorded.fields.get("count") or before == after:
            return ""
        return f"{before} bytes of entries when recorded, {after} now"

    def _next_entries(self, fid: int, name: str) -> bytes:
        body = struct.pack("<IQI", fid, self._ends.get(fid, 0), self._msize - HEADER_SIZE - 4)
        data = struct.pack("<IBH", HEADER_SIZE + len(body), REQUESTS[name], 1) + body
        return self._frontend.ask(data, self._msize)[0]

    def _end(self, fid: int, name: str, reply: bytes) -> int:
        """Notes where the reply to a request that lists ends; returns its bytes of entries."""
        at, end = HEADER_SIZE + 4, len(reply)
        size = max(end - at, 0)
        if name == "Tread":  # the position is that of a byte
            self._ends[fid] += size
            return size
        while at + 24 <= end:  # qid[13] offset[8] type[1] name[s]
            (self._ends[fid],) = struct.unpack_from("<Q", reply, at + 13)
            at += 24 + int.from_bytes(reply[at + 22 : at + 24], "little")
        return size

    def _note(self, request: Message, recorded: Message, now: Message) -> None:
        """Which fids there are now; those that the guest has got, and we have not, are left out."""
        fields, name = request.fields, request.name
        if name == "Tversion":
            self._msize = int(now.fields.get("msize", MSIZE))
            self._fids, self._left_out, self._roots = set(), set(), {}
            self._directories = set()
        new = fields.get("fid") if name == "Tattach" else fields.get("newfid")
        if new is not None:
            (self._fids if _gives_fid(request, now) else self._left_out).add(new)
            if not _gives_fid(request, recorded):
                self._left_out.discard(new)
        if name in OPENING:
            self._note_opened(fields["fid"], now)
        if name in ENDING:
            self._fids.discard(fields["fid"])
            self._left_out.discard(fields["fid"])
            self._directories.discard(fields["fid"])

    def _note_opened(self, fid: int, reply: Message) -> None:
        qid = reply.fields.get("qid")
        if isinstance(qid, Qid) and qid.type & QTDIR:
            self._directories.add(fid)


def _gives_fid(request: Message, reply: Message) -> bool:
    """Whether a new fid exists after a reply."""
    whole = len(reply.fields.get("qids", ())) == len(request.fields.get("names", ()))
    return not reply.error and (request.name != "Twalk" or whole)


def why_not(each: Captured, request: Message) -> str:
    """Says why a request is not repeated; empty if it is."""
    if request.type not in REQUESTS.values():
        return "it is no request"
    if read(each.reply).error == errno.EINTR:
        return "it was cancelled"
    if each.request_size > MESSAGE_MAX or (
        len(each.request) < each.request_size and request.name != "Twrite"
    ):
        return "it was not recorded as a whole"
    if len(request.fields) < len(LAYOUTS[request.type].fields):
        return "it is too short"
    return ""
