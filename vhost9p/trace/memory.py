"""The memory through which a worker's requests are watched: one file for each VM.

Main creates it with the VM, keeper and workers have it mapped from their start (csrc/request/
trace.h), and pages that nobody has touched cost nothing. While somebody watches, main says so in
the first page of each device's part, and gives the watcher a descriptor that only reads. Nobody
asks the worker for anything, and no worker gets a descriptor, so that confinement does not matter.

The file cannot be made shorter (fcntl(2), F_SEAL_SHRINK), so no reader can be killed through it. A
worker that an attacker controls can write anything into its records, and that nobody watches.
"""

import errno
import mmap
import os
import struct
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, NamedTuple

from vhost9p import memory_file
from vhost9p.native.library import ffi, lib
from vhost9p.native.shared_memory import map_shared, part

DATA_MAX = int(lib.V9_TRACE_DATA_MAX)
"""Bytes of what a request reads or writes that can be recorded."""
SIZE = -(-int(lib.v9_trace_size()) // mmap.PAGESIZE) * mmap.PAGESIZE
"""Bytes of a device's part."""
FORMAT = int(lib.V9_TRACE_FORMAT)
_KEPT = 2 * int(lib.V9_TRACE_PAGE)
"""Bytes that stay when nobody watches any more."""
_CONTROL = struct.Struct("=II")
"""on, data: what main writes of struct v9_trace_control."""
_READY = int(ffi.offsetof("struct v9_trace_control", "ready"))


class _Wish(NamedTuple):
    """Of somebody who watches."""

    data: int
    renew: Callable[[], None]
    end: Callable[[], None]


class TraceMemory:
    """That of a VM with so many devices."""

    def __init__(self, devices: int, fd: int = -1) -> None:
        """That of the file `fd`, which is owned from now on, or a new one. Raises OSError."""
        self.devices = devices
        self._watchers: dict[Hashable, _Wish] = {}
        if fd < 0:
            fd = memory_file.create_sealed("vhost9p-trace", SIZE * devices)
        self.fd = fd

    # ---- in main ----------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether a worker has said that it can record. One that an attacker controls says
        anything."""
        ready = (os.pread(self.fd, 4, SIZE * i + _READY) for i in range(self.devices))
        return all(any(each) for each in ready)

    def watch(
        self,
        watcher: Hashable,
        data: int,
        renew: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        """From now on somebody watches, who wants so many bytes of the data of each request, whom
        `renew` tells that exports have other names, and `end` that the VM has ended."""
        self._watchers[watcher] = _Wish(data, renew, end)
        self._switch()

    def renew(self) -> None:
        """The exports have changed."""
        for each in [*self._watchers.values()]:
            each.renew()

    def leave(self, watcher: Hashable) -> None:
        """Somebody watches no longer. Does nothing if he did not."""
        if self._watchers.pop(watcher, None) is None:
            return
        self._switch()
        if not self._watchers:
            self._release()

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    def begin_anew(self) -> None:
        """This process is main now: whoever has watched before has to ask it."""
        self._switch()

    def _switch(self) -> None:
        data = max((each.data for each in self._watchers.values()), default=0)
        for i in range(self.devices):
            os.pwrite(self.fd, _CONTROL.pack(bool(self._watchers), data), SIZE * i)

    def _release(self) -> None:
        """Returns the memory of the records to the kernel. Where the host has no room to map it, it
        is returned when the next watcher has left."""
        with suppress(OSError):
            for i in range(self.devices):
                with mmap.mmap(self.fd, SIZE, offset=SIZE * i) as whole:
                    whole.madvise(mmap.MADV_REMOVE, _KEPT, SIZE - _KEPT)

    def open_readonly(self) -> int:
        """Returns a descriptor of the file that cannot write it. Raises OSError."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """When the VM has ended."""
        watchers, self._watchers = self._watchers, {}
        os.close(self.fd)
        for each in watchers.values():
            each.end()

    # ---- in a keeper ------------------------------------------------------------------------

    def map(self) -> list[Any]:
        """Maps the file for this process and what is cloned from it. Returns a pointer to the part
        of each device. Raises OSError."""
        base = map_shared(self.fd, 0, SIZE * self.devices, 0)
        if not base:
            raise OSError(errno.ENOMEM, "no memory for traces")
        return [part(base, SIZE * i) for i in range(self.devices)]
