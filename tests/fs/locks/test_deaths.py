"""Workers that are killed at any instant (killed_worker.py); records that are damaged; bounds."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fs.locks.processes import Host, Process, Table
from tests.fs.locks.scenarios import locked_in
from vhost9p.fs import lock_records as layout
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, LockTable
from vhost9p.fs.ranges import Range

TIMEOUT = 600


@pytest.mark.parametrize(
    ("seed", "seconds"),
    [(1, 3), *(pytest.param(seed, 30, marks=pytest.mark.full) for seed in range(2, 6))],
)
def test_locks_survive_workers_that_are_killed(tmp_path: Path, seed: int, seconds: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fs.locks.killed_worker", tmp_path, str(seed), str(seconds)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 0


def test_what_nobody_holds_is_nobodys_any_more(table: Table, one: Process, host: Host) -> None:
    """The table's descriptors are known before it is taken over, and are those with locks."""
    assert one.lock(WRLCK)
    after = Table.__new__(Table)
    LockTable.__init__(
        after, lambda file: None, lambda fid: (-1, 0), lambda fid: None, table.memory
    )
    (fd,) = after.descriptors()
    assert os.path.samefile(f"/proc/self/fd/{fd}", host.path)
    assert Table.descriptors_in(table.memory) == [fd]
    one.unlock()
    assert Table.descriptors_in(table.memory) == []


def test_a_request_that_still_waits_does_not_harm_the_next_lock(
    table: Table, one: Process, path: Path
) -> None:
    """Its fid is gone, and the process has locked the same file through another fid."""
    assert one.lock(WRLCK, Range(0, 10))
    file = table.open(one.holder, one.fid, Range(0, 10))
    table.remove(one.fid)
    again = Process(table, path, 1, fid=99)
    assert again.lock(RDLCK, Range(20, 10))
    before = locked_in(table)
    after = Table(table)
    assert locked_in(after) == before
    after.clear()
    file.uses = 0
    table._files.clear()


def damage_state(words: memoryview, at: int, fd: int) -> None:
    words[at] ^= 1 << 60


def damage_flock(words: memoryview, at: int, fd: int) -> None:
    words[at] |= layout.FLOCK_BITS


def closed_descriptor(words: memoryview, at: int, fd: int) -> None:
    words[at + layout.FD] = 9999


def no_descriptor(words: memoryview, at: int, fd: int) -> None:
    words[at + layout.FD] = 2**63


def another_descriptor(words: memoryview, at: int, fd: int) -> None:
    words[at + layout.FD] = fd


def long_client(words: memoryview, at: int, fd: int) -> None:
    words[at + layout.CLIENT_SIZE] = 2**40


def no_process(words: memoryview, at: int, fd: int) -> None:
    words[at + layout.FIRST_PROCESS] = 0


def same_process(words: memoryview, at: int, fd: int) -> None:
    """The other file's."""
    words[at + layout.FIRST_PROCESS + layout.VALUE] = 2


def same_descriptor(words: memoryview, at: int, fd: int) -> None:
    words[at + layout.FD] = words[at - layout.RECORD_WORDS + layout.FD]


