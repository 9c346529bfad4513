"""Kills workers under load, and compares the outcome with that of a run without deaths.

`python -m tests.system.deaths_under_load.run --deaths 5000` prints what has happened; it fails if
anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from tests.frontend.client import Client, Ticket
from tests.frontend.daemon import Daemon, worker_of
from tests.frontend.deaths import kill
from tests.frontend.wire import T, decode
from tests.system.counting_daemon import WRAPPER, cut_off
from tests.system.deaths_under_load.held_locks import Locks, Prober
from tests.system.deaths_under_load.programs import ROOT, Program, Request, Steps
from tests.system.host_locks import is_locked, is_locked_by_flock
from tests.system.share import SECURITY, mounted

PROGRAMS = 32
LULL_S = 0.002
"""Replies gather for so long before a death, so that as many requests follow at once."""
LONGEST_S = 0.0003
"""The worker then serves them for so long at most."""
AGAIN, RECOVERY_S = 0.02, 0.03
"""So often the next worker dies, too, so long after its start at most: it may still be recovering.
"""


@dataclass
class Outcome:
    """What a run has led to; equal for equal runs."""

    replies: list[list[str]] = field(default_factory=list)
    tree: list[str] = field(default_factory=list)
    usage: tuple[int, int] = (0, 0)
    descriptors: int = 0


class Load:
    """Programs at work, each with one request in flight."""

    def __init__(self, client: Client, programs: list[Program]) -> None:
        self.answered = 0
        self.kicked: Callable[[], None] = lambda: None
        """Called when requests were made available."""
        self._client = client
        self._programs = programs
        self._running: dict[Ticket, tuple[Program, Steps]] = {}

    def run(self, steps_of: Callable[[Program], Steps]) -> None:
        """Has each program do these steps, to their end."""
        for program in self._programs:
            steps = steps_of(program)
            self._submit(program, steps, next(steps))
        self._client.ring.kick()
        while self._running:
            for ticket in self._client.reap():
                self._go_on(ticket)
            self._client.ring.kick()
            self.kicked()

    def _submit(self, program: Program, steps: Steps, request: Request) -> None:
        kind, fields = request
        ticket = self._client.submit(kind, *fields, kick=False)
        self._running[ticket] = program, steps

    def _go_on(self, ticket: Ticket) -> None:
        program, steps = self._running.pop(ticket)
        assert ticket.reply, f"a request of {program.name!r} was dropped"
        reply = decode(ticket.reply)
        assert reply.tag == ticket.tag
        self.answered += 1
        program.record(T(ticket.kind), reply)
        with suppress(StopIteration):
            self._submit(program, steps, steps.send(reply))


class Killer:
    """Kills so many workers, at random times while they serve, and some while they recover."""

    def __init__(self, daemon: Daemon, prober: Prober, deaths: int) -> None:
        self.left = deaths
        self._prober = prober
        (self._keeper,) = daemon.keepers
        self._worker = daemon.worker
        self._random = random.Random(deaths)
        self._is_due = False

    def strike(self) -> None:
        """Called when requests have been made available: kills the worker every other time."""
        self._is_due = bool(self.left) and not self._is_due
        if not self._is_due:
            time.sleep(LULL_S if self.left else 0)
            return
        assert self._prober.is_alive(), "a lock was not as the guest had it"
        time.sleep(self._random.uniform(0, LONGEST_S))
        self._kill()
        while self.left and self._random.random() < AGAIN:
            time.sleep(self._random.uniform(0, RECOVERY_S))
            self._kill()

    def _kill(self) -> None:
        kill(self._worker)
        self.left -= 1
        self._worker = worker_of(self._keeper)


# ---- what a run has led to -----------------------------------------------------------------------


def tree_of(export: Path) -> list[str]:
    """All files, without numbers of inodes and times."""
    found = []
    for path in sorted(export.rglob("*")):
        st = path.lstat()
        content = zlib.crc32(path.read_bytes()) if stat.S_ISREG(st.st_mode) else 0
        size = st.st_size if stat.S_ISREG(st.st_mode) else 0
        name = path.relative_to(export)
        found.append(
            f"{name} {st.st_mode:o} {st.st_uid} {st.st_nlink} {size} {st.st_blocks} {content}"
        )
    return found


def used(client: Client) -> tuple[int, int]:
    """What the guest sees of the quota: bytes and inodes."""
    found = client.statfs(ROOT)
    return (found.blocks - found.bfree) * found.bsize, found.files - found.ffree


def check_qids(export: Path, programs: list[Program]) -> None:
    """Another daemon has to find the same qids."""
    with serve(export) as daemon, mounted(daemon, export) as share:
        for program in programs:
            for name, path in program.qids.items():
                fid = share.client.walk_to(share.top, program.name, *name.split(b"/"))
                assert share.client.getattr(fid).qid.path == path, (program.name, name)
                share.client.clunk(fid)


def check_unlocked(programs: list[Program], export: Path) -> None:
    """No lock is left on any file."""
    for program in programs:
        for path in paths_of(export, program):
            fd = os.open(path, os.O_RDWR)
            assert not is_locked(fd, 0, 0), path
            assert not is_locked_by_flock(fd), path
            os.close(fd)


def paths_of(export: Path, program: Program) -> list[Path]:
    """The files of a program's locks, in their order."""
    return [export / os.fsdecode(program.name) / name for name in ("locked", "data")]


