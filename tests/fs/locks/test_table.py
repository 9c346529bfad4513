"""What is locked on the host, what a refused lock leaves, and who is in the way."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fs.locks.processes import Host, Process, Table
from vhost9p.fs import lock_files
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, Blocker
from vhost9p.fs.ranges import WHOLE, Range
from vhost9p.native import sys


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


def test_the_last_unlock_closes_the_file(table: Table, one: Process, host: Host) -> None:
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


def test_a_file_that_holds_nothing_stays_open_for_the_next_lock(
    table: Table, path: Path, one: Process, host: Host
) -> None:
    """Until its fid goes. It locks nothing, and its process is not named any more."""
    before = len(os.listdir("/proc/self/fd"))
    for span in (Range(0, 10), WHOLE):
        assert one.lock(WRLCK, span)
        one.unlock(span, keep=True)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        assert host.fcntl(WRLCK)
        assert host.flock(WRLCK)
        assert not one.lock(WRLCK, span)
        assert host.fcntl(UNLCK)
        assert host.flock(UNLCK)
    assert one.lock(WRLCK)
    one.unlock(keep=True)
    assert one.blocker(WRLCK) is None
    assert len(os.listdir("/proc/self/fd")) == before + 1
    table.clunk(one.fid)
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_fid_does_not_keep_a_file_open(table: Table, path: Path, one: Process) -> None:
    """The file would stay open after that fid, which can write, is gone."""
    sibling = Process(table, path, 1, fid=99)
    one.lock(WRLCK)
    sibling.unlock(keep=True)
    assert not table._files


def test_few_files_that_hold_nothing_stay_open(
    table: Table, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ones that were used last."""
    monkeypatch.setattr(lock_files, "IDLE_MAX", 2)
    before = len(os.listdir("/proc/self/fd"))
    processes = [Process(table, path, pid) for pid in range(10, 14)]
    for process in (*processes, processes[2]):
        assert process.lock(RDLCK)
        process.unlock(keep=True)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    assert [each.holder in table._files for each in processes] == [False, False, True, True]
    one, *others = processes
    assert one.lock(RDLCK)
    one.unlock(keep=True)
    assert [each.holder in table._files for each in others] == [False, True, False]


def test_a_lock_goes_with_its_fid_where_another_kept_the_file_open(
    table: Table, path: Path, host: Host
) -> None:
    first, second = Process(table, path, 1), Process(table, path, 1, fid=99)
    first.lock(WRLCK)
    first.unlock(keep=True)
    assert second.lock(WRLCK)
    table.clunk(99)
    assert host.finds(WRLCK) == UNLCK
    assert host.finds_flock() == UNLCK


def test_a_question_does_not_keep_a_file_open_for_a_fid_that_is_gone(
    table: Table, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = Process(table, path, 1), Process(table, path, 1, os.O_RDONLY, fid=99)
    before = len(os.listdir("/proc/self/fd"))
    assert writer.lock(WRLCK, Range(0, 1))
    assert reader.lock(RDLCK, Range(2, 1))
    reader.unlock(Range(2, 1))
    writer.unlock(Range(0, 1), keep=True)
    test = sys.ofd_test

    def clunked_meanwhile(*arguments: Any) -> Any:
        table.clunk(writer.fid)
        return test(*arguments)

    monkeypatch.setattr(sys, "ofd_test", clunked_meanwhile)
    writer.blocker(WRLCK)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_file_that_changed_hands_is_closed(
    table: Table, one: Process, child: Process
) -> None:
    """Its first process might come back to it, as to a lock that the other has."""
    one.lock(WRLCK)
    assert child.lock(WRLCK)
    child.unlock(keep=True)
    assert not table._files


def test_a_lock_of_two_fids_goes_with_the_last_one(table: Table, path: Path, host: Host) -> None:
    one, sibling = Process(table, path, 1), Process(table, path, 1, fid=99)
    one.lock(WRLCK)
    sibling.lock(WRLCK, Range(5, 5))
    table.clunk(one.fid)
    assert host.finds(RDLCK) == WRLCK
    table.clunk(sibling.fid)
    assert host.finds(WRLCK) == UNLCK


def test_a_whole_file_given_up_in_pieces_is_free(one: Process, host: Host) -> None:
    """fcntl may do that; nothing of the lock that was held as both may stay."""
    one.lock(WRLCK)
    one.unlock(Range(10, 0))
    assert host.finds_flock() == WRLCK
    one.unlock(Range(0, 10))
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


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
def test_what_the_descriptor_does_not_allow_as_fcntl_is_flock_alone(
    table: Table, path: Path, host: Host, access: int, writable: bool, kind: int, expected: int
) -> None:
    process = Process(table, path, 1, access)
    assert process.lock(kind, writable=writable)
    assert host.finds(WRLCK) == expected
    assert host.finds_flock() == kind
    process.unlock()
    assert host.finds_flock() == UNLCK


def test_a_flock_survives_a_refused_upgrade(table: Table, path: Path, host: Host) -> None:
    process = Process(table, path, 1, os.O_RDONLY)
    process.lock(RDLCK)
    assert host.flock(RDLCK)
    assert not process.lock(WRLCK)
    host.flock(UNLCK)
    assert host.finds_flock() == RDLCK


def test_the_lock_in_the_way_is_reported_with_its_holder(
    one: Process, two: Process, host: Host
) -> None:
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
