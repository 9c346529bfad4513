"""Tstat, and Tread of a directory, in 9P2000.u: attributes, which a stat structure holds.

An open directory reads as a row of such structures, never a part of one. A client continues at the
offset where its last read ended, or begins again at 0. For another offset (seekdir(3), and a
rewinddir(3) that Linux's client does half) structures are counted from the start.

What an entry is, is read from one descriptor: its attributes and a symlink's target belong to the
same file, whatever happens to the name meanwhile.
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
"""Open directories for which the end of the last read is remembered."""
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)
"""What fails a listing: any other error is that of an entry, which is left out."""
ABOVE = (errno.ESTALE, errno.ENOENT, errno.EPERM)
"""How a step to ".." says that what is there is not the guest's to see."""


class _Place(NamedTuple):
    """Where structures begin in a directory: the offset in bytes, and the host's position."""

    offset: int = 0
    position: int = 0


class _Places:
    """For each open directory where its last read ended, by the fid's handle."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._lock = threading.Lock()

    def before(self, handle: int, offset: int) -> _Place:
        """The place to count from: where a read goes on, else the directory's start."""
        with self._lock:
            place = self._places.get(handle, _Place())
        return place if offset and offset == place.offset else _Place()

    def keep(self, handle: int, place: _Place) -> None:
        """A read has ended there. The oldest place gives way where there are too many."""
        with self._lock:
            self._places.pop(handle, None)
            if len(self._places) >= PLACES_MAX:
                del self._places[next(iter(self._places))]
            self._places[handle] = place

    def forget(self) -> None:
        """All fids are gone."""
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
        """Attributes of a file, with the last component of its name."""
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
        """The structures from an offset on; EINVAL where not even one fits. All but what concerns
        directories is C's."""
        count = min(t.count, self._context.msize - c.HEADER_SIZE - 4)
        with self._fids.get(t.fid) as fid:
            if fid.io_fd < 0:
                raise P9Error(errno.EBADF, "the fid is not open")
            start = self._places.before(fid.handle, t.offset)
            data, position = self._read(fid, start, t.offset - start.offset, count)
            self._places.keep(fid.handle, _Place(t.offset + len(data), position))
        return m.Rread(data)

    def _read(self, fid: Fid, start: _Place, skip: int, count: int) -> tuple[bytes, int]:
        """Structures of `count` bytes at most, of those that begin `skip` bytes behind a place or
        later; and the position behind them."""
        data, end = bytearray(), start.position
        for found, position in self._stats(fid, start.position, count):
            record = found.record() if found else b""
            if found and skip > 0:
                skip -= len(record)
            elif found:
                if not data and len(record) > count:  # a target must not end the listing
                    record = replace(found, extension=b"").record()
                    if len(record) > count:
                        raise P9Error(errno.EINVAL, f"{count} bytes for {len(record)}")
                if len(data) + len(record) > count:
                    break
                data += record
            end = position
        return bytes(data), end

    def _stats(self, fid: Fid, position: int, count: int) -> Iterator[tuple[u.Stat | None, int]]:
        """What entries from a position on are, and the position behind each; None: left out."""
        driver = self._context.driver(fid)
        while entries := self._fids.read_dir(fid, position, count // 2):
            for entry in entries:
                position = entry.position
                yield self._stat(driver, fid, entry), position

    def _stat(self, driver: Driver, fid: Fid, entry: Entry) -> u.Stat | None:
        try:
            attr, extension = self._look_at(driver, fid, entry)
        except OSError as error:
            if error.errno in LACKING:
                raise
            return None  # it vanished, is hidden, or cannot be looked at
        return stat_of(attr, entry.name, extension)

    def _look_at(self, driver: Driver, fid: Fid, entry: Entry) -> tuple[Attr, bytes]:
        """Attributes and extension of an entry. What the guest may not enter is still visible: a
        file that multidevs=forbid denies by the number that the directory has for it; under the
        name of an export that does not know the user, the directory that it covers."""
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
    """What no other field holds: a symlink's target, a device's numbers; of files and directories
    the number of their names, which Linux's client reads."""
    if stat.S_ISLNK(attr.mode):
        return driver.read_link(fd)
    if stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode):
        return device_text(attr)
    return _links(attr)


def _links(attr: Attr) -> bytes:
    if stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode):
        return b"HARDLINKCOUNT %d" % attr.nlink
    return b""
