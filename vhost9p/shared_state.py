"""What of a device outlives the worker that serves it.

It lies in memory that the keeper has mapped before it clones its workers (saved_state.py): the
connection, the device (ring, guest memory, requests, fids) and the records of the guest's locks.
Descriptors stay open with their numbers in the table that keeper and workers share. So the next
worker goes on, and neither frontend nor guest notices.

The next worker takes over before it opens anything: it makes the state good again, wherever the one
before was killed, and closes all descriptors that nobody owns (the *sweep*): they were about to be
recorded or to be closed. Before that, requests get back what they have created, once it is known
what all devices own. What an operator has taken away meanwhile is lost to the guest only when
everything else that a worker needs is there (`leave_exports`): until then, a reload can be taken
back.

What ends worker after worker by a fault must come to an end itself:

- A request, or a message of a frontend, is blamed for a death at which it was carried out. The
  third one is its last (csrc/request/suspects.h, vhost_user/session.py).
- The state, if workers die while they take it over (attempts.py). The guest's session is given up
  first: its fids and locks. Requests in flight get EIO, old fids EBADF, and a new mount works. If
  that is not enough, or a connection cannot even be ended, the device is as new, and without its
  connection: nothing else can be said to a frontend whose set-up is lost.
"""

import errno
import logging
import mmap
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, Self

from vhost9p.attempts import DEATHS, Attempts
from vhost9p.changes.ring import Ring
from vhost9p.config import DeviceConfig
from vhost9p.ends import Cause
from vhost9p.fs import lock_records
from vhost9p.fs.locks import LockTable
from vhost9p.inventory import Loss
from vhost9p.log_record import about
from vhost9p.native.connection import Connection
from vhost9p.native.device import Area, Blame
from vhost9p.native.export import NOTICES
from vhost9p.native.process import close_others
from vhost9p.policy.export_options import hidden_paths
from vhost9p.saved_state import SavedState
from vhost9p.vhost_user.listener import Listener

log = logging.getLogger(__name__)


