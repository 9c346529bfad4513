"""What a connection consists of: the state that outlives its worker.

A worker may be killed at any instant, and the next one goes on with the same connection: it
receives the rest of a message, handles one that had not been handled to its end once more, or sends
the rest of a reply. The frontend notices nothing. So whatever a later message depends on is here,
and nowhere in the worker's own memory. native/connection.py implements it.

For each message there are three steps, each of which takes effect as a whole: it is received,
handled and answered. Handling a message twice is harmless; that is up to the session.

Descriptors are withdrawn here before they are closed. When a worker dies in between, the keeper
closes those that nothing lists.
"""

from collections.abc import Sequence
from typing import Protocol


class Connection(Protocol):
    """The state of a connection, and of the message that it is at."""

    # ---- life

    @property
    def fd(self) -> int:
        """The socket; -1 after `take_fd`."""

    @property
    def is_live(self) -> bool:
        """Whether there is a connection, which has not ended."""

    @property
    def is_ending(self) -> bool:
        """Whether it only has to be ended."""

    @property
    def has_ended(self) -> bool:
        """Whether there was a connection, and there is none now."""

    @property
    def messages(self) -> int:
        """The number of messages handled, also of a connection that has ended."""

    def begin(self, fd: int) -> None:
        """A frontend has connected: takes ownership of the socket."""

    def end(self) -> None:
        """From now on the connection is ending."""

    def ended(self) -> None:
        """It has ended: it owns nothing."""

    def take_fd(self) -> int:
        """Hands the socket over to the caller, who closes it; -1 if it was handed over."""

    def take_fds(self) -> Sequence[int]:
        """Hands over the message's descriptors, while the connection is ending."""

    # ---- what the session keeps

    protocol_features: int

    backend_req_fd: int
    """-1: none. When it is replaced, the caller closes the old one."""

    # ---- a message

    @property
    def data(self) -> bytes:
        """The message, as far as it has been received."""

    @property
    def fds(self) -> list[int]:
        """The descriptors that came with it."""

    @property
    def fds_lost(self) -> bool:
        """Whether more came than a message may have, or than the process could open."""

    @property
    def noted_features(self) -> int:
        """The protocol features at `received`."""

    @property
    def noted_regions(self) -> int:
        """The number of regions at `received`."""

    @property
    def is_handled(self) -> bool:
        """Whether the message was handled, and its reply has to be sent."""

    @property
    def deaths(self) -> int:
        """How many workers died by a fault while they handled the message, or ended the
        connection."""

    def receive(self, size: int) -> int:
        """Receives at most `size` bytes of the message, and descriptors. Returns the number of
        bytes, 0 at the end of the stream. Raises OSError (recvmsg(2)), BlockingIOError."""

    def received(self, regions: int) -> None:
        """Ends the first step. The device has so many regions of guest memory. Does nothing after
        a death in the next step."""

    def handled(self, reply: bytes) -> None:
        """Ends the second step. `reply` is to be sent; if it is empty, nothing. The message's
        descriptors belong to the caller, save the one that is `backend_req_fd`."""

    def send(self) -> None:
        """Sends what is left of the reply; ends the third step if that is all. Raises OSError
        (sendmsg(2)), BlockingIOError."""
