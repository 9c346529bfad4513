"""A guest without a ring: a server over real files in a directory, and the fid table of a device.

C answers Twalk, Tlopen and what only moves data; here `Guest.walk` and `Guest.open` put fids into
the table in its stead.
"""

import errno
import itertools
import os
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from vhost9p.fs.local import LocalDriver
from vhost9p.fs.tree import Tree
from vhost9p.native import sys
from vhost9p.native.device import Device
from vhost9p.native.export import Export
from vhost9p.native.fids import Fid, FidTable, SetAttr
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, decode
from vhost9p.p9.constants import Dialect
from vhost9p.p9.server import Server
from vhost9p.policy.multidevs import make_policy

OWN = 0xFFFFFFFF
ROOT = 1
TIMEOUT = 20
R = TypeVar("R", bound=Message)


class Refused(OSError):
    """Rlerror."""


class WatchedFids(FidTable):
    """The fid table of a device, which reports to a test what the server does with it."""

    def __init__(self, device: Device) -> None:
        super().__init__(device._native)
        self.before_mark: Callable[[], object] = lambda: None
        """What somebody else does just before a fid is marked."""
        self.before_open: Callable[[], object] = lambda: None
        """The same before a file is opened for locks."""

    def look(self, number: int) -> Fid:
        """A fid as it is, not pinned any more; OSError EBADF if there is none."""
        with self.get(number) as fid:
            return fid

    def __contains__(self, number: int) -> bool:
        with suppress(OSError):
            return bool(self.find(number))
        return False

    def mark(self, handle: int, flags: int) -> None:
        self.before_mark()
        super().mark(handle, flags)

    def open_for_locks(self, handle: int) -> tuple[int, int]:
        self.before_open()
        return super().open_for_locks(handle)


class NoRing:
    """What calls a device's handler, which nobody does here: there is no ring."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"an upcall: {name}")


class FakeRequest:
    """A request in flight."""

    counter = itertools.count()

    def __init__(self, data: bytes, tag: int) -> None:
        self.data = data
        self.tag = tag
        self.key = (next(self.counter), 0)
        self.replies: queue.Queue[bytes] = queue.Queue()

    def reply(self, data: bytes) -> None:
        self.replies.put(data)

    def fail(self, code: int) -> None:
        self.reply(m.Rlerror(code).encode(self.tag))

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

    def __init__(
        self, server: Server, device: Device, fids: WatchedFids, driver: LocalDriver
    ) -> None:
        self.server = server
        self.device = device
        self.fids = fids
        self.driver = driver
        self.msizes: list[int] = []
        self.dialects: list[Dialect] = []
        self._numbers = itertools.count(100)
        self._tags = itertools.cycle(range(0xFFFF))

    def count(self) -> int:
        """How many fids it has."""
        return self.device.stats().fids

    def send(self, message: Message) -> FakeRequest:
        """Starts a request."""
        tag = next(self._tags)
        data = message.encode(tag)
        request = FakeRequest(data, tag)
        self.handle(data, request)
        return request

    def handle(self, data: bytes, request: FakeRequest) -> None:
        """What a serving thread does."""
        try:
            reply = self._lock(data) or self.server.handle(data, request)
        except OSError as error:
            request.reply(m.Rlerror(error.errno or errno.EIO).encode(request.tag))
        else:
            if reply is not None:
                request.reply(reply)

    def _lock(self, data: bytes) -> bytes | None:
        """What C does with a Tlock first; None: the rest is Python's (csrc/p9/lock.c)."""
        if data[4:5] != bytes([m.Tlock.TYPE]):
            return None
        tag, t = decode(data)
        assert isinstance(t, m.Tlock)
        with self.fids.get(t.fid) as fid:
            holder = (fid.st_dev, fid.st_ino, t.client_id, t.proc_id)
            writable = fid.io_flags & os.O_ACCMODE != os.O_RDONLY
            blocks = t.flags & c.LOCK_FLAGS_BLOCK
            span = t.start, t.length
            if self.server.try_lock(fid.handle, writable, holder, t.type, span, blocks, 1):
                return m.Rlock(c.LOCK_SUCCESS).encode(tag)
        return None if blocks else m.Rlock(c.LOCK_BLOCKED).encode(tag)

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

    def walk(self, path: str = "", uid: int = OWN, number: int | None = None) -> int:
        """A new fid, as Twalk would make it; of this number, if one is given."""
        number = next(self._numbers) if number is None else number
        *parents, last = path.split("/")
        fd = self.driver.export.descend(os.fsencode("/".join(parents)) or b".")
        try:
            below = self.driver.export.step(fd, os.fsencode(last) or b".")
        finally:
            os.close(fd)
        self.fids.add(number, below, 0, uid, self.driver.attr(below))
        return number

    def open(self, path: str, flags: int = os.O_RDWR, number: int | None = None) -> int:
        """A new fid that is open, as Tlcreate would make it; of this number, if one is given."""
        above, _, name = path.rpartition("/")
        number = self.walk(above, number=number)
        self.become(number, name, flags)
        return number

    def setattr(self, number: int, to: SetAttr) -> None:
        """What C makes of Tsetattr."""
        with self.fids.get(number) as fid:
            try:
                fid.setattr(to)
            except OSError as error:
                raise Refused(*error.args) from error

    def become(self, number: int, name: str, flags: int = os.O_RDWR) -> None:
        """Makes a directory's fid stand for an entry, which is open then."""
        with self.fids.get(number) as fid:
            entry = os.fsencode(name or ".")
            path_fd = self.driver.export.step(fid.path_fd, entry)
            io_fd = self.driver.export.open(path_fd, flags)
            self.fids.become(fid, entry, path_fd, io_fd, flags, self.driver.attr(path_fd))


