"""Main's part: a process that watches for each VM that wants it, from when its worker serves until
its keeper ends. One that dies is followed by another (back_off.py).

One that ends since mounts have changed has not died. The next one follows at once, and gets a time
that it has to watch before it may end for the same reason: none if that was the first change for a
while, and up to a second if mounts change without a pause. Where something hangs it is a minute,
and twice as much each time, up to ten: each process leaves one behind then, which nobody can end
(apart.py).
"""

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from vhost9p.back_off import BackOff
from vhost9p.forking import without_stop_signals
from vhost9p.log_record import about, one_line
from vhost9p.saved_state import Unreadable
from vhost9p.vm import Vm
from vhost9p.watcher import child
from vhost9p.watcher.child import MOUNTS_HAVE_CHANGED, Job
from vhost9p.watcher.watch import A_WORKER_SERVES

log = logging.getLogger(__name__)

MESSAGE_MAX = 65536
SAID_MAX = 256
"""Different lines that are logged about a VM."""
PAUSE_S = 0.1
"""Seconds between two processes at least."""
REST_S = 1.0
"""Seconds that a process watches at least before mounts end it, where they change all the time."""
HUNG_REST_S, HUNG_REST_MAX_S = 60.0, 600.0
"""The same where something hangs: the first time, and at most."""
SLOW_S = 60.0
"""Seconds until a process that does not watch yet is reported."""


