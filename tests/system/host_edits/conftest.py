"""Fixtures: a daemon for each security model, and a guest of each dialect on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.system.host_edits.edits import MODELS, Edits
from tests.system.share import mounted


@pytest.fixture(scope="module", params=MODELS)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    with Daemon(
        "--path", str(folder), "--security-model", request.param, "--multidevs", "warn"
    ) as daemon:
        daemon.export = folder  # type: ignore[attr-defined]
        yield daemon
    shutil.rmtree(folder)


@pytest.fixture(params=["L", "u"])
def edits(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Edits]:
    export: Path = daemon.export  # type: ignore[attr-defined]
    folder = export / "t"
    folder.mkdir()
    speaks = DialectUClient if request.param == "u" else Client
    try:
        with mounted(daemon, export, "t", speaks=speaks) as share:
            yield Edits(share)
    finally:
        shutil.rmtree(folder)
    daemon.check_output()
