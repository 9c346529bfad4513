"""The messages: their numbers and layouts, and all checks that need only the message itself.

A message is a header {u32 request, u32 flags, u32 size} in native byte order, a payload of `size`
bytes, and up to eight descriptors sent with them. Bits 0-1 of the flags are the version (1), bit 2
marks a reply, bit 3 asks for a reply. `Request` has a row for each of the frontend's requests that
the backend knows: the number, the payload's class, the number of descriptors, and whether the
request has a reply of its own. Name, decoding and checks follow from the row.

If REPLY_ACK was negotiated and bit 3 is set, a request without a reply of its own is acknowledged
by a u64, which is 0 on success.

Source: QEMU's docs/interop/vhost-user.rst; for virtio features the virtio specification, section 6.
This module does no input or output.
"""

import errno
import struct
from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass, fields
from enum import Enum
from typing import ClassVar, Self

HEADER = struct.Struct("=III")

VERSION = 1
VERSION_MASK = 0x3
REPLY_FLAG = 1 << 2
NEED_REPLY_FLAG = 1 << 3

MAX_FDS = 8
MAX_PAYLOAD = 4096  # bytes; the longest valid payload has 268
MAX_CONFIG = 256  # bytes of configuration space
MAX_MEM_SLOTS = 509  # regions of guest memory

# Virtio features.
MOUNT_TAG_BIT = 0
INDIRECT_BIT = 28
EVENT_IDX_BIT = 29
PROTOCOL_FEATURES_BIT = 30
VERSION_1_BIT = 32
RING_PACKED_BIT = 34

# vhost-user protocol features.
MQ_BIT = 0
REPLY_ACK_BIT = 3
BACKEND_REQ_BIT = 5
CONFIG_BIT = 9
RESET_DEVICE_BIT = 13
CONFIGURE_MEM_SLOTS_BIT = 15

# In the u64 of SET_VRING_KICK, CALL and ERR.
NO_FD_FLAG = 1 << 8
INDEX_MASK = 0xFF


class VhostUserError(Exception):
    """A message cannot be carried out. The text names the value and what is wrong with it; `code`
    is the errno in the acknowledgement."""

    def __init__(self, text: str, code: int = errno.EINVAL) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Payload(ABC):
    """A decoded payload."""

    @classmethod
    @abstractmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes and checks. Raises VhostUserError."""

    def __str__(self) -> str:
        """The fields for the log, large numbers in hexadecimal: "(index=0, num=128)"."""
        shown = (_show(each.name, getattr(self, each.name)) for each in fields(self))
        return f"({', '.join(shown)})"


def _show(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, tuple):
        return f"{name}=[{', '.join(map(str, value))}]"
    if isinstance(value, int) and value > 0xFFFF:
        return f"{name}={value:#x}"
    return f"{name}={value}"


def _check_size(data: bytes, size: int) -> None:
    if len(data) != size:
        raise VhostUserError(f"its payload has {len(data)} bytes instead of {size}")


def _parse_head(data: bytes, head: struct.Struct) -> tuple[int, ...]:
    """Decodes the integers at the start of a payload of variable size. Raises VhostUserError."""
    if len(data) < head.size:
        raise VhostUserError(f"its payload has {len(data)} bytes, fewer than {head.size}")
    return head.unpack_from(data)


@dataclass(frozen=True, slots=True)
class Fixed(Payload):
    """A payload that is a plain struct of integers, in the order of the dataclass's fields."""

    LAYOUT: ClassVar[struct.Struct]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes. Raises VhostUserError for a wrong size."""
        _check_size(data, cls.LAYOUT.size)
        return cls(*cls.LAYOUT.unpack(data))

    def pack(self) -> bytes:
        """Encodes."""
        return self.LAYOUT.pack(*astuple(self))


@dataclass(frozen=True, slots=True)
class Empty(Fixed):
    """No payload."""

    LAYOUT = struct.Struct("=")


@dataclass(frozen=True, slots=True)
class U64(Fixed):
    """A number or a set of bits."""

    LAYOUT = struct.Struct("=Q")

    value: int


@dataclass(frozen=True, slots=True)
class RingState(Fixed):
    """A ring's index, and a number whose meaning depends on the request."""

    LAYOUT = struct.Struct("=II")

    index: int
    num: int


