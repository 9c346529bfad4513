"""How the keeper of a VM begins, in its own process, which main has just created (vm.py).

It begins in one of four ways: as the VM's first one, which is confined and maps new states; where
another one was, which has died (`live_again`); where another main process has left a VM, with all
descriptors of the keeper there (`inherit`, parcel.py); or in the place of one that main replaces
(`succeed`, takeover.py).
"""

import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from vhost9p import confinement, plain, worker
from vhost9p.attempts import Attempts
from vhost9p.birth import Newborn
from vhost9p.changes.ring import Ring
from vhost9p.config import Config
from vhost9p.confinement import Entered, SandboxError
from vhost9p.errors import EXIT_USAGE, UserError
from vhost9p.inventory import Inventory, Loss
from vhost9p.keeper import EXIT_FAILURE, Refused, Task, become_keeper
from vhost9p.marked.reader import needs_marks
from vhost9p.native.process import admit
from vhost9p.output import leave_form_to_main, say
from vhost9p.parcel import Heir, Parcel
from vhost9p.policy import locked_file
from vhost9p.progress import Progress
from vhost9p.saved_state import SavedState
from vhost9p.shared_state import SharedState
from vhost9p.takeover import Successor
from vhost9p.trace.memory import TraceMemory
from vhost9p.vhost_user.listener import Listener


