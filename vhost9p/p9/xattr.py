"""Extended attributes: Txattrwalk, Txattrcreate, and Tread, Twrite, Tclunk of their fids.

A guest reads an attribute through a fid from Txattrwalk, and writes one through a fid that
Txattrcreate converts. Tclunk sets the value, so its error is the result. Values are held here until
then: a limited number per guest, and BYTES_MAX bytes at most.

Removal has no message of its own: Linux's client sends size 0 with XATTR_REPLACE, as it would to
replace a value with an empty one. An empty value with other flags is set.
"""

import errno
import threading
from contextlib import suppress
from dataclasses import dataclass

from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import Context, Handler, Request, file_fd
from vhost9p.p9.fids import FID_UPCALL

BYTES_MAX = 64 * 1024 * 1024
"""A thousand of the largest values. A guest that leaks more gets ENOSPC."""


@dataclass
class _Value:
    """The value behind a fid: one that is read, or one that is being written."""

    data: bytes | bytearray
    size: int
    """The value's size in bytes, also before all are written."""
    target: tuple[bytes, int] | None = None
    """Attribute name and flags of a value that is being written."""


def _check_xattr_name(name: bytes) -> bytes:
    if not name or b"\0" in name:
        raise P9Error(errno.EINVAL, f"{name!r} is no attribute name")
    if len(name) > c.NAME_MAX:
        raise P9Error(errno.ERANGE)
    return name


class XattrFamily:
    """See the module. Values are stored by their fid's handle (vhost9p.p9.fids)."""

    def __init__(self, context: Context, values_max: int) -> None:
        """`values_max`: the number of values a guest may hold at a time; 0: as many as BYTES_MAX
        allows."""
        self._context = context
        self._values_max = values_max
        self._fids = context.fids
        self._values: dict[int, _Value] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        """Guards the values, their data, and their sum; held for nothing else."""

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {
            m.Txattrwalk: self.walk,
            m.Txattrcreate: self.create,
            m.Tread: self.read,
            m.Twrite: self.write,
        }

    # ---- values -----------------------------------------------------------------------------

    def _keep(self, handle: int, value: _Value) -> None:
        """Stores a value for a fid and marks the fid as Python's; does neither if it raises
        OSError."""
        with self._lock:
            if handle in self._values:
                raise P9Error(errno.EBADF, "the fid is in use for something else")
            full = self._values_max and len(self._values) >= self._values_max
            if full or self._bytes + value.size > BYTES_MAX:
                raise P9Error(errno.ENOSPC, "too many attribute values are held open")
            self._bytes += value.size
            self._values[handle] = value
        try:
            self._fids.mark(handle, FID_UPCALL)
        except OSError:
            self.drop(handle)
            raise

    def _value(self, handle: int, *, incoming: bool) -> _Value:
        """Returns a fid's value. The caller holds the lock."""
        value = self._values.get(handle)
        if value is None or (value.target is not None) != incoming:
            raise P9Error(errno.EBADF, "the fid is not open for this operation")
        return value

    def drop(self, handle: int) -> _Value | None:
        """Drops a fid's value; one that is being written is not set."""
        with self._lock:
            value = self._values.pop(handle, None)
            if value:
                self._bytes -= value.size
        return value

    def forget(self) -> None:
        """Drops all values, after all fids are gone."""
        with self._lock:
            self._values.clear()
            self._bytes = 0

    # ---- requests ---------------------------------------------------------------------------

    def walk(self, request: Request, t: m.Txattrwalk) -> m.Rxattrwalk:
        """Makes newfid refer to a value, or to the list of names if the name is empty."""
        with self._fids.get(t.fid) as fid:
            driver, fd = self._context.driver(fid), file_fd(fid.path_fd)
            if t.name:
                data = driver.get_xattr(fd, _check_xattr_name(t.name))
            else:
                data = b"".join(name + b"\0" for name in driver.list_xattrs(fd))
            handle = self._fids.add(t.newfid, -1, fid.export, fid.uid, FID_UPCALL, None)
        try:
            self._keep(handle, _Value(data, len(data)))
        except OSError:
            with suppress(OSError):  # the guest may have clunked it already
                self._fids.clunk(handle)
            raise
        return m.Rxattrwalk(len(data))

    def create(self, request: Request, t: m.Txattrcreate) -> m.Rxattrcreate:
        """Makes the fid refer to a value to be written."""
        with self._fids.get(t.fid) as fid:
            self._context.writable(fid)
            file_fd(fid.path_fd)
            if fid.io_fd >= 0 or fid.flags:
                raise P9Error(errno.EBADF, "the fid is in use for something else")
            name = _check_xattr_name(t.name)
            if t.attr_size > c.XATTR_SIZE_MAX:
                raise P9Error(errno.E2BIG, f"a value of {t.attr_size} bytes")
            if t.flags & ~(c.XATTR_CREATE | c.XATTR_REPLACE):
                raise P9Error(errno.EINVAL, f"flags {t.flags:#x}")
            self._keep(fid.handle, _Value(bytearray(), t.attr_size, (name, t.flags)))
        return m.Rxattrcreate()

    def read(self, request: Request, t: m.Tread) -> m.Rread:
        """Reads a piece of a value."""
        handle = self._fids.find(t.fid)
        with self._lock:
            value = self._value(handle, incoming=False)
        count = min(t.count, self._context.msize - c.HEADER_SIZE - 4)
        return m.Rread(bytes(value.data[t.offset : t.offset + count]))

    def write(self, request: Request, t: m.Twrite) -> m.Rwrite:
        """Writes the next piece of a value."""
        handle = self._fids.find(t.fid)
        with self._lock:
            value = self._value(handle, incoming=True)
            assert isinstance(value.data, bytearray)
            if t.offset != len(value.data):
                raise P9Error(
                    errno.EINVAL, "an attribute's value must be written from front to back"
                )
            if t.offset + len(t.data) > value.size:
                raise P9Error(errno.ENOSPC, f"the value was announced with {value.size} bytes")
            value.data += t.data
        return m.Rwrite(len(t.data))

    def clunk(self, number: int, handle: int) -> None:
        """Ends a fid of this family, and sets its value if one was written. The fid ends even if
        that fails."""
        value = self.drop(handle)
        if value is None or value.target is None:
            return
        if len(value.data) != value.size:
            raise P9Error(errno.EINVAL, f"{len(value.data)} of {value.size} bytes were written")
        name, flags = value.target
        with self._fids.get(number) as fid:
            if fid.handle != handle:
                raise P9Error(errno.EBADF, "the fid is gone")
            driver = self._context.writable(fid)
            if not value.size and flags == c.XATTR_REPLACE:
                driver.remove_xattr(fid.path_fd, name)
            else:
                driver.set_xattr(fid.path_fd, name, bytes(value.data), flags)
