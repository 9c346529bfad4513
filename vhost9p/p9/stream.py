"""The stream as an open fid of it sees it: from the offsets of Tread to positions in the ring.

Offset 0 is where the ring ended when the fid was opened. From there the guest's offsets and the
ring's positions (vhost9p/changes/ring.py) run in parallel, so that a shell can seek back to where
it has taken a line. Where lines are missing, an overflow is in their stead, and the offset behind
that is the ring's end. It begins a line of its own, and if nobody knows whether the one before is
whole, an empty line comes first: a reader may have seeked, or the worker may have died.

Linux's client makes of one read(2) as many Treads as it takes to fill the buffer, and ends where
one has no data (net/9p/client.c, p9_client_read). A Tread that waited there would keep back what
the last one has brought. So a reply is shorter than what was asked for, by a byte if need be, and
the Tread that continues it gets nothing, once. A reply of the only byte that was asked for is
whole, and nothing continues it. A descriptor that is not to block gets nothing whenever there is
nothing.

If the worker dies before that once is published, the same Tread runs again in the next one. It gets
nothing again: what it continues would be kept back until the next line.
"""

from typing import NamedTuple

from vhost9p.changes.lines import OVERFLOW
from vhost9p.changes.ring import Ring
from vhost9p.fs.driver import Stream

LINES = 1 << 16
"""Bytes of lines that are taken from the ring at once: more than any one line has."""
_WRAP = 2**64


class Reply(NamedTuple):
    """The data of a Rread, None if the Tread has to wait; and what is known of the fid then."""

    data: bytes | None
    stream: Stream


def read(ring: Ring, stream: Stream, offset: int, count: int, request: int) -> Reply:
    """Answers a Tread of `count` bytes, whose request has a number that names it, and is not 0."""
    if not count:
        return Reply(b"", stream)
    if offset == stream.end and (stream.is_short or stream.last == request):
        return Reply(b"", stream._replace(last=request).with_flags(is_short=False))
    data, stream = _data(ring, stream, offset, max(count - 1, 1))
    if not data:
        return Reply(None if stream.waits else b"", stream)
    return Reply(
        data,
        stream._replace(end=offset + len(data)).with_flags(
            is_short=stream.waits and len(data) < count, is_inside=not data.endswith(b"\n")
        ),
    )


def _data(ring: Ring, stream: Stream, offset: int, limit: int) -> tuple[bytes, Stream]:
    """Returns what there is at an offset, of `limit` bytes at most."""
    if stream.is_lost:
        at = offset - stream.lost
        if at < 0:  # before what is missing: that is gone, too
            return _lose(ring.end, stream, offset, limit)
        if rest := _stead(stream)[at:]:
            return rest[:limit], stream
    position = (stream.start + offset) % _WRAP
    lines, behind = ring.read(position, LINES)
    if behind != position + len(lines):
        return _lose(behind, stream, offset, limit)
    return lines[:limit], stream


def _lose(end: int, stream: Stream, offset: int, limit: int) -> tuple[bytes, Stream]:
    """Goes on at the ring's end."""
    begins_line = not offset or (offset == stream.end and not stream.is_inside)
    stream = stream._replace(lost=offset).with_flags(is_lost=True, is_cut=not begins_line)
    stead = _stead(stream)
    return stead[:limit], stream._replace(start=(end - offset - len(stead)) % _WRAP)


def _stead(stream: Stream) -> bytes:
    """What is in the stead of lines that are missing."""
    return b"\n" + OVERFLOW if stream.is_cut else OVERFLOW
