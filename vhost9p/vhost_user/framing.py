"""Finds the messages in a byte stream and in the descriptors sent with it.

A descriptor arrives with the first byte of the data that it was sent with. One recvmsg(2) never
returns data from beyond a piece with descriptors, but it may begin with earlier data that had none
(unix(7)). So a reader that asks for at most `missing` bytes stays within one message, and all
descriptors that it receives belong to that message.

The size of a message gives the start of the next one, even if the message is invalid. Only a size
beyond MAX_PAYLOAD breaks the stream: nothing more is received, and the backend ends the connection.
It does so for no other error.
"""

from vhost9p.vhost_user.connection import Connection
from vhost9p.vhost_user.messages import HEADER, MAX_PAYLOAD, Message


class BrokenStream(Exception):
    """No further message can be read; the text says why."""


def missing(data: bytes) -> int:
    """Returns how many bytes complete the header, or else the message, of which `data` has been
    received; 0 if the message is whole. Raises BrokenStream."""
    if len(data) < HEADER.size:
        return HEADER.size - len(data)
    number: int
    size: int
    number, _, size = HEADER.unpack_from(data)
    if size > MAX_PAYLOAD:
        raise BrokenStream(f"request {number} claims {size} bytes; {MAX_PAYLOAD} are the most")
    return HEADER.size + size - len(data)


def message_of(connection: Connection) -> Message:
    """Returns the message that a connection has received, which is whole. The connection owns its
    descriptors."""
    data = connection.data
    number, flags, _ = HEADER.unpack_from(data)
    return Message(number, flags, data[HEADER.size :], connection.fds, connection.fds_lost)
