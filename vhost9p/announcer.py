"""What main reports to its service manager (sd_notify(3)): that it serves, or takes up another
configuration; how many VMs and guests there are; and that it is alive.

The last is the watchdog. Main never waits for a VM, a frontend or a file system, so a ping that is
missing means that main itself hangs: it was stopped, or the host lets it run no more, or it has a
bug. The manager then ends the service and starts it again, and VMs go on as after any other death
of main (fd_store.py). A VM that hangs leaves no ping out.
"""

import time

from vhost9p.notify import Manager

PINGS = 3
"""In the time after which the manager loses patience."""
RETRY_S = 0.1
"""Pause, if the manager has no room for more messages."""


class Announcer:
    """Reports to one manager, or to none."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._is_ready = False
        """Whether the manager was told so, and nothing else since."""
        self._status = ""
        self._pings_at = time.monotonic() if manager.watchdog_s else None
        self._retries_at: float | None = None

    @property
    def is_due_at(self) -> float | None:
        """When to call `act` (time.monotonic); None: never."""
        times = [at for at in (self._pings_at, self._retries_at) if at is not None]
        return min(times, default=None)

    def act(self) -> None:
        """Does what is due. What could not be reported follows with the next `update`."""
        now = time.monotonic()
        if self._retries_at is not None and self._retries_at <= now:
            self._retries_at = None
        if self._pings_at is not None and self._pings_at <= now:
            self._pings_at = now + self._manager.watchdog_s / PINGS
            self._manager.send("WATCHDOG=1")

    def update(self, vms: int, connected: int, *, is_ready: bool) -> None:
        """Reports what has changed: how many VMs are served, how many of them are connected, and
        whether all is taken up."""
        if self._retries_at is not None or not self._manager.is_there:
            return
        status = f"serving {_count(vms, 'VM')}, {_count(connected, 'guest')} connected"
        lines = []
        if is_ready and not self._is_ready:
            lines.append("READY=1")
        if (self._is_ready or is_ready) and status != self._status:
            lines.append(f"STATUS={status}")
        if not lines:
            return
        if not self._manager.send("\n".join(lines)):
            self._retries_at = time.monotonic() + RETRY_S
            return
        self._is_ready |= is_ready
        self._status = status

    def reloading(self) -> None:
        """A configuration is taken up anew, until `update` says that it is ready."""
        if self._is_ready:
            usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._is_ready = not self._manager.send(f"RELOADING=1\nMONOTONIC_USEC={usec}")

    def stopping(self) -> None:
        """The service ends."""
        self._manager.send("STOPPING=1")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
