"""The main process: forks a keeper for each VM, writes their log, and takes signals.

It touches no guest, no frontend and no export once its VMs have begun. It has loaded all modules,
binds the sockets, and forks a keeper (keeper.py) for each configuration, which starts the worker
that serves (worker.py). It has one thread, so that it can be forked at any time.

When a keeper has died, the next one starts after the end of all processes of the VM, which is the
end of their log (log_pipe.py): a worker that hangs in a system call may outlive its keeper, and
what it still does must not meet the next one's work.

SIGTERM and SIGINT end the process within a second, even if a VM hangs: each keeper passes the
signal on to its worker, whose end it waits for. When main's time is up it ends anyway
(csrc/server/stop.c), and the kernel kills the others. No other signal ends it (signals.py).
"""

import gc
import logging
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from vhost9p import confinement, signals, worker
from vhost9p.attempts import Attempts
from vhost9p.back_off import BackOff
from vhost9p.config import SOCKET_MODE, Config, DeviceConfig
from vhost9p.confinement import SandboxError
from vhost9p.ends import how_it_ended
from vhost9p.errors import UserError
from vhost9p.keeper import EXIT_FAILURE, ORDERLY, Refused, Task, become_keeper
from vhost9p.log_pipe import LogPipe
from vhost9p.native.process import Signals, handle_stop_signals, set_name
from vhost9p.output import never_wait, occupy_standard_streams, say, speak_for
from vhost9p.progress import Progress
from vhost9p.shared_state import SharedState
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

EXIT_USAGE = 2
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


def _listen(config: DeviceConfig) -> Listener:
    if config.fd is not None:
        return Listener.inherit(config.fd)
    assert config.socket is not None
    return Listener.bind(
        config.socket,
        SOCKET_MODE if config.socket_mode is None else config.socket_mode,
        -1 if config.socket_owner is None else config.socket_owner,
        -1 if config.socket_group is None else config.socket_group,
    )


def listen(config: Config) -> list[Listener]:
    """Returns a listener for each device. Raises ListenError."""
    with ExitStack() as undo:
        listeners = []
        for each in config.devices:
            listeners.append(_listen(each))
            undo.callback(listeners[-1].close)
        undo.pop_all()
        return listeners


@contextmanager
def without_stop_signals() -> Iterator[None]:
    """Blocks the signals to stop around a fork: until the child has its own way to take them, none
    may arrive there."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOP)


class Vm:
    """A VM: its configuration, its sockets, and its keeper, which lives between `start` and
    `ended`. `speaks` as `name` before each line of the log, if there are other VMs."""

    def __init__(
        self, name: str, config: Config, listeners: list[Listener], *, speaks: bool
    ) -> None:
        """Takes ownership of the listeners, one for each device. Raises OSError."""
        self.name = name
        self.config = config
        self.listeners = listeners
        self.code = 0
        self.pid = 0
        """Of the keeper; 0 if there is none."""
        self.pidfd = -1
        self.stopped_at: float | None = None
        """When it was told to end."""
        self.killed = False
        """Whether its time to end was up; it ends as soon as the kernel can."""
        self.next_start: float | None = None
        """When a keeper that has died is to be started again."""
        self.awaits_worker = False
        """Whether a worker has outlived its keeper, which is said once."""
        self.log: LogPipe | None = None
        """Of the keeper and its workers, until the last of them has ended."""
        self._speaks = speaks
        self._back_off = BackOff()
        self._progress = Progress(len(listeners))

    def start(self) -> None:
        """Forks the keeper; there is no log of the last one. Raises OSError."""
        self._back_off.started()
        self.next_start = None
        self.awaits_worker = False
        log = LogPipe()
        if self.config.log_level != "debug":
            log.limit(self.name, len(self.listeners))
        try:
            self._fork(log)
        except OSError:
            log.close()
            raise
        log.close_write_end()
        self.log = log

    def _fork(self, log: LogPipe) -> None:
        with without_stop_signals():
            self.pid = confinement.fork(self.config)
            if self.pid == 0:
                try:
                    self._become_keeper(log.write_end)
                finally:  # it never comes back here
                    os._exit(EXIT_FAILURE)
            self._supervise()

    def _supervise(self) -> None:
        """Opens the pidfd of the keeper; else no keeper is left. Raises OSError."""
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:  # too many open files
            os.kill(self.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self.pid, os.WEXITED)
            self.pid = 0
            raise

    def _become_keeper(self, log_fd: int) -> None:
        logging.getLogger().setLevel(self.config.log_level.upper())
        if self._speaks:
            speak_for(self.name)
        become_keeper(
            self.name,
            log_fd,
            [each.fileno() for each in self.listeners],
            self._confine,
            self._progress,
        )

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
        states = [
            SharedState.new(device, listener)
            for device, listener in zip(config.devices, self.listeners, strict=True)
        ]
        attempts = Attempts(len(states))
        return Task(
            work=partial(worker.run, config, states, attempts, self._progress, entered.lacks),
            requests=lambda: sum(each.area.requests for each in states),
            frontends=lambda: [each.frontend for each in states],
            is_awaited=lambda: any(each.connection.is_awaited for each in states),
        )

    def stop(self, number: int) -> None:
        """Has the VM end: its sockets are removed, and its keeper gets the signal."""
        self.stopped_at = time.monotonic()
        for each in self.listeners:
            each.close()
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Ends the keeper, and with it the worker, whatever hangs."""
        self.killed = True
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def ended(self) -> bool:
        """Called when the keeper has ended. Returns whether the VM has ended, too, with the exit
        code `code`; else `next_start` says when it goes on."""
        end = os.waitid(os.P_PID, self.pid, os.WEXITED)
        os.close(self.pidfd)
        self.pidfd = -1
        self.pid = 0
        assert end is not None, "it waits"
        is_orderly = end.si_code == os.CLD_EXITED and end.si_status in ORDERLY
        if self.stopped_at is not None or is_orderly:
            self.code = end.si_status if self.stopped_at is None else 0
            return True
        if not self._progress.has_served:
            log.error("the keeper of %s %s before it served", self.name, how_it_ended(end))
            self.code = EXIT_FAILURE
            return True
        log.error(
            "the keeper of %s %s: mounts of a connected VM hang from now on",
            self.name,
            how_it_ended(end),
        )
        can_connect = all(each.is_listening for each in self.listeners)
        if not can_connect or self._progress.all_finished:
            self.code = EXIT_FAILURE
            return True
        self.wait_for_start()
        return False

    def wait_for_start(self) -> None:
        """The keeper has died, or could not be started: `next_start` says when to try again."""
        self.next_start = time.monotonic() + self._back_off.died()

    def end_log(self) -> None:
        """Writes what is left of the log, if it has not ended yet."""
        if self.log:
            self.log.close()
            self.log = None

    def close(self) -> None:
        """Removes the sockets, and writes what is left of the log."""
        self.end_log()
        for each in self.listeners:
            each.close()


