"""A daemon whose files are read again while its VMs run: at SIGHUP, or when somebody asks.

A *round* takes one file after the other: a child reads and checks it (preparation.py), and says how
its VM is to change (reload.py); then main changes that (reloading.py). A file with an error, or one
that asks for what cannot change, leaves its VM as it is, and is reported. Whoever asks for a reload
hears at the end of the round what has become of it all. To ask during a round has it begin anew,
since a file may have been read already, as soon as no VM is just being changed.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

from vhost9p import confinement, preflight
from vhost9p.birth import Failed
from vhost9p.config import Config
from vhost9p.confinement import Entered
from vhost9p.errors import UserError
from vhost9p.fd_store import FdStore
from vhost9p.log_record import about
from vhost9p.output import say
from vhost9p.preparation import Preparation, Prepared
from vhost9p.reload import plan
from vhost9p.reloading import Reloading
from vhost9p.saved_state import Unreadable
from vhost9p.upgrade_status import StatusFile
from vhost9p.upgrading_daemon import UpgradingDaemon
from vhost9p.vhost_user.listener import Listener
from vhost9p.vm import Vm

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""Seconds in which a file has to be read and checked, and what it names opened."""

Answer = Callable[[bool, Collection[str]], None]
"""Is called at the end of a round: whether all of it has succeeded, and lines that say what has
changed or why not."""


def changed(
    read: Config,
    served: Config,
    entered: Entered,
    replaced: Collection[str],
    beside: Collection[Config],
) -> Prepared:
    """Returns how a VM comes to be served as its file says now. Runs in a child, since it may hang.
    Raises UserError, OSError."""
    # Sockets that were inherited are main's alone.
    checked = preflight.check(
        replace(read, devices=tuple(replace(each, fd=None) for each in read.devices)), beside
    )
    devices = (
        replace(each, fd=before.fd)
        for each, before in zip(checked.devices, read.devices, strict=True)
    )
    wanted = replace(checked, devices=tuple(devices))
    return Prepared(read, plan=plan(served, wanted, entered, replaced))


