"""Tfsync."""

import errno

from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error
from vhost9p.p9.context import Context, Handler, Request


class FsyncFamily:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fids = context.fids

    def handlers(self) -> dict[type[Message], Handler]:
        """The requests of this family."""
        return {m.Tfsync: self.fsync}

    def fsync(self, request: Request, t: m.Tfsync) -> m.Rfsync:
        """fsync(2) or fdatasync(2)."""
        with self._fids.get(t.fid) as fid:
            if fid.io_fd < 0:
                raise P9Error(errno.EBADF, "the fid is not open")
            self._context.driver(fid).fsync(fid.io_fd, data_only=bool(t.datasync))
        return m.Rfsync()