@dataclass(frozen=True, slots=True)
class RingAddresses(Fixed):
    """The addresses of a ring's parts in the frontend (uva); `log` is a guest address."""

    LAYOUT = struct.Struct("=IIQQQQ")

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


@dataclass(frozen=True, slots=True)
class RingFd(Payload):
    """A ring's index, and whether a descriptor comes with it."""

    index: int
    has_fd: bool

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes. Raises VhostUserError for a wrong size and for undefined bits."""
        value = U64.parse(data).value
        if value & ~(NO_FD_FLAG | INDEX_MASK):
            raise VhostUserError(f"{value:#x} has undefined bits: only bits 0 to 8 have a meaning")
        return cls(value & INDEX_MASK, not value & NO_FD_FLAG)


@dataclass(frozen=True, slots=True)
class MemoryRegion(Fixed):
    """Guest memory: `size` bytes at guest address `gpa`, at address `uva` in the frontend, and at
    byte `mmap_offset` of the file whose descriptor comes with the region."""

    LAYOUT = struct.Struct("=QQQQ")

    gpa: int
    size: int
    uva: int
    mmap_offset: int

    def __post_init__(self) -> None:
        if not self.size:
            raise VhostUserError(f"region {self} is empty")
        if max(self.gpa, self.uva, self.mmap_offset) + self.size > 1 << 64:
            raise VhostUserError(f"region {self} reaches beyond 64 bits")


@dataclass(frozen=True, slots=True)
class MemoryTable(Payload):
    """All of guest memory; one descriptor comes for each region."""

    HEAD = struct.Struct("=II")

    regions: tuple[MemoryRegion, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes {u32 count, u32 padding, regions}. Raises VhostUserError."""
        count, _ = _parse_head(data, cls.HEAD)
        if count > MAX_FDS:
            raise VhostUserError(f"it has {count} memory regions; at most {MAX_FDS} fit")
        each = MemoryRegion.LAYOUT.size
        _check_size(data, cls.HEAD.size + count * each)
        starts = range(cls.HEAD.size, len(data), each)
        return cls(tuple(MemoryRegion.parse(data[at : at + each]) for at in starts))


