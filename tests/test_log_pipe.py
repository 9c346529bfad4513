"""The lines of a VM's processes, as main writes them."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vhost9p.log_pipe import BURST, LINE_MAX, LINE_UNIT, LogPipe


@pytest.fixture
def pipe() -> Iterator[LogPipe]:
    pipe = LogPipe()
    yield pipe
    pipe.close()


def relayed(pipe: LogPipe, capsys: pytest.CaptureFixture[str], *pieces: bytes) -> str:
    for piece in pieces:
        os.write(pipe.write_end, piece)
        pipe.relay()
    return capsys.readouterr().err


def test_lines_come_as_they_were_written(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert relayed(pipe, capsys, b"one\ntwo\nth", b"ree\n") == "one\ntwo\nthree\n"


def test_the_log_ends_with_the_last_who_writes(pipe: LogPipe) -> None:
    other = os.dup(pipe.write_end)
    pipe.close_write_end()
    assert pipe.relay()
    os.close(other)
    assert not pipe.relay()


def test_what_is_no_text_is_escaped(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    said = relayed(pipe, capsys, b"\x1b[31mred\rx\xff \\x1b y\n")
    assert said == "\\x1b[31mred\\rx\\xff \\x1b y\n"


def test_a_line_without_an_end_is_broken(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    said = relayed(pipe, capsys, *[b"x" * 1000] * (LINE_MAX // 1000 + 2))
    assert said.endswith("\n") and len(said) > LINE_MAX


def test_the_rest_is_written_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = LogPipe()
    os.write(pipe.write_end, b"line\nrest")
    pipe.close()
    assert capsys.readouterr().err == "line\nrest\n"


def test_the_end_does_not_wait_for_who_still_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """However much that is."""
    pipe = LogPipe()
    command = [sys.executable, "-c", "while True: print('x' * 50)"]
    with subprocess.Popen(command, stdout=pipe.write_end, stderr=subprocess.DEVNULL) as writer:
        pipe.close_write_end()
        select.select([pipe.fileno()], [], [])
        pipe.close()
        writer.kill()
    assert capsys.readouterr().err


def test_lines_beyond_the_rate_are_dropped_and_counted(
    pipe: LogPipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.limit("vm", 1)
    said = relayed(pipe, capsys, *[b"line\n" * 100] * (BURST // 100 + 10)).splitlines()
    assert BURST <= said.count("line") < BURST + 100
    monkeypatch.setattr("vhost9p.line_rate.LineRate.admit", lambda rate, cost: rate.omitted)
    said = relayed(pipe, capsys, b"again\n").splitlines()
    assert said[1:] == ["again"]
    assert re.fullmatch(r"vhost9p: vm: \d+ lines were dropped by the rate limit", said[0])


def test_the_end_says_how_many_were_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = LogPipe()
    pipe.limit("vm", 1)
    relayed(pipe, capsys, *[b"line\n" * 100] * (BURST // 100 + 10))
    pipe.close()
    said = capsys.readouterr().err
    assert re.fullmatch(r"vhost9p: vm: \d+ lines were dropped by the rate limit\n", said)


def test_long_lines_count_more(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    pipe.limit("vm", 1)
    line = b"x" * (10 * LINE_UNIT) + b"\n"
    said = relayed(pipe, capsys, *[line] * BURST).splitlines()
    assert len(said) < BURST / 5


def test_without_a_limit_all_lines_pass(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    said = relayed(pipe, capsys, *[b"line\n" * 100] * (BURST // 100 + 10)).splitlines()
    assert said == ["line"] * (BURST + 1000)
