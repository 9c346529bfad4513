"""The host changes files, and the daemon reports it: which lines there are, whose changes are left
out, and what outlives what. Where main may watch file systems (vhost9p/watcher)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.reported import Reported, reported
from tests.system.share import Share, mounted, needs_root, serve

pytestmark = needs_root


@contextmanager
def watched(export: Path, *args: str) -> Iterator[tuple[Share, Reported]]:
    """A guest, and what is reported to it."""
    with serve(export, "--notify", *args) as daemon, mounted(daemon, export) as share:
        with reported(daemon) as (lines,):
            yield share, lines


def by_another_process(script: str, folder: Path) -> None:
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True)


def test_each_change_of_the_host_is_reported(export: Path) -> None:
    (export / "a").mkdir()
    (export / "a/f").write_text("x")
    with watched(export) as (_, lines):
        by_another_process("echo more >>a/f", export)
        lines.until(b"changed a/f 6")
        by_another_process("chmod 600 a/f", export)
        lines.until(b"attributes a/f")
        by_another_process("touch a/g; mkdir a/d", export)
        lines.until(b"created a/g", b"created a/d/")
        by_another_process("mv a/g a/d/h", export)
        lines.until(b"renamed a/g a/d/h")
        by_another_process("mv a b; echo y >b/d/h", export)
        lines.until(b"renamed a/ b/", b"changed b/d/h 2")
        by_another_process("rm b/d/h; rmdir b/d", export)
        lines.until(b"removed b/d/h", b"removed b/d/")
        by_another_process("chmod 700 .", export)
        lines.until(b"attributes ./")
