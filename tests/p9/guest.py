"""A guest without a ring: a fid table in memory, and a server over real files in a directory.

C answers Twalk, Tlopen and what only moves data; here `Guest.walk` and `Guest.open` put fids into
the table in its stead.
"""

import errno
import itertools
import os
import queue
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vhost9p.fs.driver import Attr, Entry
from vhost9p.fs.local import LocalDriver
from vhost9p.fs.tree import Tree
from vhost9p.native import sys
from vhost9p.native.export import Export
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, decode
from vhost9p.p9.constants import Dialect
from vhost9p.p9.fids import FID_UPCALL
from vhost9p.p9.server import Server
from vhost9p.policy.multidevs import make_policy

OWN = 0xFFFFFFFF
ROOT = 1
TIMEOUT = 20
R = TypeVar("R", bound=Message)


class Refused(OSError):
    """Rlerror."""


@dataclass(eq=False)
class FakeFid:
    """An entry of the table (vhost9p.p9.fids.Fid)."""

    number: int
    handle: int
    path_fd: int
    export: int
    uid: int
    flags: int
    st_dev: int
    st_ino: int
    io_fd: int = -1
    io_flags: int = 0
    meta_fd: int = -1

    def resizing(self, size: int) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        for fd in (self.path_fd, self.io_fd):
            if fd >= 0:
                os.close(fd)


class FakeFids:
    """vhost9p.p9.fids.FidTable; `pinned` counts `with` blocks that are open."""

    def __init__(self, parent_of: Callable[[int], tuple[int, bytes]]) -> None:
        self._parent_of = parent_of
        self.entries: dict[int, FakeFid] = {}
        self._handles = itertools.count(1 << 32)
        self.before_mark: Callable[[], None] = lambda: None
        """What somebody else does just before a fid is marked."""
        self.pinned = 0
        self.full = False
        self.changing: tuple[Any, ...] | None = None
        """The change of names that goes on."""

    @contextmanager
    def get(self, number: int) -> Iterator[FakeFid]:
        if number not in self.entries:
            raise OSError(errno.EBADF, "no such fid")
        self.pinned += 1
        try:
            yield self.entries[number]
        finally:
            self.pinned -= 1

    def find(self, number: int) -> int:
        if number not in self.entries:
            raise OSError(errno.EBADF, "no such fid")
        return self.entries[number].handle

    def add(
        self,
        number: int,
        path_fd: int,
        export: int,
        uid: int,
        flags: int,
        attr: Attr | None,
    ) -> int:
        if number in self.entries:
            raise OSError(errno.EBADF, "the fid is in use")
        if self.full:
            raise OSError(errno.EMFILE, "the table is full")
        dev, ino = (attr.st_dev, attr.st_ino) if attr else (0, 0)
        handle = next(self._handles)
        self.entries[number] = FakeFid(number, handle, path_fd, export, uid, flags, dev, ino)
        return handle

    def become(
        self, fid: Any, name: bytes, path_fd: int, io_fd: int, io_flags: int, attr: Attr
    ) -> None:
        if self.full:
            raise OSError(errno.EMFILE, "the table is full")
        old = self.entries[fid.number]
        self.entries[fid.number] = replace(
            old,
            handle=next(self._handles),
            path_fd=path_fd,
            io_fd=io_fd,
            io_flags=io_flags,
            st_dev=attr.st_dev,
            st_ino=attr.st_ino,
        )
        old.close()

    def _entry(self, handle: int) -> FakeFid:
        for fid in self.entries.values():
            if fid.handle == handle:
                return fid
        raise OSError(errno.EBADF, "the fid is gone")

    def mark(self, handle: int, flags: int) -> None:
        self.before_mark()
        fid = self._entry(handle)
        if (flags | fid.flags) & FID_UPCALL:
            fits = fid.io_fd < 0 and not fid.flags & ~flags
        else:
            fits = fid.io_fd >= 0
        if not fits:
            raise OSError(errno.EBADF, "the fid is in use for something else")
        fid.flags |= flags

    def clunk(self, handle: int) -> None:
        self.entries.pop(self._entry(handle).number).close()

    def read_dir(self, fid: FakeFid, position: int, size: int) -> list[Entry]:
        """Three at most; positions count entries."""
        if not stat.S_ISDIR(os.fstat(fid.io_fd).st_mode):
            raise OSError(errno.ENOTDIR, "no directory")
        names = [b".", b"..", *sorted(map(os.fsencode, os.listdir(fid.io_fd)))]
        return [
            Entry(name, os.lstat(os.fsencode(f"/proc/self/fd/{fid.io_fd}/") + name).st_ino, at)
            for at, name in enumerate(names, 1)
            if position < at <= position + 3
        ]

    @contextmanager
    def _changes(self, *names: Any) -> Iterator[None]:
        self.changing = names
        try:
            yield
        finally:
            self.changing = None

    @contextmanager
    def own_name(self, fid: FakeFid) -> Iterator[tuple[int, bytes]]:
        parent, name = self._parent_of(fid.path_fd)
        try:
            yield parent, name
        finally:
            os.close(parent)

    def removing(self, fid: FakeFid, name: bytes = b"") -> AbstractContextManager[None]:
        return self._changes(fid.number, name)

    def renaming(
        self, fid: FakeFid, name: bytes, directory: FakeFid | None, new: bytes
    ) -> AbstractContextManager[None]:
        return self._changes(fid.number, name, directory and directory.number, new)

    def clear(self) -> None:
        for number in list(self.entries):
            self.entries.pop(number).close()


