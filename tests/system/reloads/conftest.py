"""Fixtures: a place for a configuration, and a daemon that serves one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.reloads.site import Site


@pytest.fixture
def base(scratch: Path) -> Iterator[Path]:
    """An empty directory."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def site(base: Path) -> Iterator[Site]:
    with Site(base) as site:
        yield site
