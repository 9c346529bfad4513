"""Tread of the stream: the file `events` in the directory of notices (csrc/export/notices.h).

A read at the end waits for the next line without a thread of its own: one thread for the device
(`changes`) answers them all when the ring rings. A wait ends early, with EINTR, when the guest
flushes it and before the ring of the device stops; readers ask again. After the death of a worker
the request runs again, and goes on waiting in the next one; where its fid stands is in C's memory
(struct v9_stream).
"""

import errno
import logging
import select
import threading
from typing import NamedTuple

from vhost9p import threads
from vhost9p.changes.ring import Ring
from vhost9p.device_log import log_fault
from vhost9p.log_record import concerning, concerns
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9 import stream
from vhost9p.p9.codec import P9Error
from vhost9p.p9.context import LATER, Context, Request
from vhost9p.p9.fids import FID_STREAM
from vhost9p.p9.waiting import WaitingRoom

log = logging.getLogger(__name__)


class _Read(NamedTuple):
    """A Tread of the stream."""

    request: Request
    number: int
    """Of its fid, which had the handle when it began to wait."""
    handle: int
    offset: int
    size: int


class NoticesFamily:
    """See the module. `ring` has the lines."""

    def __init__(self, context: Context, ring: Ring, room: WaitingRoom) -> None:
        self._context = context
        self._fids = context.fids
        self._ring = ring
        self._room = room
        self._concerns = concerns()
        self._lock = threading.Lock()
        """Held from the look at the ring until a read waits, so that none misses a line."""
        self._waits: dict[tuple[int, int], _Read] = {}
        self._listens = False
        self._draining = False
        self._closed = False

    def read(self, request: Request, t: m.Tread) -> m.Rread | None:
        """Returns lines, waits for some, or fails with EAGAIN if too many wait."""
        count = min(t.count, self._context.msize - c.HEADER_SIZE - 4)
        handle = self._fids.find(t.fid)
        read = _Read(request, t.fid, handle, t.offset, count)
        with self._lock:
            data = self._answer(read)
            if data is None:
                self._wait(read)
                return LATER
        return m.Rread(data)

    def _answer(self, read: _Read) -> bytes | None:
        """Returns the data of a reply; None if there is none yet. The lock is held."""
        with self._fids.get(read.number) as fid:
            if fid.handle != read.handle:
                raise P9Error(errno.EBADF, "the fid stands for another file by now")
            before = self._fids.stream(fid)
            slot, seq = read.request.key
            data, after = stream.read(
                self._ring, before, read.offset, read.size, request=seq << 32 | slot
            )
            if after != before:
                self._fids.set_stream(fid, after)
        return data

    # ---- waiting ----------------------------------------------------------------------------

    def _wait(self, read: _Read) -> None:
        """Lets a read wait. The lock is held."""
        if self._draining:
            raise P9Error(errno.EINTR, "the ring of the device stops")
        self._listen()
        if not self._room.enter():
            raise P9Error(errno.EAGAIN, f"{self._room.max} requests wait already")
        self._waits[read.request.key] = read
        try:
            self._fids.mark(read.handle, FID_STREAM)
        except OSError:
            self._take(read)
            raise

    def _listen(self) -> None:
        if not self._listens:
            threads.start(threading.Thread(target=self._run, name="changes", daemon=True))
            self._listens = True

    def _run(self) -> None:
        """Thread: answers waiting reads when there are lines."""
        bell = select.poll()
        bell.register(self._ring.bell, select.POLLIN)
        while True:
            bell.poll()
            self._ring.silence()
            with self._lock:
                if self._closed:
                    return
                waits = list(self._waits.values())
            for read in waits:
                self._try(read)

    def _try(self, read: _Read) -> None:
        try:
            with self._lock:
                data = self._answer(read) if read.request.key in self._waits else None
                if data is None or not self._take(read):
                    return
        except OSError as error:
            self._end(read, error.errno or errno.EIO)
            return
        except Exception as error:
            with concerning(**self._concerns):
                log_fault(log, "unexpected error in a read of changes: a bug, report it", error)
            self._end(read, errno.EIO)
            return
        read.request.reply(m.Rread(data).encode(read.request.tag))

    def _take(self, read: _Read) -> bool:
        """A read waits no more; False if it has not waited. The lock is held."""
        if self._waits.get(read.request.key) is not read:
            return False
        del self._waits[read.request.key]
        self._room.leave()
        return True

    def _end(self, read: _Read, code: int) -> None:
        """Ends a wait with an errno."""
        with self._lock:
            if not self._take(read):
                return
        read.request.fail(code)

    # ---- calling off ------------------------------------------------------------------------

    def flush(self, key: tuple[int, int]) -> None:
        """Ends the wait of a request that the guest has flushed, if it is one of these."""
        read = self._waits.get(key)
        if read:
            self._end(read, errno.EINTR)

    def clunk(self, handle: int) -> None:
        """Ends the waits of a fid that is clunked."""
        with self._lock:
            reads = [read for read in self._waits.values() if read.handle == handle]
        for read in reads:
            self._end(read, errno.EBADF)

    def stop(self) -> None:
        """Ends all waits. Nothing may wait until `resume`."""
        with self._lock:
            self._draining = True
            reads = list(self._waits.values())
        for read in reads:
            self._end(read, errno.EINTR)

    def resume(self) -> None:
        """Allows waits again, when the ring of the device runs."""
        with self._lock:
            self._draining = False

    def close(self) -> None:
        """Ends the thread, when the device goes."""
        with self._lock:
            self._closed = True
        self._ring.ring()
