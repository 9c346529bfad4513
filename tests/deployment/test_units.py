"""The units of packaging/systemd, as systemd's own tools judge them. tests/deployment/
test_debian_package.py runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "packaging" / "systemd"
DOCUMENT = ROOT / "docs" / "deployment.md"
COMMAND = "systemd-analyze security --offline=true packaging/systemd/vhost9p@.service"

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host that has nothing but the units, and what they name."""
    folder = tmp_path / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    for unit in UNITS.iterdir():
        shutil.copy(unit, folder)
    for program in ("usr/bin/vhost9p", "bin/sh"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for target in ("sysinit", "basic", "shutdown", "local-fs", "remote-fs", "sockets"):
        (folder / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    for name in ("-.slice", "system.slice"):
        (folder / name).write_text(f"[Unit]\nDescription={name}\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_a_unit_has_no_mistakes(kind: str, root: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", f"vhost9p@vm1.{kind}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_exposure_is_what_the_document_says() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert COMMAND in text
    said = re.search(r"exposure level of ([0-9.]+)", text)
    done = subprocess.run(COMMAND.split(), cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert said and found, done.stdout + done.stderr
    assert float(found[1]) <= float(said[1])


def test_a_worse_unit_is_noticed(tmp_path: Path) -> None:
    text = (UNITS / "vhost9p@.service").read_text(encoding="utf-8")
    worse = tmp_path / "vhost9p@.service"
    worse.write_text(text.replace("SystemCallFilter=", "#").replace("CapabilityBoundingSet=", "#"))
    command = [*COMMAND.split()[:-1], str(worse)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    said = re.search(r"exposure level of ([0-9.]+)", DOCUMENT.read_text(encoding="utf-8"))
    assert found and said and float(found[1]) > float(said[1])
