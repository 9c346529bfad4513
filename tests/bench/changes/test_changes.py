"""The benchmark of changes by the host runs, and its figures say when something was not seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.changes import __main__ as bench
from tests.bench.changes.measure import Times
from tests.marks import needs_root, needs_uml


@needs_root
@needs_uml
@pytest.mark.guest
@pytest.mark.parametrize(
    "cache",
    ["loose", *(pytest.param(name, marks=pytest.mark.full) for name in ("none", "mmap"))],
)
def test_all_is_measured(cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--edits", "1", "--files", "100", "--burst", "100", "--cache", cache]
    assert bench.main([*words, "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    text = (tmp_path / "changes.md").read_text()
    assert text in capsys.readouterr().out
    assert "never" not in text
    lines = {line.split(" | ")[0]: line for line in text.splitlines()}
    for agent in ("program", "script"):
        line = lines[f"| {cache}, passthrough, {agent}, 1, 1"]
        kept = cache != "none" and agent == "script"  # what is open: only a write could renew it
        assert line.count("not seen") == kept, line
        assert f"| {cache}, {agent}" in lines
    for other in (f"{cache}, mapped-xattr, program, 1, 1", f"{cache}, passthrough, program, 2, 1"):
        assert "not seen" not in lines[f"| {other}"]


def test_what_was_not_seen_is_no_time() -> None:
    assert str(Times([3.0, None, 1.0, 2.0])) == "2.0 / 3.0, 1 of 4 not seen"
    assert str(Times([None])) == "not seen"
