"""Messages of vhost-user: numbers, layouts, limits; syntax only.

Source: QEMU's docs/interop/vhost-user.rst. A message is a header (u32 request, u32 flags, u32 size,
the host's byte order) and `size` bytes of payload, with up to 8 descriptors beside it. Each request
is one row of REQUESTS. What the values mean, and whether they are in order, is the session's.
"""

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("=III")
VERSION_MASK, VERSION = 0x3, 0x1
REPLY_FLAG, NEED_REPLY_FLAG = 0x4, 0x8

FDS_MAX = 8
PAYLOAD_MAX = 4096
"""Far above any request here; a frontend that says more has lost the framing."""
CONFIG_MAX = 256
REGIONS_MAX = 8
"""Of one SET_MEM_TABLE."""

RING_INDEX_MASK = 0xFF
NO_FD_FLAG = 0x100

# Virtio features (virtio 1.3, section 6; 9P's own: section 5.14.3)
MOUNT_TAG_BIT = 0
INDIRECT_DESC_BIT = 28
EVENT_IDX_BIT = 29
PROTOCOL_FEATURES_BIT = 30
VERSION_1_BIT = 32

# Protocol features
MQ_BIT = 0
REPLY_ACK_BIT = 3
BACKEND_REQ_BIT = 5
CONFIG_BIT = 9
RESET_DEVICE_BIT = 13
CONFIGURE_MEM_SLOTS_BIT = 15


class Request(IntEnum):
    """What a frontend may ask of this backend."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38


EMPTY = struct.Struct("")
U64 = struct.Struct("=Q")
RING_STATE = struct.Struct("=II")
RING_ADDRESS = struct.Struct("=IIQQQQ")
REGION = struct.Struct("=QQQQ")
SINGLE_REGION = struct.Struct("=QQQQQ")
TABLE_HEAD = struct.Struct("=II")
CONFIG_HEAD = struct.Struct("=III")


@dataclass(frozen=True, slots=True)
class Row:
    """A request's syntax."""

    payload: struct.Struct
    """The whole payload, or its head where `open_ended`."""
    fds: int = 0
    """Descriptors that may come with it, at most."""
    answer: bytes | None = None
    """For a request with a reply of its own: what the reply holds where the request fails."""
    open_ended: bool = False


ZERO_U64, ZERO_STATE, NO_CONFIG = U64.pack(0), RING_STATE.pack(0, 0), CONFIG_HEAD.pack(0, 0, 0)

REQUESTS: dict[Request, Row] = {
    Request.GET_FEATURES: Row(EMPTY, answer=ZERO_U64),
    Request.SET_FEATURES: Row(U64),
    Request.SET_OWNER: Row(EMPTY),
    Request.RESET_OWNER: Row(EMPTY),
    Request.SET_MEM_TABLE: Row(TABLE_HEAD, fds=REGIONS_MAX, open_ended=True),
    Request.SET_VRING_NUM: Row(RING_STATE),
    Request.SET_VRING_ADDR: Row(RING_ADDRESS),
    Request.SET_VRING_BASE: Row(RING_STATE),
    Request.GET_VRING_BASE: Row(RING_STATE, answer=ZERO_STATE),
    Request.SET_VRING_KICK: Row(U64, fds=1),
    Request.SET_VRING_CALL: Row(U64, fds=1),
    Request.SET_VRING_ERR: Row(U64, fds=1),
    Request.GET_PROTOCOL_FEATURES: Row(EMPTY, answer=ZERO_U64),
    Request.SET_PROTOCOL_FEATURES: Row(U64),
    Request.GET_QUEUE_NUM: Row(EMPTY, answer=ZERO_U64),
    Request.SET_VRING_ENABLE: Row(RING_STATE),
    Request.SET_BACKEND_REQ_FD: Row(EMPTY, fds=1),
    Request.GET_CONFIG: Row(CONFIG_HEAD, answer=NO_CONFIG, open_ended=True),
    Request.SET_CONFIG: Row(CONFIG_HEAD, open_ended=True),
    Request.RESET_DEVICE: Row(EMPTY),
    Request.GET_MAX_MEM_SLOTS: Row(EMPTY, answer=ZERO_U64),
    Request.ADD_MEM_REG: Row(SINGLE_REGION, fds=1),
    Request.REM_MEM_REG: Row(SINGLE_REGION, fds=1),
}


class VhostUserError(Exception):
    """A request that is refused; the text names it and its value."""


class FramingError(Exception):
    """Bytes that are no vhost-user message: the stream cannot be followed any further."""


class Region(NamedTuple):
    """Guest memory: [gpa, gpa+size) lies at `uva` in the frontend and at `mmap_offset` in the
    descriptor that comes with it."""

    gpa: int
    size: int
    uva: int
    mmap_offset: int


class Header(NamedTuple):
    """A message's header."""

    request: int
    flags: int
    size: int

    @property
    def needs_reply(self) -> bool:
        """REPLY_ACK is asked for."""
        return bool(self.flags & NEED_REPLY_FLAG)


def parse_header(data: bytes) -> Header:
    """Raises FramingError for what cannot be one."""
    header = Header(*HEADER.unpack(data))
    if header.flags & VERSION_MASK != VERSION:
        raise FramingError(f"request {header.request} has version {header.flags & VERSION_MASK}")
    if header.size > PAYLOAD_MAX:
        raise FramingError(f"request {header.request} announces {header.size} bytes")
    return header


def build_reply(request: int, payload: bytes) -> bytes:
    """A reply; it echoes the request."""
    return HEADER.pack(request, VERSION | REPLY_FLAG, len(payload)) + payload


def check_payload(request: Request, payload: bytes, fds: int) -> None:
    """Size and number of descriptors; raises VhostUserError."""
    row = REQUESTS[request]
    if len(payload) < row.payload.size or (len(payload) > row.payload.size and not row.open_ended):
        raise VhostUserError(
            f"{request.name}: {len(payload)} bytes of payload instead of {row.payload.size}"
        )
    if fds > row.fds:
        raise VhostUserError(f"{request.name}: {fds} descriptors, at most {row.fds} belong to it")


def parse_table(payload: bytes) -> list[Region]:
    """The regions of a SET_MEM_TABLE."""
    count, _ = TABLE_HEAD.unpack_from(payload)
    if count > REGIONS_MAX or len(payload) < TABLE_HEAD.size + count * REGION.size:
        raise VhostUserError(f"SET_MEM_TABLE: {count} regions in {len(payload)} bytes")
    return [
        Region(*REGION.unpack_from(payload, TABLE_HEAD.size + i * REGION.size))
        for i in range(count)
    ]
