"""Main's copies of what a VM needs to outlive its keeper.

A keeper may be killed, and its worker with it (PR_SET_PDEATHSIG). The state of the devices stays,
in files that main holds (saved_state.py). What would be gone are the descriptors of the frontend's
sessions, without which the guest hangs for ever, and the namespaces of the VM, whose mounts are
part of what proves that a file is the same. So main has copies of these. All others are lost: files
are reopened (csrc/fid/lost.h).

Main copies them when the worker says that they have changed (inventory.py). Between a change and
the copy a millisecond passes, or PAUSE_S after the last one: a death in between ends the connection
of that device.

Main only holds the copies. A frontend or a worker that was taken over may have brought them about:
main never reads or writes one, nor asks what it is beyond what the kernel itself answers. Each
process that main creates closes its duplicates of them, which asks the file system that a file is
of (flush); one that hangs would hold up the process, and main where it waits for that. So main has
copies of no other kinds than a session has: one of another kind leaves its table before it creates
a process. A number may have become another descriptor's since it was listed, but not many times:
main copies no more of a worker that lists such things.

Even those may hang at the last close: a pipe waits for who writes to it, a socket for what it has
sent, and the last close of memory frees all of it. So a child does it that shares main's table of
descriptors (CLONE_FILES of clone(2)), unless it is an eventfd.
"""

import errno
import fcntl
import logging
import os
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from vhost9p.forking import without_stop_signals
from vhost9p.inventory import Inventory, Listed, Loss
from vhost9p.log_record import about
from vhost9p.native.process import clone, take_descriptor
from vhost9p.native.sandbox import open_namespaces
from vhost9p.vhost_user.channel import shut_down
from vhost9p.vhost_user.descriptors import is_eventfd, is_of_session

log = logging.getLogger(__name__)

REFUSING_S = 1.0
"""Seconds in which what nobody goes on with is closed, unless its close hangs, or no process can be
created for it."""
LOOK_S = 0.001
"""Seconds between two looks whether a child has closed something."""
PAUSE_S = 0.05
"""Between two looks at an inventory: a worker cannot keep main busy."""
FOREIGN_MAX = 8
"""How often a list of a VM may have what no session has."""


class Copies:
    """Those of the VM `name`."""

    def __init__(self, name: str, inventory: Inventory) -> None:
        self._name = name
        self._inventory = inventory
        self._devices: list[tuple[Listed, list[int]] | None] = [None] * inventory.devices
        """For each device the list, and the copies of what it names."""
        self._given: list[list[int] | None] = [None] * inventory.devices
        """Which numbers the copies have in the present keeper, if it has begun with them, or with
        the descriptors of the one before."""
        self.namespaces: dict[str, int] = {}
        """By name, those that are not main's own: descriptors of them (namespaces(7))."""
        self._has_namespaces = False
        self._is_impossible = False
        self._foreign = 0
        """How often a list had what no session has."""
        self.looks_at = 0.0
        """When the inventory may be looked at again (time.monotonic)."""

    @property
    def fds(self) -> list[int]:
        """All descriptors."""
        each = [fd for copied in self._devices if copied for fd in copied[1] if fd >= 0]
        return [*each, *self.namespaces.values()]

    def take(self, pid: int, pidfd: int) -> bool:
        """Copies what has changed from a keeper, which has entered its namespaces. Returns whether
        something has changed. If that is not allowed, it is said once."""
        self.looks_at = time.monotonic() + PAUSE_S
        self._inventory.silence()
        if self._is_impossible:
            return False
        changed = False
        try:
            if not self._has_namespaces:
                self.namespaces = open_namespaces(pid)
                self._has_namespaces = changed = True
            for device in range(self._inventory.devices):
                changed |= self._take_device(device, pidfd)
        except ProcessLookupError:
            pass  # it has ended, which comes next
        except PermissionError as error:
            self._is_impossible = True
            self.drop()
            log.warning(
                "%s: descriptors of its keeper may not be copied, so mounts hang if that dies: "
                "allow pidfd_getfd(2): %s",
                *(self._name, error.strerror),
                extra=about(vm=self._name),
            )
        except OSError as error:  # too many open files, or the worker has gone on
            log.debug("%s: descriptors of its keeper are not copied: %s", self._name, error)
            if self._foreign >= FOREIGN_MAX:
                self._give_up()
        return changed

    def _give_up(self) -> None:
        self._is_impossible = True
        self.drop()
        log.warning(
            "%s: its worker lists what no session has, as one that was taken over may: nothing is "
            "copied any more, so mounts hang if its keeper dies",
            self._name,
            extra=about(vm=self._name),
        )

    def _take_device(self, device: int, pidfd: int) -> bool:
        """Raises OSError."""
        before, listed = self._devices[device], self._inventory.read(device)
        if not listed or (before and before[0] == listed):
            return False
        copied: list[int] = []
        try:
            for fd in listed.fds:
                copied.append(take_descriptor(pidfd, fd) if fd >= 0 else -1)
                if fd >= 0 and not is_of_session(copied[-1]):
                    self._foreign += 1 if _let_go(copied.pop()) else FOREIGN_MAX
                    raise OSError(errno.EBADF, "one is not of a session")
        except OSError:
            close(copied)
            raise
        self._devices[device] = listed, copied
        self._given[device] = None
        close(before[1] if before else ())
        return True

    def has_sessions(self) -> bool:
        """Whether the VM can go on after the death of its keeper: there are namespaces, and what is
        copied of a device with a connection is its list still."""
        return self._has_namespaces and any(
            each and each[0].fds[:1] not in ([], [-1]) for each in self._current()
        )

    @property
    def has_namespaces(self) -> bool:
        """Whether a keeper can be created where the VM's are."""
        return self._has_namespaces

    @property
    def is_connected(self) -> bool:
        """Whether a frontend is connected to a device, as the worker says."""
        listed = map(self._inventory.read, range(self._inventory.devices))
        return any(each and each.fds[:1] not in ([], [-1]) for each in listed)

    def _current(self) -> list[tuple[Listed, list[int]] | None]:
        return [self._current_of(device) for device in range(self._inventory.devices)]

    def _current_of(self, device: int) -> tuple[Listed, list[int]] | None:
        copied, listed = self._devices[device], self._inventory.read(device)
        if not copied or not listed:
            return None
        # A keeper that has begun with the copies lists them by its numbers first.
        first = Listed(copied[0].generation + 2, self._given[device] or [])
        return (listed, copied[1]) if listed in (copied[0], first) else None

    def loss(self) -> Loss:
        """After the death of the keeper: what its successor begins with. The connections of the
        other devices end."""
        current = self._current()
        for before, now in zip(self._devices, current, strict=True):
            if before and not now:
                refuse(before[1])
        self._devices = current
        self._given = [each and each[1] for each in current]
        return Loss([each and (each[0].fds, each[1]) for each in current])

    def keep_numbers(self) -> None:
        """A new keeper has the descriptors of the one before under the same numbers (takeover.py),
        so its first worker lists the same once more."""
        for device, copied in enumerate(self._devices):
            listed = self._inventory.read(device)
            if copied and listed and listed.fds == copied[0].fds:
                again = Listed(copied[0].generation + 2, listed.fds)
                self._given[device] = listed.fds if listed in (copied[0], again) else None

    def drop(self) -> None:
        """Closes all of them."""
        close(self.fds)
        self._devices = [None] * self._inventory.devices
        self.namespaces = {}
        self._has_namespaces = False

    # ---- for another main (fd_store.py) -----------------------------------------------------

    def written_down(self) -> dict[str, Any]:
        """What another process needs, for JSON."""
        return {
            "namespaces": self.namespaces if self._has_namespaces else None,
            "devices": [
                each and {"generation": each[0].generation, "fds": each[0].fds, "copies": each[1]}
                for each in self._devices
            ],
            "given": self._given,
        }

    def read(self, written: Mapping[str, Any], numbers: Mapping[int, int], taken: set[int]) -> None:
        """Those that another process has written down; `numbers` says which number here each
        descriptor has that it names. One number may stand for several: who comes first takes it,
        unless it is in `taken`, and the others get copies. Raises KeyError before anything is
        taken, if one is missing; OSError."""
        lists = [each["copies"] for each in written["devices"] if each]
        for fd in (*(written["namespaces"] or {}).values(), *(fd for each in lists for fd in each)):
            if fd >= 0 and fd not in numbers:
                raise KeyError(fd)

        def take(fd: int) -> int:
            if fd < 0:
                return -1
            number = numbers[fd] if numbers[fd] not in taken else os.dup(numbers[fd])
            taken.add(number)
            return number

        self._has_namespaces = written["namespaces"] is not None
        self.namespaces = {name: take(fd) for name, fd in (written["namespaces"] or {}).items()}
        self._given = written["given"]
        self._devices = [
            each and (Listed(each["generation"], each["fds"]), [take(fd) for fd in each["copies"]])
            for each in written["devices"]
        ]


