"""The main process: forks a keeper for each VM, writes their log, and takes signals.

It touches no guest, no frontend and no export once its VMs have begun. It has loaded all modules,
binds the sockets, and forks a keeper (keeper.py) for each configuration, which starts the worker
that serves (worker.py). It has one thread, so that it can be forked at any time. What it knows of a
VM, and what becomes of one whose keeper dies, is in vm.py.

SIGTERM and SIGINT end the process within a second, even if a VM hangs: each keeper passes the
signal on to its worker, whose end it waits for. When main's time is up it ends anyway
(csrc/server/stop.c), and the kernel kills the others. If the service is restarted, main leaves its
VMs to the next process instead (restarting_daemon.py). SIGUSR2 has it replaced by the code that is
installed now (upgrading_daemon.py). No other signal ends it (signals.py).
"""

import gc
import logging
import os
import resource
import select
import selectors
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from vhost9p import __version__, signals
from vhost9p.announcer import Announcer
from vhost9p.control.server import Server
from vhost9p.fd_store import FdStore
from vhost9p.log_record import about
from vhost9p.metrics.process import Place
from vhost9p.metrics.process import Process as Metrics
from vhost9p.native.process import Signals, handle_stop_signals
from vhost9p.notify import Manager
from vhost9p.output import never_wait, wanted_form
from vhost9p.upgrade_status import StatusFile
from vhost9p.vm import Vm
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

    def unwatch(self, vm: Vm) -> None:
        """Nothing of a VM is watched any more."""
        if vm.pid:
            self._selector.unregister(vm.pidfd)
            if not self._changed.pop(vm.name, None):
                self._selector.unregister(vm.bell)
        if vm.log:
            self._selector.unregister(vm.log.fileno())

    def around_replacement(self, vm: Vm, replace: Callable[[], None]) -> None:
        """Calls `replace`, which replaces the keeper of a VM, or raises and does not. What was
        watched of the old one is not watched any more then."""
        self.unwatch(vm)
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

    def _copy_at_once(self, vm: Vm) -> None:
        self._copy_anew(vm)
        if vm.name in self._changed:
            self._take_copies(vm)

    def _take_copies(self, vm: Vm) -> None:
        del self._changed[vm.name]
        vm.note_progress()
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
            self.keep()
        if not self.stopping:
            connected = sum(vm.copies.is_connected for vm in self.vms.values())
            self._announcer.update(len(self.vms), connected, is_ready=self.is_ready)

    def keep(self) -> None:
        """Has the service manager keep what another main process needs if this one dies."""
        self._store_is_due = False
        if self.stopping:
            self.keep_nothing()
        else:
            self.keep_these([vm for vm in self.vms.values() if vm.stopped_at is None])

    def keep_nothing(self) -> None:
        """No other main process is to go on with anything."""
        self._store.clear()

    def keep_these(self, vms: Collection[Vm], *, restarts: bool = False) -> None:
        """The same, of these VMs; `restarts`: another main process follows at once."""
        written = {
            **self.written_down(),
            "vms": [vm.written_for_store() for vm in vms],
            "restarts": restarts,
        }
        own = [fd for vm in vms for fd in vm.descriptors]
        own += [fd for vm in vms if vm.parcel for fd in vm.parcel.fds]
        self._store.keep(written, [*own, *(fd for vm in vms for fd in vm.copies.fds)])

    @property
    def is_ready(self) -> bool:
        """Whether the service has started."""
        return bool(self.vms) and all(vm.has_served for vm in self.vms.values())

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yields when something has to be done without an event, and what."""
        if self._store.retries_at is not None:
            yield self._store.retries_at, self.keep
        if self._control and self._control.looks_at is not None:
            yield self._control.looks_at, self._control.step
        if self._metrics and self._metrics.next_start is not None and not self.stopping:
            yield self._metrics.next_start, self._start_metrics
        if not self.stopping:
            yield from self.watchers.due()
        if self._announcer.is_due_at is not None:
            yield self._announcer.is_due_at, self._announcer.act
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
        elif not self.must_stop():  # or the signal comes first, which says what becomes of it
            self._try_to_start(vm)

    def _try_to_start(self, vm: Vm) -> None:
        try:
            self._start(vm)
        except InterruptedError:
            vm.wait_for_start()
        except OSError as error:  # too many processes, for now
            log.error(
                "the keeper of %s cannot be started, and is tried again: %s",
                *(vm.name, error.strerror),
                extra=about(vm=vm.name),
            )
            vm.wait_for_start()

    # ---- signals

    def must_stop(self) -> bool:
        """Whether a signal to stop has arrived that `stop` does not know of yet."""
        return not self.stopping and bool(select.select([self._stop_fd], [], [], 0)[0])

    def stop(self) -> None:
        """A signal to stop has arrived."""
        self._selector.unregister(self._stop_fd)
        self.stopping = True
        self.begin_to_stop(os.eventfd_read(self._stop_fd))

    def begin_to_stop(self, number: int) -> None:
        """All VMs end in order: their keepers get the signal, and nothing is kept."""
        self.keep_nothing()
        self._announcer.stopping()
        for vm in self.vms.values():
            vm.stop(number)

    def _take_logged(self) -> None:
        for number in self._logged.read():
            self.take(number)

    def take(self, number: signal.Signals) -> None:
        """A signal of `signals.LOGGED` has arrived."""
        log.warning(
            "%s is ignored: the daemon continues; SIGTERM ends it", number.name, extra=about()
        )

    def end(self) -> None:
        """All VMs have ended."""
        self.keep_nothing()
        if self._metrics:
            self._metrics.place.close()
        if self._control:
            self._control.close()

    # ---- what others have to know -------------------------------------------------------------

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
