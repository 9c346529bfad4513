"""The process: its limits, its threads, its signals, and the devices that it serves.

The main thread runs the event loop (sockets, signals). One thread takes the upcalls of all devices.
Each device has serving threads of its own, in C. SIGTERM and SIGINT end the process at once, even
while host file systems hang: what a thread is stuck in ends with the process.
"""

import asyncio
import logging
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import uvloop

from vhost9p.config import Config, DeviceConfig, ExportConfig
from vhost9p.device import Device
from vhost9p.native import descriptors
from vhost9p.native.device import Hub, initialise
from vhost9p.policy.state import StateError
from vhost9p.vhost_user.listener import Listener, ListenError

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def prepare_process() -> None:
    """What holds for the whole process: no umask (the guest sends modes), no supplementary groups
    (they would be lent to guest users), as many descriptors as allowed. A signal to stop is held
    back until the event loop takes it: it must not leave a socket behind."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
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

    def __init__(self, config: Config) -> None:
        """Opens everything; raises OSError, StateError, ListenError."""
        self._config = config
        self._hub = Hub()
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
                "the limit of open files is too low for %d devices, which may fail for want of "
                "them: %d would do (ulimit -n)",
                len(config.devices),
                needed,
            )

    def _open(self, config: DeviceConfig) -> None:
        if config.fd is not None:
            listener = Listener.inherit(config.fd)
        else:
            assert config.socket is not None
            listener = Listener.bind(config.socket)
        try:
            device = Device(self._hub, config)
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
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        threading.Thread(target=self._hub.run, name="upcalls", daemon=True).start()
        serving = asyncio.gather(
            *(listener.serve(device, once=config.once) for device, listener, config in self._served)
        )
        for _, listener, config in self._served:
            print(f"vhost9p: {describe(config, listener.name)}", file=sys.stderr, flush=True)
        stopping = asyncio.ensure_future(stop.wait())
        both: list[asyncio.Future[Any]] = [serving, stopping]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving.done():
            serving.result()


def run(config: Config) -> int:
    """Serves; returns the process's exit code, or ends the process."""
    prepare_process()
    try:
        daemon = Daemon(config)
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
