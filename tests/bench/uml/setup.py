"""A server, an export and a native guest that has it mounted, for a round.

Belongs here: how the three are started and pinned, how a job is done in the guest, and what is
measured of it. What the jobs are is the business of jobs.py.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import placement, servers
from tests.bench.placement import Placement
from tests.bench.report import OTHER, OURS, PEER
from tests.bench.uml import jobs
from tests.bench.uml.jobs import Job
from tests.guest.uml import NINEP, VIRTIOFS, Device, Uml

PAIRS = {"none": "never", "mmap": "auto", "loose": "always"}
"""A 9p client's cache mode, and virtiofsd's that promises as much."""
MOUNT = "/tmp/export"
NINEP_OPTIONS = "trans=virtio,version=9p2000.L,msize=512000"
ENVIRONMENT = {"HOME": "/tmp/home", "PATH": "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"}
ON_A_TMPFS = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"')
"""Runs a command to which the directory that follows is a file system of its own."""
PATIENCE = 900.0
"""Seconds for a job."""


@dataclass(frozen=True)
class Sample:
    """One run of a job; times in µs."""

    elapsed: float
    cpu: float


@dataclass(frozen=True)
class Setup:
    """What all runs have in common."""

    tmpfs: str
    where: Placement
    shared: Path
    """The folder beside the mount, which jobs.prepare has filled."""
    options: Sequence[str] = ()
    """Of vhost9p."""
    against: Path | None = None
    """Another checkout of it."""
    agent: bool = False
    """This checkout has `notify`, and its agent runs in the guest."""

    @property
    def servers(self) -> list[str]:
        """Which servers take turns."""
        others = [OTHER] if self.against else []
        return [*others, OURS] if self.agent else [PEER, *others, OURS]

    def process(
        self, server: str, export: Path, cache: str
    ) -> AbstractContextManager[tuple[Path, int]]:
        """A server on a directory: socket and pid."""
        if server == PEER:
            return servers.virtiofsd_process(export, PAIRS[cache], tag="fs")
        checkout = self.against if server == OTHER and self.against else servers.ROOT
        options = [*self.options, *(["--notify"] if self.has_agent(server) else [])]
        wrapper = [*ON_A_TMPFS, str(export)] if self.agent else []
        return servers.vhost9p_process(export, options=options, wrapper=wrapper, checkout=checkout)

    def has_agent(self, server: str) -> bool:
        """Whether an agent runs in the guest of this server."""
        return self.agent and server == OURS


@dataclass(frozen=True)
class Served:
    """A guest with an export mounted, and its server."""

    guest: Uml
    pid: int

    def run(self, job: Job) -> Sample:
        """Does a job, and what it has left to do later. Raises CommandFailed where it goes
        wrong."""
        self.prepare(job)
        sample = self.measure(job)
        self.shell(f"{job.check}\nsync")
        return sample

    def prepare(self, job: Job) -> None:
        """What comes before a job."""
        self.shell(f"{jobs.COLD if job.cold else ''}\n{job.before}")

    def measure(self, job: Job) -> Sample:
        """The job itself."""
        start = cpu_time(self.pid)
        said = self.shell(job.script)
        return Sample(float(said.splitlines()[-1]), cpu_time(self.pid) - start)

    def shell(self, script: str) -> str:
        """Runs a script in the mount; what it prints."""
        if not script.strip():
            return ""
        words = ("/bin/bash", "-ec", script)
        return self.guest.run(words, cwd=MOUNT, env=ENVIRONMENT, timeout=PATIENCE).text


def cpu_time(pid: int) -> float:
    """CPU time of a process (clock_getcpuclockid(3)), in µs."""
    return time.clock_gettime_ns(~pid << 3 | 2) / 1000


@contextmanager
def served(setup: Setup, server: str, cache: str) -> Iterator[Served]:
    """A server on an empty directory, and a guest that has it mounted; `cache` is one of PAIRS."""
    with tempfile.TemporaryDirectory(prefix="vhost9p-bench-", dir=setup.tmpfs) as name:
        export = Path(name)
        export.chmod(0o755)
        mount = f"mount -t 9p -o {NINEP_OPTIONS},cache={cache} host0 {MOUNT}"
        if server == PEER:
            mount = f"mount -t virtiofs fs {MOUNT}"
        with setup.process(server, export, cache) as (socket, pid):
            placement.pin(pid, setup.where.server)
            device = Device(socket, VIRTIOFS if server == PEER else NINEP)
            with Uml([device], setup.shared, cpu=setup.where.driver) as guest:
                guest.run(f"mkdir {MOUNT} {ENVIRONMENT['HOME']} && {mount}")
                if setup.has_agent(server):
                    guest.popen(["sh", f"{MOUNT}/.vhost9p/agent"])
                yield Served(guest, pid)