@dataclass(frozen=True, slots=True)
class MemorySlot(Payload):
    """One region of guest memory."""

    HEAD = struct.Struct("=Q")

    region: MemoryRegion

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes {u64 padding, region}. Raises VhostUserError."""
        _check_size(data, cls.HEAD.size + MemoryRegion.LAYOUT.size)
        return cls(MemoryRegion.parse(data[cls.HEAD.size :]))


@dataclass(frozen=True, slots=True)
class Config(Payload):
    """A part of the device's configuration space, from byte `offset` on."""

    HEAD = struct.Struct("=III")

    offset: int
    flags: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset after the part's last byte."""
        return self.offset + len(self.data)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes {u32 offset, u32 size, u32 flags, bytes}. Raises VhostUserError."""
        offset, size, flags = _parse_head(data, cls.HEAD)
        if not 0 < size <= MAX_CONFIG:
            raise VhostUserError(f"it names {size} bytes; 1 to {MAX_CONFIG} would be valid")
        _check_size(data, cls.HEAD.size + size)
        return cls(offset, flags, data[cls.HEAD.size :])

    def pack(self) -> bytes:
        """Encodes."""
        return self.HEAD.pack(self.offset, len(self.data), self.flags) + self.data


NO_FDS = range(1)
ONE_FD = range(1, 2)
MAYBE_FD = range(2)
FD_PER_REGION = range(MAX_FDS + 1)


class Request(Enum):
    """The frontend's requests: (number, payload, numbers of descriptors, has its own reply)."""

    GET_FEATURES = 1, Empty, NO_FDS, True
    SET_FEATURES = 2, U64, NO_FDS, False
    SET_OWNER = 3, Empty, NO_FDS, False
    RESET_OWNER = 4, Empty, NO_FDS, False
    SET_MEM_TABLE = 5, MemoryTable, FD_PER_REGION, False
    SET_VRING_NUM = 8, RingState, NO_FDS, False
    SET_VRING_ADDR = 9, RingAddresses, NO_FDS, False
    SET_VRING_BASE = 10, RingState, NO_FDS, False
    GET_VRING_BASE = 11, RingState, NO_FDS, True
    SET_VRING_KICK = 12, RingFd, MAYBE_FD, False
    SET_VRING_CALL = 13, RingFd, MAYBE_FD, False
    SET_VRING_ERR = 14, RingFd, MAYBE_FD, False
    GET_PROTOCOL_FEATURES = 15, Empty, NO_FDS, True
    SET_PROTOCOL_FEATURES = 16, U64, NO_FDS, False
    GET_QUEUE_NUM = 17, Empty, NO_FDS, True
    SET_VRING_ENABLE = 18, RingState, NO_FDS, False
    SET_BACKEND_REQ_FD = 21, Empty, ONE_FD, False
    GET_CONFIG = 24, Config, NO_FDS, True
    SET_CONFIG = 25, Config, NO_FDS, False
    RESET_DEVICE = 34, Empty, NO_FDS, False
    GET_MAX_MEM_SLOTS = 36, Empty, NO_FDS, True
    ADD_MEM_REG = 37, MemorySlot, ONE_FD, False
    REM_MEM_REG = 38, MemorySlot, MAYBE_FD, False

    def __init__(self, number: int, payload: type[Payload], fds: range, has_reply: bool) -> None:
        self.number = number
        self.payload = payload
        self.fds = fds
        self.has_reply = has_reply

    @staticmethod
    def find(number: int) -> "Request | None":
        """Returns the request with this number; None if the backend does not know it."""
        return _BY_NUMBER.get(number)


_BY_NUMBER = {request.number: request for request in Request}


@dataclass(slots=True)
class Message:
    """A whole message as received, with its descriptors.

    `fds_lost`: more descriptors came than a message may have, or than this process could open.
    """

    number: int
    flags: int
    payload: bytes
    fds: list[int]
    fds_lost: bool = False

    @property
    def name(self) -> str:
        """The request's name, for the log."""
        request = Request.find(self.number)
        return request.name if request else f"request {self.number}"

    @property
    def needs_reply(self) -> bool:
        """Whether the frontend asks for an acknowledgement."""
        return bool(self.flags & NEED_REPLY_FLAG)

    def parse(self, request: Request) -> Payload:
        """Checks the header and the number of descriptors; returns the decoded payload. Raises
        VhostUserError."""
        if self.flags & VERSION_MASK != VERSION:
            raise VhostUserError(f"version {self.flags & VERSION_MASK} instead of {VERSION}")
        if self.flags & REPLY_FLAG:
            raise VhostUserError("it is marked as a reply")
        if self.fds_lost:
            raise VhostUserError(
                f"descriptors were lost: more than {MAX_FDS} came, or too many files are open",
                errno.EMFILE,
            )
        payload = request.payload.parse(self.payload)
        allowed = request.fds
        if isinstance(payload, MemoryTable):
            allowed = range(len(payload.regions), len(payload.regions) + 1)
        if len(self.fds) not in allowed:
            valid = " or ".join(map(str, allowed))
            raise VhostUserError(f"it came with {len(self.fds)} descriptors instead of {valid}")
        return payload


def encode_reply(number: int, payload: bytes) -> bytes:
    """Returns the whole reply to the request with this number."""
    return HEADER.pack(number, VERSION | REPLY_FLAG, len(payload)) + payload


def show_bits(value: int) -> str:
    """Returns the numbers of the bits that are set, for messages: "3, 9"."""
    return ", ".join(str(bit) for bit in range(value.bit_length()) if value >> bit & 1)
