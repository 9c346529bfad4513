"""The layouts that a trace shows are those that the server decodes by."""

from __future__ import annotations

import pytest

from vhost9p.p9 import dialect_u_messages, messages, requests
from vhost9p.p9.codec import Message, Qid, _by_type
from vhost9p.trace import notation

QID = Qid(128, 7, 1 << 40)
STAT = dialect_u_messages.Stat(
    *(1, 2, QID, 0o644, 3, 4, 5, b"name", b"uid", b"gid", b"muid", b"extension", 6, 7, 8)
)
VALUES = {"H": 513, "I": 70000, "Q": 1 << 40, "B": 3}
SERVED = [
    each
    for module in (messages, dialect_u_messages)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, Message) and each is not Message
]


def example(cls: type[Message]) -> Message:
    """A message with a value in each field, save those with structures."""
    return cls(*(
        STAT if name == "stat"
        else QID if wire.code == "B" and wire.take else b"text" if wire.take else VALUES[wire.code]
        for name, wire in cls._wires
    ))  # fmt: skip


def plain(value: object) -> object:
    """A structure as the server has it, which begins with its size."""
    return dialect_u_messages.Stat(*[*value.values()][1:]) if isinstance(value, dict) else value


@pytest.mark.parametrize("cls", SERVED, ids=lambda cls: cls.__name__)
def test_a_message_of_the_server_is_taken_apart_alike(cls: type[Message]) -> None:
    whole = example(cls)
    found = notation.read(whole.encode(9))
    assert (found.name, found.tag, found.size) == (cls.__name__, 9, len(whole.encode(9)))
    values = [getattr(whole, name) for name, _ in cls._wires]
    if cls.__name__ == "Rread":
        values = [4, b"text"]
    assert [*map(plain, found.fields.values())] == values


def test_all_requests_are_known_by_the_same_names() -> None:
    assert {number: name for number, (name, _) in requests.REQUESTS.items()} == {
        number: name for name, number in notation.REQUESTS.items()
    }
    assert set(_by_type) <= set(notation.LAYOUTS)


@pytest.mark.parametrize("number", [*notation.LAYOUTS, 0, 255])
def test_a_message_may_end_anywhere(number: int) -> None:
    whole = bytes((60, 0, 0, 0, number, 1, 0)) + bytes(range(1, 54))
    before = 0
    for size in range(len(whole)):
        found = notation.read(whole[:size])
        assert len(found.fields) >= before
        before = len(found.fields)