class FakeRequest:
    """A request in flight. `data` is what the ring holds of it, `given` what the server got."""

    counter = itertools.count()

    def __init__(self, data: bytes, tag: int) -> None:
        self.data = data
        self.tag = tag
        self.key = (next(self.counter), 0)
        self.replies: queue.Queue[bytes] = queue.Queue()

    def reply(self, data: bytes) -> None:
        self.replies.put(data)

    def fail(self, code: int) -> None:
        self.replies.put(m.Rlerror(code).encode(self.tag))

    def payload(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    @property
    def waits(self) -> bool:
        return self.replies.empty()

    def result(self, expected: type[R]) -> R:
        """The one reply, of this class; raises Refused for Rlerror."""
        tag, reply = decode(self.replies.get(timeout=TIMEOUT))
        assert tag == self.tag
        assert self.replies.empty()
        if isinstance(reply, m.Rlerror):
            raise Refused(reply.ecode, os.strerror(reply.ecode))
        assert isinstance(reply, expected)
        return reply


class Guest:
    """Sends requests to a server and keeps its fids."""

    def __init__(self, server: Server, fids: FakeFids, driver: LocalDriver) -> None:
        self.server = server
        self.fids = fids
        self.driver = driver
        self.msizes: list[int] = []
        self.dialects: list[Dialect] = []
        self._numbers = itertools.count(100)
        self._tags = itertools.cycle(range(0xFFFF))

    def send(self, message: Message, *, held_back: int = 0) -> FakeRequest:
        """Starts a request; the server is not given the last `held_back` bytes at once."""
        tag = next(self._tags)
        data = message.encode(tag)
        request = FakeRequest(data, tag)
        self.handle(data[: len(data) - held_back], request)
        return request

    def handle(self, data: bytes, request: FakeRequest) -> None:
        """What a serving thread does."""
        try:
            reply = self.server.handle(data, request)
        except OSError as error:
            request.fail(error.errno or errno.EIO)
        else:
            if reply is not None:
                request.reply(reply)

    def call(self, message: Message, expected: type[R]) -> R:
        """A request and its reply."""
        return self.send(message).result(expected)

    def do(self, message: Message) -> Message:
        """A request whose reply has no class worth naming."""
        return self.call(message, Message)

    def attach(self, uid: int = OWN) -> int:
        """A fid of the export's root."""
        number = next(self._numbers)
        self.call(m.Tattach(number, OWN, b"nobody", b"", uid), m.Rattach)
        return number

    def walk(self, path: str = "", uid: int = OWN) -> int:
        """A new fid, as Twalk would make it."""
        number = next(self._numbers)
        *parents, last = path.split("/")
        fd = self.driver.export.descend(os.fsencode("/".join(parents)) or b".")
        try:
            below = self.driver.export.step(fd, os.fsencode(last) or b".")
        finally:
            os.close(fd)
        self.fids.add(number, below, 0, uid, 0, self.driver.attr(below))
        return number

    def open(self, path: str, flags: int = os.O_RDWR) -> int:
        """A new fid that is open, as Tlopen would make it."""
        number = self.walk(path)
        fid = self.fids.entries[number]
        fid.io_fd = self.driver.export.open(fid.path_fd, flags)
        fid.io_flags = flags
        return number


@contextmanager
def serving(
    root: Path,
    *,
    readonly: bool = False,
    security_model: str = "passthrough",
    ring: int = 128,
    max_xattr: int = 0,
) -> Iterator[Guest]:
    """A server over a directory, and a guest that has not said Tversion yet. No descriptor may be
    left at the end."""
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        stack.callback(os.close, root_fd)
        export = Export(
            root_fd,
            readonly=readonly,
            stat_entries=False,
            owners_matter=security_model == "passthrough",
        )
        stack.callback(export.close)
        policy = make_policy("warn", export.qidmap, os.stat(root).st_dev, export.probe, None)
        export.policy = policy
        driver = LocalDriver(export, root_fd, readonly=readonly)
        fids = FakeFids(driver.parent_of)
        msizes: list[int] = []
        dialects: list[Dialect] = []
        server = Server(
            fids,
            Tree([driver]),
            msize_max=65536,
            max_xattr=max_xattr,
            set_msize=msizes.append,
            set_dialect=dialects.append,
            wake_signal=sys.wake_signal(),
        )
        stack.callback(server.close)
        server.set_ring_size(ring)
        guest = Guest(server, fids, driver)
        guest.msizes = msizes
        guest.dialects = dialects
        yield guest
        assert fids.pinned == 0
    assert not fids.entries
    assert len(os.listdir("/proc/self/fd")) == before
