"""The lock table: two guest processes, and the host beside them, on real files."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from sys import settrace
from types import FrameType
from typing import Any

import pytest

from vhost9p.fs import locks
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Asker, Blocker, Cancel, Holder, LockTable
from vhost9p.fs.ranges import WHOLE, Range
from vhost9p.native import sys

FID = 7
TIMEOUT = 20


class Host:
    """A process of the host, as far as the kernel can tell: descriptors of their own."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)
        self.path = path

    def close(self) -> None:
        os.close(self._fd)

    def fcntl(self, kind: int, span: Range = WHOLE) -> bool:
        """Takes or gives up a range; whether that was possible."""
        with suppress(BlockingIOError):
            sys.ofd_lock(self._fd, kind, *span)
            return True
        return False

    def flock(self, kind: int) -> bool:
        """The same with flock(2)."""
        with suppress(BlockingIOError):
            sys.flock(self._fd, kind)
            return True
        return False

    def finds(self, kind: int, span: Range = WHOLE) -> int:
        """The kind of lock that is in the way of a range lock; UNLCK: none."""
        found = sys.ofd_test(self._fd, kind, *span)
        return found[0] if found else UNLCK

    def finds_flock(self) -> int:
        """How the file is locked with flock(2)."""
        probe = os.open(self.path, os.O_RDWR)
        try:
            for kind, held in ((fcntl.LOCK_EX, UNLCK), (fcntl.LOCK_SH, RDLCK)):
                with suppress(BlockingIOError):
                    fcntl.flock(probe, kind | fcntl.LOCK_NB)
                    return held
            return WRLCK
        finally:
            os.close(probe)


class Process:
    """A process of a guest: locks through one fid."""

    def __init__(self, table: LockTable, path: Path, pid: int, access: int = os.O_RDWR) -> None:
        status = os.stat(path)
        self.table = table
        self.holder = Holder(status.st_dev, status.st_ino, b"guest", pid)
        self.fid = FID + pid
        self._path = path
        self._access = access

    def _open(self) -> tuple[int, int]:
        return os.open(self._path, self._access), self._access

    def lock(
        self, kind: int, span: Range = WHOLE, *, writable: bool = True, cancel: Cancel | None = None
    ) -> bool:
        """Takes a lock; False where it is held."""
        asker = Asker(self.holder, self.fid)
        file = self.table.open(asker, span, self._open)
        try:
            self.table.take(file, asker, kind, span, writable, cancel)
        except BlockingIOError:
            return False
        finally:
            self.table.done(file)
        return True

    def unlock(self, span: Range = WHOLE, *, flock: bool = False) -> None:
        self.table.release(Asker(self.holder, self.fid), span, flock=flock)

    def blocker(self, kind: int, span: Range = WHOLE) -> Blocker | None:
        return self.table.blocker(self.holder, kind, span, self._open)


class Waiter:
    """A thread that waits for a lock: calls `work` with `cancel`."""

    def __init__(self, work: Callable[..., object]) -> None:
        self.cancel = Cancel()
        self.error: OSError | None = None
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def _run(self, work: Callable[..., object]) -> None:
        try:
            work(cancel=self.cancel)
        except OSError as error:
            self.error = error
        self.done.set()

    def join(self) -> None:
        assert self.done.wait(TIMEOUT)
        self._thread.join()

    def stop(self) -> None:
        """Cancels the wait."""
        self.cancel.set()
        while not self.done.wait(0.001):
            assert self._thread.ident
            signal.pthread_kill(self._thread.ident, sys.wake_signal())
        self._thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return path


@pytest.fixture
def table() -> Iterator[LockTable]:
    """A table that has to leave no descriptor open."""
    sys.wake_signal()
    before = len(os.listdir("/proc/self/fd"))
    table = LockTable(lambda file: None)
    yield table
    table.clear()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def one(table: LockTable, path: Path) -> Process:
    """A guest process."""
    return Process(table, path, 1)


@pytest.fixture
def two(table: LockTable, path: Path) -> Process:
    """Another one."""
    return Process(table, path, 2)


@pytest.fixture
def host(path: Path, table: LockTable) -> Iterator[Host]:
    """A host process."""
    host = Host(path)
    yield host
    host.close()


def test_whole_file_locks_are_of_both_kinds(one: Process, host: Host) -> None:
    for kind in (RDLCK, WRLCK, RDLCK):
        assert one.lock(kind)
        assert host.finds(WRLCK) == kind
        assert host.finds_flock() == kind
    one.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


