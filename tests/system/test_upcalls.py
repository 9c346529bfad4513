"""Requests that Python answers: whatever happens to one, it is answered, and others go on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.frontend.daemon import Daemon
from tests.frontend.wire import T
from tests.system.faulty_daemon import FAULTY
from tests.system.share import SECURITY, Share, fails, mounted, remount, serve

ROUNDS = 300
TIMES = 50


@contextmanager
def faulty(directory: Path) -> Iterator[Share]:
    """A guest whose daemon has faults."""
    export = directory / "export"
    export.mkdir()
    for name in ("good", "bad"):
        (export / name).write_bytes(b"data")
    table = directory / "table.json"
    table.write_text(json.dumps([("", 1, 1), ("good", 1, 2), ("bad", FAULTY, 3)]))
    wrapper = [sys.executable, "-m", "tests.system.faulty_daemon", str(table)]
    daemon = Daemon("--path", str(export), *SECURITY, "--multidevs", "remap", wrapper=wrapper)
    daemon.start()
    try:
        with mounted(daemon, export) as share:
            yield share
    finally:
        daemon.kill()


def test_faults_are_answered_and_logged_once(tmp_path: Path) -> None:
    """And the next session begins: nothing is left in flight."""
    with faulty(tmp_path) as share:
        client = share.client
        good = client.open(share.root, b"good")
        with open(share.path("good"), "r+b") as host:
            fcntl.lockf(host, fcntl.LOCK_EX)
            for _ in range(TIMES):
                with fails(errno.EIO):
                    client.getlock(good, 1, 0, 0)
                with fails(errno.EIO):
                    client.lock(good, 1)
                with fails(errno.EIO):
                    client.walk_to(share.root, b"bad")
        remount(share)
        assert client.read(client.open(share.root, b"good"), 0, 10) == b"data"
        for fault in (
            "ZeroDivisionError: a fault",
            "KeyboardInterrupt: a fault of a handler",
            "KeyboardInterrupt: a fault of a lock",
        ):
            share.daemon.wait_line(fault)
            assert share.daemon.output.count(fault) == 1


def test_no_request_is_served_before_the_tversion_ahead_of_it(export: Path) -> None:
    """A new session has no fids: none of the old one may still be used, or lost when it is
    entered anew."""
    with serve(export, "--threads=4") as daemon, mounted(daemon, export) as share:
        client = share.client
        for _ in range(ROUNDS):
            version = client.submit(T.VERSION, 512000, b"9P2000.L", kick=False)
            old = [client.submit(T.GETATTR, share.root, 0x7FF, kick=False) for _ in range(3)]
            share.machine.ring.kick()
            client.wait(version)
            for ticket in old:
                with fails(errno.EBADF):
                    client.wait(ticket)
            client.attach(share.root)


def test_a_worker_ends_under_serving_threads(tmp_path: Path) -> None:
    """With the error that it ends by, whoever is in Python, or comes back to it, meanwhile. The
    next one serves. Unconfined, since the signal to end is a file outside the export."""
    (tmp_path / "export").mkdir()
    end = tmp_path / "end"
    wrapper = [sys.executable, "-m", "tests.system.ending_daemon", str(end)]
    args = ("--path", str(tmp_path / "export"), *SECURITY, "--threads=4", "--sandbox=none")
    daemon = Daemon(*args, wrapper=wrapper).start()
    try:
        with mounted(daemon, tmp_path / "export") as share:
            client = share.client
            fid = client.create(share.root, b"file")
            end.touch()
            with contextlib.suppress(TimeoutError):  # at the end nothing is answered
                while end.exists():
                    for _ in range(100 - len(client.in_flight)):
                        client.submit(T.FSYNC, fid, 0)
                    client.reap(1)
        daemon.wait_line("the worker ended with status 70, death 1: ")
        with mounted(daemon, tmp_path / "export") as share:
            share.client.getattr(share.root)
        daemon.process.terminate()
        assert daemon.wait() == 0
    finally:
        daemon.kill()
    assert "ZeroDivisionError: a fault of the daemon" in daemon.output
    assert "Fatal" not in daemon.output
