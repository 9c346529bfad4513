"""Ordinary users reach this Python and project even where root has put them in a closed directory,
and nothing else there."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.ordinary_user import as_ordinary_user, opening
from tests.system.share import USER, USER_GROUP, needs_root


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    (tmp_path / "closed" / "also closed" / "needed").mkdir(parents=True)
    (tmp_path / "closed" / "also closed" / "needed" / "file").write_text("found")
    (tmp_path / "closed" / "secret").write_text("secret")
    (tmp_path / "closed" / "also closed").chmod(0o700)
    (tmp_path / "closed").chmod(0o700)
    return tmp_path / "closed"


def found(closed: Path, command: list[str]) -> list[str]:
    done = subprocess.run(
        [*command, "find", str(closed), "-type", "f"], capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines()


@needs_root
def test_what_is_needed_is_reached(closed: Path) -> None:
    user = as_ordinary_user(USER, USER_GROUP)
    needed = closed / "also closed" / "needed"
    assert found(closed, user) == []
    assert found(closed, [*opening([needed]), *user]) == [f"{needed}/file"]
    assert closed.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(closed)) == ["also closed", "secret"]


@needs_root
def test_nothing_is_done_where_nothing_is_closed() -> None:
    assert opening([Path("/usr/bin")]) == []
