"""How many requests of a device may wait: for locks, and for lines of the stream.

A request that waits keeps its entry of the ring. So that those which wait never take all the room
that others need, such as the one that unlocks, they share a quarter of it.
"""

import threading

WAITS_MAX = 512
"""Requests of a device that may wait: half of those that may be in flight (V9_SLOTS)."""


class WaitingRoom:
    """Room for `max` requests. Thread-safe."""

    def __init__(self) -> None:
        self.max = 0
        self._inside = 0
        self._lock = threading.Lock()

    def set_ring_size(self, size: int) -> None:
        """Makes room for a quarter of the ring's entries, WAITS_MAX at most."""
        self.max = min(size // 4, WAITS_MAX)

    def enter(self) -> bool:
        """Takes room for one; False if there is none."""
        with self._lock:
            if self._inside >= self.max:
                return False
            self._inside += 1
            return True

    def leave(self, count: int = 1) -> None:
        """Returns the room of so many."""
        with self._lock:
            self._inside -= count
