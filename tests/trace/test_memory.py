"""The memory of a trace: who can write it, and what is switched on for whom."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from vhost9p.trace.memory import SIZE, TraceMemory


@pytest.fixture
def memory() -> Iterator[TraceMemory]:
    memory = TraceMemory(2)
    yield memory
    memory.close()


def switches(memory: TraceMemory) -> list[tuple[int, int]]:
    return [struct.unpack("=II", os.pread(memory.fd, 8, SIZE * i)) for i in range(2)]


def test_a_tracer_cannot_write(memory: TraceMemory) -> None:
    fd = memory.open_readonly()
    try:
        with pytest.raises(OSError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)


def test_nobody_can_change_its_size(memory: TraceMemory) -> None:
    for size in (0, SIZE, 3 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


def test_it_is_on_while_somebody_watches(memory: TraceMemory) -> None:
    assert switches(memory) == [(0, 0)] * 2
    memory.watch("one", 10, lambda: None, lambda: None)
    memory.watch("other", 3, lambda: None, lambda: None)
    assert switches(memory) == [(1, 10)] * 2
    memory.leave("one")
    memory.leave("one")
    assert switches(memory) == [(1, 3)] * 2
    memory.leave("other")
    assert switches(memory) == [(0, 0)] * 2


def test_its_pages_go_back_when_nobody_watches(memory: TraceMemory) -> None:
    memory.watch("one", 0, lambda: None, lambda: None)
    os.pwrite(memory.fd, bytes(1 << 20), SIZE // 2)
    assert os.fstat(memory.fd).st_blocks * 512 > 1 << 20
    memory.leave("one")
    assert os.fstat(memory.fd).st_blocks * 512 <= 4 * 4096


def test_who_watches_hears_of_the_end() -> None:
    memory, ended = TraceMemory(1), list[str]()

    def end() -> None:
        ended.append("one")
        memory.leave("one")  # as the end of a client's answer does

    memory.watch("one", 0, lambda: None, end)
    memory.close()
    assert ended == ["one"]


def test_another_main_process_begins_with_nobody(memory: TraceMemory) -> None:
    memory.watch("one", 0, lambda: None, lambda: None)
    other = TraceMemory(2, memory.fd)
    assert switches(memory) == [(1, 0)] * 2, "it may only try to take over"
    other.begin_anew()
    assert switches(memory) == [(0, 0)] * 2
