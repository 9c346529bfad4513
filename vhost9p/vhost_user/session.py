"""Carries out the frontend's messages: the state of one connection, and the answer to each message.

A request with a reply of its own gets that reply, an empty one if it failed. Any other request,
known or not, gets an acknowledgement if it asks for one and REPLY_ACK was negotiated, else no
answer. A refused message is logged, and the connection continues: the frontend's VM depends on it.

A session of the device begins at SET_OWNER, not at the connection. When a device is unplugged and
another one plugged in, the frontend repeats the whole handshake on the same connection, and adds
all memory again without having removed it. So SET_OWNER resets the device to its initial state. The
protocol features and SET_BACKEND_REQ_FD precede SET_OWNER and are kept. RESET_DEVICE keeps guest
memory: after it the frontend sends only changes of memory.

The negotiated protocol features only decide about acknowledgements. A request works whether or not
its feature was negotiated.

The session closes the descriptors of the message that it has handled; the backend duplicates what
it keeps. A message may take seconds, so each connection has a thread of its own.

If the worker dies while it handles a message, the next one handles it again, from the start. For
most requests that is harmless: they set something, and set the same again, or stop and reset what
is stopped and new already. There are two exceptions. A region of memory has been added or removed
already if the number of regions is not the one from before. And SET_PROTOCOL_FEATURES may end the
acknowledgements: it is itself acknowledged by the features from before, too.

A message that was read and is never answered hangs the frontend, so one at which worker after
worker dies by a fault is refused the third time, without being carried out.
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from vhost9p.device_log import DeviceLog
from vhost9p.vhost_user.connection import Connection
from vhost9p.vhost_user.descriptors import adopt_channel
from vhost9p.vhost_user.messages import (
    BACKEND_REQ_BIT,
    CONFIG_BIT,
    CONFIGURE_MEM_SLOTS_BIT,
    EVENT_IDX_BIT,
    INDIRECT_BIT,
    MOUNT_TAG_BIT,
    MQ_BIT,
    PROTOCOL_FEATURES_BIT,
    REPLY_ACK_BIT,
    RESET_DEVICE_BIT,
    RING_PACKED_BIT,
    U64,
    VERSION_1_BIT,
    Config,
    Empty,
    MemoryRegion,
    MemorySlot,
    MemoryTable,
    Message,
    Request,
    RingAddresses,
    RingFd,
    RingState,
    VhostUserError,
    encode_reply,
    show_bits,
)

__all__ = ["Backend", "MemoryRegion", "Session", "VhostUserError"]

FEATURES = (
    1 << MOUNT_TAG_BIT
    | 1 << INDIRECT_BIT
    | 1 << EVENT_IDX_BIT
    | 1 << PROTOCOL_FEATURES_BIT
    | 1 << VERSION_1_BIT
    | 1 << RING_PACKED_BIT
)
PROTOCOL_FEATURES = (
    1 << MQ_BIT
    | 1 << REPLY_ACK_BIT
    | 1 << BACKEND_REQ_BIT
    | 1 << CONFIG_BIT
    | 1 << RESET_DEVICE_BIT
    | 1 << CONFIGURE_MEM_SLOTS_BIT
)
QUEUES = 1
DEATHS = 3
"""Of workers, at one message: then it is refused."""


class Backend(Protocol):
    """What a frontend can set up of a device.

    Calls come one at a time, in the frontend's order, on a thread of the connection's own; some
    wait for requests in flight. All may raise OSError or VhostUserError: the request then fails
    with that text and errno, and earlier settings stay valid unless said otherwise.

    The caller closes descriptors after the call, so an implementation keeps duplicates.
    """

    withheld: int
    """Virtio features of FEATURES that this device does not offer. Constant."""

    memory_slots: int
    """The largest number of regions of guest memory. Constant."""

    def config_read(self) -> bytes:
        """Returns the whole configuration space, at most 256 bytes."""

    def reset(self) -> None:
        """Restores the initial state: ring stopped and disabled, no memory, no descriptors, no
        features, no fids. Called at the start of a session and at the end of a connection."""

    def reset_device(self) -> None:
        """Does the same as `reset`, but keeps guest memory."""

    def set_features(self, features: int) -> None:
        """Sets the negotiated virtio features, with or without PROTOCOL_FEATURES_BIT. This and the
        calls below that set the ring up stop a running ring first, as `ring_stop` does."""

    def mem_count(self) -> int:
        """Returns the number of regions of guest memory. `mem_add` and `mem_remove` change it by
        one, if they succeed, when they take effect."""

    def mem_set_table(self, regions: Sequence[tuple[MemoryRegion, int]]) -> None:
        """Replaces guest memory by these regions, each with its descriptor. After an error there
        is no guest memory."""

    def mem_add(self, region: MemoryRegion, fd: int) -> None:
        """Adds a region of guest memory."""

    def mem_remove(self, region: MemoryRegion) -> None:
        """Removes the region of guest memory with this gpa, size and uva."""

    def ring_set_num(self, num: int) -> None:
        """Sets the number of the ring's entries."""

    def ring_set_base(self, base: int) -> None:
        """Sets where the ring continues: the next avail index. Packed ring: bits 0-14 are the next
        avail position and bits 16-30 the next used position, each with its wrap counter in the bit
        above."""

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        """Sets the addresses of the ring's parts in the frontend (uva)."""

    def ring_set_kick(self, fd: int | None) -> None:
        """Starts the ring with this kick descriptor; None: the ring has to be polled."""

    def ring_set_call(self, fd: int | None) -> None:
        """Sets the descriptor that signals completions; None: nothing signals them."""

    def ring_set_err(self, fd: int | None) -> None:
        """Sets the descriptor that signals a broken ring; None: nothing signals it."""

    def ring_enable(self, enable: bool) -> None:
        """Enables or disables the ring. A disabled ring takes no requests, even if started."""

    def ring_stop(self) -> int:
        """Stops the ring: waits at most 2 s for requests in flight; afterwards touches no guest
        memory and signals nothing. Returns the ring's position as in `ring_set_base`."""


