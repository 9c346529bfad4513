"""A reader of memory in which anything may be."""

from __future__ import annotations

import os
import random
import struct
import threading

import pytest

from vhost9p.trace import lines
from vhost9p.trace.events import Filter, Source, event_of
from vhost9p.trace.memory import SIZE, TraceMemory
from vhost9p.trace.reader import Reader, Record

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
        assert not [*reader.read()]
    stop.set()
    writer.join()
    reader.close()
    memory.close()
