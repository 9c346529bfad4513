"""Wire types of 9P, and how a message class gets its encoding from its fields.

A message is a dataclass whose fields are annotated with the wire types below. Decoding, encoding
and the size follow from the annotations; so they do for a structure inside a message. All integers
are little-endian; string[s] is a 16-bit length and that many bytes, which are no text (file names
are bytes).

Every field begins with a number. A field of variable size, or one that is no number, continues
after it; the number determines how (a string's length, a list's count). So a class is a few *runs*
of numbers, each unpacked at once, with such a tail at its end (`_Layout`). Messages are immutable
by convention: only the type checker enforces it, since a check at run time would double the cost of
making one.

Decoding trusts nothing: a message that is too short, too long or counts more than it holds raises
P9Error and no other exception.
"""

import dataclasses
import errno
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    Self,
    TypeVar,
    cast,
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
    """A value's encoding: a number, whose `code` is struct's, or a number and a tail. With a tail,
    `take` gets the offset after the number, and the number, and returns the value and the offset
    after it; `put` returns a value's number and tail."""

    code: str
    take: Callable[[bytes, int, int], tuple[Any, int]] | None = None
    put: Callable[[Any], tuple[int, bytes]] | None = None


def _take_bytes(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    end = at + length
    return data[at:end], end  # the end of the message is checked once, in Record.load


def _put_bytes(value: bytes) -> tuple[int, bytes]:
    return len(value), value


_STRING = Wire("H", _take_bytes, _put_bytes)
_DATA = Wire("I", _take_bytes, _put_bytes)

_BEHIND_TYPE = struct.Struct("<IQ")


def _take_qid(data: bytes, at: int, kind: int) -> tuple[Qid, int]:
    return Qid(kind, *_BEHIND_TYPE.unpack_from(data, at)), at + _BEHIND_TYPE.size


def _put_qid(value: Qid) -> tuple[int, bytes]:
    return value.type, _BEHIND_TYPE.pack(value.version, value.path)


_QID = Wire("B", _take_qid, _put_qid)


class _Run(NamedTuple):
    """Fields that are numbers; the last one may have a tail."""

    numbers: struct.Struct
    size: int
    names: tuple[str, ...]
    take: Callable[[bytes, int, int], tuple[Any, int]] | None
    put: Callable[[Any], tuple[int, bytes]] | None


class _Layout:
    """The fields of a class as runs (see the module)."""

    def __init__(self, fields: Sequence[tuple[str, Wire]]) -> None:
        self._runs: list[_Run] = []
        codes, names = "<", list[str]()
        for name, wire in fields:
            codes += wire.code
            names.append(name)
            if wire.take or name == fields[-1][0]:
                numbers = struct.Struct(codes)
                self._runs.append(_Run(numbers, numbers.size, tuple(names), wire.take, wire.put))
                codes, names = "<", []
        only = self._runs[0] if len(self._runs) == 1 else None
        self.numbers = only.numbers if only and not only.take else None
        """The layout of a class with numbers only, as most are."""

    def load(self, data: bytes, at: int) -> tuple[list[Any], int]:
        """Returns the fields' values and the offset after them, which may lie beyond the data's
        end. Raises struct.error if a number lies beyond it."""
        values: list[Any] = []
        for numbers, size, _, take, _ in self._runs:
            values += numbers.unpack_from(data, at)
            at += size
            if take:
                values[-1], at = take(data, at, values[-1])
        return values, at

    def dump(self, record: Any) -> bytes:
        """Encodes the fields of a record."""
        out = b""
        for numbers, _, names, _, put in self._runs:
            values = [getattr(record, name) for name in names]
            if put:
                values[-1], tail = put(values[-1])
                out += numbers.pack(*values) + tail
            else:
                out += numbers.pack(*values)
        return out


U8 = Annotated[int, Wire("B")]
U16 = Annotated[int, Wire("H")]
U32 = Annotated[int, Wire("I")]
U64 = Annotated[int, Wire("Q")]
String = Annotated[bytes, _STRING]
Data = Annotated[bytes, _DATA]
"""count[4] and that many bytes."""
QidField = Annotated[Qid, _QID]

_HEADER = struct.Struct("<IBH")


class Record:
    """Base of messages and of structures inside messages."""

    __slots__ = ()

    _wires: ClassVar[tuple[tuple[str, Wire], ...]]
    _layout: ClassVar[_Layout]

    def dump(self) -> bytes:
        """Encodes the fields."""
        return self._layout.dump(self)

    @classmethod
    def load(cls, data: bytes, at: int, end: int) -> Self:
        """Decodes the fields, which must fill the bytes between two offsets exactly. Raises
        P9Error."""
        try:
            values, behind = cls._layout.load(data, at)
        except struct.error as error:
            raise P9Error(errno.EINVAL, f"a {cls.__name__} ends too early") from error
        if behind != end:
            what = "ends too early" if behind > end else f"has {end - behind} bytes too many"
            raise P9Error(errno.EINVAL, f"a {cls.__name__} {what}")
        return cls(*values)


class Message(Record):
    """Base of all messages: size[4] type[1] tag[2] and the fields of the class."""

    __slots__ = ()

    TYPE: ClassVar[int]

    def encode(self, tag: int) -> bytes:
        """Encodes the whole message."""
        if not self._wires:
            return _HEADER.pack(HEADER_SIZE, self.TYPE, tag)
        body = self._layout.dump(self)
        return _HEADER.pack(HEADER_SIZE + len(body), self.TYPE, tag) + body


_by_type: dict[int, type[Message]] = {}


R = TypeVar("R", bound=type[Record])
M = TypeVar("M", bound=type[Message])


@dataclass_transform(frozen_default=True)
def record(cls: R) -> R:
    """Class decorator: a structure inside messages. Its annotations are its layout."""
    made: Any = dataclass(slots=True)(cls)
    hints = get_type_hints(made, include_extras=True)
    made._wires = tuple(
        (field.name, hints[field.name].__metadata__[0]) for field in dataclasses.fields(made)
    )
    made._layout = _Layout(made._wires)
    return cast(R, made)


@dataclass_transform(frozen_default=True)
def message(number: int) -> Callable[[M], M]:
    """Class decorator: a message of this type number. Its annotations are its layout."""

    def decorate(cls: M) -> M:
        made = record(cls)
        made.TYPE = number
        _by_type[number] = made
        return made

    return decorate


def sized(cls: type[Record]) -> Wire:
    """n[2] size[2] and a structure of `size` bytes; n counts the size field as well (stat(5))."""
    size = struct.Struct("<H")

    def take(data: bytes, at: int, outer: int) -> tuple[Record, int]:
        (inner,) = size.unpack_from(data, at)
        if outer != inner + size.size:
            raise P9Error(errno.EINVAL, f"a {cls.__name__} of {inner} bytes in {outer}")
        end = at + outer
        return cls.load(data, at + size.size, end), end

    def put(value: Record) -> tuple[int, bytes]:
        body = value.dump()
        return len(body) + size.size, size.pack(len(body)) + body

    return Wire("H", take, put)


def decode(data: bytes) -> tuple[int, Message]:
    """Returns tag and message. Raises P9Error (EOPNOTSUPP for a type that no dialect has)."""
    if len(data) < HEADER_SIZE:
        raise P9Error(errno.EINVAL, f"a message of {len(data)} bytes")
    size, number, tag = _HEADER.unpack_from(data)
    if size != len(data):
        raise P9Error(errno.EINVAL, f"size[4] says {size}, the message has {len(data)} bytes")
    cls = _by_type.get(number)
    if cls is None:
        raise P9Error(errno.EOPNOTSUPP, f"no message has the type {number}")
    numbers = cls._layout.numbers
    if numbers and size == HEADER_SIZE + numbers.size:
        return tag, cls(*numbers.unpack_from(data, HEADER_SIZE))
    return tag, cls.load(data, HEADER_SIZE, size)
