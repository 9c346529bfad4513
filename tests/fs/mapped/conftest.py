"""Fixtures: a directory that everybody may change, served with each kind of metadata."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.mapped.place import MODELS, Place, serving


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory on a real file system that everybody may change."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="v9-mapped-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=MODELS)
def place(folder: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with serving(folder, request.param) as it:
        yield it


@pytest.fixture
def files(folder: Path) -> Iterator[Place]:
    with serving(folder, "mapped-file") as it:
        yield it
