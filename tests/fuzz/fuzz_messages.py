"""Fuzzes the 9P that Python decodes: messages of both dialects, and a server that carries them
out.

An input is a list of requests, each of a known type whose fields the input chooses, or of any
bytes. A decoder raises P9Error or nothing, and what it returns encodes to the same bytes. A server
over a real directory answers each request with one reply, which decodes to the class that belongs
to the request, or fails with OSError; a directory's contents are whole structures, no more than
were asked for; in the end no fid and no descriptor is left.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["vhost9p.p9"]):
    from tests.p9.guest import FakeRequest, Guest, serving
    from vhost9p.p9 import codec
    from vhost9p.p9 import dialect_u_messages as u
    from vhost9p.p9 import messages as m

from tests.fuzz import engine

TYPES = [
    m.Tversion, m.Tattach, m.Tauth, m.Tread, m.Tclunk, m.Tremove, m.Tlock, m.Tgetlock,
    u.Topen, u.Tcreate, u.Tstat, u.Twstat,
]  # fmt: skip
NAMES = (b"a", b"d", b"l", b"new", b"..", b".", b"", b"a/b", b"9P2000.u", b"9P2000.L", b"c 1 3")
NUMBERS = (0, 1, 2, 3, 0o644, 0x80000000, 0x02000000, 0x00800000, 0xFFFF, 0xFFFFFFFF, 2**64 - 1)
FIDS = 5
SMALL = 511
"""Some entries of a directory have so many bytes."""
RAW = 64
MESSAGES = 12


def value(choices: atheris.FuzzedDataProvider, wire: codec.Wire, first: bool) -> Any:
    """A value of a wire type; the first number of a message is its fid."""
    if wire is WIRES["string"] or wire is WIRES["data"]:
        if choices.ConsumeIntInRange(0, 3):
            return NAMES[choices.ConsumeIntInRange(0, len(NAMES) - 1)]
        return choices.ConsumeBytes(choices.ConsumeIntInRange(0, 20))
    if wire is WIRES["qid"]:
        return codec.Qid(*(value(choices, WIRES[name], False) for name in ("u8", "u32", "u64")))
    if wire is WIRES["stat"]:
        return record(choices, u.Stat)
    limit = (1 << {"B": 8, "H": 16, "I": 32, "Q": 64}[wire.code]) - 1
    if first and choices.ConsumeIntInRange(0, 7):
        return choices.ConsumeIntInRange(0, FIDS)
    how = choices.ConsumeIntInRange(0, 3)
    if how == 0:
        return 0
    if how == 1:
        return choices.ConsumeIntInRange(0, SMALL) & limit
    if how == 2:
        return choices.ConsumeIntInRange(0, limit)
    return NUMBERS[choices.ConsumeIntInRange(0, len(NUMBERS) - 1)] & limit


def record(choices: atheris.FuzzedDataProvider, cls: type[Any]) -> Any:
    """A message, or a structure in one, of a class."""
    return cls(*(value(choices, wire, not at) for at, (_, wire) in enumerate(cls._wires)))


WIRES: dict[str, codec.Wire] = {
    "u8": codec.U8.__metadata__[0],  # type: ignore[attr-defined]
    "u32": codec.U32.__metadata__[0],  # type: ignore[attr-defined]
    "u64": codec.U64.__metadata__[0],  # type: ignore[attr-defined]
    "string": codec.String.__metadata__[0],  # type: ignore[attr-defined]
    "data": codec.Data.__metadata__[0],  # type: ignore[attr-defined]
    "qid": codec.QidField.__metadata__[0],  # type: ignore[attr-defined]
    "stat": u.StatField.__metadata__[0],  # type: ignore[attr-defined]
}


def request(choices: atheris.FuzzedDataProvider, tag: int) -> bytes:
    """The bytes of one request, complete or with one byte changed or cut off; or any bytes."""
    how = choices.ConsumeIntInRange(0, 255)
    if how >= 240:
        return bytes(choices.ConsumeBytes(choices.ConsumeIntInRange(0, RAW)))
    data = bytearray(record(choices, TYPES[how % len(TYPES)]).encode(tag))
    if how >= 200:
        data[choices.ConsumeIntInRange(0, len(data) - 1)] = choices.ConsumeIntInRange(0, 255)
    if how >= 220:
        data = data[: choices.ConsumeIntInRange(0, len(data))]
        data[:4] = len(data).to_bytes(4, "little")[: len(data)]
    return bytes(data)


def decode(data: bytes) -> tuple[int, codec.Message | None]:
    """The tag, and the message if it is one."""
    try:
        tag, message = codec.decode(data)
    except codec.P9Error:
        return 0, None
    assert message.encode(tag) == data
    return tag, message


def check_listing(data: bytes, count: int) -> None:
    """Each entry of a directory is whole, and has a name that a guest may take for one."""
    assert len(data) <= count
    while data:
        end = 2 + int.from_bytes(data[:2], "little")
        name = u.Stat.load(data, 2, end).name
        assert name and b"/" not in name
        data = data[end:]


def check_reply(sent: FakeRequest) -> None:
    """It is one, and one that the protocol has for this request."""
    tag, answer = decode(sent.replies.get_nowait())
    _, asked = decode(sent.data)
    assert sent.replies.empty() and tag == sent.tag
    if isinstance(answer, m.Rlerror):
        assert 0 < answer.ecode < 4096
        return
    assert asked and answer and answer.TYPE == asked.TYPE + 1
    if isinstance(asked, m.Tread) and isinstance(answer, m.Rread):
        check_listing(answer.data, asked.count)


def ask(guest: Guest, data: bytes) -> FakeRequest:
    """Has the server handle one request; for a lock it may wait."""
    sent = FakeRequest(data, decode(data)[0])
    guest.handle(data, sent)
    return sent


def fill(root: Path) -> None:
    """The export at the beginning of every input."""
    (root / "d").mkdir(parents=True)
    (root / "a").write_text("text")
    (root / "l").symlink_to("../a")


def once(data: bytes) -> None:
    """One input: one session, begun as a guest does."""
    choices = atheris.FuzzedDataProvider(data)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "export"
        fill(root)
        with serving(root) as guest:
            name = b"9P2000.u" if choices.ConsumeBool() else b"9P2000.L"
            sent = [ask(guest, m.Tversion(8192, name).encode(0xFFFF))]
            sent.append(ask(guest, m.Tattach(0, 0xFFFFFFFF, b"", b"", 0).encode(0)))
            for number, path in enumerate(("a", "d", "l"), 1):
                with suppress(OSError):
                    guest.walk(path, number=number)
            guest.open("", os.O_RDONLY, number=4)
            guest.open("a", number=5)
            for tag in range(MESSAGES):
                if not choices.remaining_bytes():
                    break
                sent.append(ask(guest, request(choices, tag)))
                if tag % 4 == 3:
                    guest.server.flush(sent[choices.ConsumeIntInRange(0, len(sent) - 1)].key)
            guest.device.set_dialect(dialect_u=False)
        for each in sent:
            check_reply(each)
        os.chmod(root, 0o755)


if __name__ == "__main__":
    engine.fuzz(__file__, once)
