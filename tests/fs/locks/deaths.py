"""Deaths of a process with a lock table: at each store into the memory that survives it, and before
and after each system call.

`Points` counts these points, and ends the process at one of them. Without another process, the end
is an exception that nothing catches, after which no store and no system call has an effect any
more: memory and kernel are left as by SIGKILL.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from vhost9p.fs import lock_file, lock_records
from vhost9p.native import descriptors, sys

CALLS = (
    (sys, "flock"),
    (sys, "ofd_lock"),
    (descriptors, "close"),
    (os, "open"),
    (lock_file, "_pause"),
)


class KilledError(BaseException):
    """The process has been killed."""


def by_signal() -> None:
    """Ends this process."""
    os.kill(os.getpid(), signal.SIGKILL)


class Points:
    """Points at which the process may be killed."""

    def __init__(self) -> None:
        self.kill: Callable[[], None] = self._die
        self.at_each: Callable[[], object] = lambda: None
        """Called at each point."""
        self.at_wait: Callable[[], object] = lambda: None
        """Called before each call that may wait."""
        self._left = -1
        self._is_dead = False
        self._counts = False

    def _die(self) -> None:
        self._is_dead = True
        raise KilledError

    def point(self) -> None:
        """One of them."""
        if self._is_dead:
            raise KilledError
        if not self._counts:
            return
        self.at_each()
        if self._left == 0:
            self.kill()
        self._left -= 1

    @contextmanager
    def killing(self, at: int) -> Iterator[None]:
        """Kills what the block does at the point with this number (-1: at none)."""
        self._left, self._counts = at, True
        try:
            yield
        finally:
            self._counts = self._is_dead = False

    def dies(self, at: int, work: Callable[[], object]) -> bool:
        """Whether the work was killed before its end."""
        try:
            with self.killing(at):
                work()
                self.point()
        except KilledError:
            return True
        return False

    def _wait(self) -> None:
        counts, self._counts = self._counts, False
        try:
            self.at_wait()
        finally:
            self._counts = counts

    # ---- where they are ---------------------------------------------------------------------

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with points before and after it."""

        @wraps(call)
        def wrapper(*args: Any, **options: Any) -> Any:
            self.point()
            try:
                if isinstance(args[-1], sys.Cancel):
                    self._wait()
                return call(*args, **options)
            finally:
                self.point()

        return wrapper

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Puts points around system calls and before stores."""
        for module, name in CALLS:
            patch.setattr(module, name, self.around(getattr(module, name)))
        patch.setattr(lock_records, "BODY", Body(self))
        for name in ("words_of", "bytes_of"):
            view = getattr(lock_records, name)
            patch.setattr(lock_records, name, lambda m, view=view: Stores(view(m), self))


class Stores:
    """A view of memory with a point before each store."""

    def __init__(self, view: memoryview, points: Points) -> None:
        self.view = view
        self._points = points

    def __getitem__(self, at: Any) -> Any:
        return self.view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self._points.point()
        self.view[at] = value


class Body:
    """Packs a part of a record in one store."""

    def __init__(self, points: Points) -> None:
        self._body = lock_records.BODY
        self._points = points

    def pack_into(self, stores: Stores, at: int, *values: int) -> None:
        self._points.point()
        self._body.pack_into(stores.view, at, *values)
