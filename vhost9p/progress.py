"""What the workers of a VM have reached, in memory that main, keeper and workers share.

It outlives each of them. A worker writes it, and who starts the next one reads it: a VM that has
never served is not tried again. A worker that an attacker controls can write here, too: it can end
its own VM by that, as it can anyway, or have it tried again.
"""

import mmap


class Progress:
    """The progress of a VM with so many devices. Processes forked from this one share it."""

    def __init__(self, devices: int) -> None:
        """Raises OSError."""
        self._page = mmap.mmap(-1, 1 + devices)

    @property
    def has_served(self) -> bool:
        """Whether a worker has ever said what it serves."""
        return bool(self._page[0])

    def serves(self) -> None:
        """A worker serves."""
        self._page[0] = 1

    def finish(self, device: int) -> None:
        """The only connection of a device has ended."""
        self._page[1 + device] = 1

    @property
    def all_finished(self) -> bool:
        """Whether nobody can connect to any device any more."""
        return all(self._page[1:])
