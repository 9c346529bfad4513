"""How much of the host a guest's locks may take."""

import errno
import gc
from collections.abc import Callable
from pathlib import Path
from sys import settrace
from types import FrameType
from typing import Any

import pytest

from tests.fs.locks.processes import Process, Table
from vhost9p.fs import lock_files, locked_ranges
from vhost9p.fs.locks import RDLCK, WRLCK, Blocker
from vhost9p.fs.ranges import Range


def test_processes_of_one_fid_are_bounded(
    one: Process, child: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_files, "FILES_MAX", 3)
    one.lock(WRLCK)
    with pytest.raises(OSError) as refused:
        for pid in range(10, 20):
            child.holder = (*child.holder[:3], pid)
            child.lock(WRLCK)
    assert refused.value.errno == errno.ENOLCK


@pytest.mark.parametrize("bound", ["PIECES_MAX", "FILE_PIECES_MAX"])
def test_what_goes_beyond_a_bound_fails_with_enolck(
    table: Table, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(lock_files, "FILES_MAX", 1)
    monkeypatch.setattr(locked_ranges, bound, 5)
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
    """How many lines of Python something takes. Without the garbage collector, which would call
    the finalizers of other tests' objects in between."""
    count = 0

    def line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return line

    gc.disable()
    settrace(line)
    try:
        work()
    finally:
        settrace(None)
        gc.enable()
    return count


def test_the_blocker_is_found_in_as_many_steps_among_many_ranges(
    table: Table, one: Process, path: Path
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
    table: Table, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_ranges, "FILE_PIECES_MAX", 5)
    processes = [Process(table, path, pid) for pid in range(10, 20)]
    for process in processes[:6]:
        assert process.lock(RDLCK, Range(process.fid, 1))
    with pytest.raises(OSError) as refused:
        processes[6].lock(RDLCK, Range(0, 1))
    assert refused.value.errno == errno.ENOLCK
    table.clunk(processes[0].fid)
    assert processes[6].lock(RDLCK, Range(0, 1))
