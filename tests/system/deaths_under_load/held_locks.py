"""A process of the host that looks at the guest's locks all the time.

Each program has two locks, which it notes in memory that this process shares: a file that it locks
for ever, and a range that it locks and unlocks. A locked one must never be free, not for the moment
in which no worker lives, and an unlocked one must never be locked. To look takes no lock, so the
guest's locks do not meet this process's. (A whole file that is locked for ever cannot be locked by
flock(2) either, so that is tried.)
"""

from __future__ import annotations

import mmap
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.system.host_locks import is_locked, is_locked_by_flock

UNLOCKED, LOCKED, CHANGING = range(3)
STATES = 3
_END, _LOOKS = 0, 1
_FIRST = 2


class Locks:
    """What the guest says of its locks: two of each of so many programs."""

    def __init__(self, programs: int) -> None:
        self.count = 2 * programs
        self._words = memoryview(mmap.mmap(-1, 8 * (_FIRST + self.count))).cast("Q")
        for which in range(self.count):
            self._words[_FIRST + which] = CHANGING

    def set(self, which: int, state: int) -> None:
        """The state from now on. A word differs from all that were there before."""
        self._words[_FIRST + which] += STATES + state - self._words[_FIRST + which] % STATES

    def set_changing(self, which: int) -> None:
        """It may be locked or not."""
        self.set(which, CHANGING)

    def word(self, which: int) -> int:
        """What stands for the state, and for the change that led to it."""
        return self._words[_FIRST + which]

    def range_of(self, which: int) -> tuple[int, int]:
        """Start and length of a lock; that of even ones is the whole file."""
        return (10 * which, 10) if which % 2 else (0, 0)

    # ---- the end of the other process

    def end(self) -> None:
        """Has it end."""
        self._words[_END] = 1

    @property
    def has_ended(self) -> bool:
        return bool(self._words[_END])

    @property
    def looks(self) -> int:
        """How often it has looked at a lock that was locked or unlocked all the time."""
        return self._words[_LOOKS]

    def count_look(self) -> None:
        self._words[_LOOKS] += 1


class Prober:
    """Watches the locks of the files with these paths. Forked before there are threads."""

    def __init__(self, locks: Locks, paths: Sequence[Path]) -> None:
        self.locks = locks
        self._paths = paths
        self._files: list[int] = [-1] * locks.count
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                self._watch()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def is_alive(self) -> bool:
        """False if it has found something wrong."""
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def end(self) -> bool:
        """Ends it, once; whether all was right."""
        self.locks.end()
        return os.waitpid(self._pid, 0)[1] == 0

    # ---- in the other process -------------------------------------------------------------------

    def _watch(self) -> None:
        os.nice(5)  # it is always at work
        while not self.locks.has_ended and os.getppid() != 1:
            for which in range(self.locks.count):
                self._look_at(which)

    def _look_at(self, which: int) -> None:
        start, length = self.locks.range_of(which)
        self._compare(which, lambda fd: is_locked(fd, start, length))
        if which % 2 == 0 and self.locks.word(which) % STATES == LOCKED:
            self._compare(which, is_locked_by_flock)

    def _compare(self, which: int, is_locked: Callable[[int], bool]) -> None:
        word = self.locks.word(which)
        state = word % STATES
        if state == CHANGING:
            return
        fd = self._file(which)
        locked = is_locked(fd)
        if self.locks.word(which) != word:
            return
        self.locks.count_look()
        assert locked == (state == LOCKED), (
            f"lock {which}, change {word // STATES}: {'locked' if locked else 'free'}"
        )

    def _file(self, which: int) -> int:
        if self._files[which] < 0:
            self._files[which] = os.open(self._paths[which], os.O_RDWR)
        return self._files[which]
