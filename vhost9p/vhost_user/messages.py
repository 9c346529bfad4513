"""The messages: numbers, layouts, and the checks that need nothing but the message itself.

Every message is a header {u32 request, u32 flags, u32 size} in native byte order, `size` bytes of
payload, and up to eight descriptors beside them. Flags hold the version (1) in bits 0-1, "this is
a reply" in bit 2 and "a reply is wanted" in bit 3. `Request` has one row for each request of the
frontend that is understood here: its number, its payload's layout, how many descriptors come with
it and whether it has a reply of its own; name, decoding and checks follow from the row.

A request without a reply of its own is acknowledged by a u64 that is 0 on success, where
REPLY_ACK was negotiated and bit 3 asks for it.

Source: QEMU's docs/interop/vhost-user.rst, and for the virtio features the virtio specification,
section 6. No input or output happens here.
"""

import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from enum import Enum
from typing import ClassVar, Self

HEADER = struct.Struct("=III")

VERSION = 1
VERSION_MASK = 0x3
REPLY_FLAG = 1 << 2
NEED_REPLY_FLAG = 1 << 3

MAX_FDS = 8
MAX_PAYLOAD = 4096  # bytes: the longest request that exists has 268
MAX_CONFIG = 256  # bytes
MAX_MEM_SLOTS = 509

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
    """A message that cannot be carried out: what is wrong with which value, and the errno that
    stands for it in the acknowledgement."""

    def __init__(self, text: str, code: int = errno.EINVAL) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Payload(ABC):
    """What every payload can do."""

    @classmethod
    @abstractmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes and checks. Raises VhostUserError."""

    def __str__(self) -> str:
        """The fields for people, addresses in hexadecimal: "(index=0, num=128)"."""
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
    """The integers that a payload of variable size begins with."""
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
    """A ring's index and a number whose meaning the request gives."""

    LAYOUT = struct.Struct("=II")

    index: int
    num: int


@dataclass(frozen=True, slots=True)
class RingAddresses(Fixed):
    """Where the parts of a ring lie, as frontend addresses (uva); `log` is a guest address."""

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
        """Decodes. Raises VhostUserError for a wrong size and for bits without a meaning."""
        value = U64.parse(data).value
        if value & ~(NO_FD_FLAG | INDEX_MASK):
            raise VhostUserError(f"{value:#x} has bits that mean nothing: only 0 to 8 do")
        return cls(value & INDEX_MASK, not value & NO_FD_FLAG)


@dataclass(frozen=True, slots=True)
class MemoryRegion(Fixed):
    """Guest memory: `size` bytes at guest address `gpa`, at `uva` in the frontend, and from byte
    `mmap_offset` on in the descriptor that comes with it."""

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
    """The whole of guest memory, a descriptor for each region."""

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
    """A piece of the device's configuration space, `offset` bytes from its start."""

    HEAD = struct.Struct("=III")

    offset: int
    flags: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset behind the piece."""
        return self.offset + len(self.data)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Decodes {u32 offset, u32 size, u32 flags, bytes}. Raises VhostUserError."""
        offset, size, flags = _parse_head(data, cls.HEAD)
        if not 0 < size <= MAX_CONFIG:
            raise VhostUserError(f"it is about {size} bytes; 1 to {MAX_CONFIG} would be valid")
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
    """The frontend's requests: (number, payload, count of descriptors, has a reply of its own)."""

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
        """The request with this number, or None if it is not understood here."""
        return _BY_NUMBER.get(number)


_BY_NUMBER = {request.number: request for request in Request}


@dataclass(slots=True)
class Message:
    """One whole message as it came. Its descriptors belong to it until `close_fds`.

    `fds_lost` says that more came than a message may have, or than this process could open.
    """

    number: int
    flags: int
    payload: bytes
    fds: list[int]
    fds_lost: bool = False

    @property
    def name(self) -> str:
        """The request's name, for people."""
        request = Request.find(self.number)
        return request.name if request else f"request {self.number}"

    @property
    def needs_reply(self) -> bool:
        """Whether an acknowledgement is asked for."""
        return bool(self.flags & NEED_REPLY_FLAG)

    def parse(self, request: Request) -> Payload:
        """Decodes the payload and counts the descriptors. Raises VhostUserError."""
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

    def close_fds(self, close: Callable[[int], None] = os.close) -> None:
        """Closes the descriptors; a second call does nothing."""
        while self.fds:
            close(self.fds.pop())


def encode_reply(number: int, payload: bytes) -> bytes:
    """A whole reply to the request with this number."""
    return HEADER.pack(number, VERSION | REPLY_FLAG, len(payload)) + payload


def show_bits(value: int) -> str:
    """The numbers of the bits that are set, for people: "3, 9"."""
    return ", ".join(str(bit) for bit in range(value.bit_length()) if value >> bit & 1)
