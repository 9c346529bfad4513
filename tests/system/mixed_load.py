"""A load of everything at once: what a guest can ask, in any order, many requests in flight.

A `Crowd` is one guest of one device. Its requests go to a few fids, files and names, so that they
meet: a fid is walked, opened, locked, turned into an attribute value and clunked at the same time.
What a request is answered with does not matter, as long as it is answered. From time to time the
session begins anew, the ring stops and starts, and the guest goes and comes back.

Everything is drawn from `seed`; how the daemon's threads meet is not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from tests.frontend.client import Client
from tests.frontend.dialect_u import DialectUClient, Stat, encode_stat
from tests.frontend.machine import Machine
from tests.frontend.wire import NOFID, Kind, T, U

OWN = 0xFFFFFFFF
FIDS = 80
NAMES = [bytes([name]) for name in b"abcdefghijklmnop"]
IN_FLIGHT = 40
ROUNDS, STORM = 4, 240
PATIENCE = 30
"""Seconds without any answer."""
XATTR = b"user.a"
Draw = Callable[[random.Random], tuple[Kind, tuple[Any, ...]]]


def _fid(r: random.Random) -> int:
    return r.randrange(1, FIDS)


def _name(r: random.Random) -> bytes:
    return r.choice(NAMES)


def _path(r: random.Random) -> list[bytes]:
    return [r.choice([*NAMES, NAMES[0], NAMES[0], b".."]) for _ in range(r.choice((0, 1, 1, 2, 3)))]


def _lock(r: random.Random) -> tuple[Any, ...]:
    start, length = r.choice([(0, 0), (0, 0), (r.randrange(100), r.randrange(1, 20))])
    return (_fid(r), r.randrange(3), r.randrange(2), start, length, r.randrange(3), b"guest")


def _attributes(r: random.Random) -> tuple[Any, ...]:
    valid = r.choice([1, 2, 8, 0x10, 0x20, 0x1F, 0x1FF])
    return (_fid(r), valid, r.choice([0o644, 0o4755]), 0, 0, r.randrange(9000), 1, 2, 3, 4)


COMMON: list[tuple[int, Draw]] = [
    (25, lambda r: (T.WALK, (0, _fid(r), _path(r)))),
    (8, lambda r: (T.WALK, (_fid(r), _fid(r), _path(r)))),
    (18, lambda r: (T.CLUNK, (_fid(r),))),
    (12, lambda r: (T.READ, (_fid(r), r.randrange(3) * 100, 4000))),
    (12, lambda r: (T.WRITE, (_fid(r), r.randrange(5000), bytes(r.randrange(1, 900))))),
    (1, lambda r: (T.REMOVE, (_fid(r),))),
    (2, lambda r: (T.ATTACH, (_fid(r), NOFID, b"", b"", OWN))),
    (4, lambda r: (T.FLUSH, (r.randrange(IN_FLIGHT),))),
]
LINUX: list[tuple[int, Draw]] = [
    *COMMON,
    (12, lambda r: (T.GETATTR, (_fid(r), 0x3FFF))),
    (14, lambda r: (T.LOPEN, (_fid(r), r.choice([0, 0, 1, 2, 0o1002])))),
    (8, lambda r: (T.LCREATE, (_fid(r), _name(r), r.choice([2, 0o102]), 0o644, 0))),
    (5, lambda r: (T.MKDIR, (_fid(r), _name(r), 0o755, 0))),
    (2, lambda r: (T.SYMLINK, (_fid(r), _name(r), b"target", 0))),
    (2, lambda r: (T.MKNOD, (_fid(r), _name(r), 0o10644, 0, 0, 0))),
    (3, lambda r: (T.LINK, (_fid(r), _fid(r), _name(r)))),
    (3, lambda r: (T.UNLINKAT, (_fid(r), _name(r), r.choice([0, 0x200])))),
    (4, lambda r: (T.RENAME, (_fid(r), _fid(r), _name(r)))),
    (6, lambda r: (T.RENAMEAT, (_fid(r), _name(r), _fid(r), _name(r)))),
    (8, lambda r: (T.READDIR, (_fid(r), r.choice([0, 0, 5]), 2000))),
    (2, lambda r: (T.READLINK, (_fid(r),))),
    (3, lambda r: (T.STATFS, (_fid(r),))),
    (8, lambda r: (T.SETATTR, _attributes(r))),
    (2, lambda r: (T.FSYNC, (_fid(r), r.randrange(2)))),
    (6, lambda r: (T.XATTRWALK, (_fid(r), _fid(r), r.choice([b"", XATTR])))),
    (8, lambda r: (T.XATTRCREATE, (_fid(r), XATTR, r.choice([0, 5]), r.randrange(3)))),
    (12, lambda r: (T.LOCK, _lock(r))),
    (4, lambda r: (T.GETLOCK, (_fid(r), r.randrange(3), 0, 0, 1, b"guest"))),
]
DIALECT_U: list[tuple[int, Draw]] = [
    *COMMON,
    (14, lambda r: (U.OPEN, (_fid(r), r.choice([0, 0, 1, 2, 0x12])))),
    (8, lambda r: (U.CREATE, (_fid(r), _name(r), 0o644, 2, b""))),
    (5, lambda r: (U.CREATE, (_fid(r), _name(r), 0x80000000 | 0o755, 0, b""))),
    (2, lambda r: (U.CREATE, (_fid(r), _name(r), 0x02000000 | 0o777, 0, b"target"))),
    (12, lambda r: (U.STAT, (_fid(r),))),
    (6, lambda r: (U.WSTAT, (_fid(r), encode_stat(Stat(mode=0o600))))),
    (6, lambda r: (U.WSTAT, (_fid(r), encode_stat(Stat(name=_name(r)))))),
    (3, lambda r: (U.WSTAT, (_fid(r), encode_stat(Stat(length=r.randrange(9000)))))),
    (2, lambda r: (U.WSTAT, (_fid(r), encode_stat(Stat())))),
]


class Crowd:
    """See the module. `dialect_u`: it speaks 9P2000.u; `packed`: over a packed ring."""

    def __init__(self, socket: str, seed: int, *, dialect_u: bool, packed: bool) -> None:
        self._random = random.Random(seed)
        self._socket = socket
        self._packed = packed
        self._speaks: type[Client] = DialectUClient if dialect_u else Client
        table = DIALECT_U if dialect_u else LINUX
        self._weights = [weight for weight, _ in table]
        self._draws = [draw for _, draw in table]
        self._machine: Machine | None = None
        self.answered = 0

    def run(self, turns: int) -> None:
        """So many times: rounds of requests, and then something that ends them."""
        endings = (self._restart, self._remount, self._remount, self._return)
        self._arrive()
        try:
            for _ in range(turns):
                for _ in range(ROUNDS):
                    self._prepare()
                    for _ in range(STORM // IN_FLIGHT):
                        self._submit(IN_FLIGHT)
                        self._collect(IN_FLIGHT // 2)
                    self._collect(0)
                self._random.choice(endings)()
        finally:
            self._leave()

    # ---- requests -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Has all fids stand for something, half of them open."""
        everything = range(1, FIDS)
        self._each(T.CLUNK, [(fid,) for fid in everything])
        walks = [[], *([name] for name in NAMES), *([name, NAMES[0]] for name in NAMES[:8])]
        self._each(T.WALK, [(0, fid, self._random.choice(walks)) for fid in everything])
        opens = self._random.sample(everything, FIDS // 2)
        kind: Kind = U.OPEN if self._speaks is DialectUClient else T.LOPEN
        self._each(kind, [(fid, self._random.choice((0, 2))) for fid in opens])

    def _each(self, kind: Kind, requests: list[tuple[Any, ...]]) -> None:
        for fields in requests:
            self._client.submit(kind, *fields, kick=False)
        self._client.ring.kick()
        self._collect(0)

    def _submit(self, count: int) -> None:
        client = self._client
        count = min(count, IN_FLIGHT - len(client.in_flight))
        for draw in self._random.choices(self._draws, self._weights, k=max(count, 0)):
            kind, fields = draw(self._random)
            client.submit(kind, *fields, kick=False)
        client.ring.kick()

    def _collect(self, left: int) -> None:
        """Until no more than so many requests are in flight. What waits for a lock is flushed."""
        client, patience = self._client, PATIENCE
        while len(client.in_flight) > left:
            try:
                self.answered += len(client.reap(1))
            except TimeoutError:
                patience -= 1
                assert patience, f"no answer to {list(client.in_flight.values())}"
                if patience == PATIENCE - 1:
                    for each in list(client.in_flight.values()):
                        if each.kind == T.LOCK:
                            client.submit(T.FLUSH, each.tag)

    # ---- the life of a guest --------------------------------------------------------------------

    def _arrive(self) -> None:
        self._machine = Machine(self._socket, packed=self._packed)
        self._machine.boot()
        self._client = self._speaks(self._machine)
        self._mount()

    def _mount(self) -> None:
        self._client.version(8192)
        self._client.attach(0)

    def _leave(self) -> None:
        """Disconnects, with requests in flight."""
        if self._machine:
            self._machine.close()
            self._machine = None

    def _return(self) -> None:
        self._submit(IN_FLIGHT)
        self._leave()
        self._arrive()

    def _remount(self) -> None:
        """Tversion, with requests in flight."""
        self._submit(IN_FLIGHT // 2)
        version = b"9P2000.u" if self._speaks is DialectUClient else b"9P2000.L"
        self._client.submit(T.VERSION, 8192, version)
        self._collect(0)
        self._client.attach(0)

    def _restart(self) -> None:
        """The ring stops, with requests in flight, and starts again."""
        assert self._machine
        self._submit(IN_FLIGHT)
        self._machine.stop()
        self._machine.start()
        self._collect(0)


def fill(directory: str) -> None:
    """Files and directories to begin with."""
    for name in map(os.fsdecode, NAMES[:8]):
        os.makedirs(os.path.join(directory, name, "a"), exist_ok=True)
    for name in map(os.fsdecode, NAMES[8:]):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(bytes(5000))
