"""The process: its limits, its threads, its signals, and the devices that it serves.

The main thread runs the event loop (sockets, signals). Each device has its own serving threads in
C, which call Python for the requests that C does not answer. SIGTERM and SIGINT end the process
within a second, even if host file systems, frontends or the interpreter itself hang
(csrc/server/stop.c). From then on the guests' mounts hang, and the log reports which. No other
signal ends the process (signals.py).
"""

import asyncio
import logging
import os
import resource
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import uvloop

from vhost9p import signals
from vhost9p.config import SOCKET_MODE, Config, DeviceConfig, ExportConfig
from vhost9p.device import Device
from vhost9p.native import descriptors
from vhost9p.native.device import initialise
from vhost9p.native.sys import take_stop_signals
from vhost9p.output import flush, occupy_standard_streams, say
from vhost9p.policy.state import StateError
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
STOP_PATIENCE_S = 0.8
"""Seconds for an orderly end. Then the process ends, whatever still hangs."""

T = TypeVar("T")


class _Stopped(BaseException):
    """A signal to stop arrived while the daemon was starting."""


def _unless_stopped(stop_fd: int, work: Callable[[], T]) -> T:
    """Runs `work`, which may take long or hang, on a thread. Raises _Stopped at once if `stop_fd`
    becomes readable; else returns or raises as `work` does."""
    outcome: Future[T] = Future()
    done = os.eventfd(0, os.EFD_CLOEXEC)

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)
        os.eventfd_write(done, 1)

    thread = threading.Thread(target=run, name="start", daemon=True)
    thread.start()
    ready, _, _ = select.select([stop_fd, done], [], [])
    if stop_fd in ready:
        raise _Stopped
    thread.join()  # it may still be in its write to `done`
    os.close(done)
    return outcome.result()


def prepare_process(stop_fd: int) -> None:
    """Prepares the whole process: no umask, since the guest sends complete modes; no supplementary
    groups, since guest users would gain them; as many open files as the hard limit allows.

    Signals to stop are written to the eventfd `stop_fd`, and end the process after STOP_PATIENCE_S
    seconds at most. Raises OSError.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP)
    take_stop_signals(stop_fd, STOP_PATIENCE_S)
    os.umask(0)
    if os.geteuid() == 0:
        with suppress(PermissionError):  # not allowed in an unprivileged user namespace
            os.setgroups([])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    initialise()


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


class Daemon:
    """Serves all devices of one configuration."""

    def __init__(self, config: Config, stop_fd: int) -> None:
        """Opens sockets and exports. `stop_fd` becomes readable after a signal to stop. Raises
        OSError, StateError, ListenError, _Stopped."""
        self._config = config
        self._stop_fd = stop_fd
        self._served: list[tuple[Device, Listener, DeviceConfig]] = []
        try:
            for each in config.devices:
                self._open(each)
            needed = descriptors.divide()
        except BaseException:
            self.close()
            raise
        if needed:
            log.warning(
                "the limit of open files is too low for %d devices, and their requests may fail: "
                "set it to %d at least (ulimit -n)",
                len(config.devices),
                needed,
            )

    def _open(self, config: DeviceConfig) -> None:
        if config.fd is not None:
            listener = Listener.inherit(config.fd)
        else:
            assert config.socket is not None
            listener = Listener.bind(
                config.socket,
                SOCKET_MODE if config.socket_mode is None else config.socket_mode,
                -1 if config.socket_owner is None else config.socket_owner,
                -1 if config.socket_group is None else config.socket_group,
            )
        try:
            devices = len(self._config.devices)
            device = _unless_stopped(self._stop_fd, lambda: Device(config, devices))
        except BaseException:
            listener.close()
            raise
        self._served.append((device, listener, config))

    def close(self) -> None:
        """Removes the sockets."""
        for _, listener, _ in self._served:
            listener.close()

    async def serve(self) -> None:
        """Serves until a signal to stop arrives or all listeners have ended. Raises OSError."""
        stop: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        self._take_signals(stop)
        serving = asyncio.gather(
            *(listener.serve(device, once=config.once) for device, listener, config in self._served)
        )
        for _, listener, config in self._served:
            say(describe(config, listener.name))
        both: list[asyncio.Future[Any]] = [serving, stop]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            self._say_who_hangs(stop.result())
        else:
            stop.cancel()
        if serving.done():
            serving.result()

    def _take_signals(self, stop: "asyncio.Future[signal.Signals]") -> None:
        """From now on signals to stop resolve `stop`, and the signals in `signals.LOGGED` are
        logged."""
        loop = asyncio.get_running_loop()

        def end() -> None:
            loop.remove_reader(self._stop_fd)
            stop.set_result(signal.Signals(os.eventfd_read(self._stop_fd)))

        loop.add_reader(self._stop_fd, end)
        for number in signals.LOGGED:
            loop.add_signal_handler(number, self._ignore, number)

    def _ignore(self, number: signal.Signals) -> None:
        log.warning("%s is ignored: the daemon continues; SIGTERM ends it", number.name)

    def _say_who_hangs(self, number: signal.Signals) -> None:
        """Logs which connected VMs lose their mounts because the daemon ends."""
        hanging = [
            (config.tag, listener.name, listener.channel.peer)
            for _, listener, config in self._served
            if listener.channel and listener.channel.messages and not listener.channel.abandoned
        ]
        for tag, name, peer in hanging:
            log.warning(
                "%s while the VM of %s is connected: its mount of %r on %s hangs from now on",
                number.name,
                peer,
                tag,
                name,
            )
        if hanging:
            log.warning(
                "QEMU aborts when such a VM is reset or reboots next. To restart the daemon "
                "without that, umount in the guest and unplug the device first: see "
                "docs/troubleshooting.md"
            )


def run(config: Config) -> int:
    """Serves until the end. Ends the process, or returns its exit code if serving cannot begin.
    Raises UserError for an error that shows only when the state directory is created."""
    occupy_standard_streams()
    stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    prepare_process(stop_fd)
    try:
        daemon = Daemon(config, stop_fd)
    except _Stopped:
        os._exit(0)
    except (ListenError, StateError) as error:
        say(str(error))
        return EXIT_FAILURE
    except OSError as error:
        say(f"{error.filename or 'serving cannot begin'}: {error.strerror or error}")
        return EXIT_FAILURE
    code = 0
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(daemon.serve())
    except OSError as error:
        say(str(error))
        code = EXIT_FAILURE
    finally:
        daemon.close()
    # Without waiting for threads, which may hang in system calls on the host's files.
    flush()
    os._exit(code)
