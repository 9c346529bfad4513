"""The main process: forks a keeper for each VM, writes their log, and takes signals.

It touches no guest, no frontend and no export once its VMs have begun. It has loaded all modules,
binds the sockets, and forks a keeper (keeper.py) for each configuration, which starts the worker
that serves (worker.py). It has one thread, so that it can be forked at any time. What it knows of a
VM, and what becomes of one whose keeper dies, is in vm.py.

SIGTERM and SIGINT end the process within a second, even if a VM hangs: each keeper passes the
signal on to its worker, whose end it waits for. When main's time is up it ends anyway
(csrc/server/stop.c), and the kernel kills the others. SIGUSR2 has it replaced by the code that is
installed now (upgrade.py). No other signal ends it (signals.py).
"""

import gc
import logging
import os
import resource
import select
import selectors
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from vhost9p import __version__, signals, upgrade
from vhost9p.announcer import Announcer
from vhost9p.birth import ASKED_TO_END, Failed
from vhost9p.config import Config, as_read
from vhost9p.control.server import Server
from vhost9p.copies import refuse
from vhost9p.fd_store import FdStore
from vhost9p.log_record import about
from vhost9p.metrics.process import Place
from vhost9p.metrics.process import Process as Metrics
from vhost9p.native.process import Signals, handle_stop_signals
from vhost9p.notify import Manager
from vhost9p.output import never_wait, wanted_form
from vhost9p.saved_state import Unreadable
from vhost9p.upgrade import Trial
from vhost9p.upgrade_status import StatusFile
from vhost9p.vm import HANG, Vm
from vhost9p.watcher.process import Watchers

log = logging.getLogger(__name__)

STOP_PATIENCE_S = 0.8
"""Seconds for an orderly end. Then the process, or the VM that is to end, ends whatever hangs."""
OUTLIVES_S = 1.0
"""Seconds after which a worker whose keeper has died is reported."""


