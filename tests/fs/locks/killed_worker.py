"""Real deaths: a keeper, workers that share its descriptors and are killed at any instant, and a
process of the host that tries to get what a guest holds.

`python -m tests.fs.locks.killed_worker FOLDER SEED SECONDS` prints how many workers were killed; it
fails if one of them finds anything wrong.

Each thread of a worker requests what three guest processes do: at random, in files that no other
thread uses. A twin of its lock table, which the keeper has on other files, shows what must be
locked before and after each request. The worker notes in shared memory which request each thread is
at. Its successor takes over the table, finds what was locked before or after the requests that were
cut off, and runs them again.
"""

import fcntl
import gc
import mmap
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.fs.locks.processes import Process, Table
from tests.fs.locks.scenarios import Locked, is_between, locked_in
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK
from vhost9p.fs.ranges import WHOLE, Range, Span
from vhost9p.native import process
from vhost9p.native import sys as native

THREADS = 3
REQUESTS = 5_000
"""Of each thread, at most."""
RANGE = Range(1 << 40, 10)
SPANS = (WHOLE, WHOLE, Range(0, 10), Range(5, 10), Range(10, 20), Range(20, 0))
LONGEST_S = 0.006
CLUNK = -1
WRONG = 3
"""Exit code of a worker, or of the process of the host, that finds a lock missing."""


class Request(NamedTuple):
    """A request of a guest process; kind CLUNK: of its fid."""

    pid: int
    fid: int
    kind: int
    span: Span
    flock: bool
    keep: bool


class Guest:
    """What one thread requests: of three processes, the second of which is a child of the first,
    on one file."""

    def __init__(self, path: Path, thread: int, seed: int) -> None:
        self.path = path
        self.inode = path.stat().st_ino
        self._first = thread * REQUESTS
        choice = random.Random(seed + thread)
        fids = [10 * thread + number for number in range(5)]
        self.requests = [self._choose(choice, thread, fids) for _ in range(REQUESTS)]

    def _choose(self, choice: random.Random, thread: int, fids: list[int]) -> Request:
        pid = choice.randrange(3)
        which = choice.choice(((0, 1), (0, 2), (3, 4))[pid])
        fid = fids[which]
        kind = choice.choice((RDLCK, WRLCK, UNLCK))
        if choice.random() < 0.05:
            kind = CLUNK
            fids[which] += 1000  # no fid ever comes back
        flock, keep = choice.random() < 0.7, choice.random() < 0.7
        return Request(10 * thread + pid, fid, kind, choice.choice(SPANS), flock, keep)

    def run(self, table: Table, number: int) -> bool:
        """Runs a request; its result."""
        asked = self.requests[number]
        if asked.kind == CLUNK:
            table.remove(asked.fid)
            return True
        guest = Process(table, self.path, asked.pid, fid=asked.fid)
        if asked.kind != UNLCK:
            return guest.lock(asked.kind, asked.span)
        name = self._first + number + 1
        guest.unlock(asked.span, flock=asked.flock, keep=asked.keep, request=name)
        return True

    def open_fids(self, table: Table, number: int) -> None:
        """The fids that are there when a request begins."""
        for asked in self.requests[: number + 1]:
            table.add(asked.fid, self.path, os.O_RDWR)
        for asked in self.requests[:number]:
            if asked.kind == CLUNK:
                table._opens.pop(asked.fid)