@pytest.mark.parametrize(
    "damage",
    [
        damage_state, damage_flock, closed_descriptor, no_descriptor, another_descriptor,
        long_client, no_process, same_process, same_descriptor,
    ],
)  # fmt: skip
def test_a_damaged_record_costs_its_own_lock(
    table: Table,
    one: Process,
    two: Process,
    host: Host,
    path: Path,
    damage: Callable[[memoryview, int, int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert two.lock(WRLCK, Range(20, 10))
    assert one.lock(WRLCK, Range(0, 10))
    (kept,) = (each for each in locked_in(table) if each.holders == (2,))
    own = table._files[one.holder].fd
    other = os.open(path.parent, os.O_RDONLY)
    damage(layout.words_of(table.memory), layout.FILES_AT + layout.RECORD_WORDS, other)
    with caplog.at_level(logging.WARNING):
        after = Table(table)
    (line,) = caplog.messages
    assert line.startswith("a guest's lock is lost")
    assert locked_in(after) == {kept}
    assert len(after.descriptors()) == 1
    os.close(own)  # as the sweep does
    assert host.finds(WRLCK, Range(0, 10)) == UNLCK
    three = Process(after, path, 3)
    assert three.lock(WRLCK, Range(0, 10))
    after.clear()
    os.close(other)
    table._files.clear()


@pytest.mark.parametrize("at", [layout.MAGIC_AT, layout.FILES_USED_AT, layout.LINKS_USED_AT])
def test_damaged_memory_is_empty_memory(
    table: Table, one: Process, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert one.lock(WRLCK)
    own = table._files[one.holder].fd
    layout.words_of(table.memory)[at] = 2**62
    with caplog.at_level(logging.WARNING):
        after = Table(table)
    assert len(caplog.messages) == 1
    assert locked_in(after) == set()
    assert after.descriptors() == []
    os.close(own)
    table._files.clear()
    assert Process(after, one.path, 1).lock(WRLCK)
    assert locked_in(Table(after)) == locked_in(after)
    assert len(caplog.messages) == 1
    after.clear()


# ---- bounds ---------------------------------------------------------------------------------


def refuses(lock: Callable[[], object]) -> bool:
    with pytest.raises(OSError) as refused:
        lock()
    return refused.value.errno == errno.ENOLCK


def test_more_than_the_memory_has_room_for_is_refused(
    table: Table, path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is locked, and not for good."""
    monkeypatch.setattr(layout, "FILES", 2)
    processes = [Process(table, path, pid) for pid in range(3)]
    for process in processes[:2]:
        assert process.lock(RDLCK)
    opened = len(os.listdir("/proc/self/fd"))
    assert refuses(lambda: processes[2].lock(RDLCK, Range(50, 1)))
    assert len(os.listdir("/proc/self/fd")) == opened
    processes[0].unlock()
    assert processes[2].lock(RDLCK)


def test_more_fids_than_there_is_room_for_are_refused(
    table: Table, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "LINKS", layout.LINKS_SPARE + 2)
    fids = [Process(table, path, 1, fid=fid) for fid in range(5)]
    for number, process in enumerate(fids[:3]):
        assert process.lock(RDLCK, Range(number, 1))
    assert refuses(lambda: fids[3].lock(RDLCK))
    child = Process(table, path, 2, fid=0)
    assert fids[0].lock(RDLCK)
    assert refuses(lambda: child.lock(RDLCK))  # it would join, and need a link
    table.remove(2)
    assert fids[3].lock(RDLCK, Range(90, 1))
    assert locked_in(Table(table)) == locked_in(table)


def test_a_client_with_a_name_too_long_is_refused(table: Table, path: Path) -> None:
    longest = Process(table, path, 1, client=b"x" * layout.CLIENT_MAX)
    assert longest.lock(RDLCK)
    assert refuses(
        lambda: Process(table, path, 2, client=b"x" * (layout.CLIENT_MAX + 1)).lock(RDLCK)
    )
    after = Table(table)
    assert [*after._files] == [longest.holder]


def test_memory_is_used_again(path: Path) -> None:
    """However often files, fids and processes come and go, and workers with them."""
    table = Table()
    words = layout.words_of(table.memory)
    used = []
    for _ in range(3):
        for fid in range(100, 104):
            assert Process(table, path, 1, fid=fid).lock(RDLCK)
            child = Process(table, path, 2, fid=fid)
            assert child.lock(RDLCK)
            child.unlock(flock=True, request=fid)
        table = Table(table)
        for fid in range(100, 104):
            table.remove(fid)
        assert not table._files
        used.append((words[layout.FILES_USED_AT], words[layout.LINKS_USED_AT]))
    assert used[0] == used[1] == used[2]
