"""A keeper whose workers kill themselves at lines that nobody chooses.

Run as a process of its own: `python -m tests.vhost_user.dying_worker PATH`. Its workers serve
one frontend at PATH until that disconnects, on behalf of a device that is only this memory. Each
worker is killed after so many lines of the code between socket and device, in whichever thread.

At the end it prints the number of deaths; how many of them fell between the first byte of a message
and the last of its reply; and how many descriptors were left after a death, at most, and at the
end, of those that the keeper had not had at its start.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

import uvloop

from vhost9p.ends import EXIT_FAULT
from vhost9p.native.connection import Connection
from vhost9p.native.process import clone, close_others
from vhost9p.vhost_user.listener import Listener
from vhost9p.vhost_user.messages import MemoryRegion
from vhost9p.vhost_user.session import Backend

REGION_SIZE = 4096
MOST_LINES = 250
"""A worker serves at least one message before it dies by the last of them."""


class SharedDevice:
    """A device whose state is in shared memory: each change is one store. Memory is a set of
    regions, which cannot be added twice, nor removed twice."""

    withheld = 0
    memory_slots = 60

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def config_read(self) -> bytes:
        return bytes(range(256))

    def reset(self) -> None:
        self._words[0] = self._words[1] = 0

    def reset_device(self) -> None:
        self._words[1] = 0

    def set_features(self, features: int) -> None:
        pass

    def mem_count(self) -> int:
        return self._words[0].bit_count()

    def mem_set_table(self, regions: Sequence[tuple[MemoryRegion, int]]) -> None:
        self._words[0] = 0
        for region, fd in regions:
            self.mem_add(region, fd)

    def mem_add(self, region: MemoryRegion, fd: int) -> None:
        os.fstat(fd)
        bit = 1 << region.gpa // REGION_SIZE
        if self._words[0] & bit:
            raise OSError(errno.EEXIST, "it is there already")
        self._words[0] |= bit

    def mem_remove(self, region: MemoryRegion) -> None:
        bit = 1 << region.gpa // REGION_SIZE
        if not self._words[0] & bit:
            raise OSError(errno.ENOENT, "it is not there")
        self._words[0] &= ~bit

    def ring_set_num(self, num: int) -> None:
        pass

    def ring_set_base(self, base: int) -> None:
        self._words[1] = base

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        pass

    def ring_set_kick(self, fd: int | None) -> None:
        self._check(fd)

    def ring_set_call(self, fd: int | None) -> None:
        self._check(fd)

    def ring_set_err(self, fd: int | None) -> None:
        self._check(fd)

    def _check(self, fd: int | None) -> None:
        if fd is not None:
            os.fstat(fd)

    def ring_enable(self, enable: bool) -> None:
        pass

    def ring_stop(self) -> int:
        return self._words[1]


_conforms: Callable[[], Backend] = SharedDevice


def die_after(lines: int) -> None:
    """Kills this process after so many lines of the code between socket and device."""
    left = lines

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        if "/vhost_user/" not in name and not name.endswith("native/connection.py"):
            return None
        left -= event == "line"
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def serve(listener: Listener, connection: Connection, device: SharedDevice, lines: int) -> NoReturn:
    """The worker's life."""
    code = EXIT_FAULT
    try:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        die_after(lines)
        loop.run_until_complete(listener.serve(device, connection, once=True))
        code = 0
    finally:
        os._exit(code)


def opened() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def keep(path: str, chance: random.Random) -> None:
    """The keeper's life."""
    listener = Listener.bind(path)
    connection = Connection()
    device = SharedDevice()
    kept = opened()
    deaths = inside = connected = 0
    while True:
        lines = chance.randrange(1, MOST_LINES)
        pid, pidfd = clone()
        if pid == 0:
            serve(listener, connection, device, lines)
        end = os.waitid(os.P_PID, pid, os.WEXITED)
        os.close(pidfd)
        if end and end.si_code == os.CLD_EXITED:
            break
        deaths += 1
        assert connection.recover()
        listener.adopt(connection)
        inside += bool(connection.data) and not connection.is_ending
        close_others([*kept, *connection.descriptors()])
        connected = max(connected, len(opened()) - len(kept))
    assert end and end.si_status == 0, end
    asyncio.run(asyncio.sleep(0))  # nothing of the loop is left
    close_others([*kept, *connection.descriptors()])
    listener.close()
    print(deaths, inside, connected, len(opened() - kept), flush=True)


if __name__ == "__main__":
    keep(sys.argv[1], random.Random(1))