class Twin:
    """The same guest with a table whose process is not killed."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._table = Table()
        self._next = 0
        self.before: set[Locked] = set()
        self.after: set[Locked] = set()
        self.result = True

    def go_to(self, number: int) -> None:
        """Runs all requests up to this one."""
        while self._next <= number:
            if self._next == number:
                self.before = locked_in(self._table)
            self.result = self._guest.run(self._table, self._next)
            self._next += 1
            if self._next > number:
                self.after = locked_in(self._table)


class Keeper:
    """See the module."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.choice = random.Random(seed)
        self.table = Table()
        self.range_path, self.flock_path = self._file(folder, "range"), self._file(folder, "flock")
        self.lock_for_ever()
        self.guests = [Guest(self._file(folder, f"file{i}"), i, seed) for i in range(THREADS)]
        self.twins = [Twin(Guest(self._file(folder, f"twin{i}"), i, seed)) for i in range(THREADS)]
        self.at = memoryview(mmap.mmap(-1, 8 * THREADS)).cast("Q")
        """Which request each thread is at."""
        self._folder = folder

    def _file(self, folder: Path, name: str) -> Path:
        path = folder / name
        path.write_bytes(b"text")
        return path

    def lock_for_ever(self) -> None:
        """A guest process holds a range of one file, and all of another one, to the end."""
        assert Process(self.table, self.range_path, 900).lock(WRLCK, RANGE)
        assert Process(self.table, self.flock_path, 901).lock(WRLCK)

    # ---- processes --------------------------------------------------------------------------

    def watch(self) -> int:
        """Starts the process of the host; its pid."""
        pid = os.fork()
        if pid:
            return pid
        os.closerange(3, 1000)
        range_fd, flock_fd = (os.open(p, os.O_RDWR) for p in (self.range_path, self.flock_path))
        while native.ofd_test(range_fd, RDLCK, *RANGE):
            with suppress(BlockingIOError):
                fcntl.flock(flock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
        os._exit(WRONG)

    def start(self) -> int:
        """Starts a worker; its pid."""
        for twin, at in zip(self.twins, self.at, strict=True):
            twin.go_to(at)
        pid, pidfd = process.clone()
        if not pid:
            try:
                self.work()
            except BaseException as error:
                print(repr(error), flush=True)
            os._exit(WRONG)
        os.close(pidfd)
        return pid

    def work(self) -> None:
        """A worker's work, until it is killed."""
        before = self.table
        for guest, at in zip(self.guests, self.at, strict=True):
            guest.open_fids(before, at)
        table = Table(before)
        turn, all_good = threading.Lock(), threading.Barrier(THREADS)
        sys.setswitchinterval(1e-5)
        for thread in range(THREADS):
            threading.Thread(target=self.serve, args=(table, thread, turn, all_good)).start()
        signal.pause()

    def serve(
        self, table: Table, thread: int, turn: threading.Lock, all_good: threading.Barrier
    ) -> None:
        """Runs the requests of one thread. The first one, which runs again, is its own as well: to
        the table, a thread's next request says that the one before was answered."""
        try:
            with turn:
                self.check(table, thread)
            all_good.wait()
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(WRONG)
        for number in range(self.at[thread] + 1, REQUESTS):
            self.at[thread] = number
            self.guests[thread].run(table, number)

    def check(self, table: Table, thread: int) -> None:
        """Runs the request again that was being run, and looks at the locks before and after."""
        guest, twin, at = self.guests[thread], self.twins[thread], self.at[thread]
        state = locked_in(table, guest.inode)
        assert is_between(state, twin.before, twin.after), (state, twin.before, twin.after)
        assert guest.run(table, at) == twin.result, guest.requests[at]
        state = locked_in(table, guest.inode)
        assert state == twin.after, (guest.requests[at], state, twin.before, twin.after)

    def sweep(self) -> None:
        """Closes what no record has."""
        owned = {*self.table.descriptors()}
        paths = {str(guest.path) for guest in self.guests}
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") in paths and int(name) not in owned:
                    os.close(int(name))

    def run(self, seconds: float) -> int:
        """Kills one worker after the other; how many."""
        watcher, killed = self.watch(), 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            worker = self.start()
            time.sleep(self.choice.random() * LONGEST_S)
            os.kill(worker, signal.SIGKILL)
            _, status = os.waitpid(worker, 0)
            assert os.WIFSIGNALED(status), f"a worker found something wrong, after {killed} deaths"
            assert os.waitpid(watcher, os.WNOHANG) == (0, 0), f"a lock was lost, {killed} deaths"
            self.sweep()
            killed += 1
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)
        return killed


def main(folder: str, seed: str, seconds: str) -> None:
    keeper = Keeper(Path(folder), int(seed))
    gc.freeze()
    killed = keeper.run(float(seconds))
    print(f"{killed} deaths, {sum(keeper.at)} requests")


if __name__ == "__main__":
    main(*sys.argv[1:])