@pytest.mark.parametrize("held", [UNLCK, RDLCK])
@pytest.mark.parametrize("how", ["fcntl", "flock"])
def test_a_refused_lock_leaves_what_was_held(one: Process, host: Host, held: int, how: str) -> None:
    """Also a lock that was held as two: neither the one that was free is taken nor the old lost."""
    take = host.fcntl if how == "fcntl" else host.flock
    if held != UNLCK:
        one.lock(held)
    assert take(RDLCK)
    assert not one.lock(WRLCK)
    assert take(UNLCK)
    assert host.finds(WRLCK) == held
    assert host.finds_flock() == held
    assert one.lock(WRLCK)


def test_a_refused_lock_leaves_ranges(one: Process, host: Host) -> None:
    one.lock(RDLCK, Range(10, 10))
    one.lock(WRLCK, Range(30, 10))
    assert host.fcntl(WRLCK, Range(50, 1))
    for kind in (RDLCK, WRLCK):
        assert not one.lock(kind)
    assert [host.finds(WRLCK, Range(at, 1)) for at in (9, 10, 19, 20, 30, 39, 40)] == [
        UNLCK, RDLCK, RDLCK, UNLCK, WRLCK, WRLCK, UNLCK,
    ]  # fmt: skip
    assert host.finds_flock() == UNLCK


@pytest.mark.parametrize("first", ["fcntl", "flock"])
def test_waiting_for_two_locks_in_turn(one: Process, host: Host, first: str) -> None:
    """While the second is waited for, the first is free again and what was held is back."""
    one.lock(RDLCK, Range(10, 10))
    other = Host(host.path)
    fcntl_holder, flock_holder = (host, other) if first == "fcntl" else (other, host)
    assert fcntl_holder.fcntl(WRLCK, Range(50, 1))
    assert flock_holder.flock(WRLCK)
    waiter = Waiter(partial(one.lock, WRLCK))
    if first == "fcntl":
        fcntl_holder.fcntl(UNLCK)
        third = Host(host.path)
        while not third.fcntl(RDLCK, Range(10, 20)):  # the waiter has it for a moment
            pass
        assert not third.fcntl(WRLCK, Range(10, 1))
        third.close()
        flock_holder.flock(UNLCK)
    else:
        flock_holder.flock(UNLCK)
        while not flock_holder.flock(WRLCK):
            pass
        flock_holder.flock(UNLCK)
        fcntl_holder.fcntl(UNLCK)
    waiter.join()
    assert waiter.error is None
    assert host.finds(RDLCK) == host.finds_flock() == WRLCK
    other.close()


@pytest.mark.parametrize("how", ["fcntl", "flock", "range"])
@pytest.mark.parametrize("held", [UNLCK, RDLCK])
def test_a_cancelled_wait_leaves_what_was_held(
    one: Process, host: Host, how: str, held: int
) -> None:
    span = Range(0, 10) if how == "range" else WHOLE
    if held != UNLCK:
        one.lock(held, span)
    take = host.flock if how == "flock" else host.fcntl
    assert take(RDLCK)
    waiter = Waiter(partial(one.lock, WRLCK, span))
    waiter.stop()
    assert isinstance(waiter.error, InterruptedError)
    assert take(UNLCK)
    assert host.finds(WRLCK) == held
    assert host.finds_flock() == (held if span.is_whole() else UNLCK)


def test_an_unlock_does_not_end_another_threads_wait(
    table: LockTable, one: Process, host: Host
) -> None:
    """POSIX gives up what is held, not what a thread of the process is about to get."""
    assert host.fcntl(WRLCK, Range(0, 1))
    one.lock(WRLCK, Range(50, 1))
    waiter = Waiter(partial(one.lock, WRLCK, Range(0, 10)))
    while not table._files[one.holder].uses:
        pass
    one.unlock()
    assert host.finds(WRLCK, Range(50, 1)) == UNLCK
    host.fcntl(UNLCK)
    waiter.join()
    assert waiter.error is None
    assert host.finds(RDLCK) == WRLCK


def test_a_wait_whose_fid_is_clunked_gets_nothing(
    table: LockTable, one: Process, host: Host
) -> None:
    for span in (WHOLE, Range(0, 10)):
        assert host.fcntl(WRLCK)
        waiter = Waiter(partial(one.lock, WRLCK, span))
        while one.holder not in table._files:
            pass
        table.clunk(one.fid)
        host.fcntl(UNLCK)
        waiter.join()
        assert waiter.error is not None
        assert waiter.error.errno == errno.EBADF
        assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_the_last_unlock_closes_the_file(table: LockTable, one: Process, host: Host) -> None:
    before = len(os.listdir("/proc/self/fd"))
    one.lock(WRLCK, Range(0, 10))
    one.lock(RDLCK, Range(20, 10))
    one.unlock(Range(0, 10))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    one.unlock(Range(20, 5))
    one.unlock(Range(25, 5))
    assert len(os.listdir("/proc/self/fd")) == before
    assert host.fcntl(WRLCK)
    assert not one.lock(WRLCK)  # nor does a lock that it does not get keep it open
    assert len(os.listdir("/proc/self/fd")) == before