# ---- runs ----------------------------------------------------------------------------------------


def serve(export: Path) -> Daemon:
    options = ("--quota-bytes", "1GiB", "--quota-inodes", "100000", "--multidevs", "remap")
    state = ("--state-dir", str(export.parent / "state"))
    return Daemon("--path", str(export), *SECURITY, *options, *state, wrapper=WRAPPER)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """An export in memory, so that equal files use equally much."""
    folder = Path(tempfile.mkdtemp(prefix="v9-load-", dir="/dev/shm"))
    folder.chmod(0o755)
    try:
        (folder / "export").mkdir()
        (folder / "state").mkdir(mode=0o700)
        yield folder / "export"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_without_deaths(rounds: list[int]) -> Outcome:
    """Each program does so many rounds."""
    with place() as export, serve(export) as daemon, mounted(daemon, export) as share:
        locks = Locks(PROGRAMS)
        programs = [Program(number, locks) for number in range(PROGRAMS)]
        share.client.attach(ROOT)
        load = Load(share.client, programs)
        load.run(lambda program: program.run(lambda each: each.rounds == rounds[each.number]))
        return outcome_of(daemon, share.client, export, programs)


def run_with_deaths(deaths: int) -> tuple[Outcome, list[int], str]:
    """Returns the outcome, each program's rounds, and what is to be said of it."""
    with place() as export:
        locks = Locks(PROGRAMS)
        programs = [Program(number, locks) for number in range(PROGRAMS)]
        prober = Prober(locks, [path for each in programs for path in paths_of(export, each)])
        with serve(export) as daemon, mounted(daemon, export) as share:
            share.client.attach(ROOT)
            load = Load(share.client, programs)
            killer = Killer(daemon, prober, deaths)
            load.kicked = killer.strike
            began = time.monotonic()
            try:
                load.run(lambda program: program.run(lambda _: not killer.left))
                took = time.monotonic() - began
                outcome = outcome_of(daemon, share.client, export, programs)
                rounds = [each.rounds for each in programs]
                load.run(Program.end)
                check_unlocked(programs, export)
            finally:
                is_right = prober.end()
            assert is_right, "a lock was not as the guest had it"
        check_qids(export, programs)
        return outcome, rounds, report(daemon, load, locks, deaths, took)


def outcome_of(daemon: Daemon, client: Client, export: Path, programs: list[Program]) -> Outcome:
    replies = [each.replies.copy() for each in programs]
    return Outcome(replies, tree_of(export), used(client), daemon.fd_count())


def report(daemon: Daemon, load: Load, locks: Locks, deaths: int, took: float) -> str:
    requests = cut_off(daemon.lines)
    inside = sum(map(bool, requests))
    return (
        f"{deaths} deaths in {took:.0f} s, {inside} of them inside {sum(requests)} requests; "
        f"{load.answered} replies, {locks.looks} looks at locks"
    )


def compare(found: Outcome, expected: Outcome) -> None:
    """Fails if there is a difference, and shows the first one."""
    for number, (some, others) in enumerate(zip(found.replies, expected.replies, strict=True)):
        for at, pair in enumerate(zip_longest(some, others)):
            assert pair[0] == pair[1], f"program {number}, reply {at}: {pair}"
    assert found.tree == expected.tree, [*zip(found.tree, expected.tree, strict=False)]
    assert found.usage == expected.usage, (found.usage, expected.usage)
    assert found.descriptors == expected.descriptors, (found.descriptors, expected.descriptors)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deaths", type=int, required=True)
    outcome, rounds, text = run_with_deaths(parser.parse_args().deaths)
    print(text, flush=True)
    compare(outcome, run_without_deaths(rounds))


if __name__ == "__main__":
    main()
