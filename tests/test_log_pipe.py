"""The lines of a VM's processes, as main writes them."""

from __future__ import annotations

import logging
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.escapes import unescape
from vhost9p.log_format import Form
from vhost9p.log_pipe import BURST, LINE_MAX, LINE_UNIT, LogPipe, Origin
from vhost9p.log_record import GROUP, RECORD, UNIT, Record, about

ONE = DeviceConfig((ExportConfig("/srv/one"),), socket="/run/one.sock", tag="one")
TWO = DeviceConfig(
    (ExportConfig("/srv/a", name="a"), ExportConfig("/srv/b", name="b")), "/run/two.sock", tag="two"
)
ORIGIN = Origin("vm", lambda: Config((ONE, TWO)))


@pytest.fixture
def pipe() -> Iterator[LogPipe]:
    pipe = LogPipe(ORIGIN)
    yield pipe
    pipe.close()


def relayed(pipe: LogPipe, capsys: pytest.CaptureFixture[str], *pieces: bytes) -> str:
    for piece in pieces:
        os.write(pipe.write_end, piece)
        pipe.relay()
    return capsys.readouterr().err


def test_lines_come_as_they_were_written(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    assert relayed(pipe, capsys, b"one\ntwo\nth", b"ree\n") == (
        "vhost9p: one\nvhost9p: two\nvhost9p: three\n"
    )


def test_the_log_ends_with_the_last_who_writes(pipe: LogPipe) -> None:
    other = os.dup(pipe.write_end)
    pipe.close_write_end()
    assert pipe.relay()
    os.close(other)
    assert not pipe.relay()


def test_what_is_no_text_is_escaped(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    said = relayed(pipe, capsys, b"\x1b[31mred\rx\xff \\x1b y\n")
    assert said == "vhost9p: \\x1b[31mred\\rx\\xff \\x1b y\n"


def test_names_in_fields_lead_back_to_their_bytes() -> None:
    paths = [os.fsdecode(path) for path in (b"/srv/\xff", b"/srv/\\xff")]
    device = DeviceConfig(tuple(map(ExportConfig, paths)), socket="/run/\\x41", tag="one")
    for path in paths:
        log_record = logging.makeLogRecord({"msg": "text", "levelno": 30, **about(export=path)})
        said = Record.from_line(Record.of(log_record).to_line().removeprefix(RECORD))
        assert said
        signed = Origin("v\\x41m\n", lambda: Config((device,))).sign(said)
        assert unescape(signed.fields["vm"]) == "v\\x41m\n"
        assert unescape(signed.fields["export"]) == path
        assert unescape(signed.fields["socket"]) == device.socket


def test_a_line_without_an_end_is_broken(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    said = relayed(pipe, capsys, *[b"x" * 1000] * (LINE_MAX // 1000 + 2))
    assert said.endswith("\n") and len(said) > LINE_MAX


def test_the_rest_is_written_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = LogPipe(ORIGIN)
    os.write(pipe.write_end, b"line\nrest")
    pipe.close()
    assert capsys.readouterr().err == "vhost9p: line\nvhost9p: rest\n"


def test_the_end_does_not_wait_for_who_still_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """However much that is."""
    pipe = LogPipe(ORIGIN)
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
    pipe.limit(1)
    said = relayed(pipe, capsys, *[b"line\n" * 100] * (BURST // 100 + 10)).splitlines()
    assert BURST <= said.count("vhost9p: line") < BURST + 100
    monkeypatch.setattr("vhost9p.line_rate.LineRate.admit", lambda rate, cost: rate.omitted)
    said = relayed(pipe, capsys, b"again\n").splitlines()
    assert said[1:] == ["vhost9p: again"]
    assert re.fullmatch(r"vhost9p: vm: \d+ lines were dropped by the rate limit", said[0])


def test_the_end_says_how_many_were_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = LogPipe(ORIGIN)
    pipe.limit(1)
    relayed(pipe, capsys, *[b"line\n" * 100] * (BURST // 100 + 10))
    pipe.close()
    said = capsys.readouterr().err
    assert re.fullmatch(r"vhost9p: vm: \d+ lines were dropped by the rate limit\n", said)


def test_long_lines_count_more(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    pipe.limit(1)
    line = b"x" * (10 * LINE_UNIT) + b"\n"
    said = relayed(pipe, capsys, *[line] * BURST).splitlines()
    assert len(said) < BURST / 5


def test_without_a_limit_all_lines_pass(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    said = relayed(pipe, capsys, *[b"line\n" * 100] * (BURST // 100 + 10)).splitlines()
    assert said == ["vhost9p: line"] * (BURST + 1000)


# ---- who is not trusted --------------------------------------------------------------------------


def journal_of(line: str, origin: Origin = ORIGIN) -> dict[str, str]:
    """The fields of a record that a worker has sent."""
    record = Record.from_line(line)
    assert record
    return {**origin.sign(record).fields}


def sent(*fields: str, level: str = "error", text: str = "text") -> str:
    return UNIT.join([level, "logged", *fields, text])


def test_main_enters_what_a_record_concerns() -> None:
    assert journal_of(sent("device=one")) == {
        "vm": "vm",
        "device": "one",
        "socket": "/run/one.sock",
        "export": "/srv/one",
    }
    assert journal_of(sent("socket=/run/two.sock", "export=b", "request=Twalk", "errno=13")) == {
        "vm": "vm",
        "device": "two",
        "socket": "/run/two.sock",
        "export": "b",
        "request": "Twalk",
        "errno": "13",
    }
    assert journal_of(sent()) == {"vm": "vm"}


@pytest.mark.parametrize(
    "fields",
    [
        ("vm=other",),
        ("device=other",),
        ("socket=/run/other.sock",),
        ("device=one", "socket=/run/two.sock"),
        ("export=/srv/other",),
        ("request=T\\nwalk", "errno=x"),
        ("errno=" + "9" * 6,),
    ],
)
def test_a_worker_cannot_name_what_is_not_its_vms(fields: tuple[str, ...]) -> None:
    assert journal_of(sent(*fields)) == {"vm": "vm"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        UNIT,
        UNIT * 5,
        sent(level="loud"),
        sent("priority=0"),
        sent("=x"),
        UNIT.join(["error", "shouted", "text"]),
        UNIT.join(["error", "text"]),
    ],
)
def test_what_is_no_record_is_text(
    line: str, pipe: LogPipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Record.from_line(line) is None
    said = relayed(pipe, capsys, f"{RECORD}{line}\n".encode()).splitlines()
    assert len(said) == 1 and said[0].startswith("vhost9p: ") and said[0].isprintable()


def test_a_worker_cannot_begin_a_line_of_another_vm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = LogPipe(Origin("vm", lambda: Config((ONE,)), speaks=True))
    forged = "vhost9p: other: ERROR: forged"
    trace = sent(text=f"text{GROUP}{forged}{GROUP}\n{forged}")
    said = relayed(pipe, capsys, f"{forged}\n{RECORD}{trace}\nvhost9p: vm: old\n".encode())
    assert said.splitlines() == [
        "vhost9p: vm: other: ERROR: forged",
        "vhost9p: vm: ERROR: text",
        f"  {forged}",
        "  ",
        "vhost9p: vm: other: ERROR: forged",
        "vhost9p: vm: old",  # by a keeper of an older version, which says the names itself
    ]
    pipe.close()


def test_levels_are_kept(
    pipe: LogPipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhost9p.output._state.form", Form("json"))
    levels = ("debug", "info", "warning", "error", "critical")
    records = [f"{RECORD}{sent(level=each)}\n".encode() for each in levels]
    said = relayed(pipe, capsys, *records, b"raw\n")
    assert re.findall('"level": "(.*?)"', said) == [*levels, "warning"]


def test_a_record_ends_what_another_process_has_not(
    pipe: LogPipe, capsys: pytest.CaptureFixture[str]
) -> None:
    said = relayed(pipe, capsys, f"{RECORD}{sent(text='cut')}{RECORD}{sent()}\n".encode())
    assert said == "vhost9p: ERROR: cut\nvhost9p: ERROR: text\n"


def test_the_next_version_goes_on_within_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = LogPipe(ORIGIN)
    line = f"{RECORD}{sent(text='wörd')}\n".encode()
    cut = line.index(b"\xb6")  # within a character
    assert relayed(pipe, capsys, line[:cut]) == ""
    successor = LogPipe(ORIGIN, pipe.fileno(), pipe.rest)
    os.write(pipe.write_end, line[cut:])
    successor.relay()
    assert capsys.readouterr().err == "vhost9p: ERROR: wörd\n"
    pipe.close()


def test_each_record_of_a_line_counts(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    pipe.limit(1)
    said = relayed(pipe, capsys, (RECORD * 60000 + "\n").encode())
    assert len(said.splitlines()) <= 2 * BURST


def test_the_name_of_a_vm_adds_no_line() -> None:
    origin = Origin("vm\nvhost9p: other: ERROR", lambda: Config((ONE,)), speaks=True)
    (line,) = Form("text").lines(origin.text("text"))
    assert line == "vhost9p: vm\\nvhost9p: other: ERROR: text"
    assert all(each.isprintable() for each in origin.text("text").fields.values())


def test_each_line_of_a_traceback_counts(pipe: LogPipe, capsys: pytest.CaptureFixture[str]) -> None:
    pipe.limit(1)
    trace = sent(text=GROUP * 60000).encode() + b"\n"
    said = relayed(pipe, capsys, *[trace] * 3)
    assert len(said.splitlines()) <= 60001
