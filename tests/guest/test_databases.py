"""Databases keep what they were told, in each cache mode in which they work: docs/databases.md."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from tests.guest import databases, fetch
from tests.guest.conftest import Boot, Loud
from tests.guest.mounted import MOUNT

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

FAILS = {
    ("sqlite-wal", "none"): "disk I/O error",
    ("lmdb", "none"): "Invalid argument",
    ("lmdb-writemap", "none"): "Invalid argument",
}
"""What needs a shared mapping that can be written: the client has none without a cache."""


@pytest.fixture(scope="module")
def guest(boot_shared: Boot, loud: Loud) -> Iterator[databases.Guest]:
    loud(fetch.databases)
    with databases.guest(partial(boot_shared, "full", memory="2G")) as guest:
        yield guest


@pytest.mark.full
@pytest.mark.parametrize("cache", databases.CACHES)
@pytest.mark.parametrize("name", databases.DATABASES)
def test_three_writers_leave_whole_databases(guest: databases.Guest, name: str, cache: str) -> None:
    said = guest.run(databases.DATABASES[name], cache)
    expected = FAILS.get((name, cache), "")
    assert expected in said if expected else not said


@pytest.mark.full
def test_a_guest_and_the_host(guest: databases.Guest) -> None:
    """Writers on both sides of one SQLite database: without a cache, with a rollback journal."""
    program = [sys.executable, "-c", databases.SQLITE_WRITER, "60"]
    guest.start("none")
    try:
        shared = guest.export / "work" / "db"
        with sqlite3.connect(shared) as db:
            db.execute("create table t(who, n)")
        inside = guest.vm.popen(
            ["python3", "-c", databases.SQLITE_WRITER, "60"], cwd=f"{MOUNT}/work"
        )
        subprocess.run(program, cwd=shared.parent, check=True)
        inside.wait(timeout=databases.TIMEOUT)
        with sqlite3.connect(shared) as db:
            assert db.execute("select count(*) from t").fetchone() == (120,)
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    finally:
        guest.stop()
