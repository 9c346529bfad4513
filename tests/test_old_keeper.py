"""How main stops a keeper and ends its worker, of processes that do nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from vhost9p.birth import Waits
from vhost9p.old_keeper import OldKeeper

KEEPER = """
import os, signal, threading

def resist():
    while True:
        signal.pthread_kill(threading.get_ident(), signal.SIGCONT)

if os.fork() == 0:
    for _ in range({threads}):
        threading.Thread(target=resist).start()
    print("begun", flush=True)
    while True:
        signal.pause()
while True:
    os.wait()
"""


@contextmanager
def keeper(threads: int) -> Iterator[OldKeeper]:
    """One with a worker that has so many threads which undo its stop."""
    script = KEEPER.format(threads=threads)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pidfd, stop_fd = os.pidfd_open(process.pid), os.eventfd(0)
    assert process.stdout and process.stdout.readline() == "begun\n"
    try:
        yield OldKeeper(process.pid, pidfd, Waits(stop_fd))
    finally:
        for pid in workers(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(pidfd)
        os.close(stop_fd)


def workers(pid: int) -> list[int]:
    """The children that have not ended."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        found = [int(each) for each in file.read().split()]
    return [each for each in found if not has_ended(each)]


def has_ended(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(") ")[2][0] == "Z"


@pytest.mark.parametrize("threads", [0, 2])
def test_a_worker_that_resists_ends(threads: int) -> None:
    """Which undoes a stop signal as often as it can."""
    with keeper(threads) as old:
        old.freeze()
        assert len(workers(old.pid)) == 1
        old.end_worker()
        assert workers(old.pid) == []


def test_a_worker_is_killed_whatever_it_does() -> None:
    with keeper(2) as old:
        old.freeze()
        assert old.kill_worker(60.0)
        assert workers(old.pid) == []
