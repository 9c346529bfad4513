"""Wire types of 9P, and how a message class gets its encoding from its fields.

A message is a frozen dataclass whose fields are annotated with the wire types below. Decoding,
encoding and the size follow from the annotations; so they do for a structure inside a message. All
integers are little-endian; string[s] is a 16-bit length and that many bytes, which are no text
(file names are bytes).

Decoding believes nothing: a message that is too short, too long or counts more than it holds raises
P9Error, and no other exception.
"""

import dataclasses
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    Self,
    TypeVar,
    dataclass_transform,
    get_type_hints,
)

from vhost9p.p9.constants import HEADER_SIZE


class P9Error(OSError):
    """A request that fails with an errno; the text is for the log."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code, text or os.strerror(code))


class Qid(NamedTuple):
    """A file's identity: qid[13] is type[1] version[4] path[8]."""

    type: int
    version: int
    path: int


@dataclass(frozen=True, slots=True)
class Wire:
    """How a value stands on the wire. `take` returns the value and the offset behind it."""

    put: Callable[[bytearray, Any], None]
    take: Callable[[memoryview, int], tuple[Any, int]]


def _short(what: str) -> P9Error:
    return P9Error(errno.EINVAL, f"the message ends inside a {what}")


def _integer(code: str, what: str) -> Wire:
    layout = struct.Struct("<" + code)

    def put(out: bytearray, value: int) -> None:
        out += layout.pack(value)

    def take(data: memoryview, at: int) -> tuple[int, int]:
        if len(data) - at < layout.size:
            raise _short(what)
        return layout.unpack_from(data, at)[0], at + layout.size

    return Wire(put, take)


_U8, _U16, _U32, _U64 = (
    _integer(code, f"{bits}-bit number")
    for code, bits in (("B", 8), ("H", 16), ("I", 32), ("Q", 64))
)


def _counted(length: Wire, what: str) -> Wire:
    def put(out: bytearray, value: bytes) -> None:
        length.put(out, len(value))
        out += value

    def take(data: memoryview, at: int) -> tuple[bytes, int]:
        size, at = length.take(data, at)
        if len(data) - at < size:
            raise _short(what)
        return bytes(data[at : at + size]), at + size

    return Wire(put, take)


_STRING = _counted(_U16, "string")
_DATA = _counted(_U32, "count of bytes")

_QID_LAYOUT = struct.Struct("<BIQ")


def _put_qid(out: bytearray, value: Qid) -> None:
    out += _QID_LAYOUT.pack(*value)


def _take_qid(data: memoryview, at: int) -> tuple[Qid, int]:
    if len(data) - at < _QID_LAYOUT.size:
        raise _short("qid")
    return Qid(*_QID_LAYOUT.unpack_from(data, at)), at + _QID_LAYOUT.size


_QID = Wire(_put_qid, _take_qid)


def _list_of(item: Wire) -> Wire:
    def put(out: bytearray, value: tuple[Any, ...]) -> None:
        _U16.put(out, len(value))
        for each in value:
            item.put(out, each)

    def take(data: memoryview, at: int) -> tuple[tuple[Any, ...], int]:
        count, at = _U16.take(data, at)
        values = []
        for _ in range(count):
            value, at = item.take(data, at)
            values.append(value)
        return tuple(values), at

    return Wire(put, take)


U8 = Annotated[int, _U8]
U16 = Annotated[int, _U16]
U32 = Annotated[int, _U32]
U64 = Annotated[int, _U64]
String = Annotated[bytes, _STRING]
Data = Annotated[bytes, _DATA]
"""count[4] and that many bytes."""
QidField = Annotated[Qid, _QID]
Strings = Annotated[tuple[bytes, ...], _list_of(_STRING)]
Qids = Annotated[tuple[Qid, ...], _list_of(_QID)]

_HEADER = struct.Struct("<IBH")


@dataclass(frozen=True)
class Record:
    """Base of all that consists of fields."""

    _wires: ClassVar[tuple[tuple[str, Wire], ...]]

    def put(self, out: bytearray) -> None:
        """Appends the fields."""
        for name, wire in self._wires:
            wire.put(out, getattr(self, name))

    @classmethod
    def decode_body(cls, body: memoryview) -> Self:
        """From the fields and nothing more; raises P9Error."""
        at = 0
        values = []
        for _, wire in cls._wires:
            value, at = wire.take(body, at)
            values.append(value)
        if at != len(body):
            raise P9Error(errno.EINVAL, f"{len(body) - at} bytes too many in a {cls.__name__}")
        return cls(*values)


@dataclass(frozen=True)
class Message(Record):
    """Base of all messages: size[4] type[1] tag[2] and the fields of the class."""

    TYPE: ClassVar[int]

    def encode(self, tag: int) -> bytes:
        """The whole message."""
        out = bytearray(HEADER_SIZE)
        self.put(out)
        _HEADER.pack_into(out, 0, len(out), self.TYPE, tag)
        return bytes(out)


_by_type: dict[int, type[Message]] = {}


R = TypeVar("R", bound=type[Record])
M = TypeVar("M", bound=type[Message])


@dataclass_transform(frozen_default=True)
def record(cls: R) -> R:
    """Class decorator: a structure inside messages. Its annotations are its layout."""
    dataclass(frozen=True)(cls)
    hints = get_type_hints(cls, include_extras=True)
    cls._wires = tuple(
        (field.name, hints[field.name].__metadata__[0]) for field in dataclasses.fields(cls)
    )
    return cls


@dataclass_transform(frozen_default=True)
def message(number: int) -> Callable[[M], M]:
    """Class decorator: a message of this type number. Its annotations are its layout."""

    def decorate(cls: M) -> M:
        record(cls)
        cls.TYPE = number
        _by_type[number] = cls
        return cls

    return decorate


def sized(cls: type[Record]) -> Wire:
    """n[2] size[2] and a structure of that size: both count it, and n the size too (stat(5))."""

    def put(out: bytearray, value: Record) -> None:
        body = bytearray()
        value.put(body)
        _U16.put(out, len(body) + 2)
        _STRING.put(out, bytes(body))

    def take(data: memoryview, at: int) -> tuple[Record, int]:
        outer, at = _STRING.take(data, at)
        body, end = _STRING.take(memoryview(outer), 0)
        if end != len(outer):
            raise P9Error(errno.EINVAL, f"{len(outer) - end} bytes behind a {cls.__name__}")
        return cls.decode_body(memoryview(body)), at

    return Wire(put, take)


def header(data: bytes) -> tuple[int, int, int]:
    """size[4], type[1] and tag[2]; raises P9Error."""
    if len(data) < HEADER_SIZE:
        raise P9Error(errno.EINVAL, f"a message of {len(data)} bytes")
    size, number, tag = _HEADER.unpack_from(data)
    return size, number, tag


def decode(data: bytes) -> tuple[int, Message]:
    """Tag and message; raises P9Error (EOPNOTSUPP for a type that no dialect has)."""
    size, number, tag = header(data)
    if size != len(data):
        raise P9Error(errno.EINVAL, f"size[4] says {size}, the message has {len(data)} bytes")
    cls = _by_type.get(number)
    if cls is None:
        raise P9Error(errno.EOPNOTSUPP, f"no message has the type {number}")
    return tag, cls.decode_body(memoryview(data)[HEADER_SIZE:])
