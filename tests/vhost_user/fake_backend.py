"""A device that writes down what it is told to do."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence

from vhost9p.vhost_user.session import Backend, MemoryRegion

CONFIG = b"\x05\x00host0".ljust(256, b"\0")
BASE = 77


def file_of(fd: int) -> int:
    """What tells descriptors of different memfds and pipes apart, whatever their numbers."""
    return os.fstat(fd).st_ino


def memfds(count: int) -> list[int]:
    return [os.memfd_create(f"test{i}") for i in range(count)]


def sockets(count: int) -> list[int]:
    """Connected unix sockets whose other ends are closed."""
    pairs = [socket.socketpair() for _ in range(count)]
    for _, theirs in pairs:
        theirs.close()
    return [ours.detach() for ours, _ in pairs]


class FakeBackend:
    """`calls` holds (method, arguments); a descriptor stands there as `file_of` it. `errors`
    maps methods to what they raise. `ring_stop` and `reset` wait for `gate` if there is one, and
    are `finished` afterwards unless they were cancelled; overlapping calls are an error."""

    def __init__(self, withheld: int = 0) -> None:
        self.withheld = withheld
        self.memory_slots = 509
        self.regions = 0
        self.calls: list[tuple[object, ...]] = []
        self.finished = 0
        self.errors: dict[str, Exception] = {}
        self.gate: threading.Event | None = None
        self.arrived = threading.Event()
        self._busy = False

    def names(self) -> list[object]:
        return [call[0] for call in self.calls]

    def _note(self, name: str, *arguments: object) -> None:
        assert not self._busy, f"{name} was called during another call"
        self.calls.append((name, *arguments))
        if name in self.errors:
            raise self.errors[name]

    def _wait(self) -> None:
        self._busy = True
        self.arrived.set()
        try:
            if self.gate:
                assert self.gate.wait(10)
            self.finished += 1
        finally:
            self._busy = False

    def config_read(self) -> bytes:
        self._note("config_read")
        return CONFIG

    def reset(self) -> None:
        self._note("reset")
        self._wait()

    def reset_device(self) -> None:
        self._note("reset_device")

    def set_features(self, features: int) -> None:
        self._note("set_features", features)

    def mem_count(self) -> int:
        return self.regions

    def mem_set_table(self, regions: Sequence[tuple[MemoryRegion, int]]) -> None:
        self._note("mem_set_table", [(region, file_of(fd)) for region, fd in regions])
        self.regions = len(regions)

    def mem_add(self, region: MemoryRegion, fd: int) -> None:
        self._note("mem_add", region, file_of(fd))
        self.regions += 1

    def mem_remove(self, region: MemoryRegion) -> None:
        self._note("mem_remove", region)
        self.regions = max(self.regions - 1, 0)

    def ring_set_num(self, num: int) -> None:
        self._note("ring_set_num", num)

    def ring_set_base(self, base: int) -> None:
        self._note("ring_set_base", base)

    def ring_set_addr(self, desc: int, used: int, avail: int) -> None:
        self._note("ring_set_addr", desc, used, avail)

    def ring_set_kick(self, fd: int | None) -> None:
        self._note("ring_set_kick", fd if fd is None else file_of(fd))

    def ring_set_call(self, fd: int | None) -> None:
        self._note("ring_set_call", fd if fd is None else file_of(fd))

    def ring_set_err(self, fd: int | None) -> None:
        self._note("ring_set_err", fd if fd is None else file_of(fd))

    def ring_enable(self, enable: bool) -> None:
        self._note("ring_enable", enable)

    def ring_stop(self) -> int:
        self._note("ring_stop")
        self._wait()
        return BASE


_conforms: Callable[[], Backend] = FakeBackend
