"""Serves the VM of one configuration: the only one of the process. At a reload the configuration is
read again, if it is in a file."""

import logging
import os
import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

from vhost9p import answers, config_file, handover
from vhost9p.activation import keep_places
from vhost9p.config import Config
from vhost9p.copies import refuse
from vhost9p.daemon import Daemon
from vhost9p.errors import UserError
from vhost9p.fd_store import FdStore
from vhost9p.keeper import EXIT_FAILURE
from vhost9p.log_record import about
from vhost9p.native.process import set_name
from vhost9p.notify import HandedOver, take_manager
from vhost9p.output import choose_form, occupy_standard_streams, say, start_log
from vhost9p.predecessor import read_vms, receive, store_of, vms_of
from vhost9p.preparation import Prepared
from vhost9p.progress import Progress
from vhost9p.reloading_daemon import ReloadingDaemon
from vhost9p.sockets import listen
from vhost9p.upgrade_status import StatusFile
from vhost9p.vhost_user.listener import Listener, ListenError
from vhost9p.vm import Vm

log = logging.getLogger(__name__)


def name_of(config: Config) -> str:
    """Returns the name of a VM: that of its file, or its socket."""
    if config.file:
        return os.path.splitext(os.path.basename(config.file))[0]
    device = config.devices[0]
    return device.socket or f"--fd {device.fd}"


Load = Callable[[], Config]
"""Reads the configuration anew. Raises UserError, OSError."""


def reading(config: Config) -> Load | None:
    """Returns what reads the file again that a configuration is from, without options of a command
    line, such as `vhost9p run` serves it; None if it is from none."""
    if not config.file:
        return None
    return partial(config_file.load, config.file, socket_needed=False)


class SingleDaemon(ReloadingDaemon):
    """Serves one VM. `load` reads its configuration again; None: it cannot be read again."""

    def __init__(
        self,
        load: Load | None,
        status: StatusFile | None = None,
        store: FdStore | None = None,
    ) -> None:
        """Raises OSError."""
        super().__init__(status, store)
        self._load = load
        self._waits = False
        """Whether the VM is yet to be taken up in this round."""

    @property
    def can_reload(self) -> bool:
        """See ReloadingDaemon."""
        return self._load is not None and any(each.config.file for each in self.vms.values())

    def take(self, number: signal.Signals) -> None:
        """SIGHUP: reloads; see Daemon."""
        if number == signal.SIGHUP and self.can_reload:
            self.reload()
        else:
            super().take(number)

    def begin_round(self) -> None:
        """See ReloadingDaemon."""
        self._waits = True
        self.take_up_next()

    def take_up_next(self) -> None:
        """See ReloadingDaemon."""
        waits, self._waits = self._waits, False
        if not waits or not self._take_up():
            self.end_round()

    def _take_up(self) -> bool:
        """Returns whether the file is being prepared."""
        vm = next(iter(self.vms.values()), None)
        if not vm or not self._load:
            return False
        load, served = self._load, vm.config
        return self.prepare_change(vm, lambda: keep_places(load(), served), None)

    def has_reloaded(self, vm: Vm, read: Config) -> None:
        """See ReloadingDaemon."""
        logging.getLogger().setLevel(vm.config.log_level.upper())
        choose_form(vm.config.log_format, vm.config.log_time)

    def take_prepared(self, name: str, prepared: Prepared, listeners: list[Listener]) -> None:
        """See ReloadingDaemon."""
        for text in prepared.problems:
            self.report(text)


def go_on(load: Load | None = None) -> int:
    """Serves the VM of the version before until the end, and returns the exit code. `load` reads
    its configuration again, if options have a say in it. Raises Unreadable, OSError."""
    received = handover.received()
    assert received, "the caller has looked"
    vms = read_vms(received)
    status, store = StatusFile(received.written["status"]), store_of(received.written)
    daemon = SingleDaemon(load or reading(vms[0].config), status, store)
    daemon.codes.update(received.written["codes"])
    daemon.take_over(vms, received.written["version"])
    answers.go_on(daemon, vms[0].config.control_socket, received.written)
    return _serve(daemon)


def run(
    config: Config,
    kept: Sequence[HandedOver] = (),
    load: Load | None = None,
    progress: Progress | None = None,
) -> int:
    """Serves one VM until the end, and returns the exit code. `kept` is what the service manager
    has kept. `load` reads its configuration again. `progress` shows another process when it
    serves."""
    occupy_standard_streams()
    set_name("vhost9p")
    store = FdStore(take_manager())
    left = receive(store, kept)
    daemon = SingleDaemon(load, store=store)
    name = name_of(config)
    has_changed = False
    if left:
        restarts = bool(left.written.get("restarts"))
        has_changed = daemon.adopt(vms_of(left), {name: config}, restarts=restarts)
    try:
        answers.begin(daemon, config.control_socket, config.metrics, is_needed=not left)
        if vm := daemon.vms.get(name):
            _take_handed_over(vm, [each.fd for each in config.devices if each.fd is not None])
            if has_changed:
                daemon.reload()
        else:
            vm = Vm(name, config, listen(config), speaks=False, progress=progress)
            daemon.add(vm)
    except ListenError as error:
        say(str(error))
        daemon.end()
        return EXIT_FAILURE
    return _serve(daemon)


def go_on_unchanged(
    problems: Sequence[str], sockets: Sequence[HandedOver], kept: Sequence[HandedOver], load: Load
) -> int:
    """Serves the VM that another main process has left, although its configuration has `problems`,
    until the end, and returns the exit code. `sockets` are the service manager's, which the VM has.
    Raises UserError with the problems if there is no such VM; OSError."""
    occupy_standard_streams()
    store = FdStore(take_manager())
    left = receive(store, kept)
    vms = vms_of(left) if left else []
    if not left or not vms:
        store.clear()
        raise UserError(*problems)
    start_log(left.written["log_level"], *left.written.get("log_form", ()))
    set_name("vhost9p")
    for text in problems:
        say(text, logging.ERROR)
    log.error("the VM goes on as it was: mend this, and reload the daemon", extra=about())
    _take_handed_over(vms[0], [each.fd for each in sockets])
    daemon = SingleDaemon(load, store=store)
    daemon.adopt(vms, restarts=bool(left.written.get("restarts")))
    config = vms[0].config
    answers.begin(daemon, config.control_socket, config.metrics, is_needed=False)
    return _serve(daemon)


def _take_handed_over(vm: Vm, fds: Collection[int]) -> None:
    """The VM goes on with its sockets: those of the service manager are the same once more, unless
    it has made one anew, which takes the place of the old one."""
    for fd in fds:
        replaced = [each for each in vm.listeners if each.is_replaced_by(fd)]
        if not replaced:
            with suppress(OSError):  # the manager has said too much, which was reported
                os.close(fd)
            continue
        old = replaced[0]
        vm.listeners[vm.listeners.index(old)] = Listener.inherit(fd, old.name)
        refused = os.dup(old.fileno())
        old.close()
        refuse([refused])


def _serve(daemon: Daemon) -> int:
    while daemon.vms:
        daemon.step()
    daemon.end()
    return 0 if daemon.stopping else max(daemon.codes)