def prepare_process(stop_fd: int) -> None:
    """Prepares the process and all that descend from it: no umask, since the guest sends complete
    modes; no supplementary groups, since guest users would gain them; as many open files as the
    hard limit allows.

    Signals to stop are written to the eventfd `stop_fd`, and end the process after STOP_PATIENCE_S
    seconds at most. Those in `signals.LOGGED` and SIGCHLD are blocked. Raises OSError.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, ended children would leave no status
    signal.pthread_sigmask(signal.SIG_BLOCK, {*signals.LOGGED, signal.SIGCHLD})
    handle_stop_signals(stop_fd, STOP_PATIENCE_S)
    os.umask(0)
    if os.geteuid() == 0:
        with suppress(PermissionError):  # not allowed in an unprivileged user namespace
            os.setgroups([])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Daemon:
    """The VMs, and what main waits for."""

    def __init__(self, status: StatusFile | None = None, store: FdStore | None = None) -> None:
        """Raises OSError."""
        never_wait()
        gc.freeze()  # what is loaded stays; a collection in a child would copy all its pages
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        prepare_process(self._stop_fd)
        self.vms: dict[str, Vm] = {}
        self.codes: set[int] = set()
        """Exit codes of the VMs that have ended."""
        self.stopping = False
        self._status = status or StatusFile()
        self._trial: Trial | None = None
        """Of the code that is to take over."""
        self._trial_ends = 0.0
        """When its time is up."""
        self._outcome: upgrade.Outcome | None = None
        """Of the upgrade to this version, until it is reported."""
        self._store = store or FdStore(Manager(""))
        self._store_is_due = False
        self._announcer = Announcer(self._store.manager)
        self._changed: dict[str, Vm] = {}
        """VMs whose descriptors are to be copied, by name."""
        self._control: Server | None = None
        """Of commands, if they are answered."""
        self._metrics: Metrics | None = None
        self._logged = Signals(signals.LOGGED)
        self._ends = Signals({signal.SIGCHLD})
        self._selector = selectors.DefaultSelector()
        self.watchers = Watchers(self._watch, self._selector.unregister)
        self._watch(self._stop_fd, self.stop)
        self._watch(self._logged.fileno(), self._take_logged)
        self._watch(self._ends.fileno(), self._ends.read)

    def _watch(self, fd: int, ready: Callable[[], Any]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def take_commands(self, server: Server) -> None:
        """From now on commands are answered. Raises OSError."""
        self._control = server
        self._status.announce(server.listener.path)
        self._watch(server.fileno(), server.step)

    def serve_metrics(self, place: Place) -> None:
        """From now on metrics are served; after `take_commands`."""
        assert self._control, "it answers what they consist of"
        self._metrics = Metrics(place, self._control)
        self._start_metrics()

    def _start_metrics(self) -> None:
        if self._metrics:
            self._metrics.start()
            if self._metrics.pidfd >= 0:
                self._watch(self._metrics.pidfd, self._metrics_ended)

    def _metrics_ended(self) -> None:
        if self._metrics:
            self._selector.unregister(self._metrics.pidfd)
            self._metrics.ended()

    def add(self, vm: Vm) -> None:
        """Begins to serve a VM. Raises OSError."""
        try:
            self._start(vm)
        except BaseException:
            vm.close()
            raise
        self.vms[vm.name] = vm
        self._store_is_due = True

    def _start(self, vm: Vm) -> None:
        vm.start(self._stop_fd)
        self._watch_vm(vm)
        self._store_is_due = True

    def _watch_vm(self, vm: Vm) -> None:
        if vm.pid:
            self._watch(vm.pidfd, partial(self._keeper_ended, vm))
            self._watch(vm.bell, partial(self._note_change, vm))
        if vm.log:
            self._watch(vm.log.fileno(), partial(self._relay, vm))

    def around_replacement(self, vm: Vm, replace: Callable[[], None]) -> None:
        """Calls `replace`, which replaces the keeper of a VM, or raises and does not. What was
        watched of the old one is not watched any more then."""
        self._selector.unregister(vm.pidfd)
        if not self._changed.pop(vm.name, None):
            self._selector.unregister(vm.bell)
        if vm.log:
            self._selector.unregister(vm.log.fileno())
        try:
            replace()
        finally:
            self._watch_vm(vm)
            self._copy_anew(vm)
            self._store_is_due = True

    def _relay(self, vm: Vm) -> None:
        if vm.log and not vm.log.relay():
            self._end_log(vm)

    def _end_log(self, vm: Vm) -> None:
        if vm.log:
            self._selector.unregister(vm.log.fileno())
            vm.end_log()

    def _note_change(self, vm: Vm) -> None:
        self._selector.unregister(vm.bell)
        self._changed[vm.name] = vm

    def _copy_anew(self, vm: Vm) -> None:
        if vm.pid and not vm.why_left_out and vm.name not in self._changed:
            self._note_change(vm)

    def _take_copies(self, vm: Vm) -> None:
        del self._changed[vm.name]
        self._store_is_due |= vm.copies.take(vm.pid, vm.pidfd)
        self.watchers.serves(vm)
        self._watch(vm.bell, partial(self._note_change, vm))

    def _keeper_ended(self, vm: Vm) -> None:
        self._selector.unregister(vm.pidfd)
        if not self._changed.pop(vm.name, None):
            self._selector.unregister(vm.bell)
        if vm.ended():
            self.forget(vm)

    def forget(self, vm: Vm) -> None:
        """A VM has ended."""
        self._end_log(vm)
        self.watchers.forget(vm)
        vm.close()
        self.codes.add(vm.code)
        del self.vms[vm.name]
        self._store_is_due = True

    def step(self) -> None:
        """Waits for the next event, and handles it. Raises OSError."""
        times = [at for at, _ in self.due()]
        timeout = max(min(times) - time.monotonic(), 0) if times else None
        for key, _ in self._selector.select(timeout):
            if self._selector.get_map().get(key.fd) is key:  # else an event before has ended it
                key.data()
        self._reap_strangers()
        for at, act in [*self.due()]:
            if at <= time.monotonic():
                act()
        if self._store_is_due:
            self._keep()
        if not self.stopping:
            connected = sum(vm.copies.is_connected for vm in self.vms.values())
            self._announcer.update(len(self.vms), connected, is_ready=self.is_ready)

    def _keep(self) -> None:
        """Has the service manager keep what another main process needs if this one dies."""
        self._store_is_due = False
        if self.stopping:
            self._store.clear()
            return
        vms = [vm for vm in self.vms.values() if vm.stopped_at is None]
        written = {**self.written_down(), "vms": [vm.written_for_store() for vm in vms]}
        own = [fd for vm in vms for fd in vm.descriptors]
        self._store.keep(written, [*own, *(fd for vm in vms for fd in vm.copies.fds)])

    @property
    def is_ready(self) -> bool:
        """Whether the service has started."""
        return bool(self.vms) and all(vm.has_served for vm in self.vms.values())

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yields when something has to be done without an event, and what."""
        if self._trial:
            yield self._trial_ends, self._give_up_trial
        if self._store.retries_at is not None:
            yield self._store.retries_at, self._keep
        if self._control and self._control.looks_at is not None:
            yield self._control.looks_at, self._control.step
        if self._metrics and self._metrics.next_start is not None and not self.stopping:
            yield self._metrics.next_start, self._start_metrics
        if not self.stopping:
            yield from self.watchers.due()
        if self._announcer.is_due_at is not None:
            yield self._announcer.is_due_at, self._announcer.act
        if self._outcome:
            yield self._outcome.looks_at, self._look_at_outcome
        for vm in self._changed.values():
            yield vm.copies.looks_at, partial(self._take_copies, vm)
        for vm in self.vms.values():
            if (at := self._due(vm)) is not None:
                yield at, partial(self._do_what_is_due, vm)

    def _reap_strangers(self) -> None:
        """As the init of a container, or if it was told to, main gets children that it has not
        created: what others leave, such as the worker of a keeper that was killed."""
        own = {vm.pid for vm in self.vms.values()}
        with suppress(ChildProcessError):  # there are no children
            while end := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if end.si_pid in own:
                    return  # its pidfd is the next event
                os.waitid(os.P_PID, end.si_pid, os.WEXITED)

    def _due(self, vm: Vm) -> float | None:
        """When something has to be done for a VM without an event."""
        if vm.next_start is not None:
            if vm.stopped_at is not None:
                return vm.stopped_at
            if vm.log:
                return None if vm.awaits_worker else vm.next_start + OUTLIVES_S
            return vm.next_start
        if vm.stopped_at is None or vm.killed:
            return None
        return vm.stopped_at + STOP_PATIENCE_S

    def _do_what_is_due(self, vm: Vm) -> None:
        if vm.next_start is None:
            vm.kill()
        elif vm.stopped_at is not None:
            self.forget(vm)
        elif vm.log:
            log.warning(
                "%s: a worker outlives its keeper, so the next keeper waits: it hangs, mostly on a "
                "file system whose server is gone",
                vm.name,
                extra=about(vm=vm.name),
            )
            vm.awaits_worker = True
        else:
            self._try_to_start(vm)

    def _try_to_start(self, vm: Vm) -> None:
        try:
            self._start(vm)
        except OSError as error:  # too many processes, for now
            log.error(
                "the keeper of %s cannot be started, and is tried again: %s",
                *(vm.name, error.strerror),
                extra=about(vm=vm.name),
            )
            vm.wait_for_start()

    # ---- signals

    def stop(self) -> None:
        """A signal to stop has arrived."""
        self._selector.unregister(self._stop_fd)
        self.stopping = True
        self._store.clear()
        self._announcer.stopping()
        number = os.eventfd_read(self._stop_fd)
        if self._trial:
            self._end_trial(ASKED_TO_END)
        for vm in self.vms.values():
            vm.stop(number)

    def _take_logged(self) -> None:
        for number in self._logged.read():
            self.take(number)

    def take(self, number: signal.Signals) -> None:
        """A signal of `signals.LOGGED` has arrived."""
        if number == signal.SIGUSR2:
            self.upgrade()
            return
        log.warning(
            "%s is ignored: the daemon continues; SIGTERM ends it", number.name, extra=about()
        )

    def end(self) -> None:
        """All VMs have ended: the service manager keeps nothing."""
        self._store.clear()
        if self._metrics:
            self._metrics.place.close()
        if self._control:
            self._control.close()

    # ---- upgrade ----------------------------------------------------------------------------

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

    def written_down(self) -> dict[str, Any]:
        """What the next version has to know, for JSON."""
        return {
            "version": __version__,
            "status": self._status.fd,
            "codes": sorted(self.codes),
            "control": self._control and self._control.listener.written_down(),
            "metrics": self._metrics and self._metrics.place.written_down(),
            "manager": self._store.manager.address,
            "watchdog_s": self._store.manager.watchdog_s,
            "store": self._store.written_down(),
            "log_level": logging.getLevelName(logging.getLogger().level),
            "log_form": wanted_form(),
            "vms": [vm.written_down() for vm in self._left()],
        }

    def _left(self) -> list[Vm]:
        """The VMs that another process goes on with."""
        return [vm for vm in self.vms.values() if not vm.killed]

    def _own_descriptors(self) -> list[int]:
        fds = [self._control.listener.fileno()] if self._control else []
        fds += [self._metrics.place.socket.fileno()] if self._metrics else []
        return [*fds, self._store.text_fd] if self._store.text_fd >= 0 else fds

    def _descriptors_of_vms(self) -> list[int]:
        return [fd for vm in self._left() for fd in vm.descriptors]

    def _take_trial(self) -> None:
        if not self._trial or not self._trial.receive():
            return
        self._selector.unregister(self._trial.fileno())
        trial, self._trial = self._trial, None
        if why := trial.result() or self.why_not_now():
            self._refuse(why)
            return
        for vm in self.vms.values():
            vm.copies.drop()  # to close them may hang, so not by execve(2)
        try:
            fds = [self._status.fd, *self._own_descriptors(), *self._descriptors_of_vms()]
            upgrade.execute(self.written_down(), fds, self._must_stop)
            self._refuse(ASKED_TO_END)
        except OSError as error:
            self._refuse(f"the new version cannot be executed: {error.strerror}")
        for vm in self.vms.values():
            self._copy_anew(vm)

    def _must_stop(self) -> bool:
        return bool(select.select([self._stop_fd], [], [], 0)[0])

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

    # ---- after the death of the main process before -----------------------------------------

    def adopt(self, vms: Collection[Vm], configs: Mapping[str, Config] | None = None) -> None:
        """Goes on with the VMs of a main process that has died; with those in `configs`, if it is
        given, where another configuration has no effect yet."""
        for vm in vms:
            if configs is not None and vm.name not in configs:
                log.error("%s is configured no more: %s", vm.name, HANG, extra=about(vm=vm.name))
                sockets = [os.dup(each.fileno()) for each in vm.listeners]
                vm.close()
                refuse(sockets)
                continue
            if configs is not None and as_read(configs[vm.name]) != as_read(vm.config):
                log.warning(
                    "%s: its configuration has changed, which it ignores until it is reloaded",
                    vm.name,
                    extra=about(vm=vm.name),
                )
            log.error(
                "the daemon has died with %s: %s",
                *(vm.name, vm.outlook),
                extra=about(vm=vm.name),
            )
            self.vms[vm.name] = vm
            self._watch_vm(vm)
        self._store_is_due = True

    def take_over(self, vms: Collection[Vm], before: str) -> None:
        """Replaces the keepers of the version before."""
        outcome = self._outcome = upgrade.Outcome(before)
        for vm in vms:
            self.vms[vm.name] = vm
            try:
                vm.supervise()
            except OSError as error:
                outcome.failed += 1
                log.error("%s begins anew: %s", vm.name, error.strerror, extra=about(vm=vm.name))
                vm.wait_for_start()
            try:
                if self._must_stop():
                    raise Failed(ASKED_TO_END)
                if vm.pid:
                    vm.take_over(self._stop_fd)
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
            self._watch_vm(vm)
            self._copy_anew(vm)
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