def close(fds: Collection[int]) -> None:
    """Closes copies, which may hang: not here."""
    _close(fds, shuts_down=False)


def refuse(fds: Collection[int]) -> None:
    """Closes what a main process before has left and nobody goes on with. A service manager may
    have it open still, so nobody can connect to its sockets any more, or wait for them. Returns
    when that is so, since they may have to be listened on anew; after REFUSING_S at the latest."""
    _close(fds, shuts_down=True)


def _close(fds: Collection[int], *, shuts_down: bool) -> None:
    dangerous = []
    for fd in fds:
        if fd < 0:
            continue
        if is_eventfd(fd):
            os.close(fd)
        else:
            dangerous.append(fd)
    if dangerous:
        with _closing(dangerous, shuts_down=shuts_down) as has_ended:
            if shuts_down:
                has_ended(REFUSING_S)


def _let_go(fd: int) -> bool:
    """Closes what no session has. Returns when main has it no longer: close(2) takes it out of the
    table first, and asks the file system then. Where main can create no process, it tries for
    REFUSING_S; False: main has it still."""
    deadline = time.monotonic() + REFUSING_S
    while _is_open(fd) and time.monotonic() < deadline:
        with _closing([fd]) as has_ended:
            while _is_open(fd) and not has_ended(LOOK_S):
                pass
        if _is_open(fd):
            time.sleep(LOOK_S)
    return not _is_open(fd)


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


@contextmanager
def _closing(fds: Sequence[int], *, shuts_down: bool = False) -> Iterator[Callable[[float], bool]]:
    """A child that closes them, which main reaps like any that it does not know. Yields what waits
    some seconds for its end, and returns whether it has ended."""
    try:
        with without_stop_signals():
            pid, pidfd = clone()
            if pid == 0:
                _close_all(fds, shuts_down=shuts_down)
    except OSError as error:  # too many processes, for now
        log.debug("copies of descriptors stay open: %s", error)
        yield lambda _: True
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    try:
        yield lambda seconds: bool(poller.poll(seconds * 1000))
    finally:
        os.close(pidfd)


def _close_all(fds: Sequence[int], *, shuts_down: bool) -> NoReturn:
    """In the child."""
    try:
        for fd in fds if shuts_down else ():
            with suppress(OSError):  # most are no sockets
                shut_down(fd)
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
    finally:
        os._exit(0)
