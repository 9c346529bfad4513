"""Fixtures: a daemon with notices, and a guest of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.changes import ring_alone
from tests.frontend.daemon import Daemon
from tests.system.share import Share, mounted, serve
from vhost9p.changes.ring import Ring


@pytest.fixture
def daemon(export: Path, tmp_path: Path) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    with serve(export, "--notify", f"--state-dir={tmp_path}/state") as daemon:
        yield daemon
        daemon.check_output()


@pytest.fixture
def share(daemon: Daemon, export: Path) -> Iterator[Share]:
    with mounted(daemon, export) as share:
        yield share


@pytest.fixture
def ring(daemon: Daemon) -> Iterator[Ring]:
    with ring_alone(daemon) as ring:
        yield ring