class Session:
    """Handles the messages of a connection. `close` closes a descriptor that came with a
    message."""

    def __init__(
        self,
        backend: Backend,
        connection: Connection,
        log: DeviceLog,
        close: Callable[[int], None] = os.close,
    ) -> None:
        self._offered = FEATURES & ~backend.withheld
        self._backend = backend
        self._connection = connection
        self._log = log
        self._close_fd = close

    def handle(self, message: Message) -> bytes:
        """Carries out the connection's message, and has it answered. Closes the message's
        descriptors. Returns the answer, b"" for none. Raises nothing."""
        self._connection.received(self._backend.mem_count())
        reply = self._reply(message)
        self._connection.handled(reply)
        for fd in message.fds:
            if fd != self._connection.backend_req_fd:
                self._close_fd(fd)
        return reply

    def _reply(self, message: Message) -> bytes:
        try:
            reply, code = self._carry_out(message), 0
        except VhostUserError as error:
            reply, code = b"", error.code
            self._log.warning("%s refused: %s", message.name, error)
        except Exception:  # a bug of the daemon: the VM can continue
            reply, code = b"", errno.EIO
            self._log.exception("%s failed: a bug, report it", message.name)
        request = Request.find(message.number)
        if request and request.has_reply:
            return encode_reply(message.number, reply)
        if message.needs_reply and self._acknowledges:
            return encode_reply(message.number, U64(code).pack())
        return b""

    def close(self) -> None:
        """Ends the session: the device loses all that the connection has set up. Raises nothing."""
        self._keep_backend_req_fd(-1)
        try:
            self._backend.reset()
        except Exception:
            self._log.exception("the device could not be reset: a bug, report it")

    @property
    def _acknowledges(self) -> bool:
        """Whether the message may ask for an acknowledgement. SET_PROTOCOL_FEATURES may itself
        negotiate that, or end it."""
        features = self._connection.noted_features | self._connection.protocol_features
        return bool(features >> REPLY_ACK_BIT & 1)

    def _carry_out(self, message: Message) -> bytes:
        if self._connection.deaths >= DEATHS:
            raise VhostUserError(
                f"{self._connection.deaths} workers died at it: {message.payload[:256].hex(' ')}",
                errno.EIO,
            )
        request = Request.find(message.number)
        if request is None:
            raise VhostUserError("the backend does not know it", errno.EOPNOTSUPP)
        payload = message.parse(request)
        self._log.debug("%s %s", message.name, payload)
        try:
            return HANDLERS[request](self, payload, message.fds) or b""
        except OSError as error:
            text = f"{error.strerror or error} for {payload}"
            raise VhostUserError(text, error.errno or errno.EIO) from error

    # ---- the session

    def _get_features(self, _: Empty, fds: list[int]) -> bytes:
        return U64(self._offered).pack()

    def _set_features(self, new: U64, fds: list[int]) -> None:
        if unknown := new.value & ~self._offered:
            raise VhostUserError(
                f"features {show_bits(unknown)} were not offered; {show_bits(self._offered)} were"
            )
        self._backend.set_features(new.value)
        if not new.value >> PROTOCOL_FEATURES_BIT & 1:
            self._backend.ring_enable(True)  # such a frontend never sends SET_VRING_ENABLE

    def _get_protocol_features(self, _: Empty, fds: list[int]) -> bytes:
        return U64(PROTOCOL_FEATURES).pack()

    def _set_protocol_features(self, new: U64, fds: list[int]) -> None:
        # Known features are set even if others are refused. This request is rarely acknowledged, so
        # the frontend may not see the refusal, and without REPLY_ACK it would wait forever.
        self._connection.protocol_features = new.value & PROTOCOL_FEATURES
        if unknown := new.value & ~PROTOCOL_FEATURES:
            raise VhostUserError(
                f"protocol features {show_bits(unknown)} were not offered; "
                f"{show_bits(PROTOCOL_FEATURES)} were"
            )

    def _set_owner(self, _: Empty, fds: list[int]) -> None:
        self._backend.reset()

    def _reset_owner(self, _: Empty, fds: list[int]) -> None:
        self._backend.ring_enable(False)

    def _reset_device(self, _: Empty, fds: list[int]) -> None:
        self._backend.reset_device()

    def _get_queue_num(self, _: Empty, fds: list[int]) -> bytes:
        return U64(QUEUES).pack()

    def _set_backend_req_fd(self, _: Empty, fds: list[int]) -> None:
        adopt_channel(fds[0])
        self._keep_backend_req_fd(fds[0])

    def _keep_backend_req_fd(self, fd: int) -> None:
        # The descriptor stays open, although a 9P device sends no requests: a frontend watches the
        # other end and takes its closing for a failure.
        old = self._connection.backend_req_fd
        self._connection.backend_req_fd = fd
        if old not in (-1, fd):
            self._close_fd(old)

    # ---- configuration space

    def _get_config(self, piece: Config, fds: list[int]) -> bytes:
        config = self._backend.config_read()
        if piece.end > len(config):
            raise VhostUserError(f"{piece} reaches beyond the {len(config)} bytes of config space")
        return Config(piece.offset, piece.flags, config[piece.offset : piece.end]).pack()

    def _set_config(self, piece: Config, fds: list[int]) -> None:
        raise VhostUserError(f"{piece}: config space is read-only", errno.EROFS)

    # ---- guest memory

    def _set_mem_table(self, table: MemoryTable, fds: list[int]) -> None:
        self._backend.mem_set_table(list(zip(table.regions, fds, strict=True)))

    def _get_max_mem_slots(self, _: Empty, fds: list[int]) -> bytes:
        return U64(self._backend.memory_slots).pack()

    def _add_mem_reg(self, slot: MemorySlot, fds: list[int]) -> None:
        if not self._memory_has_changed:
            self._backend.mem_add(slot.region, fds[0])

    def _rem_mem_reg(self, slot: MemorySlot, fds: list[int]) -> None:
        if not self._memory_has_changed:
            self._backend.mem_remove(slot.region)

    @property
    def _memory_has_changed(self) -> bool:
        """Whether a worker has carried out the message before it died."""
        return self._backend.mem_count() != self._connection.noted_regions

    # ---- the ring

    def _set_vring_num(self, state: RingState, fds: list[int]) -> None:
        _check_index(state.index)
        self._backend.ring_set_num(state.num)

    def _set_vring_base(self, state: RingState, fds: list[int]) -> None:
        _check_index(state.index)
        self._backend.ring_set_base(state.num)

    def _set_vring_addr(self, ring: RingAddresses, fds: list[int]) -> None:
        _check_index(ring.index)
        if ring.flags:
            raise VhostUserError(f"flags {ring.flags:#x}: logging was not offered, 0 is valid")
        self._backend.ring_set_addr(ring.desc, ring.used, ring.avail)

    def _set_vring_kick(self, ring: RingFd, fds: list[int]) -> None:
        self._backend.ring_set_kick(_ring_fd(ring, fds))

    def _set_vring_call(self, ring: RingFd, fds: list[int]) -> None:
        self._backend.ring_set_call(_ring_fd(ring, fds))

    def _set_vring_err(self, ring: RingFd, fds: list[int]) -> None:
        self._backend.ring_set_err(_ring_fd(ring, fds))

    def _set_vring_enable(self, state: RingState, fds: list[int]) -> None:
        _check_index(state.index)
        if state.num > 1:
            raise VhostUserError(f"{state.num} is neither 0 (disable) nor 1 (enable)")
        self._backend.ring_enable(bool(state.num))

    def _get_vring_base(self, state: RingState, fds: list[int]) -> bytes:
        _check_index(state.index)
        return RingState(state.index, self._backend.ring_stop()).pack()


def _check_index(index: int) -> None:
    if index >= QUEUES:
        raise VhostUserError(f"ring {index} does not exist; the only one is 0")


def _ring_fd(ring: RingFd, fds: list[int]) -> int | None:
    """Returns the message's descriptor, or None if bit 8 says that it has none. Raises
    VhostUserError if the two disagree."""
    _check_index(ring.index)
    if ring.has_fd and not fds:
        raise VhostUserError("it came without a descriptor, but bit 8 is not set")
    if fds and not ring.has_fd:
        raise VhostUserError("it came with a descriptor, but bit 8 says that there is none")
    return fds[0] if fds else None


# Each handler gets a payload of the class in the request's row.
Handler = Callable[[Session, Any, list[int]], bytes | None]
HANDLERS: dict[Request, Handler] = {
    request: getattr(Session, f"_{request.name.lower()}") for request in Request
}
