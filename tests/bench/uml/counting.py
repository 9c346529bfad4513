"""The requests of a job, and where its time goes: guest, ring, server, Python, host.

Belongs here: counting in the guest (request_trace.py), sampling the server with perf(1), and the
division. By the guest's clock a job is either at work in the guest, or it waits while requests are
on their way (Requests.busy). The latter is divided by what the server did of it, in CPU time: its
own code, Python, and the host's system calls. What is left is the ring: the two wake-ups, the
kick's and the interrupt's, and the time in which nobody runs. The server must not poll while it is
sampled, since a poll would count as code.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.bench import profile
from tests.bench.uml import jobs
from tests.bench.uml.jobs import Job
from tests.bench.uml.setup import Sample, Served

RING = ("futex", "epoll_wait", "read", "write", "sendto", "poll", "ppoll", "sched_yield", "tgkill")
"""System calls with which threads wait, and wake each other and the guest, whose interrupt is a
message on a socket. Files are read and written with others."""


@dataclass(frozen=True)
class Requests:
    """What a guest sent during a job, as request_trace.py has it."""

    counts: dict[str, int]
    errors: dict[str, int]
    waits: dict[str, int]
    busy: int

    @property
    def total(self) -> int:
        """Round trips."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Split:
    """Parts of a job's time, in µs."""

    guest: float
    ring: float
    code: float
    python: float
    host: float


@dataclass(frozen=True)
class Count:
    """What was counted in one run of a job."""

    requests: Requests
    split: Split | None
    """None without perf."""


def count(running: Served, job: Job) -> Count:
    """Does a job with the guest's tracepoints on and the server sampled, both of which make it
    slower. Raises CommandFailed where it goes wrong."""
    tracer = f"python3 {jobs.SHARED}/request_trace.py"
    running.prepare(job)
    running.shell(f"{tracer} start")
    watched: AbstractContextManager[Counter[str]] = nullcontext(Counter())
    if shutil.which("perf"):
        watched = sampled(running.pid)
    with watched as counts:
        sample = running.measure(job)
    requests = Requests(**json.loads(running.shell(f"{tracer} stop")))
    running.shell(job.check)
    return Count(requests, divide(sample, requests, counts) if counts else None)


@contextmanager
def sampled(pid: int) -> Iterator[Counter[str]]:
    """Samples a process inside the context; afterwards there are the numbers of samples of each
    part: `ring`, `code`, `python`, `host`."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "perf.data"
        words = ["perf", "record", "-q", "-g", "-F", str(profile.FREQUENCY), "-o", str(recording)]
        with subprocess.Popen([*words, "-p", str(pid)], stderr=subprocess.DEVNULL) as perf:
            time.sleep(profile.SETTLE)
            try:
                yield counts
            finally:
                perf.send_signal(signal.SIGINT)
        counts.update(part(what) for what in profile.samples(recording))


def part(what: str) -> str:
    """What a sample belongs to, by its kind in profile.py."""
    if what in profile.WAITING.values() or what in {f"kernel: {name}" for name in RING}:
        return "ring"
    if what.startswith("kernel: "):
        return "host"
    return "python" if what.startswith("Python") else "code"


def divide(sample: Sample, sent: Requests, counts: Counter[str]) -> Split:
    """A job's time by what was measured of it."""
    spent = {name: sample.cpu * counts[name] / max(counts.total(), 1) for name in counts}
    served = [spent.get(name, 0.0) for name in ("code", "python", "host")]
    return Split(sample.elapsed - sent.busy, sent.busy - sum(served), *served)
