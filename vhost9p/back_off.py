"""How long to wait before what has died is started again.

The first death may be an accident: the next start follows at once. One that dies soon after its
start, and has served nothing, is likely to die again, so the pauses double up to a limit. Whoever
has served something, or lived long enough, counts as sound, and begins anew.
"""

import time
from collections.abc import Callable

SOON_S = 10.0
"""A process that lives longer has not died soon."""
FIRST_S, LONGEST_S = 0.1, 5.0
"""Pauses. A VMM that connects meanwhile waits for the answer."""


class BackOff:
    """The pauses of one process that is started again and again. `clock` is for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.deaths = 0
        self._clock = clock
        self._since = clock()
        self._soon = 0

    def started(self) -> None:
        """The process has been started."""
        self._since = self._clock()

    def died(self, *, served: bool = False, at_most: float | None = None) -> float:
        """The process has died, and may have served something. Returns the pause before the next
        start, in seconds: LONGEST_S, or `at_most`, is the longest one."""
        self.deaths += 1
        soon = not served and self._clock() - self._since < SOON_S
        self._soon = self._soon + 1 if soon else 1
        if self._soon == 1:
            return 0.0
        return min(FIRST_S * 2.0 ** min(self._soon - 2, 10), at_most or LONGEST_S)
