"""Successors of a worker that cannot start for want of something: the guest's session waits."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, WRLCK
from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.frontend.faulty_code import LACKS, Replaced
from tests.system.share import SECURITY, mounted, serve

ATTEMPTS = 4
"""More than the deaths by a fault at which the session is given up."""


def lose_no_session(daemon: Daemon, export: Path, lacking: Replaced | None = None) -> None:
    """A guest's open file and its lock are there when a successor can start again."""
    with mounted(daemon, export) as share, open(export / "file", "r+b") as file:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS
        if lacking:
            lacking.in_keeper()
        kill(daemon.worker)
        daemon.wait_line(f"the worker ended with status 1, death {1 + ATTEMPTS}: ")
        if lacking:
            lacking.heal()
        assert share.client.read(fid, 0, 10) == b"data"
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert "given up" not in daemon.output


# The last of them fails when the device has been started.
@pytest.mark.parametrize("function", ["v9_budget_join", "v9_device_set_export"])
def test_a_device_that_cannot_be_started_keeps_its_state(export: Path, function: str) -> None:
    (export / "file").write_bytes(b"data")
    with serve(export) as daemon:
        lose_no_session(daemon, export, Replaced(daemon, function, LACKS))
        assert "serving cannot begin: Resource temporarily unavailable" in daemon.output


FAILS_LATER = """
import mmap, sys, threading
from vhost9p import worker
from vhost9p.__main__ import main

page, work = mmap.mmap(-1, 1), {where}

def failing(*args, **kwargs):
    if getattr(args[0], "name", "{thread}") == "{thread}":
        page[0] += 1
        if {before} < page[0] <= {before} + {attempts}:
            raise {error}
    return work(*args, **kwargs)

{where} = failing
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""
NO_THREAD = """RuntimeError("can't start new thread")"""


@pytest.mark.parametrize(
    ("where", "thread", "error"),
    [
        ("threading.Thread.start", "start", NO_THREAD),
        ("threading.Thread.start", "vhost-user_0", NO_THREAD),
        ("worker.Device", "", "MemoryError"),
        ("worker.take_over", "", "MemoryError"),
        ("worker.Worker.serve", "", "MemoryError"),
    ],
)
def test_what_a_host_lacks_is_no_fault(export: Path, where: str, thread: str, error: str) -> None:
    (export / "file").write_bytes(b"data")
    before = 2 if thread == "start" else 1  # the first worker has opened exports, and a device
    code = FAILS_LATER.format(
        where=where, thread=thread, error=error, before=before, attempts=ATTEMPTS
    )
    wrapper = [sys.executable, "-c", code]
    with Daemon("--path", str(export), *SECURITY, wrapper=wrapper) as daemon:
        lose_no_session(daemon, export)
