"""The worker of a VM: its devices, its threads, and how it ends.

The main thread runs the event loop (sockets, the signals to stop). Each device has its own serving
threads in C, which call Python for the requests that C does not answer. SIGTERM and SIGINT end the
process within a second, even if host file systems, frontends or the interpreter itself hang
(csrc/server/stop.c). From then on the guests' mounts hang, and the log reports which.

A worker is cloned from its keeper (keeper.py), which holds the VM's sockets, and the memory that
the VM's workers share.
"""

import asyncio
import errno
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import uvloop

from vhost9p import confinement, identities, threads
from vhost9p.attempts import Attempts
from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.confinement import Entered, SandboxError
from vhost9p.device import Device
from vhost9p.ends import Cause
from vhost9p.errors import EXIT_FAILURE, EXIT_USAGE, UserError
from vhost9p.exports import Exports
from vhost9p.inventory import Inventory, Loss
from vhost9p.log_record import about, concerning
from vhost9p.marked.reader import make_marks
from vhost9p.native import descriptors
from vhost9p.native.device import initialise
from vhost9p.native.dir_marks import DirMarks
from vhost9p.native.process import take_stop_signals
from vhost9p.output import say
from vhost9p.policy.state import StateError
from vhost9p.progress import Progress
from vhost9p.shared_state import SharedState, take_over

log = logging.getLogger(__name__)

STOP_PATIENCE_S = 0.7
"""Seconds for an orderly end; less than main's."""

T = TypeVar("T")


@contextmanager
def _memory_as_errno() -> Iterator[None]:
    """Raises OSError instead of MemoryError: what the host lacks for now is no fault."""
    try:
        yield
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error


class _Stopped(BaseException):
    """A signal to stop arrived while the worker was starting."""


def _unless_stopped(stop_fd: int, work: Callable[[], T]) -> T:
    """Runs `work`, which may take long or hang, on a thread. Raises _Stopped at once if `stop_fd`
    becomes readable; else returns or raises as `work` does, or raises OSError."""
    outcome: Future[T] = Future()
    done = os.eventfd(0, os.EFD_CLOEXEC)

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)
        os.eventfd_write(done, 1)

    thread = threading.Thread(target=run, name="start", daemon=True)
    threads.start(thread)
    ready, _, _ = select.select([stop_fd, done], [], [])
    if stop_fd in ready:
        raise _Stopped
    thread.join()  # it may still be in its write to `done`
    os.close(done)
    return outcome.result()


def describe(config: DeviceConfig, socket: str) -> str:
    """Returns the line that reports what is served on which socket."""
    where = f"as {config.tag!r} on {socket}"
    first, policy = config.exports[0], f"multidevs {config.multidevs}"
    if not first.name:
        return f"serving {first.path} {where} ({', '.join(_options(first, policy))})"
    exports = ", ".join(
        f"{each.name}: {each.path} ({', '.join(_options(each))})" for each in config.exports
    )
    return f"serving {exports} {where} ({policy})"


def _options(export: ExportConfig, *more: str) -> list[str]:
    return [export.model, *more, *(["read-only"] if export.readonly else [])]


def _open(state: SharedState) -> Exports:
    """Opens what a device exports. Raises OSError, StateError."""
    with concerning(device=state.config.tag):
        return Exports(state.config, state.changes)