class Daemon:
    """The VMs, and what main waits for."""

    def __init__(self) -> None:
        """Raises OSError."""
        never_wait()
        gc.freeze()  # what is loaded stays; a collection in a child would copy all its pages
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        prepare_process(self._stop_fd)
        self.vms: dict[str, Vm] = {}
        self.codes: set[int] = set()
        """Exit codes of the VMs that have ended."""
        self.stopping = False
        self._logged = Signals(signals.LOGGED)
        self._ends = Signals({signal.SIGCHLD})
        self._selector = selectors.DefaultSelector()
        self._watch(self._stop_fd, self.stop)
        self._watch(self._logged.fileno(), self._take_logged)
        self._watch(self._ends.fileno(), self._ends.read)

    def _watch(self, fd: int, ready: Callable[[], Any]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def add(self, vm: Vm) -> None:
        """Begins to serve a VM. Raises OSError."""
        try:
            self._start(vm)
        except BaseException:
            vm.close()
            raise
        self.vms[vm.name] = vm

    def _start(self, vm: Vm) -> None:
        vm.start()
        assert vm.log, "it has started"
        self._watch(vm.pidfd, partial(self._keeper_ended, vm))
        self._watch(vm.log.fileno(), partial(self._relay, vm))

    def _relay(self, vm: Vm) -> None:
        if vm.log and not vm.log.relay():
            self._end_log(vm)

    def _end_log(self, vm: Vm) -> None:
        if vm.log:
            self._selector.unregister(vm.log.fileno())
            vm.end_log()

    def _keeper_ended(self, vm: Vm) -> None:
        self._selector.unregister(vm.pidfd)
        if vm.ended():
            self.forget(vm)

    def forget(self, vm: Vm) -> None:
        """A VM has ended."""
        self._end_log(vm)
        vm.close()
        self.codes.add(vm.code)
        del self.vms[vm.name]

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

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yields when something has to be done without an event, and what."""
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
            log.warning("%s: a worker outlives its keeper, so the next keeper waits", vm.name)
            vm.awaits_worker = True
        else:
            self._try_to_start(vm)

    def _try_to_start(self, vm: Vm) -> None:
        try:
            self._start(vm)
        except OSError as error:  # too many processes, for now
            log.error("the keeper of %s cannot be started: %s", vm.name, error.strerror)
            vm.wait_for_start()

    # ---- signals

    def stop(self) -> None:
        """A signal to stop has arrived."""
        self._selector.unregister(self._stop_fd)
        self.stopping = True
        number = os.eventfd_read(self._stop_fd)
        for vm in self.vms.values():
            vm.stop(number)

    def _take_logged(self) -> None:
        for number in self._logged.read():
            self.take(number)

    def take(self, number: signal.Signals) -> None:
        """A signal of `signals.LOGGED` has arrived."""
        log.warning("%s is ignored: the daemon continues; SIGTERM ends it", number.name)


def name_of(config: Config) -> str:
    """Returns the name of a VM: that of its file, or its socket."""
    if config.file:
        return os.path.splitext(os.path.basename(config.file))[0]
    device = config.devices[0]
    return device.socket or f"--fd {device.fd}"


def run(config: Config) -> int:
    """Serves one VM until the end, and returns the exit code."""
    occupy_standard_streams()
    set_name("vhost9p")
    daemon = Daemon()
    try:
        daemon.add(Vm(name_of(config), config, listen(config), speaks=False))
    except ListenError as error:
        say(str(error))
        return EXIT_FAILURE
    while daemon.vms:
        daemon.step()
    return 0 if daemon.stopping else max(daemon.codes)
