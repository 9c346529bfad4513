"""The driver program: compiled, started beside a server, told what to run.

What it takes and answers is in main.c.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror")

MEMORY_SIZE = 96 << 20
RING_AT = 16 << 20  # above what a PC has below its first MiB, and whatever firmware wrote
QUEUE_SIZE = 128
PATIENCE = 60.0  # seconds for an answer, beside what the run takes


class DriverError(Exception):
    """The driver ended: a reply was wrong, or the server or the driver itself has failed."""


class WrongReply(DriverError):
    """The server's reply was wrong."""


class RefusedError(Exception):
    """The server says that it does not support a workload; `errno` is how."""

    def __init__(self, workload: str, errno: int) -> None:
        super().__init__(f"{workload}: {os.strerror(errno)}")
        self.errno = errno


class Point(NamedTuple):
    """One thing to measure."""

    workload: str
    depth: int
    wait: Literal["poll", "call", "rest"]
    think_us: int = 0
    scale: tuple[int, int, int] | None = None
    """Fids or devices, files that these stand for, entries of the directory: see ninep_scale.c."""


class Sample(NamedTuple):
    """One run of a point on one server; times in ns."""

    ops: int
    ns: int
    cpu_ns: int  # of the server's processes
    mean_ns: int  # of an operation's latency, as are the quantiles
    p50_ns: int
    p99_ns: int
    kicks: int
    calls: int


@dataclass(frozen=True)
class Queue:
    """A running server's virtqueue: what a driver needs to play the guest.

    The ring's parts lie at RING_AT and one and two pages behind it (descriptors, available, used)
    in `memory`, whose first byte is guest-physical 0.
    """

    protocol: Literal["9p", "fuse"]
    memory: int
    kick: int
    call: int
    pids: tuple[int, ...]


def build(folder: Path) -> Path:
    """Compiles the driver into a folder. Raises DriverError with the compiler's words."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "driver"
    sources = [str(path) for path in sorted(HERE.glob("*.c"))]
    command = [os.environ.get("CC", "cc"), *FLAGS, "-o", str(target), *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DriverError(f"{' '.join(command)}:\n{done.stderr}")
    return target


def make_tree(program: Path, directory: Path) -> None:
    """Makes the files that the workloads use in an empty directory."""
    subprocess.run([str(program), "make", str(directory)], check=True)


def grow_tree(program: Path, directory: Path, count: int) -> None:
    """Makes one more directory in that one, of `count` files."""
    subprocess.run([str(program), "grow", str(directory), str(count)], check=True)


class Driver:
    """A driver process in session with one server; None stands for the host's system calls."""

    def __init__(self, program: Path, directory: Path, queue: Queue | None) -> None:
        words = [str(program), "host" if queue is None else queue.protocol, str(directory)]
        fds: Sequence[int] = ()
        if queue is not None:
            fds = (queue.memory, queue.kick, queue.call)
            words += map(str, (queue.memory, MEMORY_SIZE, RING_AT, queue.kick, queue.call))
            words += map(str, queue.pids)
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            pass_fds=fds,
        )
        try:
            self._answer(PATIENCE)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, point: Point, milliseconds: int, serial: int) -> Sample:
        """Runs a point once. `serial` differs between any two runs on one tree.

        Raises RefusedError, WrongReply or DriverError.
        """
        assert self._process.stdin is not None
        words = (point.workload, point.depth, point.wait, milliseconds, point.think_us, serial)

        try:
            print(*words, *(point.scale or ()), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._fail()
        found = json.loads(self._answer(PATIENCE + milliseconds / 1000))
        if "refused" in found:
            raise RefusedError(point.workload, found["refused"])
        return Sample(**found)

    def _answer(self, timeout: float) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise DriverError(f"no answer within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return line

    def _fail(self) -> None:
        assert self._process.stderr is not None
        words = self._process.stderr.read().strip()
        status = self._process.wait()
        kind = WrongReply if status == 3 else DriverError
        raise kind(words or f"the driver ended with status {status}")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
