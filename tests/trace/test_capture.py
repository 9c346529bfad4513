"""Captures: what is written is read again, and what is damaged is refused."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace.records import NOW, SOURCE, event, record
from vhost9p.escapes import escape, unescape
from vhost9p.p9.messages import Rread, Tread
from vhost9p.trace.capture import Captured, CaptureError, Writer, read
from vhost9p.trace.events import Event, event_of


def written(events: Sequence[Event], lost: int = 0) -> bytes:
    out = io.BytesIO()
    writer = Writer(out, [SOURCE])
    for each in events:
        writer.lose(lost)
        writer.write(each)
    return out.getvalue()


def again(data: bytes) -> list[Captured]:
    return list(read(io.BytesIO(data)))


@pytest.mark.parametrize("size", [0, 100, 65484, 65485, 65536, 200_000])
@pytest.mark.parametrize("held", [11, 65495, 70_000, 1 << 20])
def test_what_is_written_is_read_again(size: int, held: int) -> None:
    one = record(Tread(1, 0, size), Rread(bytes(size)), paths=("/dir/ä", None), held=max(held, 23))
    found = again(written([event_of(SOURCE, one), event(2)], lost=3))
    assert [each.device for each in found] == ["host0"] * 2
    first = found[0]
    assert (first.began, first.took, first.uid, first.lost) == (NOW, 5000, 1000, 3)
    assert first.paths == ("/dir/ä",) and first.fid_paths == {1: "/dir/ä"}
    assert first.request == one.request and first.reply_size == one.reply_size
    whole = len(one.reply) == one.reply_size
    assert first.reply == (one.reply if whole else one.reply[:65494])
    assert found[1].paths == ("/file2",)


@given(st.binary(max_size=40).map(lambda data: data.decode(errors="surrogateescape")))
def test_any_path_is_one_line_of_text_and_comes_back(path: str) -> None:
    text = escape(path)
    assert text.isprintable()
    assert unescape(text.encode().decode()) == path


def test_a_capture_that_ends_too_early_is_refused() -> None:
    data = written([event(1), event(2)])
    whole = {len(written([])), len(data), len(written([event(1)]))}
    for size in range(len(data)):
        try:
            again(data[:size])
        except CaptureError as error:
            assert size == 0 or "ends in the middle of a block, at byte" in str(error)
        else:
            assert size in whole or size % 4 == 0, "between two blocks"


def test_a_damaged_capture_is_refused() -> None:
    """It is refused, or taken for another one: nothing else happens."""
    data = written([event(1), event(2)])
    damage = random.Random(1)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(damage.randint(1, 4)):
            damaged[damage.randrange(len(data))] = damage.randrange(256)
        try:
            again(bytes(damaged))
        except CaptureError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 500


@pytest.mark.parametrize("data", [b"x", b"no capture at all", b"\xd4\xc3\xb2\xa1" + bytes(20)])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(CaptureError):
        again(data)
