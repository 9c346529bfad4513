"""Records of requests, as a tracer would read them."""

from vhost9p.p9.codec import Message, Qid
from vhost9p.p9.messages import Rclunk, Tclunk
from vhost9p.trace.events import Event, Source, event_of
from vhost9p.trace.reader import Path, Record

SOURCE = Source("host0", ("",))
FILE = Qid(0, 1, 2)
NOW = 1_700_000_000_123_456_789


def record(
    request: Message | bytes,
    reply: Message | bytes,
    *,
    paths: tuple[str | None, str | None] = (None, None),
    uid: int | None = 1000,
    held: int = 1 << 30,
    took: int = 5000,
) -> Record:
    """A record, of whose messages so many bytes are held."""
    asked = request if isinstance(request, bytes) else request.encode(3)
    answer = reply if isinstance(reply, bytes) else reply.encode(3)
    known = tuple(None if p is None else Path(0, p.encode(), False) for p in paths)
    return Record(
        1, NOW, NOW + took, took, uid, False, known, len(asked), len(answer),
        asked[:held], answer[:held],
    )  # fmt: skip


def event(number: int = 1) -> Event:
    """Any."""
    return event_of(SOURCE, record(Tclunk(number), Rclunk(), paths=(f"/file{number}", None)))
