"""What a guest asks for through the names that the host attacks, and how it is played to a server.

A *chain* is a sequence of requests of one round of the attack: it reaches a file by a name, or by a
fid that it has had for long, and does something with it. A *reel* is as many chains as fit into a
ring; a server gets them at once, so that it has no time to wait between requests.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tests.frontend import wire
from tests.frontend.client import AT_REMOVEDIR, SET_MODE, SET_MTIME, SET_SIZE, WRLCK, Client
from tests.frontend.ring import Segment
from tests.frontend.wire import NOFID, RLERROR, Kind, T
from tests.system.host_attacks.stage import MARK, SIDECARS_OF, XATTR, Stage

Request = tuple[Kind, tuple[Any, ...]]
Names = tuple[bytes, ...]
ROOT = 1
HELD = 10
"""The first of the fids that are there from the beginning to the end."""
FIRST = 100
CROWD = 10_000
"""The first of the fids that stand for the crowd."""
REEL = 120
"""Requests in a reel: less than the ring has slots."""
ENOUGH = 5
"""Changes of what a name stands for."""
TABLE, REPLY = 2 * 16, 4200
"""Bytes of a request's indirect table and of its reply's buffer."""
XATTR_NAME = XATTR.encode()
ATTACH: Request = (T.ATTACH, (ROOT, NOFID, b"nobody", b"", 0xFFFFFFFF))


@dataclass(frozen=True)
class Chain:
    """`place` is which attacked name it goes through."""

    place: str
    requests: tuple[Request, ...]


class Server(Protocol):
    """Who is asked."""

    def play(self, requests: Sequence[Request]) -> Sequence[bytes]:
        """The replies, as they are on the wire."""


# ---- chains --------------------------------------------------------------------------------------


APART = 10_000
"""Such a fid never stands for a directory. Requests are answered in any order: one that renames a
file by its fid must not find the directory that another one has walked to, which the attacker would
miss."""


def _on_file(fid: int, here: int) -> Iterator[list[Request]]:
    """What is done with a file, after a walk to `fid`; `here` is a fid for more."""
    value = b"a value"
    yield [(T.GETATTR, (fid, 0x3FFF))]
    yield [(T.LOPEN, (fid, os.O_RDONLY)), (T.READ, (fid, 0, 100)), (T.FSYNC, (fid, 0))]
    yield [(T.LOPEN, (fid, os.O_RDWR | os.O_TRUNC)), (T.WRITE, (fid, 0, b"written"))]
    yield [(T.LOPEN, (fid, os.O_WRONLY | os.O_APPEND)), (T.WRITE, (fid, 0, b"written"))]
    yield [(T.LOPEN, (fid, os.O_RDWR)), (T.LOCK, (fid, WRLCK, 0, 0, 0, 1, b"guest"))]
    yield [(T.READLINK, (fid,))]
    yield [(T.SETATTR, (fid, SET_MODE, 0o640, 0, 0, 0, 0, 0, 0, 0))]
    yield [(T.SETATTR, (fid, SET_SIZE, 0, 0, 0, 3, 0, 0, 0, 0))]
    yield [(T.SETATTR, (fid, SET_MTIME, 0, 0, 0, 0, 0, 0, 0, 0))]
    yield [(T.XATTRWALK, (fid, here, b"")), (T.READ, (here, 0, 500)), (T.CLUNK, (here,))]
    yield [(T.XATTRWALK, (fid, here, XATTR_NAME)), (T.READ, (here, 0, 100)), (T.CLUNK, (here,))]
    yield [(T.XATTRCREATE, (fid, XATTR_NAME, len(value), 0)), (T.WRITE, (fid, 0, value))]
    yield [(T.LINK, (ROOT, fid, b"linked")), (T.UNLINKAT, (ROOT, b"linked", 0))]
    yield [(T.STATFS, (fid,))]


def _in_directory(fid: int, here: int) -> Iterator[list[Request]]:
    """What is done in a directory."""
    yield [(T.GETATTR, (fid, 0x3FFF))]
    yield [(T.LOPEN, (fid, os.O_RDONLY | os.O_DIRECTORY)), (T.READDIR, (fid, 0, 4000))]
    yield [
        (T.WALK, (fid, here, ())),
        (T.LCREATE, (here, b"victim", os.O_RDWR | os.O_TRUNC, 0o666, 0)),
        (T.WRITE, (here, 0, b"written")),
        (T.CLUNK, (here,)),
    ]
    yield [(T.LCREATE, (fid, b"new", os.O_RDWR | os.O_EXCL, 0o666, 0)), (T.READ, (fid, 0, 9))]
    yield [(T.UNLINKAT, (fid, b"victim", 0)), (T.UNLINKAT, (fid, b"new", 0))]
    yield [(T.MKDIR, (fid, b"made", 0o777, 0)), (T.UNLINKAT, (fid, b"made", AT_REMOVEDIR))]
    yield [(T.SYMLINK, (fid, b"s", b"target", 0)), (T.UNLINKAT, (fid, b"s", 0))]
    yield [
        (T.MKNOD, (fid, b"n", stat.S_IFIFO | 0o666, 0, 0, 0)),
        (T.UNLINKAT, (fid, b"n", 0)),
    ]
    yield [(T.RENAMEAT, (fid, b"victim", fid, b"v")), (T.RENAMEAT, (fid, b"v", fid, b"victim"))]
    yield [(T.RENAMEAT, (fid, b"victim", ROOT, b"v")), (T.RENAMEAT, (ROOT, b"v", fid, b"victim"))]
    yield [
        (T.WALK, (fid, here + APART, (b"victim",))),
        (T.RENAME, (here + APART, ROOT, b"w")),
        (T.RENAME, (here + APART, fid, b"victim")),
        (T.CLUNK, (here + APART,)),
    ]
    for ups in range(1, 5):
        yield [
            (T.WALK, (fid, here, (*[b".."] * ups, b"file"))),
            (T.LOPEN, (here, os.O_RDONLY)),
            (T.READ, (here, 0, 100)),
            (T.CLUNK, (here,)),
        ]


def _places(stage: Stage) -> dict[str, tuple[list[Names], list[Names]]]:
    """By attacked name: the files and the directories that are reached through it."""
    mirrored = tuple(os.fsencode(stage.outside).strip(b"/").split(b"/"))

    def around(*names: bytes) -> tuple[list[Names], list[Names]]:
        files = [(*names, b"file"), (*names, b"sub", b"file"), (*names, b"link")]
        return files, [names, (*names, b"sub")]

    return {
        "dir": around(b"dir"),
        "up": around(b"up"),
        "root": around(b"root", *mirrored),
        "par": around(b"par", b"q"),
        **{name: around(name.encode()) for name in stage.attacked_otherwise},
        "swapped": ([(b"swapped",)] * 5, []),
    }


def _held(stage: Stage) -> list[tuple[str, Names, bool]]:
    """What fids stand for from the beginning: the place, names, and whether it is opened."""
    found = []
    for place, (files, directories) in _places(stage).items():
        if place in SIDECARS_OF:  # these are looked for once while a fid is held
            continue
        found += [(place, names, False) for names in (files[0], *directories)]
        found += [(place, names, True) for names in directories]
    return found


def _chains(stage: Stage) -> Iterator[Chain]:
    """All that is asked for, each once."""
    starts = [
        (place, ROOT, names, kinds)
        for place, (files, directories) in _places(stage).items()
        for paths, kinds in ((files, _on_file), (directories, _in_directory))
        for names in paths
    ]
    for number, (place, names, _) in enumerate(_held(stage), HELD):
        kinds = _in_directory if (place, names, True) in _held(stage) else _on_file
        starts.append((place, number, (), kinds))
    fid = FIRST
    for place, start, names, kinds in starts:
        for middle in kinds(fid, fid + 1):
            yield Chain(place, ((T.WALK, (start, fid, names)), *middle, (T.CLUNK, (fid,))))
        fid += 2


def reels(chains: Iterable[Chain]) -> list[list[Chain]]:
    found: list[list[Chain]] = [[]]
    for chain in chains:
        if sum(len(each.requests) for each in (*found[-1], chain)) > REEL:
            found.append([])
        found[-1].append(chain)
    return found


# ---- playing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A request in the guest's memory: where it is, its reply's buffer, and its indirect table."""

    data: Segment
    reply: Segment
    table: int


