"""The 9P server: from a request's bytes to a reply's.

C answers the requests that only read or move data; what comes here changes something, or needs a
decision. `Server.handle` decodes and looks the handler up in the table of the session's dialect.
What is raised is the answer too: an OSError its errno, and anything else EIO. A handler that has to
wait for a lock returns `LATER` and answers through its request from another thread.

The handlers are in one module per family: session, namespace, metadata, xattr, locks for 9P2000.L;
session, dialect_u and dialect_u_reading for 9P2000.u.
"""

import errno
import logging
from collections.abc import Callable

from vhost9p.fs.tree import Tree
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error, decode
from vhost9p.p9.constants import Dialect
from vhost9p.p9.context import LATER, Context, Handler, Request
from vhost9p.p9.dialect_u import DialectUFamily
from vhost9p.p9.dialect_u_reading import ReadingFamily
from vhost9p.p9.fids import FidTable
from vhost9p.p9.locks import LockFamily
from vhost9p.p9.metadata import MetadataFamily
from vhost9p.p9.namespace import NamespaceFamily
from vhost9p.p9.session import SessionFamily
from vhost9p.p9.xattr import XattrFamily

__all__ = ["Request", "Server"]

log = logging.getLogger(__name__)


class Server:
    """Answers one device's requests. Every method may be called by any thread, at the same time;
    while a Tversion is handled no other request is."""

    def __init__(
        self,
        fids: FidTable,
        tree: Tree,
        *,
        msize_max: int,
        max_xattr: int,
        set_msize: Callable[[int], None],
        set_dialect: Callable[[Dialect], None],
        wake_signal: int,
    ) -> None:
        self._fids = fids
        context = Context(fids, tree, msize_max, set_msize, self._begin, msize_max)
        self._context = context
        self._set_dialect = set_dialect
        self._locks = LockFamily(context, wake_signal)
        self._reading = ReadingFamily(context)
        self._xattrs = XattrFamily(context, max_xattr)
        names = NamespaceFamily(context, self._drop)
        session: dict[type[Message], Handler] = {
            **SessionFamily(context, self._forget).handlers(),
            m.Tremove: names.remove,
            m.Tclunk: self._clunk,
        }
        self._tables: dict[Dialect, dict[type[Message], Handler]] = {
            Dialect.L: {
                **session,
                **names.handlers(),
                **MetadataFamily(context).handlers(),
                **self._xattrs.handlers(),
                **self._locks.handlers(),
            },
            Dialect.U: {
                **session,
                **DialectUFamily(context).handlers(),
                **self._reading.handlers(),
            },
        }
        self._handlers = self._tables[Dialect.L]

    def _begin(self, dialect: Dialect) -> None:
        """A session of this dialect begins."""
        self._handlers = self._tables[dialect]
        self._set_dialect(dialect)

    def handle(self, data: bytes, request: Request) -> bytes | None:
        """The answer to a request; None: it comes later. Raises OSError. `data` may lack a Twrite's
        payload."""
        try:
            tag, message = decode(data, request.payload)
            handler = self._handlers.get(type(message))
            if handler is None:
                name, dialect = type(message).__name__, self._context.dialect.value.decode()
                raise P9Error(errno.EOPNOTSUPP, f"{name} is no request of {dialect}")
            reply = handler(request, message)
            return None if reply is LATER else reply.encode(tag)
        except OSError as error:
            log.debug("tag %d: %s", request.tag, error)
            raise

    def _clunk(self, request: Request, t: m.Tclunk) -> m.Rclunk:
        """Of a fid that Python keeps something for: the others are C's."""
        handle = self._fids.find(t.fid)
        try:
            self._xattrs.clunk(t.fid, handle)
        finally:
            self._drop(handle)
        return m.Rclunk()

    def _drop(self, handle: int) -> None:
        """Frees a fid and what is kept for it: the number first, so that nothing comes after."""
        try:
            self._fids.clunk(handle)
        finally:
            self._xattrs.drop(handle)
            self._locks.clunk(handle)

    def _forget(self) -> None:
        """After the fids are gone."""
        self._xattrs.forget()
        self._locks.forget()
        self._reading.forget()

    # ---- the device's life ------------------------------------------------------------------

    def set_ring_size(self, size: int) -> None:
        """A quarter of the ring may wait for locks."""
        self._locks.waits.max = size // 4

    def flush(self, key: tuple[int, int]) -> None:
        """The guest has flushed a request: if it waits, it ends with EINTR."""
        self._locks.waits.flush(key)

    def cancel_waits(self) -> None:
        """Before the ring stops: whatever waits is answered, and nothing waits from here on."""
        self._locks.waits.stop()

    def resume_waits(self) -> None:
        """The ring runs again."""
        self._locks.waits.resume()

    def reset(self) -> None:
        """The guest is gone, with its fids, locks and attribute values. Until `resume_waits`
        nothing waits."""
        self._locks.waits.stop()
        self._fids.clear()
        self._forget()
        self._context.begin(Dialect.L)

    def close(self) -> None:
        """For good."""
        self.reset()
        self._locks.waits.close()
