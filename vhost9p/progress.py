"""What the workers of a VM have reached, in memory that main, keeper and workers share.

It is a file in memory, whose descriptor only main keeps, and outlives each of them. A worker writes
it, and who starts the next one reads it: a VM that has never served is not tried again. A worker
that an attacker controls can write here, too: it can end its own VM by that, as it can anyway, or
have it tried again.
"""

import mmap
import os

from vhost9p import memory_file


class Progress:
    """The progress of a VM with so many devices. Processes forked from this one share it."""

    def __init__(self, devices: int, fd: int = -1) -> None:
        """That of the file `fd`, which is owned from now on, or a new one. Raises OSError."""
        self.fd = memory_file.create("vhost9p-progress") if fd < 0 else fd
        os.ftruncate(self.fd, 2 + devices)
        self._page = mmap.mmap(self.fd, 2 + devices)

    @property
    def has_served(self) -> bool:
        """Whether a worker has ever said what it serves."""
        return bool(self._page[0])

    def serves(self) -> None:
        """A worker serves."""
        self._page[0] = self._page[-1] = 1

    def begin_anew(self) -> None:
        """A keeper takes the place of another one, whose worker has ended."""
        self._page[-1] = 0

    @property
    def serves_anew(self) -> bool:
        """Whether a worker of that keeper has served."""
        return bool(self._page[-1])

    def finish(self, device: int) -> None:
        """The only connection of a device has ended."""
        self._page[1 + device] = 1

    @property
    def all_finished(self) -> bool:
        """Whether nobody can connect to any device any more."""
        return all(self._page[1:-1])

    def close(self) -> None:
        """In main, when the VM has ended."""
        self._page.close()
        os.close(self.fd)
