"""How names that are not UTF-8 are shown, and read again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost9p.escapes import escape, name_bytes, quoted, to_json, unescape
from vhost9p.log_record import one_line

NAMES = st.binary(max_size=40).map(os.fsdecode)


@pytest.mark.parametrize(
    "name,shown",
    [
        (b"plain \xc3\xa4", "plain ä"),
        (b"\xff", r"\xff"),
        (b"a\\xff", r"a\\xff"),
        (b"\n\x1b\xe2\x80\xae", r"\x0a\x1b\xe2\x80\xae"),
    ],
)
def test_what_a_name_looks_like(name: bytes, shown: str) -> None:
    assert escape(os.fsdecode(name)) == shown
    assert quoted(name) == f"'{shown}'"


@given(NAMES)
def test_what_is_shown_is_utf8_on_one_line_and_leads_back(name: str) -> None:
    for text in (escape(name), quoted(name)):
        assert one_line(text) == text
        assert text.encode().decode() == text
    assert unescape(escape(name)) == name
    (word,) = shlex.split(quoted(name))
    assert unescape(word) == name


def test_what_is_typed_in_bytes_is_the_same() -> None:
    assert unescape(os.fsdecode(b"/\xff/a\\b")) == os.fsdecode(b"/\xff/a\\b")


def test_bash_takes_what_is_shown() -> None:
    name = b"it's \xff\n\xe2\x80\xae"
    done = subprocess.run(
        ["bash", "-c", f"printf %s ${quoted(name)}"], capture_output=True, check=True
    )
    assert done.stdout == name


@given(NAMES, NAMES)
def test_json_is_utf8(one: str, other: str) -> None:
    data = to_json({one: [other], "number": 1, "none": None}).encode()
    text = json.loads(data)
    for each in (*text, *text.values()):
        str(each).encode()
    assert text["number"] == 1


@given(st.lists(st.binary(max_size=40)))
def test_names_in_json_lead_back(names: list[bytes]) -> None:
    """So two names are never written as one."""
    found = json.loads(to_json(names))
    assert [os.fsencode(unescape(each)) for each in found] == names
    assert len({*found}) == len({*names})


def test_json_tells_an_escape_from_a_name_that_looks_like_one() -> None:
    assert json.loads(to_json([b"a\\xff", b"a\xff", "a\\b"])) == [r"a\\xff", r"a\xff", r"a\b"]


def test_a_line_of_the_log_is_utf8() -> None:
    assert one_line("a\udcffb\n") == r"a\xffb\n"


@given(st.text())
def test_any_text_has_bytes(text: str) -> None:
    """Also what no name can be, such as half of a pair of surrogates."""
    name_bytes(text).decode(errors="surrogateescape")
