"""How often the workers of a VM have died before they served, and at which device's state.

A worker takes the state of each device over, and starts the device. If that ends it by a fault, the
state is likely to be damaged, and would end each successor. So the third such death gives up a part
of the state, and the sixth all of it (shared_state.py). Which device it was is noted in memory that
the workers share; a fault elsewhere counts against all of them. As soon as all devices have been
started, the state is good.

After an upgrade, the code is new as well. Until it has served all devices once, it is the code that
is suspected: no death counts against a state that another version has served.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from vhost9p.ends import Cause

DEATHS = 3
_AT, _SERVED, _TRUSTED, _FIRST = range(4)
"""Bytes: the device that is taken over, counted from 1, or 0; whether all have been; whether the
code has ever done that; then two of each device, and of their VM before."""


class Attempts:
    """The attempts to take over so many devices. Processes cloned from this one share it."""

    def __init__(self, devices: int, *, is_upgrade: bool = False) -> None:
        """`is_upgrade`: another version of the code has served them. Raises OSError."""
        self._devices = devices
        self._page = mmap.mmap(-1, _FIRST + 2 * (1 + devices))
        self._page[_TRUSTED] = not is_upgrade

    def begin(self, cause: Cause) -> None:
        """A worker begins; `cause` is why the one before ended. An end for want of memory is none
        of the state's: it comes to an end by itself."""
        page = self._page
        if page[_SERVED]:
            page[:] = bytes(len(page))
            page[_TRUSTED] = True
        elif cause is Cause.FAULT and page[_TRUSTED]:
            at = _FIRST + 2 * min(page[_AT], self._devices)
            page[at] = min(page[at] + 1, 255)
        page[_AT] = 0

    def due(self) -> Iterator[tuple[int, bool]]:
        """Yields each device of whose state something is to be given up now, counted from 0, and
        whether that is all of it. It is done once the caller goes on."""
        for number in range(self._devices):
            for at in (_FIRST, _FIRST + 2 * (1 + number)):
                times = self._page[at] // DEATHS
                if times > self._page[at + 1]:
                    yield number, times > 1
                    if at != _FIRST:
                        self._page[at + 1] = times
        self._page[_FIRST + 1] = self._page[_FIRST] // DEATHS

    @contextmanager
    def taking_over(self, number: int) -> Iterator[None]:
        """Meanwhile a death is due to this device."""
        self._page[_AT] = 1 + number
        yield
        self._page[_AT] = 0

    def succeeded(self) -> None:
        """All devices have been taken over and started."""
        self._page[_SERVED] = 1