def test_fids_share_their_process(table: LockTable, path: Path, host: Host) -> None:
    one, sibling = Process(table, path, 1), Process(table, path, 1)
    sibling.fid = 99
    one.lock(WRLCK)
    sibling.lock(WRLCK, Range(5, 5))
    table.clunk(one.fid)
    assert host.finds(RDLCK) == WRLCK
    table.clunk(sibling.fid)
    assert host.finds(WRLCK) == UNLCK


# ---- an open file that several processes have: one fid


@pytest.fixture
def child(table: LockTable, path: Path, one: Process) -> Process:
    """A process that has inherited the descriptor of `one`."""
    child = Process(table, path, 2)
    child.fid = one.fid
    return child


@pytest.mark.parametrize("kind", [RDLCK, WRLCK])
def test_flock_is_given_up_through_an_inherited_descriptor(
    one: Process, child: Process, two: Process, host: Host, kind: int
) -> None:
    one.lock(kind)
    for unlock in (two.unlock, child.unlock, partial(two.unlock, flock=True)):
        unlock()  # of another open file, at a close, of both
        assert host.finds(WRLCK) == host.finds_flock() == kind
    child.unlock(flock=True)
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK
    assert two.lock(WRLCK)


def test_other_locks_are_not_given_up_through_an_inherited_descriptor(
    one: Process, child: Process, host: Host
) -> None:
    one.lock(WRLCK, Range(10, 10))
    child.unlock(flock=True)
    child.unlock(Range(0, 20), flock=True)
    assert host.finds(WRLCK, Range(10, 1)) == WRLCK


def test_another_client_is_not_another_process(one: Process, child: Process, host: Host) -> None:
    child.holder = child.holder._replace(client_id=b"else")
    one.lock(WRLCK)
    assert not child.lock(WRLCK)
    child.unlock(flock=True)
    assert host.finds(WRLCK) == WRLCK


@pytest.mark.parametrize("flock", [False, True])
@pytest.mark.parametrize(("first", "then"), [(WRLCK, WRLCK), (RDLCK, WRLCK), (WRLCK, RDLCK)])
def test_a_lock_changes_hands_through_one_fid(
    one: Process, child: Process, two: Process, host: Host, first: int, then: int, flock: bool
) -> None:
    """A flock that the child takes again, or one's fcntl lock, of which the unlock is under way."""
    two.fid = 99
    one.lock(first)
    assert child.lock(then)
    one.unlock(flock=flock)
    assert host.finds(WRLCK) == host.finds_flock() == then
    assert not host.fcntl(WRLCK)
    child.unlock(flock=flock)
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_a_flock_that_changed_hands_goes_with_its_last_taker(
    table: LockTable, one: Process, child: Process, host: Host
) -> None:
    one.lock(WRLCK)
    child.lock(WRLCK)
    child.unlock(flock=True)
    assert host.finds_flock() == UNLCK
    one.lock(WRLCK)
    child.lock(WRLCK)
    table.clunk(one.fid)
    assert host.finds_flock() == UNLCK
    assert not table._files


def test_readers_through_one_fid(one: Process, child: Process, host: Host) -> None:
    one.lock(RDLCK)
    child.lock(RDLCK)
    one.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == RDLCK
    child.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_one_process_flocks_two_open_files(
    table: LockTable, path: Path, one: Process, host: Host
) -> None:
    """As the threads of a program do, each with a descriptor of its own."""
    sibling = Process(table, path, 1)
    sibling.fid = 99
    for end in (partial(one.unlock, flock=True), one.unlock, partial(table.clunk, one.fid)):
        one.lock(RDLCK)
        sibling.lock(RDLCK)
        end()
        one.unlock()  # as the kernel does at a close
        assert host.finds_flock() == RDLCK
        sibling.unlock(flock=True)
        assert host.finds(WRLCK) == host.finds_flock() == UNLCK


