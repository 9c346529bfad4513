"""Tstat and Tread of a directory in 9P2000.u: both return stat structures.

Reading an open directory returns whole structures. A client continues at the offset where its last
read ended, or starts again at 0. For any other offset (seekdir(3), or rewinddir(3), which Linux's
client implements only in part) structures are counted from the start.

Each entry is read through one descriptor, so that its attributes and a symlink's target belong to
the same file even if its name changes meanwhile.
"""

import errno
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from vhost9p.fs.driver import Attr, Driver, Entry, close_fd
from vhost9p.p9 import constants as c
from vhost9p.p9 import dialect_u_messages as u
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import Context, Handler, Request, file_fd
from vhost9p.p9.dialect_u_stat import device_text, stat_of
from vhost9p.p9.fids import Fid

PLACES_MAX = 1024
"""The number of open directories for which the end of the last read is stored."""
BATCH = 32768
"""Bytes of entries that are read at a time."""
FAILURES = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EUCLEAN)
)
"""Errors that fail a listing: the host has failed. For any other error of an entry, the entry is
left out."""
ABOVE = (errno.ESTALE, errno.ENOENT, errno.EPERM)
"""Errors of a step to ".." that mean: the guest may not see that directory."""


class _Place(NamedTuple):
    """A place in a directory: the guest's offset in bytes, and the host's position."""

    offset: int = 0
    position: int = 0


class _Places:
    """The end of the last read of each open directory, by the fid's handle."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._lock = threading.Lock()

    def before(self, handle: int, offset: int) -> _Place:
        """Returns the place to count from: the end of the last read, else the directory's start."""
        with self._lock:
            place = self._places.get(handle, _Place())
        return place if offset and offset == place.offset else _Place()

    def keep(self, handle: int, place: _Place) -> None:
        """Stores the end of a read. Drops the oldest place if there are too many."""
        with self._lock:
            self._places.pop(handle, None)
            if len(self._places) >= PLACES_MAX:
                del self._places[next(iter(self._places))]
            self._places[handle] = place

    def forget(self) -> None:
        """Drops all places, after all fids are gone."""
        with self._lock:
            self._places.clear()


class ReadingFamily:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fids = context.fids
        self._places = _Places()
        self.forget = self._places.forget

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {u.Tstat: self.stat, m.Tread: self.read}

    # ---- Tstat ------------------------------------------------------------------------------

    def stat(self, request: Request, t: u.Tstat) -> u.Rstat:
        """Returns a file's attributes, with the last component of its name."""
        with self._fids.get(t.fid) as fid:
            driver, fd = self._context.driver(fid), file_fd(fid.path_fd)
            name = driver.name_of(fd)
            if name is None:
                name = self._context.tree.name(fid.export)
            attr = driver.attr(fd, meta_fd=fid.meta_fd)
            found = stat_of(attr, name[: c.NAME_MAX], _extension(driver, fd, attr))
        return u.Rstat(found)

    # ---- Tread ------------------------------------------------------------------------------

    def read(self, request: Request, t: m.Tread) -> m.Rread:
        """Returns the structures from an offset on. EINVAL if not even one fits. C reads files;
        only directories are read here."""
        count = min(t.count, self._context.msize - c.HEADER_SIZE - 4)
        with self._fids.get(t.fid) as fid:
            if fid.io_fd < 0:
                raise P9Error(errno.EBADF, "the fid is not open")
            start = self._places.before(fid.handle, t.offset)
            data, position = self._read(fid, start, t.offset - start.offset, count)
            self._places.keep(fid.handle, _Place(t.offset + len(data), position))
        return m.Rread(data)

    def _read(self, fid: Fid, start: _Place, skip: int, count: int) -> tuple[bytes, int]:
        """Returns at most `count` bytes of structures that begin at least `skip` bytes after a
        place, and the position after them."""
        data, end = bytearray(), start.position
        for found, position in self._stats(fid, start.position, count):
            record = found.record() if found else b""
            if found and skip > 0:
                skip -= len(record)
            elif found:
                if not data and len(record) > count:  # a long target must not end the listing
                    record = replace(found, extension=b"").record()
                    if len(record) > count:
                        raise P9Error(errno.EINVAL, f"{count} bytes for {len(record)}")
                if len(data) + len(record) > count:
                    break
                data += record
            end = position
        return bytes(data), end

    def _stats(self, fid: Fid, position: int, count: int) -> Iterator[tuple[u.Stat | None, int]]:
        """Yields the structures of entries from a position on (None: left out), and the position
        after each."""
        driver = self._context.driver(fid)
        while entries := self._fids.read_dir(fid, position, min(count // 2, BATCH)):
            for entry in entries:
                position = entry.position
                yield self._stat(driver, fid, entry), position

    def _stat(self, driver: Driver, fid: Fid, entry: Entry) -> u.Stat | None:
        try:
            attr, extension = self._look_at(driver, fid, entry)
        except OSError as error:
            if error.errno in FAILURES:
                raise
            return None  # it vanished, is hidden, or cannot be accessed
        return stat_of(attr, entry.name, extension)

    def _look_at(self, driver: Driver, fid: Fid, entry: Entry) -> tuple[Attr, bytes]:
        """Returns an entry's attributes and extension. Entries that the guest may not enter are
        still visible: a file denied by multidevs=forbid, with the directory's inode number for it;
        and the root of an export that refuses the user, as the directory that it covers."""
        try:
            export, fd = driver.step(fid.uid, fid.path_fd, entry.name)
        except OSError as error:
            if entry.name == b".." and error.errno in ABOVE:
                attr = driver.attr(fid.path_fd, meta_fd=fid.meta_fd, shown_as=entry.ino)
            elif error.errno == errno.EPERM:
                attr = driver.attr(fid.io_fd, entry.name, shown_as=entry.ino)
            else:
                raise
            return attr, _links(attr)
        try:
            there = self._context.tree.driver(export)
            attr = there.attr(fd, shown_as=entry.ino)
            return attr, _extension(there, fd, attr)
        finally:
            close_fd(fd)


def _extension(driver: Driver, fd: int, attr: Attr) -> bytes:
    """Returns what no other field holds: a symlink's target, a device's numbers, or the link count
    of a file or directory, which Linux's client reads."""
    if stat.S_ISLNK(attr.mode):
        return driver.read_link(fd)
    if stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode):
        return device_text(attr)
    return _links(attr)


def _links(attr: Attr) -> bytes:
    if stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode):
        return b"HARDLINKCOUNT %d" % attr.nlink
    return b""