class ReloadingDaemon(UpgradingDaemon):
    """What daemons have in common that reload."""

    def __init__(self, status: StatusFile | None = None, store: FdStore | None = None) -> None:
        """Raises OSError."""
        super().__init__(status, store)
        self._preparation: Preparation | None = None
        self._deadline = 0.0
        """When the time of the preparation is up."""
        self._reloading: Reloading | None = None
        self._read_anew = Config(())
        """What the file of the VM says that is being reloaded."""
        self._in_round = False
        self._again = False
        """Whether it begins anew."""
        self._askers: list[Answer] = []
        self._lines: list[str] = []
        self._has_failed = False

    # ---- what each daemon has of its own ----------------------------------------------------

    @property
    def can_reload(self) -> bool:
        """Whether there is something that can be read again."""
        return True

    def begin_round(self) -> None:
        """Finds out what there is to take up, and takes up the first."""
        raise NotImplementedError

    def take_up_next(self) -> None:
        """Takes up what comes next, by `prepare` or `prepare_change`, or ends the round."""
        raise NotImplementedError

    def take_prepared(self, name: str, prepared: Prepared, listeners: list[Listener]) -> None:
        """Something was prepared that is no change of a VM."""

    def has_reloaded(self, vm: Vm, read: Config) -> None:
        """A VM is served as its file says, which was read as `read`."""

    # ---- rounds -----------------------------------------------------------------------------

    def reload(self, answer: Answer | None = None) -> None:
        """Begins a round, or has the present one begin anew."""
        if self.stopping:
            return
        self._askers += [answer] if answer else []
        self._in_round = True
        self._again = self._reloading is not None
        if not self._again:
            self._announcer.reloading()
            self._lines, self._has_failed = [], False
            self._drop_preparation()
            self.begin_round()

    def end_round(self) -> None:
        """There is nothing left to be done."""
        askers, self._askers = self._askers, []
        lines, self._lines = self._lines, []
        succeeded, self._has_failed = not self._has_failed, False
        self._in_round = False
        for each in askers:
            each(succeeded, lines)

    def report(self, text: str, **concerns: str) -> None:
        """A problem, which is said and fails the round. It may concern log_record.FIELDS."""
        say(text, logging.ERROR, **concerns)
        self._lines.append(text)
        self._has_failed = True

    def note(self, text: str, vm: str) -> None:
        """What has become of a VM's file, which is logged."""
        log.info("%s", text, extra=about(vm=vm))
        self._lines.append(text)

    # ---- events -----------------------------------------------------------------------------

    def stop(self) -> None:
        """See Daemon."""
        self._drop_preparation()
        self._drop_reloading()
        super().stop()

    def forget(self, vm: Vm) -> None:
        """See Daemon."""
        super().forget(vm)
        if self._reloading and self._reloading.vm is vm:
            self.report(f"{vm.name}: has ended while it was reloaded", vm=vm.name)
            self._end_change()

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """See Daemon."""
        yield from super().due()
        if self._preparation:
            yield self._deadline, self._give_up
        if self._reloading:
            yield self._reloading.looks_at, self._go_on_reloading

    @property
    def is_ready(self) -> bool:
        """See Daemon."""
        return not self._in_round and super().is_ready

    def why_not_now(self) -> str:
        """See Daemon."""
        return "files are being taken up: try again" if self._in_round else super().why_not_now()

    # ---- preparation ------------------------------------------------------------------------

    def prepare(self, name: str, work: Callable[[], Prepared]) -> bool:
        """Runs `work` in a child; `take_prepared` or a reload, and `take_up_next`, follow. Returns
        False if that is not possible now, which is reported."""
        try:
            self._preparation = Preparation(name, work)
        except OSError as error:  # too many processes or open files, for now
            self.report(f"{name}: its file cannot be taken up: {error.strerror}", vm=name)
            return False
        self._deadline = time.monotonic() + PATIENCE_S
        self._watch(self._preparation.fileno(), self._prepared)
        return True

    def prepare_change(self, vm: Vm, load: Callable[[], Config], before: Config | None) -> bool:
        """Prepares the reload of a VM, unless its file says what it has said `before` and means the
        same directories; else like `prepare`."""
        entered = None
        with suppress(Unreadable):
            entered = vm.read_entered()
        beside = [each.config for each in self.vms.values() if each is not vm]

        def work() -> Prepared:
            read = load()
            replaced = confinement.replaced(vm.config, entered, vm.pid) if entered else ()
            if read == before and not replaced:
                return Prepared(read)
            if not entered:
                raise UserError(f"{vm.name}: has not begun to serve yet: try again")
            return changed(read, vm.config, entered, replaced, beside)

        return self.prepare(vm.name, work)

    def _prepared(self) -> None:
        """The child has returned a part of its result, or all."""
        done = self._preparation
        if not done or not done.receive():
            return
        self._selector.unregister(done.fileno())
        self._preparation = None
        prepared, listeners, trees = done.result()
        vm = self.vms.get(done.name)
        if prepared.plan and vm and vm.stopped_at is None:
            self._read_anew = prepared.read
            self._reloading = Reloading(
                vm, prepared.plan, trees, self._stop_fd, partial(self.around_replacement, vm)
            )
            self._go_on_reloading()
            return
        for fd in trees:
            os.close(fd)
        self.take_prepared(done.name, prepared, listeners)
        self.take_up_next()

    def _give_up(self) -> None:
        """The time of the preparation is up."""
        if not self._preparation or time.monotonic() < self._deadline:
            return  # what was due before has begun another one
        self.report(
            f"{self._preparation.name}: what it names cannot be checked within {PATIENCE_S:g} s, "
            "as if a file system hung: it is left out until the next SIGHUP",
            vm=self._preparation.name,
        )
        self._drop_preparation()
        self.take_up_next()

    def _drop_preparation(self) -> None:
        if self._preparation:
            self._selector.unregister(self._preparation.fileno())
            self._preparation.kill()
            self._preparation = None

    # ---- change -----------------------------------------------------------------------------

    def _go_on_reloading(self) -> None:
        change = self._reloading
        if not change:
            return  # what was due before has ended it
        before = change.vm.config_before
        try:
            if not change.go_on():
                self._store_is_due |= change.vm.config_before is not before
                return
            changes = "; ".join(change.plan.changes)
            name = change.vm.name
            self.note(f"{name}: reloaded: {changes or 'nothing has changed'}", name)
            self.has_reloaded(change.vm, self._read_anew)
        except Failed as failed:
            name = change.vm.name
            self.report(f"{name}: the reload has failed, so nothing changes: {failed}", vm=name)
        self._store_is_due = True
        self._end_change()

    def _end_change(self) -> None:
        self._drop_reloading()
        if self._again:
            self.reload()
        else:
            self.take_up_next()

    def _drop_reloading(self) -> None:
        if self._reloading:
            self._reloading.end()
            self._reloading = None
