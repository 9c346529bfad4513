"""What a Tflush costs where many requests wait: each may be the one that it names."""

from __future__ import annotations

import time
from pathlib import Path

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.wire import T

RING_SIZE = 1024
MOST_WAITING = RING_SIZE // 2  # each has a Tflush beside it
_FIRST_FID, _COUNT = 1, 512


class FlushError(Exception):
    """A flushed request did not come back as it should."""


def _cpu_us(pid: int) -> float:
    """CPU time of a process (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns(~pid << 3 | 2) / 1000


def _flush_all(client: Client, pid: int, waiting: int) -> float:
    """Lets requests wait for their turn in a throttled export, and flushes each; µs for one."""
    reads = [
        client.submit(T.READ, _FIRST_FID, 0, _COUNT, kick=number + 1 == waiting)
        for number in range(waiting)
    ]
    time.sleep(0.02)
    before = _cpu_us(pid)
    flushes = [
        client.submit(T.FLUSH, read.tag, kick=number + 1 == waiting)
        for number, read in enumerate(reads)
    ]
    for flush in flushes:
        client.wait(flush)
    spent = _cpu_us(pid) - before
    if any(read.reply is None for read in reads):
        raise FlushError("Rflush came before the reply to what it flushes")
    return spent / waiting


def costs(tree: Path, sizes: tuple[int, ...], rounds: int) -> dict[int, list[float]]:
    """CPU time in µs of a Tflush and the end of its request, by how many of those wait.

    Raises FlushError.
    """
    found: dict[int, list[float]] = {size: [] for size in sizes}
    options = ("--path", str(tree), "--security-model", "passthrough", "--poll-us", "0")
    with (
        Daemon(*options, "--throttling", "iops-total=1") as daemon,
        Machine(daemon.socket, ring_size=RING_SIZE) as machine,
    ):
        machine.boot()
        client = Client(machine)
        client.version()
        client.attach(0)
        client.walk(0, _FIRST_FID, b"data")
        client.lopen(_FIRST_FID, 0)
        for turn in range(rounds):
            for size in sizes[turn % len(sizes) :] + sizes[: turn % len(sizes)]:
                found[size].append(_flush_all(client, daemon.worker, size))
    return found
