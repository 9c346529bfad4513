"""Assembles messages from pieces of a byte stream and the descriptors sent with them.

A descriptor arrives with the first byte of the data that it was sent with. One recvmsg(2) never
returns data from beyond a piece with descriptors, but it may begin with earlier data that had none
(unix(7)). So a reader that asks for at most `Framer.wanted` bytes stays within one message, and all
descriptors that it receives belong to that message.

The size of a message gives the start of the next one, even if the message is invalid. Only a size
beyond MAX_PAYLOAD breaks the stream: nothing is allocated, and the backend ends the connection. It
does so for no other error.
"""

import os
from collections.abc import Callable, Iterable

from vhost9p.vhost_user.messages import HEADER, MAX_FDS, MAX_PAYLOAD, Message


class Framer:
    """Collects the messages of one connection. `broken` is the reason why no further message can be
    read, or None. `close` closes a descriptor."""

    def __init__(self, close: Callable[[int], None] = os.close) -> None:
        self._close_fd = close
        self.broken: str | None = None
        self._data = bytearray()
        self._size = HEADER.size  # bytes of the message, as far as its header is known
        self._fds: list[int] = []
        self._fds_lost = False

    @property
    def wanted(self) -> int:
        """How many bytes complete the header or the message; 0 if the stream is broken."""
        return 0 if self.broken else self._size - len(self._data)

    def feed(
        self, data: bytes, fds: Iterable[int] = (), *, fds_lost: bool = False
    ) -> list[Message]:
        """Adds a piece of any length; returns the messages that it completes. Takes ownership of
        the descriptors `fds`, which belong to the message in which the piece begins.

        `fds_lost`: the kernel has dropped descriptors (MSG_CTRUNC, recvmsg(2)).
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
        """Closes the descriptors of an incomplete message."""
        while self._fds:
            self._close_fd(self._fds.pop())

    def _take_fds(self, fds: Iterable[int], lost: bool) -> None:
        self._fds.extend(fds)
        self._fds_lost |= lost or len(self._fds) > MAX_FDS
        while len(self._fds) > MAX_FDS:
            self._close_fd(self._fds.pop())

    def _advance(self) -> Message | None:
        """Decodes a complete header, and returns a complete message, else None."""
        if len(self._data) == self._size == HEADER.size:
            self._take_header()
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

    def _take_header(self) -> None:
        number, _, size = HEADER.unpack(self._data)
        if size > MAX_PAYLOAD:
            self.broken = f"request {number} claims {size} bytes; {MAX_PAYLOAD} are the most"
        else:
            self._size += size
