"""A daemon that another main process follows, if a service manager keeps what it leaves
(fd_store.py): after its death, or because the service is restarted.

At a restart systemd sends SIGTERM as for a stop, and starts the service again when all of its
processes have ended, with what it keeps for the service meanwhile. So main asks what is to come
(service_job.py). If that is a restart, VMs with a guest are not told to end. It is as in an upgrade
to them (takeover.py): the keeper is stopped, the worker killed, and all descriptors go to the next
keeper, which the next main process creates. On the way they are in a parcel (parcel.py) that the
manager keeps. If that fails, it is as after the death of main.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress

from vhost9p.birth import Failed, Waits
from vhost9p.config import Config, as_read
from vhost9p.copies import refuse
from vhost9p.daemon import STOP_PATIENCE_S, Daemon
from vhost9p.fd_store import FdStore
from vhost9p.log_record import about
from vhost9p.native.process import postpone_end
from vhost9p.old_keeper import OldKeeper
from vhost9p.parcel import Packing
from vhost9p.service_job import JobQuestion, cgroup_of_service
from vhost9p.upgrade_status import StatusFile
from vhost9p.vm import HANG, REOPENED, Vm

log = logging.getLogger(__name__)

ANSWER_PATIENCE_S = 4.0
"""Seconds in which systemd has to say what is to come. VMs are served meanwhile."""
PACK_PATIENCE_S = 8.0
"""Seconds for the ends of all workers, and again for packing all descriptors."""
KEEP_PATIENCE_S = 2.0
"""Seconds for the manager to take what is left, and again until it says that it has."""
LEAVE_PATIENCE_S = 24.0
"""Seconds for all of this: less than systemd waits (TimeoutStopSec= of packaging/systemd)."""
IF_KEPT = "if FileDescriptorStoreMax= of the service has room for them"
"""A manager does not say what it has thrown away."""


class RestartingDaemon(Daemon):
    """Leaves its VMs to the next main process, and goes on with what the one before has left."""

    def __init__(self, status: StatusFile | None = None, store: FdStore | None = None) -> None:
        """Raises OSError."""
        super().__init__(status, store)
        self._question: JobQuestion | None = None
        """What systemd is asked, since a signal to stop has arrived."""
        self._answer_is_due = 0.0
        """When its time is up."""
        self._stop_number = 0
        """That signal."""
        self._has_left = False
        """Whether the manager keeps what is left to the next main process."""

    # ---- this process ends ------------------------------------------------------------------

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """See Daemon."""
        if self._question:
            yield self._answer_is_due, self._give_up_question
        yield from super().due()

    def begin_to_stop(self, number: int) -> None:
        """See Daemon."""
        is_worth_it = any(vm.copies.is_connected for vm in self.vms.values())
        cgroup = cgroup_of_service() if is_worth_it and self._store.text_fd >= 0 else ""
        if not cgroup:
            super().begin_to_stop(number)
            return
        self._stop_number = number
        postpone_end(ANSWER_PATIENCE_S + STOP_PATIENCE_S)
        try:
            self._question = JobQuestion(cgroup)
        except OSError as error:
            log.debug("systemd cannot be asked: %s", error)
            self._leave()
            return
        self._answer_is_due = time.monotonic() + ANSWER_PATIENCE_S
        self._watch(self._question.fileno(), self._take_answer)

    def _take_answer(self) -> None:
        if self._question and self._question.receive():
            self._decide(self._question.is_restart())

    def _give_up_question(self) -> None:
        if self._question and time.monotonic() >= self._answer_is_due:
            self._decide(None)

    def _decide(self, is_restart: bool | None) -> None:
        """Where nobody knows what is to come, everything is left: at a stop the manager closes
        it."""
        assert self._question, "it was asked"
        self._selector.unregister(self._question.fileno())
        self._question.end()
        self._question = None
        if is_restart is False:
            postpone_end(STOP_PATIENCE_S)
            super().begin_to_stop(self._stop_number)
        else:
            self._leave()

    def keep(self) -> None:
        """See Daemon."""
        if not self._question:
            super().keep()

    def keep_nothing(self) -> None:
        """See Daemon."""
        if not self._has_left:
            super().keep_nothing()

    def _leave(self) -> None:
        """Leaves the VMs that have a guest, and ends all others."""
        postpone_end(LEAVE_PATIENCE_S)
        self._announcer.stopping()
        left = [vm for vm in self.vms.values() if not vm.stopped_at and vm.copies.is_connected]
        _pack([vm for vm in left if vm.pid], Waits(self._stop_fd))
        for vm in left:
            if vm.pid and vm.parcel:
                vm.copies.take(vm.pid, vm.pidfd)
        self._has_left = True
        deadline = time.monotonic() + KEEP_PATIENCE_S
        self.keep_these(left, restarts=True)
        while (again := self._store.retries_at) and again < deadline:
            time.sleep(max(again - time.monotonic(), 0))
            self.keep_these(left, restarts=True)
        with suppress(OSError):
            self._store.manager.wait_for_barrier(KEEP_PATIENCE_S)
        for vm in left:
            self._part_with(vm)
        for vm in self.vms.values():
            vm.stop(self._stop_number)

    def _part_with(self, vm: Vm) -> None:
        """Ends what is left of a VM's processes, and knows nothing of it any more."""
        what = f"its open files and locks stay, {IF_KEPT}" if vm.parcel else REOPENED
        log.info("%s is left to the next daemon: %s", vm.name, what, extra=about(vm=vm.name))
        self.unwatch(vm)
        if vm.pid:
            vm.kill()
        del self.vms[vm.name]

    # ---- this process follows another one ---------------------------------------------------

    def adopt(
        self,
        vms: Collection[Vm],
        configs: Mapping[str, Config] | None = None,
        *,
        restarts: bool = False,
    ) -> bool:
        """Goes on with the VMs of a main process that has died, or ended since the service
        `restarts`; with those in `configs`, if it is given. Returns whether another configuration
        is to take effect: nobody has asked for it when a process dies."""
        has_changed = False
        for vm in vms:
            if configs is not None and vm.name not in configs:
                log.error("%s is configured no more: %s", vm.name, HANG, extra=about(vm=vm.name))
                sockets = [os.dup(each.fileno()) for each in vm.listeners]
                vm.close()
                refuse(sockets)
                continue
            if configs is not None and as_read(configs[vm.name]) != as_read(vm.config):
                has_changed = True
                if not restarts:
                    log.warning(
                        "%s: its configuration has changed, which it ignores until it is reloaded",
                        vm.name,
                        extra=about(vm=vm.name),
                    )
            if restarts:
                level = logging.INFO if vm.inherits else logging.ERROR
                text = "the daemon was restarted under %s: %s"
                log.log(level, text, vm.name, vm.outlook, extra=about(vm=vm.name))
            else:
                text = "the daemon has died with %s: %s"
                log.error(text, vm.name, vm.outlook, extra=about(vm=vm.name))
            self.vms[vm.name] = vm
            self._watch_vm(vm)
        self.keep()  # what is left is no restart's any more
        return has_changed and restarts


def _pack(vms: Collection[Vm], waits: Waits) -> None:
    """Stops keepers for good, and packs their descriptors. A worker that hangs in a system call
    does not end: the next keeper waits for it, as after the death of main."""
    packing: dict[str, Packing] = {}
    deadline = time.monotonic() + PACK_PATIENCE_S
    for vm in vms:
        keeper = OldKeeper(vm.pid, vm.pidfd, waits)
        try:
            keeper.freeze()
            keeper.kill_worker(max(deadline - time.monotonic(), 0))
            packing[vm.name] = Packing(vm.pid, vm.pidfd)
        except (Failed, OSError) as error:
            log.error("%s: %s", vm.name, error, extra=about(vm=vm.name))
    deadline = time.monotonic() + PACK_PATIENCE_S
    for vm in vms:
        if each := packing.get(vm.name):
            with suppress(Failed):
                waits.readable(max(deadline - time.monotonic(), 0), each.fileno())
            vm.parcel = each.result()
