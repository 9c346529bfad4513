"""Extended attributes: Txattrwalk, Txattrcreate, and Tread, Twrite, Tclunk of their fids.

9P reads an attribute through a fid that Txattrwalk makes and writes one through a fid that
Txattrcreate turns; the value is set when that fid is clunked, so the clunk's error is the result.
The values wait here, at most BYTES_MAX of them for one guest.

Removing has no message of its own: Linux's client sends size 0 with XATTR_REPLACE, which is also
how it would replace a value by an empty one. An empty value with other flags is set.
"""

import errno
import threading
from dataclasses import dataclass, field

from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import P9Error
from vhost9p.p9.context import Context, Handler, Request, file_fd
from vhost9p.p9.fids import FID_UPCALL

BYTES_MAX = 64 * 1024 * 1024
"""A thousand of the largest values at once; a guest that leaks more gets ENOSPC."""


@dataclass
class _Write:
    """A value on its way in."""

    name: bytes
    size: int
    flags: int
    data: bytearray = field(default_factory=bytearray)


def _check_xattr_name(name: bytes) -> bytes:
    if not name or b"\0" in name:
        raise P9Error(errno.EINVAL, f"{name!r} is no attribute name")
    if len(name) > c.NAME_MAX:
        raise P9Error(errno.ERANGE)
    return name


class XattrFamily:
    """See the module. Values are kept by fid number."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fids = context.fids
        self._driver = context.driver
        self._reads: dict[int, bytes] = {}
        self._writes: dict[int, _Write] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def handlers(self) -> dict[type[m.Message], Handler]:
        """The requests of this family."""
        return {
            m.Txattrwalk: self.walk,
            m.Txattrcreate: self.create,
            m.Tread: self.read,
            m.Twrite: self.write,
        }

    def forget(self) -> None:
        """All fids are gone."""
        with self._lock:
            self._reads.clear()
            self._writes.clear()
            self._bytes = 0

    def _reserve(self, size: int) -> None:
        with self._lock:
            if self._bytes + size > BYTES_MAX:
                raise P9Error(errno.ENOSPC, "too many attribute values are held open")
            self._bytes += size

    def walk(self, request: Request, t: m.Txattrwalk) -> m.Rxattrwalk:
        """Makes newfid stand for a value, or for the list of names if the name is empty."""
        with self._fids.get(t.fid) as fid:
            fd = file_fd(fid.path_fd)
            if t.name:
                value = self._driver.get_xattr(fd, _check_xattr_name(t.name))
            else:
                value = b"".join(name + b"\0" for name in self._driver.list_xattrs(fd))
            uid = fid.uid
        self._reserve(len(value))
        try:
            self._fids.add(t.newfid, -1, uid, FID_UPCALL, None)
        except OSError:
            self._reserve(-len(value))
            raise
        self._reads[t.newfid] = value
        return m.Rxattrwalk(len(value))

    def create(self, request: Request, t: m.Txattrcreate) -> m.Rxattrcreate:
        """Makes the fid stand for a value to be written."""
        self._context.require_writable()
        name = _check_xattr_name(t.name)
        if t.attr_size > c.XATTR_SIZE_MAX:
            raise P9Error(errno.E2BIG, f"a value of {t.attr_size} bytes")
        if t.flags & ~(c.XATTR_CREATE | c.XATTR_REPLACE):
            raise P9Error(errno.EINVAL, f"flags {t.flags:#x}")
        with self._fids.get(t.fid) as fid:
            file_fd(fid.path_fd)
            if fid.io_fd >= 0 or fid.flags & FID_UPCALL:
                raise P9Error(errno.EINVAL, "the fid is in use for something else")
            self._reserve(t.attr_size)
            self._writes[t.fid] = _Write(name, t.attr_size, t.flags)
            self._fids.set_flags(fid, fid.flags | FID_UPCALL)
        return m.Rxattrcreate()

    def read(self, request: Request, t: m.Tread) -> m.Rread:
        """A piece of a value."""
        value = self._reads.get(t.fid)
        if value is None:
            raise P9Error(errno.EBADF, "the fid is not open for reading")
        count = min(t.count, self._context.msize - c.HEADER_SIZE - 4)
        return m.Rread(value[t.offset : t.offset + count])

    def write(self, request: Request, t: m.Twrite) -> m.Rwrite:
        """The next piece of a value."""
        pending = self._writes.get(t.fid)
        if pending is None:
            raise P9Error(errno.EBADF, "the fid is not open for writing")
        if t.offset != len(pending.data):
            raise P9Error(errno.EINVAL, "attribute values are written from front to back")
        if t.offset + len(t.data) > pending.size:
            raise P9Error(errno.ENOSPC, f"the value was announced with {pending.size} bytes")
        pending.data += t.data
        return m.Rwrite(len(t.data))

    def clunk(self, number: int) -> None:
        """Ends a fid of this family; sets the value that was written. The fid goes either way."""
        read = self._reads.pop(number, None)
        pending = self._writes.pop(number, None)
        self._reserve(-(len(read) if read is not None else 0) - (pending.size if pending else 0))
        if pending is None:
            return
        if len(pending.data) != pending.size:
            raise P9Error(errno.EINVAL, f"{len(pending.data)} of {pending.size} bytes were written")
        with self._fids.get(number) as fid:
            if not pending.size and pending.flags == c.XATTR_REPLACE:
                self._driver.remove_xattr(fid.path_fd, pending.name)
            else:
                value = bytes(pending.data)
                self._driver.set_xattr(fid.path_fd, pending.name, value, pending.flags)