@dataclass(frozen=True)
class KeeperStart:
    """What main has of the VM `name` when it creates the keeper."""

    name: str
    config: Config
    listeners: Sequence[Listener]
    states: Sequence[SavedState]
    progress: Progress
    inventory: Inventory
    trace: TraceMemory
    rings: Sequence[Ring | None]
    report: int
    """A file in memory, where the first keeper says how far it is confined."""
    marks_dirs: bool
    """What the first keeper has said there of that."""
    code_is_new: bool
    """Whether another version of the code has served it, and this one has not yet."""

    # ---- the first one ----------------------------------------------------------------------

    def begin(self, log_fd: int) -> None:
        """Becomes the first keeper."""
        self._begin_to_speak()
        become_keeper(
            self.name,
            log_fd,
            self._kept,
            self._confine,
            self.progress,
            (self.report, self.trace.fd, *(each.fd for each in self.states)),
        )

    def _begin_to_speak(self) -> None:
        logging.getLogger().setLevel(self.config.log_level.upper())
        leave_form_to_main()

    @property
    def _kept(self) -> list[int]:
        """Descriptors of the keeper."""
        return [*(each.bell for each in self._ringing), *(each.fileno() for each in self.listeners)]

    def _have_moved(self, numbers: Sequence[int]) -> None:
        """What is in `_kept` has made way for the descriptors of the keeper before, to which any
        number may belong; these are the new ones."""
        bells = len(self._ringing)
        for each, bell in zip(self._ringing, numbers[:bells], strict=True):
            each.bell = bell
        for listener, fd in zip(self.listeners, numbers[bells:], strict=True):
            listener.has_moved(fd)

    @property
    def _ringing(self) -> list[Inventory | Ring]:
        """What has a bell."""
        return [self.inventory, *filter(None, self.rings)]

    def _confine(self) -> Task:
        """Confines the keeper. Returns what its workers do. Raises Refused."""
        try:
            config, entered = confinement.enter(self.config)
        except UserError as error:
            for problem in error.problems:
                say(problem)
            raise Refused(EXIT_USAGE) from error
        except SandboxError as error:
            say(str(error))
            raise Refused(EXIT_USAGE) from error
        except OSError as error:
            say(f"{error.filename or 'serving cannot begin'}: {error.strerror or error}")
            raise Refused(EXIT_FAILURE) from error
        states = self._map(config, is_new=True)
        at_home = all(each.at_home for each in states)
        marks_dirs = needs_marks(config)
        report = {"entered": plain.to_plain(entered), "at_home": at_home, "marks_dirs": marks_dirs}
        os.pwrite(self.report, json.dumps(report).encode(), 0)
        admit(os.getppid())
        return self._task(config, entered, states, marks_dirs)

    def _map(self, config: Config, *, is_new: bool) -> list[SharedState]:
        """`config` is as it is in the processes that serve. Raises OSError."""
        return [
            SharedState.map(*each, is_new=is_new)
            for each in zip(
                *(self.listeners, self.states, config.devices, self.trace.map(), self.rings),
                strict=True,
            )
        ]

    def _task(
        self,
        config: Config,
        entered: Entered,
        states: Sequence[SharedState],
        marks_dirs: bool,
        left: Collection[int] = (),
        loss: Loss | None = None,
    ) -> Task:
        """`left` are the descriptors of the keeper before, if there are, `loss` is given if it has
        died with them."""
        for folder in {each.state_dir for each in config.devices if left and each.keeps_state}:
            locked_file.unlock(left, folder)
        attempts = Attempts(len(states), is_upgrade=self.code_is_new)
        shared = attempts, self.progress, self.inventory
        return Task(
            work=partial(worker.run, config, states, *shared, marks_dirs, entered, loss),
            answered=lambda: sum(each.area.answered for each in states),
            frontends=lambda: [each.frontend for each in states],
            is_awaited=lambda: any(each.connection.is_awaited for each in states),
            left=loss.fds if loss else left,
        )

    # ---- where another one was --------------------------------------------------------------

    def live_again(self, log_fd: int, entered: Entered, loss: Loss, out: socket.socket) -> None:
        """Becomes the keeper after one that has died with its descriptors."""
        newborn = Newborn()
        newborn.begin(out)
        self._begin_to_speak()
        config = confinement.seen_inside(self.config, entered)
        states = self._map(config, is_new=False)
        task = partial(self._task, config, entered, states, self.marks_dirs, loss=loss)
        self._go_on(log_fd, newborn, entered, task, loss.fds)

    def inherit(self, log_fd: int, entered: Entered, parcel: Parcel, out: socket.socket) -> None:
        """Becomes the keeper after one whose descriptors another main process has left."""
        heir = Heir()
        heir.begin(out)
        self._begin_to_speak()
        config = confinement.seen_inside(self.config, entered)
        states = self._map(config, is_new=False)
        try:
            log_fd, *moved = heir.unpack(parcel, (log_fd, *self._kept))
        except OSError as error:
            heir.fail(error)
        self._have_moved(moved)
        task = partial(self._task, config, entered, states, self.marks_dirs, heir.left)
        self._go_on(log_fd, heir, entered, task, heir.left)

    def succeed(self, log_fd: int, entered: Entered, successor: Successor) -> None:
        """Becomes the keeper in the place of one that is there still."""
        self._begin_to_speak()
        config = confinement.seen_inside(self.config, entered)
        states = self._map(config, is_new=False)
        log_fd, *moved = successor.copy((log_fd, *self._kept))
        self._have_moved(moved)
        task = partial(self._task, config, entered, states, self.marks_dirs, successor.left)
        self._go_on(log_fd, successor, entered, task, successor.left)

    def _go_on(
        self,
        log_fd: int,
        newborn: Newborn,
        entered: Entered,
        task: Callable[[], Task],
        left: Collection[int],
    ) -> None:
        begin = partial(self._begin_in_place, newborn, entered, task)
        needed = (newborn.channel, *left)
        become_keeper(self.name, log_fd, self._kept, begin, self.progress, needed, newborn.own)

    def _begin_in_place(self, newborn: Newborn, entered: Entered, task: Callable[[], Task]) -> Task:
        """In the namespaces of another one: the last steps."""
        try:
            prepared = confinement.prepare(entered)
        except OSError as error:
            newborn.fail(error)
        admit(os.getppid())
        self.progress.begin_anew()
        newborn.take_leave()
        confinement.settle(prepared)
        return task()
