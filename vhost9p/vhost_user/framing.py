"""From pieces of a byte stream and the descriptors beside them to whole messages.

A descriptor travels with the first byte of the piece that was sent with it, and the kernel does
not let one read go on past a piece that has brought descriptors; but it may begin in an earlier
piece without any. A reader that never asks for more than `Framer.wanted` bytes stays inside of
one message, so that every descriptor it gets belongs to that message.

Even after an invalid message, its size gives the start of the next one. So the stream is lost only
if the size is impossible. Nothing is allocated then, and it is the only error for which this side
ends a connection.
"""

import os
from collections.abc import Callable, Iterable

from vhost9p.vhost_user.messages import HEADER, MAX_FDS, MAX_PAYLOAD, Message


class Framer:
    """Collects one connection's messages. `broken` says why, once no more can come. `close` closes
    a descriptor."""

    def __init__(self, close: Callable[[int], None] = os.close) -> None:
        self._close_fd = close
        self.broken: str | None = None
        self._data = bytearray()
        self._size = HEADER.size  # of the message, as far as it is known
        self._fds: list[int] = []
        self._fds_lost = False

    @property
    def wanted(self) -> int:
        """How many bytes a read may ask for without leaving the message: 0 when broken."""
        return 0 if self.broken else self._size - len(self._data)

    def feed(
        self, data: bytes, fds: Iterable[int] = (), *, fds_lost: bool = False
    ) -> list[Message]:
        """Takes a piece, of any length, with the descriptors that belong to the message in which
        it begins; returns the messages that it completes. The descriptors are taken over.

        `fds_lost`: the kernel had more descriptors than it could hand over.
        """
        self._take_fds(fds, fds_lost)
        messages = []
        while data and not self.broken:
            taken = self.wanted
            self._data += data[:taken]
            data = data[taken:]
            if message := self._advance():
                messages.append(message)
        if self.broken:
            self.close()
        return messages

    def close(self) -> None:
        """Closes the descriptors of a message that has not come to its end."""
        while self._fds:
            self._close_fd(self._fds.pop())

    def _take_fds(self, fds: Iterable[int], lost: bool) -> None:
        self._fds.extend(fds)
        self._fds_lost |= lost or len(self._fds) > MAX_FDS
        while len(self._fds) > MAX_FDS:
            self._close_fd(self._fds.pop())

    def _advance(self) -> Message | None:
        """Reads what is complete: a header, which has the size, or a whole message."""
        if len(self._data) == self._size == HEADER.size:
            self._look_at_header()
        if len(self._data) < self._size or self.broken:
            return None
        number, flags, _ = HEADER.unpack_from(self._data)
        payload = bytes(self._data[HEADER.size :])
        message = Message(number, flags, payload, self._fds, self._fds_lost)
        self._data = bytearray()
        self._size = HEADER.size
        self._fds = []
        self._fds_lost = False
        return message

    def _look_at_header(self) -> None:
        number, _, size = HEADER.unpack(self._data)
        if size > MAX_PAYLOAD:
            self.broken = f"request {number} claims {size} bytes; {MAX_PAYLOAD} are the most"
        else:
            self._size += size
