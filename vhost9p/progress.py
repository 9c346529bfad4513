"""What the workers of a VM have reached, in memory that main, keeper and workers share.

It is a file in memory, whose descriptor only main keeps, and outlives each of them. A worker writes
it, and who starts the next one reads it: a VM that has never served is not tried again. A worker
that an attacker controls can write here, too: it can end its own VM by that, as it can anyway, or
have it tried again; and it can say what it likes about deaths, so whoever shows that checks it.
"""

import mmap
import os
import struct
import time
from dataclasses import dataclass

from vhost9p import memory_file

_DEATHS = struct.Struct("=Qd128s")
"""How many workers have died; when the last one did (time.time()); how."""


SIDE = 8
"""Bytes of each device for what no keeper reads (identities.py)."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """Of workers, since the VM began. Anything may be there: a worker can write it."""

    count: int
    at: float
    how: bytes
    """How the last one ended, in words."""


class Progress:
    """The progress of a VM with so many devices. Processes forked from this one share it."""

    def __init__(self, devices: int, fd: int = -1) -> None:
        """That of the file `fd`, which is owned from now on, or a new one. Raises OSError."""
        self.fd = memory_file.create("vhost9p-progress") if fd < 0 else fd
        self._anew = 1 + devices
        self._deaths = 2 + devices  # older versions end before
        self._opened = self._deaths + _DEATHS.size  # and these
        size = self._opened + 1 + devices * SIDE
        os.ftruncate(self.fd, size)
        self._page = mmap.mmap(self.fd, size)
        self.identities = memoryview(self._page)[self._opened + 1 :]
        """Of the devices (identities.py)."""

    @property
    def has_served(self) -> bool:
        """Whether a worker has ever said what it serves."""
        return bool(self._page[0])

    def serves(self) -> None:
        """A worker serves."""
        self._page[0] = self._page[self._anew] = 1

    def begin_anew(self) -> None:
        """A keeper takes the place of another one, whose worker has ended."""
        self._page[self._anew] = 0

    @property
    def serves_anew(self) -> bool:
        """Whether a worker of that keeper has served."""
        return bool(self._page[self._anew])

    def has_not_opened(self) -> None:
        """In main, while no worker runs: the next one has another configuration."""
        self._page[self._opened] = 0

    def opens(self) -> None:
        """A worker has opened all that its configuration names."""
        self._page[self._opened] = 1

    @property
    def has_opened(self) -> bool:
        """Whether a worker has opened all that since `has_not_opened`: what it does not serve any
        more may be lost to the guest from now on."""
        return bool(self._page[self._opened])

    def finish(self, device: int) -> None:
        """The only connection of a device has ended."""
        self._page[1 + device] = 1

    @property
    def all_finished(self) -> bool:
        """Whether nobody can connect to any device any more."""
        return all(self._page[1 : self._anew])

    def died(self, how: str) -> None:
        """A worker has died."""
        count, _, _ = _DEATHS.unpack_from(self._page, self._deaths)
        text = how.encode(errors="replace")
        _DEATHS.pack_into(self._page, self._deaths, (count + 1) % 2**64, time.time(), text)

    @property
    def deaths(self) -> Deaths:
        """How many workers have died, and how the last one did."""
        count, at, how = _DEATHS.unpack_from(self._page, self._deaths)
        return Deaths(count, at, how.rstrip(b"\0"))

    def close(self) -> None:
        """In main, when the VM has ended."""
        self.identities.release()
        self._page.close()
        os.close(self.fd)