@pytest.mark.parametrize(("first", "then"), [(WRLCK, WRLCK), (RDLCK, WRLCK), (WRLCK, RDLCK)])
def test_what_cannot_be_flock(
    table: LockTable, path: Path, one: Process, child: Process, host: Host, first: int, then: int
) -> None:
    """Locks of one process through two open files: flock's would have excluded each other."""
    sibling = Process(table, path, 1)
    sibling.fid = 99
    sibling.lock(first)
    one.lock(then)
    child.unlock(flock=True)
    assert child.lock(RDLCK) == (then == RDLCK)
    child.unlock()
    assert host.finds(WRLCK) == then
    sibling.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_a_whole_file_given_up_in_pieces(one: Process, host: Host) -> None:
    """fcntl may do that; nothing of the lock that was held as both may stay."""
    one.lock(WRLCK)
    one.unlock(Range(10, 0))
    assert host.finds_flock() == WRLCK
    one.unlock(Range(0, 10))
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_a_flock_stays_when_ranges_go(table: LockTable, path: Path, host: Host) -> None:
    process = Process(table, path, 1, os.O_RDONLY)
    process.lock(WRLCK)
    process.lock(RDLCK, Range(0, 10))
    process.unlock(Range(0, 10))
    assert host.finds_flock() == WRLCK


def test_processes_of_one_fid_are_bounded(
    one: Process, child: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "FILES_MAX", 3)
    one.lock(WRLCK)
    with pytest.raises(OSError) as refused:
        for pid in range(10, 20):
            child.holder = child.holder._replace(proc_id=pid)
            child.lock(WRLCK)
    assert refused.value.errno == errno.ENOLCK


def test_one_process_locks_and_unlocks_in_several_threads(
    table: LockTable, one: Process, host: Host
) -> None:
    """What is counted is what the kernel has, whoever was faster."""

    def work(lock: bool, span: Range) -> None:
        for _ in range(300):
            if lock:
                one.lock(WRLCK, span)
            else:
                one.unlock(span)

    jobs = [(lock, span) for lock in (True, False) for span in (WHOLE, Range(0, 10))]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    file = table._files.get(one.holder)
    counted = file.ranges.within(Range(0, 1))[0][1] if file else UNLCK
    assert host.finds(WRLCK, Range(0, 1)) == counted
    assert host.finds_flock() == (file.flock if file else UNLCK)


@pytest.mark.parametrize(
    ("access", "writable", "kind", "expected"),
    [
        (os.O_RDWR, False, WRLCK, UNLCK),  # fcntl would not have been allowed: it is flock
        (os.O_RDONLY, True, WRLCK, UNLCK),
        (os.O_RDONLY, False, RDLCK, RDLCK),
        (os.O_WRONLY, True, WRLCK, WRLCK),
        (os.O_WRONLY, True, RDLCK, UNLCK),
    ],
)
def test_what_the_descriptor_allows(
    table: LockTable, path: Path, host: Host, access: int, writable: bool, kind: int, expected: int
) -> None:
    process = Process(table, path, 1, access)
    assert process.lock(kind, writable=writable)
    assert host.finds(WRLCK) == expected
    assert host.finds_flock() == kind
    process.unlock()
    assert host.finds_flock() == UNLCK


def test_flock_alone_survives_a_refusal(table: LockTable, path: Path, host: Host) -> None:
    process = Process(table, path, 1, os.O_RDONLY)
    process.lock(RDLCK)
    assert host.flock(RDLCK)
    assert not process.lock(WRLCK)
    host.flock(UNLCK)
    assert host.finds_flock() == RDLCK


def test_who_is_in_the_way(one: Process, two: Process, host: Host) -> None:
    assert one.blocker(WRLCK) is None
    one.lock(WRLCK, Range(10, 10))
    assert one.blocker(WRLCK) is None
    assert two.blocker(RDLCK) == Blocker(WRLCK, Range(10, 10), 1, b"guest")
    assert two.blocker(WRLCK, Range(20, 0)) is None
    host.fcntl(RDLCK, Range(30, 0))
    assert two.blocker(WRLCK, Range(25, 0)) == Blocker(RDLCK, Range(30, 0), 0, b"")
    assert two.blocker(RDLCK, Range(25, 0)) is None


