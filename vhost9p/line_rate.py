"""How many lines somebody may log: so many at once, and so many a second from then on. The others
are counted."""

import time
from collections.abc import Callable


class LineRate:
    """A token bucket. Not thread-safe. `clock` is for tests."""

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._since = clock()
        self.omitted = 0
        """Lines that were dropped since the last one that was admitted."""

    def admit(self, cost: float = 1) -> int | None:
        """Asks for a line, which counts as `cost` lines. Returns how many were dropped before it;
        None if it is dropped, too."""
        now = self._clock()
        self._left = min(self._left + (now - self._since) * self._per_second, self._burst)
        self._since = now
        if self._left < 1:
            self.omitted += 1
            return None
        self._left -= cost
        omitted, self.omitted = self.omitted, 0
        return omitted
