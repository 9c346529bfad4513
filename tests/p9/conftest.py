"""A guest on an empty directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.p9.guest import Guest, serving


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The export."""
    path = tmp_path / "export"
    path.mkdir()
    return path


@pytest.fixture
def guest(root: Path) -> Iterator[Guest]:
    """A guest of a writable export."""
    with serving(root) as guest:
        yield guest