class Guest:
    """The server is a daemon, over a ring. What has been played stays in the guest's memory."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prepared: dict[int, tuple[Sequence[Request], list[Prepared]]] = {}
        """By the identity of the requests, which it keeps."""

    def play(self, requests: Sequence[Request]) -> Sequence[bytes]:
        ring, memory = self._client.ring, self._client.machine.memory
        if id(requests) not in self._prepared:
            self._prepared[id(requests)] = requests, list(self._prepare(requests))
        _, prepared = self._prepared[id(requests)]
        heads = {}
        for index, each in enumerate(prepared):
            heads[ring.add([each.data], [each.reply], table=each.table)] = index
        ring.kick()
        replies = [b""] * len(prepared)
        while heads:
            for done in ring.wait():
                index = heads.pop(done.head)
                replies[index] = memory.read(prepared[index].reply[0], done.length)
        return replies

    def _prepare(self, requests: Sequence[Request]) -> Iterator[Prepared]:
        messages = [wire.encode(kind, tag, *fields) for tag, (kind, fields) in enumerate(requests)]
        memory = self._client.machine.memory
        at = memory.alloc(sum(map(len, messages)) + len(messages) * (REPLY + TABLE), 4096)
        for message in messages:
            memory.write(at + TABLE + REPLY, message)
            yield Prepared((at + TABLE + REPLY, len(message)), (at + TABLE, REPLY), at)
            at += TABLE + REPLY + len(message)


class Findings:
    """What the replies gave away, and whether they show that the attack took place."""

    def __init__(self, inodes: Collection[int]) -> None:
        self.rounds = 0
        self.leaks: set[str] = set()
        self._changes: Counter[str] = Counter()
        """By place: how often a file was another one, or had gone, since the last time."""
        self._inodes = inodes
        self._last: dict[Chain, bytes] = {}
        numbers = b"|".join(re.escape(struct.pack("<Q", each)) for each in inodes)
        self._suspect = re.compile(re.escape(MARK) + b"|" + numbers, re.DOTALL)

    def judge(self, chain: Chain, replies: Sequence[bytes]) -> None:
        self.rounds += 1
        for request, reply in zip(chain.requests, replies, strict=True):
            if self._suspect.search(reply) and self._is_leak(reply):
                self.leaks.add(f"{chain.place}: {request}: {reply[:80]!r}")
        kind, reply = chain.requests[1][0], replies[1]
        if kind in (T.GETATTR, T.READLINK, T.MKDIR):
            shown = reply[4:5]
            shown += reply[28:32] if reply[4] == T.GETATTR + 1 else b""  # the mode
            shown += reply[7:] if reply[4] in (RLERROR, T.READLINK + 1) else b""
            self._changes[chain.place] += shown != self._last.get(chain, shown)
            self._last[chain] = shown

    @property
    def seen(self) -> set[str]:
        """The places of which the guest has seen the attack."""
        return {place for place, count in self._changes.items() if count >= ENOUGH}

    def _is_leak(self, reply: bytes) -> bool:
        if MARK in reply:
            return True
        fields = wire.decode(reply).fields
        if reply[4] == T.READDIR + 1:
            fields = tuple(entry.qid for entry in wire.decode_entries(fields[0]))
        flat = itertools.chain(*(each if isinstance(each, list) else [each] for each in fields))
        return any(isinstance(each, wire.Qid) and each.path in self._inodes for each in flat)


def _batches(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    for at in range(0, len(requests), REEL):
        yield requests[at : at + REEL]


def begin(server: Server, stage: Stage) -> None:
    """Attaches, and gets the fids that are held."""
    requests = [ATTACH]
    for number, (_, names, opened) in enumerate(_held(stage), HELD):
        requests.append((T.WALK, (ROOT, number, names)))
        if opened:
            requests.append((T.LOPEN, (number, os.O_RDONLY)))
    requests += [(T.WALK, (ROOT, CROWD + i, (b"crowd", b"%d" % i))) for i in range(stage.crowd)]
    for request in requests:  # one after the other, also where several threads serve
        (reply,) = server.play([request])
        assert reply[4] != RLERROR, wire.decode(reply)


def play(server: Server, stage: Stage) -> Iterator[Findings]:
    """Plays all chains, over and over. Yields after each time the same, which grows."""
    findings = Findings(stage.inodes)
    all_reels = [
        (chains, [request for chain in chains for request in chain.requests])
        for chains in reels(_chains(stage))
    ]
    crowd = list(_batches([(T.GETATTR, (CROWD + i, 0x3FFF)) for i in range(stage.crowd)]))
    while True:
        for chains, requests in all_reels:
            for part in crowd:
                server.play(part)
            replies = iter(server.play(requests))
            for chain in chains:
                findings.judge(chain, [next(replies) for _ in chain.requests])
        yield findings
