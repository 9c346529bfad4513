"""A reader of memory in which anything may be."""

from __future__ import annotations

import os
import random
import struct
import threading
from itertools import islice
from typing import Any

import pytest

from vhost9p.native.library import lib
from vhost9p.trace import lines
from vhost9p.trace.events import Filter, Source, event_of
from vhost9p.trace.memory import SIZE, TraceMemory
from vhost9p.trace.reader import Lost, Reader, Record

PROGRESS = 4096


def test_no_memory_harms_a_reader() -> None:
    """It shows something, or nothing, and comes to an end."""
    memory, damage, seen = TraceMemory(1), random.Random(1), 0
    source = Source("host0", ("", "a", "b"))
    ring = SIZE - (8 << 20)
    for _ in range(200):
        reader = Reader(memory.fd, 0)
        begin = struct.unpack("=Q", os.pread(memory.fd, 8, PROGRESS + 8))[0]
        data = bytearray(damage.randbytes(4096))
        at = 0
        while at < 3000:  # records whose sizes are likely
            sizes = [damage.choice((0, 7, 30, 1 << 31)) for _ in range(4)]
            size = damage.choice((0, 96, 200, 300, 0xFFFFFFFF))
            struct.pack_into("=5I", data, at, size, *sizes)
            at += size if 0 < size < 4096 else 256
        os.pwrite(memory.fd, data, ring + begin % (8 << 20))
        written = begin + damage.choice((4096, 300, 96, 1 << 40))
        os.pwrite(memory.fd, struct.pack("=QQQ", written, written, 5), PROGRESS)
        for found in reader.read():
            if isinstance(found, Record):
                seen += 1
                event = event_of(source, found)
                assert "\n" not in lines.line(event, several=True)
                lines.as_json(event)
                Filter(path="*", errors=("ANY",)).takes(event)
        reader.close()
    memory.close()
    assert seen > 50


def test_memory_that_could_become_shorter_is_not_read() -> None:
    """Whoever has sent it could kill the reader by that (mmap(2), SIGBUS)."""
    fd = os.memfd_create("any", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    with pytest.raises(OSError, match="may become shorter"):
        Reader(fd, 0)
    os.close(fd)
    memory = TraceMemory(1)
    with pytest.raises(OSError, match="less memory"):
        Reader(memory.fd, 1)
    memory.close()


def test_a_writer_that_never_makes_sense_holds_up_no_reader() -> None:
    """The memory that it reads changes all the time."""
    memory = TraceMemory(1)
    reader = Reader(memory.fd, 0)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            os.pwrite(memory.fd, struct.pack("=QQQ", number, number, number), PROGRESS)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(100):
        assert not any(isinstance(each, Record) for each in reader.read())
    stop.set()
    writer.join()
    reader.close()
    memory.close()


class Lying:
    """The library, in whose memory another end stands whenever it is looked for."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ends: list[int] = []

    def v9_trace_end_of(self, *words: object) -> None:
        before = os.pread(self.fd, 24, PROGRESS)
        os.pwrite(self.fd, struct.pack("=3Q", *[self.ends.pop(0)] * 3), PROGRESS)
        lib.v9_trace_end_of(*words)
        os.pwrite(self.fd, before, PROGRESS)

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)


def test_an_end_that_is_another_one_each_time_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = TraceMemory(1)
    reader = Reader(memory.fd, 0)
    lying = Lying(memory.fd)
    monkeypatch.setattr("vhost9p.trace.reader.lib", lying)
    lying.ends = [1000, 2**64 - 1, 0, 5, 2**64 - 1, 0]
    while lying.ends:
        assert not any(isinstance(each, Record) for each in islice(reader.read(), 100))
    reader.close()
    memory.close()


def test_what_was_overwritten_is_counted_at_once() -> None:
    """There may be no next record, whose number would tell."""
    memory = TraceMemory(1)
    reader = Reader(memory.fd, 0)
    os.pwrite(memory.fd, struct.pack("=3Q", 9 << 20, 9 << 20, 77), PROGRESS)
    assert [*reader.read()] == [Lost(77)]
    assert [*reader.read()] == []
    reader.close()
    memory.close()