class SharedState(NamedTuple):
    """The state of one device, and where its frontends come from."""

    listener: Listener
    connection: Connection
    area: Area
    locks: mmap.mmap
    at_home: bool
    """Whether code that was loaded anew can go on with it."""
    config: DeviceConfig
    """What is served now, which may be less than before."""
    changes: Ring | None
    """What is reported to the guest, if anything is."""

    @classmethod
    def map(
        cls,
        listener: Listener,
        saved: SavedState,
        config: DeviceConfig,
        trace: Any = None,
        changes: Ring | None = None,
        *,
        is_new: bool,
    ) -> Self:
        """Maps the saved state of a device, whose requests are recorded in the memory `trace`.
        Raises OSError."""
        parts = saved.map(anywhere=is_new)
        area = Area(saved.header.max_fids, parts.device, trace)
        connection = Connection(parts.connection)
        return cls(listener, connection, area, parts.locks, parts.at_home, config, changes)

    @property
    def _about(self) -> dict[str, Any]:
        """What lines of the log concern."""
        return about(socket=self.listener.name)

    @property
    def frontend(self) -> int:
        """The descriptor that becomes readable when the frontend speaks, or one connects."""
        return self.connection.fd if self.connection.is_live else self.listener.fileno()

    def recover(self) -> list[int]:
        """Makes the state good again. Returns the descriptors that it owns. Raises OSError."""
        if not self.area.recover():
            if not self.connection.has_ended:
                self.connection.forget()
            return []
        if not self.connection.recover():
            log.error(
                "%s: the state of the connection is damaged: it ends",
                self.listener.name,
                extra=self._about,
            )
        self.listener.adopt(self.connection)
        for each in self.area.poisons():
            log.error(
                "%s: %d workers died at a request, which gets EIO: type %d of %s, tag %d, "
                "%d bytes: %s",
                self.listener.name,
                DEATHS,
                each.type,
                "9P2000.u" if each.dialect_u else "9P2000.L",
                each.tag,
                each.size,
                each.head.hex(),
                extra=self._about,
            )
        return [
            *self.connection.descriptors(),
            *self.area.descriptors(),
            *LockTable.descriptors_in(self.locks),
        ]

    def adopt_orphans(self, owned: set[int]) -> None:
        """Gives the requests back what they have created and not recorded: descriptors that nobody
        has `owned`, to which it adds them. All devices were recovered."""
        if self.area.is_taken_over and self.area.adopt_orphans(owned):
            owned.update(self.area.descriptors())

    def leave_exports(self) -> None:
        """What is not served any more is lost to the guest. The device was recovered, and is not
        started yet. Raises OSError."""
        if not self.area.is_taken_over:
            return
        before = set(self.area.descriptors())
        for index, export in self.config.indexed.items():
            if export.hide:
                root = os.fsencode(export.place or export.path)
                self.area.hide(index, root, hidden_paths(export))
        notices = [NOTICES] if self.changes else []
        if self.area.keep_exports([*self.config.indexed, *notices]):
            for fd in before.difference(self.area.descriptors(), (-1,)):
                os.close(fd)

    def lose_descriptors(self, numbers: tuple[list[int], list[int]] | None) -> None:
        """All descriptors are lost but those of the session, which had numbers and have others now
        (inventory.py); None: these, too. `recover` is next. Raises OSError."""
        name, ends = self.listener.name, self.connection.is_live and not numbers
        if numbers:
            known, instead = numbers
            try:
                self.connection.lose_descriptors(known[:2], instead[:2])
                self.area.lose_descriptors(known[2:], instead[2:])
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                ends = self.connection.is_live
        held = lock_records.count_held(lock_records.words_of(self.locks))
        self.locks.madvise(mmap.MADV_REMOVE)
        if held:
            log.warning(
                "%s: %d locks of the guest are lost: restart what held them",
                *(name, held),
                extra=self._about,
            )
        if ends:
            log.error(
                "%s: changed in the instant of the death: the connection ends",
                name,
                extra=self._about,
            )
        if ends or not numbers:
            self.area.lose_all()
            self.connection.forget()

    def give_up(self, *, all_of_it: bool) -> None:
        """Gives up the guest's session, or all, instead of taking it over. `recover` is next.
        Raises OSError."""
        self.locks.madvise(mmap.MADV_REMOVE)
        if all_of_it:
            self.area.lose_all()
            self.connection.ended()
            text = "the device begins anew, without its connection"
        else:
            self.area.lose_fids()
            text = "open files and locks of the guest are lost, until it mounts again"
        log.error(
            "%s: the state is damaged, and is given up: %s",
            *(self.listener.name, text),
            extra=self._about,
        )


def take_over(
    states: Sequence[SharedState],
    attempts: Attempts,
    kept: Collection[int],
    cause: Cause,
    loss: Loss | None = None,
) -> None:
    """Called by a worker before it opens anything. `kept` are the descriptors of the keeper,
    `cause` is why the worker before ended, `loss` what was lost with the keeper before. Raises
    OSError."""
    attempts.begin(cause)
    for number, all_of_it in attempts.due():
        states[number].give_up(all_of_it=all_of_it)
    blame(states, cause)
    lost = loss is not None and loss.is_due
    if loss and lost:
        for state, numbers in zip(states, loss.devices, strict=True):
            state.lose_descriptors(numbers)
        loss.settled()
    owned = set(kept)
    for number, state in enumerate(states):
        with attempts.taking_over(number):
            owned.update(state.recover())
        if lost and state.area.is_taken_over and (count := state.area.lost_fids):
            log.warning(
                "%s: %d fids are lost, whose files have no name or are too young: programs get "
                "ESTALE, and have to open them again",
                *(state.listener.name, count),
                extra=state._about,
            )
    for number, state in enumerate(states):
        with attempts.taking_over(number):
            state.adopt_orphans(owned)
    close_others(owned)


def blame(states: Iterable[SharedState], cause: Cause) -> None:
    """Blames what was carried out when the worker before died, if it may be why."""
    may_be = cause is not Cause.OTHER
    ran = 0
    for state in states:
        ran += state.area.running + state.connection.blame(blamed=may_be)
        if state.connection.is_ending and state.connection.deaths >= DEATHS:
            state.give_up(all_of_it=True)
    tried = any(state.area.is_trying for state in states)
    for state in states:
        if not may_be or (tried and not state.area.is_trying):
            state.area.blame(Blame.NOBODY)
        else:
            state.area.blame(Blame.ONE if tried or ran == 1 else Blame.ALL)