class Worker:
    """Serves all devices of one VM, each from its own listener."""

    def __init__(
        self,
        config: Config,
        states: Sequence[SharedState],
        attempts: Attempts,
        progress: Progress,
        inventory: Inventory,
        stop_fd: int,
        marks: Sequence[DirMarks | None],
        lacks: Collection[str] = (),
    ) -> None:
        """Opens exports, and has suspects tried before anything is served. `marks` are the devices'
        marks of directories, owned from now on. `lacks` is what of the
        confinement is not to be had. `stop_fd` becomes readable after a signal to stop. Raises
        OSError, StateError, UserError, _Stopped."""
        self._stop_fd = stop_fd
        self._lacks = lacks
        self._progress = progress
        self._inventory = inventory
        self._served: list[tuple[Device, SharedState, DeviceConfig]] = []
        devices = len(config.devices)
        make = partial(
            Device, log_failures=config.log_failures, times_requests=config.serves_metrics
        )
        opened = [_unless_stopped(stop_fd, partial(_open, each)) for each in states]
        progress.opens()
        all_of = zip(config.devices, opened, states, marks, strict=True)
        for number, (each, exports, state, marked) in enumerate(all_of):
            with attempts.taking_over(number):
                state.leave_exports()
                shared = state.area, state.locks, state.changes, marked
                identified = partial(identities.write, progress.identities, number)
                begin = partial(make, each, exports, devices, *shared, identified=identified)
                device = _unless_stopped(stop_fd, begin)
            self._served.append((device, state, each))
        attempts.succeeded()
        if needed := descriptors.divide():
            log.warning(
                "the limit of open files is too low for %d devices, and their requests may fail: "
                "set it to %d at least (ulimit -n)",
                *(devices, needed),
                extra=about(),
            )
        for device, state, _ in self._served:
            if state.area.is_taken_over:
                _unless_stopped(stop_fd, device.try_suspects)

    async def serve(self) -> None:
        """Serves until a signal to stop arrives or all listeners have ended. Raises OSError."""
        stop: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        self._take_signals(stop)
        for device, _, _ in self._served:
            device.begin()
        serving = asyncio.gather(
            *(self._serve_one(i, *each) for i, each in enumerate(self._served))
        )
        again = self._progress.has_served
        self._progress.serves()
        self._say_what_is_served(again=again)
        both: list[asyncio.Future[Any]] = [serving, stop]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            self._say_who_hangs(stop.result())
        else:
            stop.cancel()
        if serving.done():
            serving.result()

    def _say_what_is_served(self, *, again: bool) -> None:
        """The first worker of the VM says it in full, and those that follow say that they go on."""
        lacks = f"; not confined by {', '.join(self._lacks)}" if self._lacks else ""
        for _, state, config in self._served:
            if again:
                log.info(
                    "serving %r on %s again",
                    *(config.tag, state.listener.name),
                    extra=about(device=config.tag),
                )
            else:
                say(
                    describe(config, state.listener.name) + lacks,
                    logging.INFO,
                    device=config.tag,
                )

    async def _serve_one(
        self, number: int, device: Device, state: SharedState, config: DeviceConfig
    ) -> None:
        """Serves a device; returns after its only connection, if it is to have but one."""
        changed = partial(self._list_descriptors, number, state)
        changed(True)
        await state.listener.serve(device, state.connection, once=config.once, changed=changed)
        self._progress.finish(number)

    def _list_descriptors(self, number: int, state: SharedState, anew: bool) -> None:
        """Descriptors of a device's session may have changed; `anew`: also without another
        number."""
        fds = [*state.connection.session_descriptors(), *state.area.session_descriptors()]
        self._inventory.write(number, fds, anew=anew)

    def _take_signals(self, stop: "asyncio.Future[signal.Signals]") -> None:
        """From now on a signal to stop resolves `stop`."""
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.remove_reader(self._stop_fd)
            stop.set_result(signal.Signals(os.eventfd_read(self._stop_fd)))

        loop.add_reader(self._stop_fd, end)

    def _say_who_hangs(self, number: signal.Signals) -> None:
        """Logs which connected VMs lose their mounts because the worker ends."""
        hanging = [
            (config.tag, state.listener.name)
            for _, state, config in self._served
            if (channel := state.listener.channel) and channel.messages and not channel.abandoned
        ]
        for tag, name in hanging:
            log.warning(
                "%s while a VM is connected: its mount of %r on %s hangs from now on",
                *(number.name, tag, name),
                extra=about(device=tag),
            )
        if hanging:
            log.warning(
                "QEMU aborts when such a VM is reset or reboots next. To restart the daemon "
                "without that, umount in the guest and unplug the device first: see "
                "docs/troubleshooting.md",
                extra=about(**({"device": hanging[0][0]} if len(hanging) == 1 else {})),
            )


def _marks_of(states: Sequence[SharedState]) -> list[DirMarks | None]:
    """Returns marks for the devices that report changes."""
    devices = sum(bool(each.changes) for each in states)
    return [make_marks(state.config.tag, devices) if state.changes else None for state in states]


def run(
    config: Config,
    states: Sequence[SharedState],
    attempts: Attempts,
    progress: Progress,
    inventory: Inventory,
    marks_dirs: bool,
    entered: Entered,
    loss: Loss | None,
    kept: Collection[int],
    cause: Cause,
) -> int:
    """Serves until the end, and returns the exit code. `marks_dirs`: nobody else watches what is
    reported to the guests (vhost9p/marked). `entered` is how far the keeper is confined,
    `loss` is what was lost with the keeper before, `kept` are the keeper's descriptors, `cause` is
    why the worker before ended. The signals to stop are blocked. Raises what nobody
    expected."""
    try:
        with _memory_as_errno():
            take_over(states, attempts, kept, cause, loss)
            marks = _marks_of(states) if marks_dirs else [None] * len(states)
            descriptors.go_to()
            lacks = confinement.confine(config, entered)  # before the first thread
            stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            take_stop_signals(stop_fd, STOP_PATIENCE_S)
            initialise()
            worker = Worker(*(config, states, attempts, progress, inventory, stop_fd), marks, lacks)
    except _Stopped:
        return 0
    except UserError as error:
        for problem in error.problems:
            say(problem)
        return EXIT_USAGE
    except SandboxError as error:
        say(str(error))
        return EXIT_USAGE
    except StateError as error:
        say(str(error))
        return EXIT_FAILURE
    except OSError as error:
        say(f"{error.filename or 'serving cannot begin'}: {error.strerror or error}")
        return EXIT_FAILURE
    try:
        with _memory_as_errno():
            uvloop.new_event_loop().run_until_complete(worker.serve())
    except OSError as error:
        say(str(error))
        return EXIT_FAILURE
    return 0
