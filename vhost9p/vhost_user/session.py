"""A vhost-user session: which answer each request gets, and what it makes the backend do.

Sans-IO: `feed` takes the bytes and descriptors that arrived and says when a message is complete;
`handle` carries a message out on the `Backend` and returns the bytes of the answer.

Rules that are easily got wrong: every request that has a reply gets exactly that one, and every
other gets an acknowledgement if it asked for it, unknown requests included; a refused request does
not end the session, since QEMU aborts when its socket goes away; SET_OWNER begins a session (a device
that was unplugged and plugged in again says it on the same connection) and comes after
SET_PROTOCOL_FEATURES; a ring starts with its kick descriptor and stops with GET_VRING_BASE, which
is independent of its being enabled.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from vhost9p.vhost_user import messages as m
from vhost9p.vhost_user.messages import Region, Request, VhostUserError

log = logging.getLogger(__name__)

FEATURES = (
    1 << m.MOUNT_TAG_BIT
    | 1 << m.INDIRECT_DESC_BIT
    | 1 << m.EVENT_IDX_BIT
    | 1 << m.PROTOCOL_FEATURES_BIT
    | 1 << m.VERSION_1_BIT
)
PROTOCOL_FEATURES = (
    1 << m.MQ_BIT
    | 1 << m.REPLY_ACK_BIT
    | 1 << m.BACKEND_REQ_BIT
    | 1 << m.CONFIG_BIT
    | 1 << m.RESET_DEVICE_BIT
    | 1 << m.CONFIGURE_MEM_SLOTS_BIT
)
MEM_SLOTS = 509
QUEUES = 1


class Backend(Protocol):
    """The device. Descriptors are the session's to close: whoever keeps one duplicates it.

    Methods raise OSError or VhostUserError, which refuses the request. Those that are asynchronous
    may wait for requests in flight; the session does nothing else meanwhile.
    """

    def config(self) -> bytes:
        """The configuration space, CONFIG_MAX bytes."""

    async def reset(self) -> None:
        """To the state of a new device: ring stopped, memory and fids gone."""

    def set_features(self, features: int) -> None:
        """The virtio features that the driver accepted."""

    async def mem_set(self, regions: list[tuple[Region, int]]) -> None:
        """Replaces the whole memory table; each region with its descriptor."""

    async def mem_add(self, region: Region, fd: int) -> None:
        """Adds a region."""

    async def mem_remove(self, region: Region) -> None:
        """Removes a region."""

    def ring_set_num(self, num: int) -> None:
        """Entries of the ring."""

    def ring_set_base(self, base: int) -> None:
        """The next available index."""

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        """Where the ring lies, in the frontend's addresses."""

    def ring_set_kick(self, fd: int | None) -> None:
        """Starts the ring; without a descriptor it is polled."""

    def ring_set_call(self, fd: int | None) -> None:
        """What notifies the driver; None: nothing does."""

    def ring_set_err(self, fd: int | None) -> None:
        """What tells the frontend that the ring is broken."""

    def ring_enable(self, enable: bool) -> None:
        """Enables or disables the ring."""

    async def ring_stop(self) -> int:
        """Stops the ring and waits for what is in flight; returns the next available index."""


@dataclass(slots=True)
class Message:
    """A complete message. Whoever has it closes its descriptors."""

    header: m.Header
    payload: bytes
    fds: list[int]

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


Handler = Callable[[bytes, list[int]], Awaitable[bytes | None]]


