"""Threads that wait for locks, and threads that lock at the same time."""

import errno
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.fs.locks.processes import TIMEOUT, Host, Process, Table, Waiter
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Cancel
from vhost9p.fs.ranges import WHOLE, Range
from vhost9p.native import sys


@pytest.mark.parametrize("first", ["fcntl", "flock"])
def test_while_one_of_two_locks_is_waited_for_the_other_is_free(
    one: Process, host: Host, first: str
) -> None:
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
    assert host.finds_flock() == (held if span == WHOLE else UNLCK)


def test_an_unlock_does_not_end_another_threads_wait(
    table: Table, one: Process, host: Host
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


def test_a_wait_whose_fid_is_clunked_gets_nothing(table: Table, one: Process, host: Host) -> None:
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


def test_racing_threads_leave_the_table_as_the_kernel_has_it(
    table: Table, one: Process, host: Host
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


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "part"])
def test_an_unlock_during_a_lock_leaves_nothing_locked(
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


def test_a_wait_whose_gain_was_unlocked_waits_again(
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


def test_two_processes_never_hold_a_lock_at_once(one: Process, two: Process, path: Path) -> None:
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
