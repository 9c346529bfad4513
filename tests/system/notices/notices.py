"""What tests say and ask of the directory of notices."""

from __future__ import annotations

import os

from tests.frontend.client import Client, Ticket
from tests.frontend.wire import T
from tests.system.share import Share

NAME = b".vhost9p"
REFRESH_UID = 1986541936
REFRESH_DATA = b"vhost9p refresh\n"
MODE, SIZE, ATIME, MTIME, CTIME, ATIME_SET, MTIME_SET = 0x1, 0x8, 0x10, 0x20, 0x40, 0x80, 0x100
TOUCH = ATIME | MTIME | CTIME | ATIME_SET | MTIME_SET
TOUCH_M = MTIME | CTIME | MTIME_SET
LINE = b"created file\n"


def events(client: Client, root: int, flags: int = os.O_RDONLY) -> int:
    """A fid that has the stream open."""
    return client.open(root, [NAME, b"events"], flags)


def submit_read(client: Client, fid: int, offset: int, count: int = 4096) -> Ticket:
    return client.submit(T.READ, fid, offset, count)


def data_of(client: Client, ticket: Ticket) -> bytes:
    data: bytes = client.wait(ticket).fields[0]
    return data


def waits(share: Share, ticket: Ticket) -> bool:
    """Whether a request is unanswered after everything that was sent later has been."""
    share.client.getattr(share.top)
    share.client.getattr(share.top)
    return ticket.reply is None