class Session:
    """One connection's protocol state."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._data = bytearray()
        self._fds: list[int] = []
        self._header: m.Header | None = None
        self._backend_request_fd = -1
        self._handlers: dict[Request, Handler] = {
            request: getattr(self, "_" + request.name.lower()) for request in Request
        }

    # ---- bytes in ---------------------------------------------------------------------------

    def wanted(self) -> int:
        """Bytes that the message under way still lacks. Whoever reads must not read more: a
        descriptor comes with the bytes of its own message, as long as no others are read along."""
        size = self._header.size if self._header else m.HEADER.size
        return size - len(self._data)

    def feed(self, data: bytes, fds: list[int]) -> Message | None:
        """Takes what was read, at most `wanted` bytes; returns a message once it is complete.

        Raises FramingError, after which the stream is of no use. The descriptors are the session's
        from here on.
        """
        self._data += data
        self._fds += fds
        while self.wanted() == 0:
            if self._header is None:
                self._header = m.parse_header(bytes(self._data))
                self._data.clear()
                continue
            message = Message(self._header, bytes(self._data), self._fds)
            self._header, self._data, self._fds = None, bytearray(), []
            return message
        return None

    def close(self) -> None:
        """Closes every descriptor that the session holds."""
        Message(m.Header(0, 0, 0), b"", self._fds).close()
        self._fds = []
        self._keep_backend_request_fd(-1)

    # ---- answers ----------------------------------------------------------------------------

    async def handle(self, message: Message) -> bytes:
        """Carries a message out; returns the answer, which may be empty."""
        number = message.header.request
        row = None
        answer: bytes | None = None
        status = 1
        try:
            request = Request(number)
            row = m.REQUESTS[request]
            m.check_payload(request, message.payload, len(message.fds))
            answer = await self._handlers[request](message.payload, message.fds)
            status = 0
        except ValueError:
            log.warning("request %d is unknown and was ignored", number)
        except VhostUserError as error:
            log.warning("refused: %s", error)
        except OSError as error:
            log.warning("%s failed: %s", Request(number).name, error.strerror or error)
        finally:
            message.close()
        if row is not None and row.answer is not None:
            return m.build_reply(number, row.answer if answer is None else answer)
        if message.header.needs_reply:
            return m.build_reply(number, m.U64.pack(status))
        return b""

    # ---- requests ---------------------------------------------------------------------------

    async def _get_features(self, payload: bytes, fds: list[int]) -> bytes:
        return m.U64.pack(FEATURES)

    async def _set_features(self, payload: bytes, fds: list[int]) -> None:
        (features,) = m.U64.unpack(payload)
        if features & ~FEATURES:
            raise VhostUserError(
                f"SET_FEATURES: {features:#x} has bits that were not offered ({FEATURES:#x})"
            )
        self._backend.set_features(features)
        if not features >> m.PROTOCOL_FEATURES_BIT & 1:
            self._backend.ring_enable(True)

    async def _get_protocol_features(self, payload: bytes, fds: list[int]) -> bytes:
        return m.U64.pack(PROTOCOL_FEATURES)

    async def _set_protocol_features(self, payload: bytes, fds: list[int]) -> None:
        (features,) = m.U64.unpack(payload)
        if features & ~PROTOCOL_FEATURES:
            raise VhostUserError(
                f"SET_PROTOCOL_FEATURES: {features:#x} has bits that were not offered "
                f"({PROTOCOL_FEATURES:#x})"
            )

    async def _set_owner(self, payload: bytes, fds: list[int]) -> None:
        await self._backend.reset()

    async def _reset_owner(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_enable(False)

    async def _reset_device(self, payload: bytes, fds: list[int]) -> None:
        await self._backend.reset()

    async def _get_queue_num(self, payload: bytes, fds: list[int]) -> bytes:
        return m.U64.pack(QUEUES)

    async def _get_max_mem_slots(self, payload: bytes, fds: list[int]) -> bytes:
        return m.U64.pack(MEM_SLOTS)

    async def _set_mem_table(self, payload: bytes, fds: list[int]) -> None:
        regions = m.parse_table(payload)
        if len(regions) != len(fds):
            raise VhostUserError(f"SET_MEM_TABLE: {len(regions)} regions, {len(fds)} descriptors")
        await self._backend.mem_set(list(zip(regions, fds, strict=True)))

    async def _add_mem_reg(self, payload: bytes, fds: list[int]) -> None:
        if len(fds) != 1:
            raise VhostUserError("ADD_MEM_REG: without a descriptor")
        await self._backend.mem_add(Region(*m.SINGLE_REGION.unpack(payload)[1:]), fds[0])

    async def _rem_mem_reg(self, payload: bytes, fds: list[int]) -> None:
        await self._backend.mem_remove(Region(*m.SINGLE_REGION.unpack(payload)[1:]))

    async def _get_config(self, payload: bytes, fds: list[int]) -> bytes:
        offset, size, _ = m.CONFIG_HEAD.unpack_from(payload)
        if offset + size > m.CONFIG_MAX:
            raise VhostUserError(
                f"GET_CONFIG: {size} bytes from {offset}, there are {m.CONFIG_MAX}"
            )
        return payload[: m.CONFIG_HEAD.size] + self._backend.config()[offset : offset + size]

    async def _set_config(self, payload: bytes, fds: list[int]) -> None:
        raise VhostUserError("SET_CONFIG: the configuration space of a 9p device is read-only")

    async def _set_backend_req_fd(self, payload: bytes, fds: list[int]) -> None:
        if len(fds) != 1:
            raise VhostUserError("SET_BACKEND_REQ_FD: without a descriptor")
        self._keep_backend_request_fd(os.dup(fds[0]))

    def _keep_backend_request_fd(self, fd: int) -> None:
        """Held open: the frontend takes its closing for the backend's end. Nothing is asked of the
        frontend, since a 9p device's configuration never changes."""
        if self._backend_request_fd >= 0:
            os.close(self._backend_request_fd)
        self._backend_request_fd = fd

    # ---- the ring ---------------------------------------------------------------------------

    async def _set_vring_num(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_set_num(_ring_state("SET_VRING_NUM", payload))

    async def _set_vring_base(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_set_base(_ring_state("SET_VRING_BASE", payload))

    async def _set_vring_enable(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_enable(_ring_state("SET_VRING_ENABLE", payload) != 0)

    async def _set_vring_addr(self, payload: bytes, fds: list[int]) -> None:
        index, _, desc, used, avail, _ = m.RING_ADDRESS.unpack(payload)
        _check_index("SET_VRING_ADDR", index)
        self._backend.ring_set_addr(desc, used, avail)

    async def _get_vring_base(self, payload: bytes, fds: list[int]) -> bytes:
        _ring_state("GET_VRING_BASE", payload)
        return m.RING_STATE.pack(0, await self._backend.ring_stop())

    async def _set_vring_kick(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_set_kick(_ring_fd("SET_VRING_KICK", payload, fds))

    async def _set_vring_call(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_set_call(_ring_fd("SET_VRING_CALL", payload, fds))

    async def _set_vring_err(self, payload: bytes, fds: list[int]) -> None:
        self._backend.ring_set_err(_ring_fd("SET_VRING_ERR", payload, fds))


def _check_index(request: str, index: int) -> None:
    if index >= QUEUES:
        raise VhostUserError(f"{request}: ring {index}, there is ring 0 only")


def _ring_state(request: str, payload: bytes) -> int:
    index, value = m.RING_STATE.unpack(payload)
    _check_index(request, index)
    return int(value)


def _ring_fd(request: str, payload: bytes, fds: list[int]) -> int | None:
    (value,) = m.U64.unpack(payload)
    _check_index(request, value & m.RING_INDEX_MASK)
    if value & m.NO_FD_FLAG:
        return None
    if len(fds) != 1:
        raise VhostUserError(f"{request}: without a descriptor")
    return fds[0]
