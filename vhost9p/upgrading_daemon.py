"""A daemon that another version of the code replaces while its VMs run (upgrade.py): asks for that,
tries it, and reports how it went."""

import logging
import signal
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial

from vhost9p import __version__, upgrade
from vhost9p.birth import AskedToEnd, Failed
from vhost9p.fd_store import FdStore
from vhost9p.log_record import about
from vhost9p.restarting_daemon import RestartingDaemon
from vhost9p.saved_state import Unreadable
from vhost9p.upgrade import Trial
from vhost9p.upgrade_status import StatusFile
from vhost9p.vm import Vm

log = logging.getLogger(__name__)


class UpgradingDaemon(RestartingDaemon):
    """At SIGUSR2 the code that is installed takes its place, if it can."""

    def __init__(self, status: StatusFile | None = None, store: FdStore | None = None) -> None:
        """Raises OSError."""
        super().__init__(status, store)
        self._trial: Trial | None = None
        """Of the code that is to take over."""
        self._trial_ends = 0.0
        """When its time is up."""
        self._outcome: upgrade.Outcome | None = None
        """Of the upgrade to this version, until it is reported."""

    # ---- events -----------------------------------------------------------------------------

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """See Daemon."""
        if self._trial:
            yield self._trial_ends, self._give_up_trial
        yield from super().due()
        if self._outcome:
            yield self._outcome.looks_at, self._look_at_outcome

    def stop(self) -> None:
        """See Daemon."""
        if self._trial:
            self._end_trial(str(AskedToEnd()))
        super().stop()

    def take(self, number: signal.Signals) -> None:
        """See Daemon."""
        if number == signal.SIGUSR2:
            self.upgrade()
        else:
            super().take(number)

    # ---- this version is replaced -----------------------------------------------------------

    def upgrade(self) -> None:
        """Begins to replace the code of this process by what is installed now."""
        if self._trial or self._outcome or self.stopping:
            return  # one outcome for all who ask meanwhile
        if why := self.why_not_now():
            self._refuse(why)
            return
        try:
            fds = [*self._own_descriptors(), *self._descriptors_of_vms()]
            self._trial = Trial(self.written_down(), fds)
        except OSError as error:
            self._refuse(f"the new version cannot be started: {error.strerror}")
            return
        self._trial_ends = time.monotonic() + upgrade.PATIENCE_S
        self._watch(self._trial.fileno(), self._take_trial)

    def why_not_now(self) -> str:
        """Returns why no other version can take over now; empty if one can. VMs that are left out
        are no reason, unless there are no others."""
        whys = []
        for vm in self.vms.values():
            if vm.is_about_to_end:
                return f"{vm.name} is about to end: try again"
            if vm.killed:
                continue
            whys.append(vm.why_left_out and f"{vm.name}: {vm.why_left_out}")
        return whys[0] if whys and all(whys) else ""

    def _own_descriptors(self) -> list[int]:
        fds = [self._control.listener.fileno()] if self._control else []
        fds += [self._metrics.place.socket.fileno()] if self._metrics else []
        return [*fds, self._store.text_fd] if self._store.text_fd >= 0 else fds

    def _descriptors_of_vms(self) -> list[int]:
        """A keeper that there is has more, of which copies are made anew."""
        each = (vm.all_descriptors if vm.goes_on else vm.descriptors for vm in self._left())
        return [fd for fds in each for fd in fds]

    def _take_trial(self) -> None:
        if not self._trial or not self._trial.receive():
            return
        self._selector.unregister(self._trial.fileno())
        trial, self._trial = self._trial, None
        if why := trial.result() or self.why_not_now():
            self._refuse(why)
            return
        for vm in self.vms.values():
            if not vm.goes_on:
                vm.copies.drop()  # to close them may hang, so not by execve(2)
        try:
            fds = [self._status.fd, *self._own_descriptors(), *self._descriptors_of_vms()]
            upgrade.execute(self.written_down(), fds, self.must_stop)
            self._refuse(str(AskedToEnd()))
        except OSError as error:
            self._refuse(f"the new version cannot be executed: {error.strerror}")
        for vm in self.vms.values():
            self._copy_anew(vm)

    def _give_up_trial(self) -> None:
        if time.monotonic() >= self._trial_ends:
            self._end_trial(f"the new version has said nothing for {upgrade.PATIENCE_S:g} s")

    def _end_trial(self, why: str) -> None:
        assert self._trial, "the caller has looked"
        self._selector.unregister(self._trial.fileno())
        self._trial.end()
        self._trial = None
        self._refuse(why)

    def _refuse(self, why: str) -> None:
        text = f"the upgrade is refused, and version {__version__} goes on: {why}"
        log.error("%s", text, extra=about())
        self._status.report(succeeded=False, text=text)

    # ---- this version replaces one ----------------------------------------------------------

    def take_over(self, vms: Collection[Vm], before: str) -> None:
        """Replaces the keepers of the version before. Each VM is supervised first, since any keeper
        may die while another one is replaced."""
        outcome = self._outcome = upgrade.Outcome(before)
        for vm in vms:
            self.vms[vm.name] = vm
            try:
                vm.supervise()
            except OSError as error:
                outcome.failed += 1
                log.error("%s begins anew: %s", vm.name, error.strerror, extra=about(vm=vm.name))
                vm.wait_for_start()
            self._watch_vm(vm)
            self._copy_at_once(vm)
        for vm in vms:
            try:
                if self.must_stop():
                    raise AskedToEnd
                if vm.pid:
                    self.around_replacement(vm, partial(vm.take_over, self._stop_fd))
                    self._copy_at_once(vm)
                    outcome.awaited.add(vm.name)
                outcome.replaced += 1
            except (Failed, OSError, Unreadable) as error:
                outcome.failed += 1
                log.error(
                    "%s goes on with version %s: %s",
                    *(vm.name, before, error),
                    extra=about(vm=vm.name),
                )
            self._announcer.act()
        outcome.deadline = time.monotonic() + upgrade.SERVE_PATIENCE_S
        self._look_at_outcome()

    def _look_at_outcome(self) -> None:
        """Reports how the upgrade went, if that is clear."""
        outcome = self._outcome
        if not outcome:
            return
        for name in [*outcome.awaited]:
            if name in self.vms and self.vms[name].serves_anew:
                outcome.awaited.remove(name)
        if not outcome.is_final:
            outcome.looks_at = time.monotonic() + upgrade.LOOK_S
            return
        level = logging.INFO if outcome.succeeded else logging.ERROR
        log.log(level, "%s", outcome, extra=about())
        self._status.report(succeeded=outcome.succeeded, text=str(outcome))
        self._outcome = None