def test_a_host_process_is_named_by_its_pid(two: Process, path: Path) -> None:
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        fd = os.open(path, os.O_RDWR)
        fcntl.lockf(fd, fcntl.LOCK_EX, 5, 3)
        os.write(ready[1], b"x")
        os.read(release[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert two.blocker(RDLCK) == Blocker(WRLCK, Range(3, 5), child, b"")
    os.write(release[1], b"x")
    os.waitpid(child, 0)
    for fd in (*ready, *release):
        os.close(fd)


@pytest.mark.parametrize("bound", ["PIECES_MAX", "FILE_PIECES_MAX"])
def test_bounds(
    table: LockTable, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(locks, "FILES_MAX", 1)
    monkeypatch.setattr(locks, bound, 5)
    one.lock(WRLCK, Range(0, 1))
    with pytest.raises(OSError) as refused:
        two.lock(WRLCK, Range(90, 1))
    assert refused.value.errno == errno.ENOLCK
    with pytest.raises(OSError) as refused:
        for at in range(2, 100, 2):
            one.lock(WRLCK, Range(at, 1))
    assert refused.value.errno == errno.ENOLCK
    with pytest.raises(OSError) as refused:
        one.unlock(Range(0, 1))
    assert refused.value.errno == errno.ENOLCK
    one.unlock()
    assert two.lock(WRLCK)


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python something takes."""
    count = 0

    def line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    settrace(line)
    try:
        work()
    finally:
        settrace(None)
    return count


def test_the_one_who_is_in_the_way_is_not_looked_for(
    table: LockTable, one: Process, path: Path
) -> None:
    """However many processes have however many ranges of a file."""
    last = Range(1_000_000, 10)
    taken = []
    for pid, count in ((10, 1), (11, 300), *((pid, 2) for pid in range(20, 220))):
        other = Process(table, path, pid)
        for i in range(count):
            assert other.lock(RDLCK, Range(1000 * pid + 2 * i, 1))
        if pid in (10, 219):
            assert other.lock(WRLCK, last)
            found = Blocker(WRLCK, last, pid, b"guest")
            taken.append(steps(lambda: one.blocker(RDLCK, last)))
            assert one.blocker(RDLCK, last) == found
            other.unlock(last)
    assert taken[0] == taken[1]


def test_ranges_of_all_processes_in_a_file_are_bounded(
    table: LockTable, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "FILE_PIECES_MAX", 5)
    processes = [Process(table, path, pid) for pid in range(10, 20)]
    for process in processes[:6]:
        assert process.lock(RDLCK, Range(process.fid, 1))
    with pytest.raises(OSError) as refused:
        processes[6].lock(RDLCK, Range(0, 1))
    assert refused.value.errno == errno.ENOLCK
    table.clunk(processes[0].fid)
    assert processes[6].lock(RDLCK, Range(0, 1))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
def test_two_threads_of_a_process(
    one: Process, host: Host, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """One unlocks what the other has just taken: the record is the host's state in the end."""
    span = WHOLE if whole else Range(0, 10)
    unlocks = threading.Thread(target=one.unlock, args=(span,))
    ofd_lock = sys.ofd_lock

    def between(*args: object) -> None:
        ofd_lock(*args)  # type: ignore[arg-type]
        monkeypatch.undo()
        unlocks.start()
        unlocks.join(0.2)  # as long as it would need, were it not to wait for the record

    monkeypatch.setattr(sys, "ofd_lock", between)
    one.lock(WRLCK, span)
    unlocks.join(TIMEOUT)
    assert host.finds(WRLCK) == UNLCK
    assert host.finds_flock() == UNLCK
    assert not one.table._files


def test_a_wait_that_gained_nothing(
    one: Process, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread of the process has unlocked what the wait gained, and the host has it now."""
    span = Range(0, 10)
    assert host.fcntl(WRLCK, span)
    ofd_lock, waits = sys.ofd_lock, []

    def gain(fd: int, kind: int, start: int, length: int, cancel: Cancel | None = None) -> None:
        if cancel is None:
            ofd_lock(fd, kind, start, length)
            return
        waits.append(kind)
        host.fcntl(UNLCK, span)
        ofd_lock(fd, kind, start, length, cancel)
        if len(waits) == 1:
            ofd_lock(fd, UNLCK, start, length)
            assert host.fcntl(WRLCK, span)

    monkeypatch.setattr(sys, "ofd_lock", gain)
    assert one.lock(WRLCK, span, cancel=Cancel())
    assert len(waits) == 2
    assert host.finds(WRLCK, span) == WRLCK


def test_two_processes_that_take_turns(one: Process, two: Process, path: Path) -> None:
    """No deadlock, and never both at once."""
    inside: list[int] = []
    overlaps = []

    def work(process: Process, rounds: int) -> None:
        for i in range(rounds):
            span = WHOLE if i % 2 else Range(0, 50)
            process.lock(WRLCK, span, cancel=Cancel())
            inside.append(1)
            if len(inside) > 1:
                overlaps.append(i)
            inside.pop()
            process.unlock(span)

    threads = [threading.Thread(target=work, args=(p, 300)) for p in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert not overlaps