class Watchers:
    """Those of all VMs, by name. `watch` and `unwatch` are main's: what it calls when a descriptor
    is readable."""

    def __init__(
        self, watch: Callable[[int, Callable[[], Any]], None], unwatch: Callable[[int], Any]
    ) -> None:
        self._watch, self._unwatch = watch, unwatch
        self._all: dict[str, _Watcher] = {}

    def serves(self, vm: Vm) -> None:
        """A worker of this VM has begun to serve, or serves still."""
        if watcher := self._all.get(vm.name):
            watcher.tell_that_a_worker_serves()
        elif any(vm.rings) and not vm.marks_dirs:
            self._all[vm.name] = _Watcher(vm)

    def forget(self, vm: Vm) -> None:
        """The VM has ended."""
        if watcher := self._all.pop(vm.name, None):
            self._end(watcher)

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yields when a process is to be started, and what does it."""
        for each in self._all.values():
            if each.next_start is not None and each.is_needed:
                yield each.next_start, partial(self._start, each)
            elif each.is_late_at is not None:
                yield each.is_late_at, each.say_that_it_is_late

    def _start(self, watcher: "_Watcher") -> None:
        watcher.start()
        if watcher.channel:
            self._watch(watcher.channel.fileno(), partial(self._hear, watcher))

    def _hear(self, watcher: "_Watcher") -> None:
        if not watcher.hear():
            self._end(watcher)

    def _end(self, watcher: "_Watcher") -> None:
        if watcher.channel:
            self._unwatch(watcher.channel.fileno())
            watcher.ended()

    def lacks(self, name: str, device: int) -> list[str] | None:
        """Returns what of a device's exports is not watched, each with the reason; None: nothing is
        watched now."""
        watcher = self._all.get(name)
        return watcher.lacks.get(device, []) if watcher and watcher.lacks is not None else None


class _Watcher:
    """That of one VM."""

    def __init__(self, vm: Vm) -> None:
        self.next_start: float | None = 0.0
        """When the next process is to be started; None: there is one."""
        self.channel: socket.socket | None = None
        """To the process, which ends when this is closed."""
        self.is_late_at: float | None = None
        """When it is to be reported that the process does not watch yet."""
        self.lacks: dict[int, list[str]] | None = None
        """By device, what the process does not watch, and why; None: it watches nothing yet."""
        self._vm = vm
        self._pidfd = -1
        self._back_off, self._changes = BackOff(), BackOff()
        self._started = 0.0
        self._rest = 0.0
        """Seconds that the process watches at least before mounts end it."""
        self._hung = 0
        """How many processes one after the other have found that something hangs."""
        self._have_mounts_changed = False
        """Whether that is why it ends."""
        self._said: set[str] = set()
        """What was logged already, and is not repeated."""

    @property
    def is_needed(self) -> bool:
        """Whether there is something to be watched now."""
        return self._vm.pid != 0 and self._vm.stopped_at is None and self._vm.serves_anew

    def start(self) -> None:
        """Starts the process; if the host has no room for it now, `next_start` says when to try
        again."""
        self._back_off.started()
        self._changes.started()
        self._started = time.monotonic()
        vm, parent = self._vm, os.getpid()
        try:
            own = vm.name, vm.config, vm.read_entered(), vm.pid, vm.pidfd, vm.rings
            job = Job(*own, self._rest, self.hung_rest)
            self.channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its, without_stop_signals():
                pid = os.fork()
                if pid == 0:
                    child.run(job, its, parent)
                self._pidfd = os.pidfd_open(pid)
            self.next_start = None
            self.is_late_at = self._started + SLOW_S
        except (OSError, Unreadable) as error:  # too many processes or open files, for now
            self._fail(str(error))
            self.ended()

    @property
    def hung_rest(self) -> float:
        """Seconds that the next process watches at least, if something hangs."""
        return min(HUNG_REST_S * 2.0 ** min(self._hung, 10), HUNG_REST_MAX_S)

    def hear(self) -> bool:
        """Takes what the process says, which has read what anybody has written: once when it begins
        to watch, and once when it ends, so that it cannot keep main busy. Returns whether it goes
        on."""
        assert self.channel, "somebody has heard it"
        said = b""
        with suppress(OSError):
            said = self.channel.recv(MESSAGE_MAX)
        if self.lacks is None:
            return self._hear_first(said)
        self._have_mounts_changed = said == MOUNTS_HAVE_CHANGED
        return False

    def _hear_first(self, said: bytes) -> bool:
        try:
            message = json.loads(said)
            if failure := message.get("failure"):
                self._fail(str(failure))
            self.lacks = {
                device: [one_line(str(each)) for each in message["lacks"].get(str(device), ())]
                for device in range(len(self._vm.rings))
            }
            self._hung = self._hung + 1 if message.get("hangs") else 0
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
            return False
        self.is_late_at = None
        for device, lacks in self.lacks.items():
            for each in lacks:
                self._warn(device, each)
        return True

    def tell_that_a_worker_serves(self) -> None:
        """It may be another one than before. Waits for nobody."""
        if self.channel:
            with suppress(OSError):  # it has ended, or hangs
                self.channel.send(A_WORKER_SERVES, socket.MSG_DONTWAIT)

    def say_that_it_is_late(self) -> None:
        """The process does not watch yet."""
        self.is_late_at = None
        self._fail("the process that is to watch hangs")

    def _is_news(self, what: str) -> bool:
        if what in self._said or len(self._said) >= SAID_MAX:
            return False
        self._said.add(what)
        return True

    def _fail(self, why: str) -> None:
        if self._is_news(why):
            log.error(
                "%s: changes by the host are not watched, which is tried again: %s",
                *(self._vm.name, why),
                extra=about(vm=self._vm.name),
            )

    def _warn(self, device: int, what: str) -> None:
        if self._is_news(what):
            tag = self._vm.config.devices[device].tag
            log.warning(
                "%s: changes by the host are not reported to the guest: %s",
                *(tag, what),
                extra=about(vm=self._vm.name, device=tag),
            )

    def ended(self) -> None:
        """The process has ended, or has to."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        if self.channel:
            self.channel.close()
            self.channel = None
        self.lacks = self.is_late_at = None
        self.next_start = max(self._earliest(), self._started + PAUSE_S)

    def _earliest(self) -> float:
        """When the next process may start; and how long that one has to watch, in `_rest`."""
        if not self._have_mounts_changed:
            return time.monotonic() + self._back_off.died()
        self._have_mounts_changed = False
        at = self._started + self._rest
        self._rest = self._changes.died(at_most=REST_S)
        return at
