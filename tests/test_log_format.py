"""How records of the log are written: as text, as JSON, for journald; and where they go to."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhost9p import log_format, output
from vhost9p.log_format import Form, datagram
from vhost9p.log_record import Record, about, concerning

RECORD = Record("warning", "the text", {"vm": "web", "device": "host0", "errno": "13"})


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_state", output._State())


@pytest.fixture
def journald(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a journald."""
    with (
        tempfile.TemporaryDirectory(prefix="v9-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        monkeypatch.setattr(log_format, "JOURNAL", f"{folder}/socket")
        sock.bind(log_format.JOURNAL)
        sock.setblocking(False)
        yield sock


def parsed(data: bytes) -> dict[str, str]:
    """The fields of a datagram in journald's native protocol."""
    fields = {}
    while data:
        name, end, rest = data.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            size = int.from_bytes(rest[:8], "little")
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
        assert end == b"\n"
        fields[name.decode()] = value.decode()
        data = rest
    return fields


# ---- forms ---------------------------------------------------------------------------------------


def test_text_has_the_level_and_the_vm() -> None:
    assert Form("text").lines(RECORD) == ["vhost9p: WARNING: the text"]
    said = Record("error", "the text", is_said=True, speaker="web")
    assert Form("text").lines(said) == ["vhost9p: web: the text"]


def test_lines_of_a_traceback_look_like_no_other_line() -> None:
    record = Record("error", "failed", more=("vhost9p: other: ERROR: forged",))
    assert Form("text").lines(record)[1] == "  vhost9p: other: ERROR: forged"


def test_json_is_an_object_per_line() -> None:
    (line,) = Form("json", has_time=True).lines(Record("error", "a \"b\" 'c'", RECORD.fields))
    written = json.loads(line)
    assert written.pop("time").count("T") == 1
    assert written == {
        "level": "error",
        "vm": "web",
        "device": "host0",
        "errno": 13,
        "message": "a \"b\" 'c'",
    }
    (line,) = Form("json").lines(Record("error", "failed", more=("one", "two")))
    assert json.loads(line) == {"level": "error", "message": "failed", "traceback": ["one", "two"]}


def test_journald_gets_fields() -> None:
    assert parsed(datagram(RECORD)) == {
        "MESSAGE": "the text",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "vhost9p",
        "VM": "web",
        "DEVICE": "host0",
        "ERRNO": "13",
    }


def test_journald_gets_a_traceback_as_one_message() -> None:
    record = Record("critical", "failed", more=("PRIORITY=7", "VM=other"), speaker="web")
    fields = parsed(datagram(record))
    assert fields.pop("MESSAGE") == "web: failed\nPRIORITY=7\nVM=other"
    assert fields == {"PRIORITY": "2", "SYSLOG_IDENTIFIER": "vhost9p"}


# ---- auto ----------------------------------------------------------------------------------------


def test_auto_is_journald_where_standard_error_leads_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read_end, write_end = os.pipe()
    found = os.fstat(write_end)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert Form.choose("auto", "auto", write_end) == Form("journald")
    assert Form.choose("json", "auto", write_end) == Form("json", has_time=True)
    with (tmp_path / "log").open("w") as elsewhere:
        assert Form.choose("auto", "auto", elsewhere.fileno()) == Form("text", has_time=True)
    for nonsense in ("", "1", "x:y", "1:2:3"):
        monkeypatch.setenv("JOURNAL_STREAM", nonsense)
        assert Form.choose("auto", "auto", write_end) == Form("text")
    os.close(read_end)
    os.close(write_end)


def test_the_time_is_there_where_nobody_adds_it(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with (tmp_path / "log").open("w") as file:
        assert Form.choose("text", "auto", file.fileno()).has_time
        assert not Form.choose("text", "never", file.fileno()).has_time
        assert not Form.choose("text", "auto", write_end).has_time
        assert Form.choose("text", "always", write_end).has_time
        assert not Form.choose("json", "never", file.fileno()).has_time
    os.close(read_end)
    os.close(write_end)
    (line,) = Form("text", has_time=True).lines(RECORD)
    time, _, rest = line.partition(" ")
    assert rest == "vhost9p: WARNING: the text" and time.startswith("20") and time[10] == "T"


# ---- writing -------------------------------------------------------------------------------------


def test_a_line_for_journald_has_what_it_concerns(journald: socket.socket) -> None:
    output.choose_form("journald", "auto")
    output.say("no room\n<3>forged", logging.WARNING, vm="web\nVM=other")
    fields = parsed(journald.recv(65536))
    assert fields["MESSAGE"] == "no room\\n<3>forged"
    assert (fields["VM"], fields["PRIORITY"]) == ("web\\x0aVM=other", "4")


def test_nobody_waits_for_a_journald_that_does_not_read(journald: socket.socket) -> None:
    output.choose_form("journald", "auto")
    output.never_wait()
    for _ in range(5000):  # far more than its queue holds
        output.say("line")
    taken = 0
    while True:
        try:
            journald.recv(65536)
        except BlockingIOError:
            break
        taken += 1
    assert 0 < taken < 5000
    output.say("again")
    assert parsed(journald.recv(65536))["MESSAGE"] == (
        f"{5000 - taken} lines were lost: nobody read the log"
    )
    assert parsed(journald.recv(65536))["MESSAGE"] == "again"


def test_a_journald_that_is_gone_leaves_standard_error(
    journald: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    output.choose_form("journald", "auto")
    journald.close()
    output.say("line")
    assert capsys.readouterr().err == "vhost9p: line\n"


def test_a_process_of_a_vm_leaves_the_form_to_main(capsys: pytest.CaptureFixture[str]) -> None:
    output.choose_form("json", "always")
    output.leave_form_to_main()
    output.say("one\ntwo", device="host0")
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line[0] == "\x1e"
    assert Record.from_line(line[1:-1]) == Record(
        "error", "one\\ntwo", {"device": "host0"}, is_said=True
    )


def test_a_logger_says_what_it_concerns() -> None:
    log = logging.getLogger("test")

    def record(extra: dict[str, object] | None = None) -> Record:
        words = "to %s", ("b\n",)
        return Record.of(log.makeRecord("test", 30, "f", 1, *words, None, None, extra))

    assert record() == Record("warning", "to b\\n")
    assert record(extra=about(vm="x\x1f")) == Record("warning", "to b\\n", {"vm": "x\\x1f"})
    with concerning(device="host0"), concerning(export="data"):
        found = record()
        assert found.text == "host0: to b\\n"
        assert found.fields == {"device": "host0", "export": "data"}
        assert record(extra=about(vm="x")).fields == {"vm": "x"}
    assert not record().fields