_idle: list[Device] = []


def _new_device() -> Device:
    return Device(
        NoRing(),
        threads=1,
        msize_max=65536,
        max_fids=1000,
        max_xattr=0,
        mem_regions=1,
        mem_bytes=0,
    )


@contextmanager
def a_device() -> Iterator[Device]:
    """A device that nobody else uses meanwhile. None is closed: its threads take time to end."""
    device = _idle.pop() if _idle else _new_device()
    device.set_dialect(dialect_u=False)
    yield device
    _idle.append(device)


def open_files() -> set[tuple[str, str]]:
    """The descriptors and their files, without those that devices keep for themselves."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if not target.startswith("anon_inode:"):
                found.add((fd, target))
    return found


@contextmanager
def serving(
    root: Path,
    *,
    readonly: bool = False,
    security_model: str = "passthrough",
    ring: int = 128,
) -> Iterator[Guest]:
    """A server over a directory, and a guest that has not said Tversion yet. No descriptor may be
    left at the end."""
    before = open_files()
    with ExitStack() as stack:
        device = stack.enter_context(a_device())
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
        driver = LocalDriver(export, root_fd)
        device.set_exports({0: export})
        fids = WatchedFids(device)
        msizes: list[int] = []
        dialects: list[Dialect] = []

        def set_dialect(dialect: Dialect) -> None:
            dialects.append(dialect)
            device.set_dialect(dialect_u=dialect is Dialect.U)

        server = Server(
            fids,
            Tree({0: driver}),
            msize_max=65536,
            set_msize=msizes.append,
            set_dialect=set_dialect,
            wake_signal=sys.wake_signal(),
        )
        server.set_ring_size(ring)
        guest = Guest(server, device, fids, driver)
        guest.msizes = msizes
        guest.dialects = dialects
        try:
            yield guest
        finally:
            server.close()
        left = device.stats()
        assert (left.fids, left.inodes) == (0, 0)  # nor is one pinned
    # What is gone meanwhile was an earlier test's garbage.
    assert not open_files() - before
