"""The process: its limits, its threads, its signals, and the devices that it serves.

The main thread runs the event loop (sockets, signals). Each device has serving threads of its own,
in C, which call Python for what C does not answer. SIGTERM and SIGINT end the process within a
second, whatever hangs: host file systems, frontends, or the interpreter itself (csrc/stop.c).
"""

import asyncio
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

import uvloop

from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.device import Device, memory_slots
from vhost9p.native.device import initialise
from vhost9p.native.sys import take_stop_signals
from vhost9p.policy.state import StateError
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_PATIENCE_S = 0.8
"""For an orderly end; what hangs by then ends with the process."""


def prepare_process(stop_fd: int) -> None:
    """What holds for the whole process: no umask (the guest sends modes), no supplementary groups
    (they would be lent to guest users), as many descriptors as allowed. A signal to stop waits for
    the event loop, within STOP_PATIENCE_S: it should not leave a socket behind."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    take_stop_signals(stop_fd, STOP_PATIENCE_S)
    os.umask(0)
    if os.geteuid() == 0:
        with suppress(PermissionError):  # a user namespace made without privilege forbids it
            os.setgroups([])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    initialise()


def describe(config: DeviceConfig, socket: str) -> str:
    """The line that says what is served where."""
    where = f"as {config.tag!r} on {socket}"
    first, policy = config.exports[0], f"multidevs {config.multidevs}"
    if not first.name:
        return f"serving {first.path} {where} ({', '.join(_options(first, policy))})"
    exports = ", ".join(
        f"{each.name}: {each.path} ({', '.join(_options(each))})" for each in config.exports
    )
    return f"serving {exports} {where} ({policy})"


def _options(export: ExportConfig, *more: str) -> list[str]:
    return [export.security_model, *more, *(["read-only"] if export.readonly else [])]


class Daemon:
    """All devices of one configuration."""

    def __init__(self, config: Config, stop_fd: int) -> None:
        """Opens everything; raises OSError, StateError, ListenError. `stop_fd` becomes readable
        when a signal to stop has come."""
        self._config = config
        self._stop_fd = stop_fd
        self._served: list[tuple[Device, Listener, DeviceConfig]] = []
        try:
            for each in config.devices:
                self._open(each)
        except BaseException:
            self.close()
            raise

    def _open(self, config: DeviceConfig) -> None:
        if config.fd is not None:
            listener = Listener.inherit(config.fd)
        else:
            assert config.socket is not None
            listener = Listener.bind(config.socket)
        try:
            device = Device(config, memory_slots(len(self._config.devices)))
        except BaseException:
            listener.close()
            raise
        self._served.append((device, listener, config))

    def close(self) -> None:
        """Removes the sockets."""
        for _, listener, _ in self._served:
            listener.close()

    async def serve(self) -> None:
        """Serves until a signal comes, or until there is nothing left to serve."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._stop_fd, stop.set)
        serving = asyncio.gather(
            *(listener.serve(device, once=config.once) for device, listener, config in self._served)
        )
        for _, listener, config in self._served:
            print(f"vhost9p: {describe(config, listener.name)}", file=sys.stderr, flush=True)
        stopping = asyncio.ensure_future(stop.wait())
        both: list[asyncio.Future[Any]] = [serving, stopping]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        loop.remove_reader(self._stop_fd)
        stopping.cancel()
        if serving.done():
            serving.result()


def run(config: Config) -> int:
    """Serves; returns the process's exit code, or ends the process."""
    stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    prepare_process(stop_fd)
    try:
        daemon = Daemon(config, stop_fd)
    except (ListenError, StateError) as error:
        print(f"vhost9p: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        print(f"vhost9p: {what}{error.strerror}", file=sys.stderr)
        return EXIT_FAILURE
    code = 0
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(daemon.serve())
    except OSError as error:
        print(f"vhost9p: {error}", file=sys.stderr)
        code = EXIT_FAILURE
    finally:
        daemon.close()
    # Threads may hang in system calls on the host's files: nothing waits for them.
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    logging.shutdown()
    os._exit(code)
