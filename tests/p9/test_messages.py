"""Messages on the wire, against bytes made by hand, and against bytes that mean nothing."""

import errno
import inspect
from typing import Any, TypeVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost9p.p9 import codec
from vhost9p.p9 import dialect_u_messages as u
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error, Qid, Record, decode

R = TypeVar("R", bound=Record)

ALL = sorted(
    (
        cls
        for cls in (*vars(m).values(), *vars(u).values())
        if inspect.isclass(cls) and issubclass(cls, Message) and cls not in (Message, Record)
    ),
    key=lambda cls: cls.TYPE,
)


def wire_of(hint: Any) -> codec.Wire:
    """The wire type that an annotation carries."""
    wire = get_args(hint)[1]
    assert isinstance(wire, codec.Wire)
    return wire


LONG = st.binary(max_size=300)
QIDS = st.builds(
    Qid, st.integers(0, 2**8 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    wire_of(codec.U8): st.integers(0, 2**8 - 1),
    wire_of(codec.U16): st.integers(0, 2**16 - 1),
    wire_of(codec.U32): st.integers(0, 2**32 - 1),
    wire_of(codec.U64): st.integers(0, 2**64 - 1),
    wire_of(codec.String): LONG,
    wire_of(codec.Data): LONG,
    wire_of(codec.QidField): QIDS,
}


def some(cls: type[R]) -> st.SearchStrategy[R]:
    """Any message, or structure in one, of a class."""
    return st.builds(cls, **{name: VALUES[wire] for name, wire in cls._wires})


VALUES[wire_of(u.StatField)] = some(u.Stat)


# From the notes on 9P2000.L and 9P2000.u, and intro(5): sizes of the fixed part behind the header.
FIXED: dict[type[Message], int] = {
    m.Rlerror: 4, m.Tlock: 31, m.Rlock: 1, m.Tgetlock: 27, m.Rgetlock: 23,
    m.Tversion: 6, m.Rversion: 6, m.Tauth: 12, m.Rauth: 13, m.Tattach: 16,
    m.Rattach: 13, m.Tread: 16, m.Rread: 4, m.Tclunk: 4, m.Rclunk: 0,
    m.Tremove: 4, m.Rremove: 0, u.Rerror: 6, u.Topen: 5, u.Ropen: 17, u.Tcreate: 13,
    u.Rcreate: 17, u.Tstat: 4, u.Rstat: 65, u.Twstat: 69, u.Rwstat: 0,
}  # fmt: skip

STAT = u.Stat(1, 2, Qid(3, 4, 5), 6, 7, 8, 9, b"n", b"10", b"11", b"", b"ext", 12, 13, 14)

# Message, tag and the whole message in hexadecimal, made by hand from the layouts.
GOLDEN = [
    (m.Tversion(8192, b"9P2000.L"), 0xFFFF,
     "15000000 64 ffff 00200000 0800 3950323030302e4c"),
    (m.Tattach(1, 0xFFFFFFFF, b"u", b"/a", 1000), 2,
     "1a000000 68 0200 01000000 ffffffff 0100 75 0200 2f61 e8030000"),
    (m.Rattach(Qid(0x80, 7, 0x1122334455667788)), 2,
     "14000000 69 0200 80 07000000 8877665544332211"),
    (m.Rread(b"xyz"), 4, "0e000000 75 0400 03000000 78797a"),
    (m.Tlock(6, 1, 1, 2, 3, 4, b"host"), 5,
     "2a000000 34 0500 06000000 01 01000000 0200000000000000 0300000000000000 04000000 "
     "0400 686f7374"),
    (m.Rlerror(2), 0, "0b000000 07 0000 02000000"),
    (u.Rerror(b"no", 2), 7, "0f000000 6b 0700 0200 6e6f 02000000"),
    (u.Tcreate(1, b"p", 0x200000, 0, b"x"), 8,
     "16000000 72 0800 01000000 0100 70 00002000 00 0100 78"),
    (u.Twstat(9, STAT), 9,
     "54000000 7e 0900 09000000 4700 4500 0100 02000000 03 04000000 0500000000000000 06000000 "
     "07000000 08000000 0900000000000000 0100 6e 0200 3130 0200 3131 0000 0300 657874 0c000000 "
     "0d000000 0e000000"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "tag", "wire"), GOLDEN, ids=lambda v: type(v).__name__)
def test_messages_match_bytes_made_by_hand(message: Message, tag: int, wire: str) -> None:
    assert message.encode(tag).hex() == wire.replace(" ", "")
    assert decode(bytes.fromhex(wire)) == (tag, message)


ZERO_STAT = u.Stat(0, 0, Qid(0, 0, 0), 0, 0, 0, 0, b"", b"", b"", b"", b"", 0, 0, 0)


def empty(cls: type[Message]) -> Message:
    """With zeros and nothing of variable length."""
    zero: dict[codec.Wire, Any] = {
        wire_of(codec.String): b"",
        wire_of(codec.Data): b"",
        wire_of(codec.QidField): Qid(0, 0, 0),
        wire_of(u.StatField): ZERO_STAT,
    }
    return cls(*(zero.get(wire, 0) for _, wire in cls._wires))


def test_sizes_are_those_of_the_specification() -> None:
    assert {cls: len(empty(cls).encode(0)) - 7 for cls in ALL} == FIXED


def test_type_numbers_come_in_pairs() -> None:
    for cls in ALL:
        if cls in (m.Rlerror, u.Rerror):
            continue
        pair = {other.TYPE: other.__name__ for other in ALL if other.TYPE | 1 == cls.TYPE | 1}
        assert pair == {cls.TYPE & ~1: f"T{cls.__name__[1:]}", cls.TYPE | 1: f"R{cls.__name__[1:]}"}


@given(st.data(), st.integers(0, 0xFFFF))
def test_any_message_survives_encoding_and_decoding(data: st.DataObject, tag: int) -> None:
    message = data.draw(st.sampled_from(ALL).flatmap(some))
    encoded = message.encode(tag)
    assert decode(encoded) == (tag, message)
    assert int.from_bytes(encoded[:4], "little") == len(encoded)


@given(st.data())
def test_a_cut_or_lengthened_message_is_refused(data: st.DataObject) -> None:
    encoded = data.draw(st.sampled_from(ALL).flatmap(some)).encode(1)
    size = data.draw(st.integers(0, len(encoded) + 5).filter(lambda n: n != len(encoded)))
    changed = encoded[:size].ljust(size, b"\0")
    with pytest.raises(P9Error) as caught:
        decode(changed)
    assert caught.value.errno == errno.EINVAL
    if size >= 7:
        with pytest.raises(P9Error) as caught:  # also where size[4] lies
            decode(size.to_bytes(4, "little") + changed[4:])
        assert caught.value.errno == errno.EINVAL


@given(st.sampled_from(ALL), st.binary(max_size=80))
def test_any_bytes_are_a_message_or_an_error(cls: type[Message], body: bytes) -> None:
    data = (len(body) + 7).to_bytes(4, "little") + bytes([cls.TYPE, 0, 0]) + body
    try:
        tag, message = decode(data)
    except P9Error as error:
        assert error.errno == errno.EINVAL
    else:
        assert message.encode(tag) == data


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except P9Error as error:
        assert error.errno in (errno.EINVAL, errno.EOPNOTSUPP)


@pytest.mark.parametrize("count", [1, 0xFFFF])
def test_a_count_beyond_the_message_is_refused(count: int) -> None:
    for cls, fixed in ((m.Tversion, 4), (m.Rversion, 4)):
        body = bytes(fixed) + count.to_bytes(2, "little")
        data = (len(body) + 7).to_bytes(4, "little") + bytes([cls.TYPE, 0, 0]) + body
        with pytest.raises(P9Error):
            decode(data)


@pytest.mark.parametrize("number", [0, 1, 6, 60, 106, 128, 255])
def test_types_that_are_none(number: int) -> None:
    with pytest.raises(P9Error) as caught:
        decode(b"\7\0\0\0" + bytes([number]) + b"\0\0")
    assert caught.value.errno == errno.EOPNOTSUPP


@given(some(u.Stat), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_stat_structure_is_as_long_as_both_of_its_counts_say(
    stat: u.Stat, outer: int, inner: int
) -> None:
    encoded = bytearray(u.Rstat(stat).encode(1))
    right = len(encoded) - 9, len(encoded) - 11
    encoded[7:11] = outer.to_bytes(2, "little") + inner.to_bytes(2, "little")
    if (outer, inner) == right:
        assert decode(bytes(encoded)) == (1, u.Rstat(stat))
        return
    with pytest.raises(P9Error) as caught:
        decode(bytes(encoded))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("beyond", range(-3, 4))
def test_a_stat_structure_does_not_reach_beyond_its_message(beyond: int) -> None:
    """Where its counts agree, and are more than there is (or less)."""
    encoded = bytearray(u.Twstat(9, STAT).encode(1)[:-12])  # without the last three numbers
    outer = len(encoded) - 13 + beyond
    encoded[11:15] = outer.to_bytes(2, "little") + (outer - 2).to_bytes(2, "little")
    encoded[:4] = len(encoded).to_bytes(4, "little")
    with pytest.raises(P9Error) as caught:
        decode(bytes(encoded))
    assert caught.value.errno == errno.EINVAL


def test_a_message_names_its_fields() -> None:
    assert repr(m.Tversion(5, b"\xff")) == "Tversion(msize=5, version=b'\\xff')"
