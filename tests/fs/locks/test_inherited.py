"""An open file that several processes of a guest have: one fid, and whose lock it is."""

import os
from functools import partial
from pathlib import Path

import pytest

from tests.fs.locks.processes import Host, Process, Table
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK
from vhost9p.fs.ranges import Range


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
    child.holder = (*child.holder[:2], b"else", child.holder[3])
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
    table: Table, one: Process, child: Process, host: Host
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


def test_two_readers_through_one_fid_hold_it_until_both_unlock(
    one: Process, child: Process, host: Host
) -> None:
    one.lock(RDLCK)
    child.lock(RDLCK)
    one.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == RDLCK
    child.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_flocks_of_one_process_through_two_open_files_are_two(
    table: Table, path: Path, one: Process, host: Host
) -> None:
    """As the threads of a program do, each with a descriptor of its own."""
    sibling = Process(table, path, 1, fid=99)
    for end in (partial(one.unlock, flock=True), one.unlock, partial(table.clunk, one.fid)):
        one.lock(RDLCK)
        sibling.lock(RDLCK)
        end()
        one.unlock()  # as the kernel does at a close
        assert host.finds_flock() == RDLCK
        sibling.unlock(flock=True)
        assert host.finds(WRLCK) == host.finds_flock() == UNLCK


@pytest.mark.parametrize(("first", "then"), [(WRLCK, WRLCK), (RDLCK, WRLCK), (WRLCK, RDLCK)])
def test_locks_that_would_exclude_each_other_as_flock_are_fcntls(
    table: Table, path: Path, one: Process, child: Process, host: Host, first: int, then: int
) -> None:
    """Locks of one process through two open files: flock's would have excluded each other."""
    sibling = Process(table, path, 1, fid=99)
    sibling.lock(first)
    one.lock(then)
    child.unlock(flock=True)
    assert child.lock(RDLCK) == (then == RDLCK)
    child.unlock()
    assert host.finds(WRLCK) == then
    sibling.unlock()
    assert host.finds(WRLCK) == host.finds_flock() == UNLCK


def test_a_flock_stays_when_ranges_go(table: Table, path: Path, host: Host) -> None:
    process = Process(table, path, 1, os.O_RDONLY)
    process.lock(WRLCK)
    process.lock(RDLCK, Range(0, 10))
    process.unlock(Range(0, 10))
    assert host.finds_flock() == WRLCK
