"""The threads that serve: where they run, and that none of their ways to wait loses a request."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from tests.frontend.client import SET_MODE, Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.system.share import mounted, serve

PAUSE = 0.0003
"""Seconds between two requests: longer than a thread looks for one, unless it is told to."""
ROUNDS = 2
DEPTH = 400
PATIENCE = 60
"""Seconds, until a thread has looked when nobody else wanted its CPU."""


def cpus_of_threads(pid: int) -> list[str]:
    """The list of CPUs that each thread of a process may run on."""
    return [
        re.findall(r"Cpus_allowed_list:\s*(\S+)", (task / "status").read_text())[0]
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]


def test_threads_run_on_the_cpus_of_the_option(export: Path) -> None:
    everywhere, last = os.sched_getaffinity(0), max(os.sched_getaffinity(0))
    if len(everywhere) == 1:
        pytest.skip("there is one CPU to run on")
    with serve(export) as daemon, mounted(daemon, export):
        assert str(last) not in cpus_of_threads(daemon.worker)
    with serve(export, f"--cpus={last}", "--threads=3") as daemon, mounted(daemon, export):
        found = cpus_of_threads(daemon.worker)
        assert found.count(str(last)) == 4  # and one that keeps watch
        assert len(set(found)) == 2  # the others stay free


def test_a_thread_that_looks_needs_no_kick(export: Path) -> None:
    with serve(export, "--poll-us=1000") as daemon, mounted(daemon, export) as share:
        client, ring = share.client, share.machine.ring
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            kicks = ring.kicks
            client.getattr(share.root)
            if ring.kicks == kicks:
                return
            time.sleep(PAUSE)
    pytest.fail("every request had to be announced")


def _boot(daemon: Daemon, event_idx: bool) -> Machine:
    return Machine(daemon.socket, event_idx=event_idx).boot()


@pytest.mark.parametrize("event_idx", [True, False])
@pytest.mark.parametrize("args", [("--poll-us=0",), ("--poll-us=1000",), ("--threads=3",)])
def test_requests_at_any_distance_are_answered(
    export: Path, args: tuple[str, ...], event_idx: bool
) -> None:
    """From one right after the other to so far apart that the thread has gone to sleep meanwhile,
    or is about to: with answers of Python's among them, which other threads give."""
    with serve(export, *args) as daemon, _boot(daemon, event_idx) as machine:
        client = Client(machine)
        client.version()
        client.attach(1)
        fid = client.create(1, b"file")
        for i in range(1500):
            tickets = [client.submit(T.GETATTR, fid, 0x7FF) for _ in range(i % 4)]
            client.setattr(fid, SET_MODE, mode=0o600 + i % 8)
            client.fsync(fid)
            assert client.getattr(fid).mode & 0o777 == 0o600 + i % 8
            for ticket in tickets:
                client.wait(ticket)
            time.sleep(i % 50 * 1e-6)


def test_computing_takes_no_more_threads(tmp_path: Path) -> None:
    """Walks up from far below the root keep the one thread that serves busy: each has to find out
    that it stays inside."""
    (tmp_path / "/".join("d" * DEPTH)).mkdir(parents=True)
    with serve(tmp_path) as daemon, mounted(daemon, tmp_path) as share:
        client = share.client
        before, most = daemon.threads(), 0
        deep = share.root
        for _ in range(DEPTH // 16):
            deep = client.walk_to(deep, *[b"d"] * 16)
        for _ in range(ROUNDS):
            walks = [
                client.submit(T.WALK, deep, client.new_fid(), (b"..",) * 16, kick=False)
                for _ in range(50)
            ]
            share.machine.ring.kick()
            for walk in walks:
                client.wait(walk)
                most = max(most, daemon.threads())
        assert most <= before + 2
