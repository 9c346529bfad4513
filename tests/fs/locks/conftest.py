"""Fixtures: a file, a table, two processes of a guest and one of the host."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fs.locks.processes import Host, Process, Table
from vhost9p.native import sys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return path


@pytest.fixture
def table() -> Iterator[Table]:
    """A table that has to leave no descriptor open."""
    sys.wake_signal()
    before = len(os.listdir("/proc/self/fd"))
    table = Table()
    yield table
    table.clear()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def one(table: Table, path: Path) -> Process:
    """A guest process."""
    return Process(table, path, 1)


@pytest.fixture
def two(table: Table, path: Path) -> Process:
    """Another one."""
    return Process(table, path, 2)


@pytest.fixture
def host(path: Path, table: Table) -> Iterator[Host]:
    """A host process."""
    host = Host(path)
    yield host
    host.close()


@pytest.fixture
def child(table: Table, path: Path, one: Process) -> Process:
    """A process that has inherited the descriptor of `one`."""
    return Process(table, path, 2, fid=one.fid)
