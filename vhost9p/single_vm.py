"""Serves the VM of one configuration: the only one of the process."""

import os
from contextlib import ExitStack

from vhost9p import answers, handover
from vhost9p.config import SOCKET_MODE, Config, DeviceConfig
from vhost9p.daemon import Daemon
from vhost9p.fd_store import FdStore
from vhost9p.keeper import EXIT_FAILURE
from vhost9p.native.process import set_name
from vhost9p.notify import take_manager
from vhost9p.output import occupy_standard_streams, say
from vhost9p.predecessor import read_vms, receive, store_of, vms_of
from vhost9p.progress import Progress
from vhost9p.upgrade_status import StatusFile
from vhost9p.vhost_user.listener import Listener, ListenError
from vhost9p.vm import Vm


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


def name_of(config: Config) -> str:
    """Returns the name of a VM: that of its file, or its socket."""
    if config.file:
        return os.path.splitext(os.path.basename(config.file))[0]
    device = config.devices[0]
    return device.socket or f"--fd {device.fd}"


def go_on() -> int:
    """Serves the VM of the version before until the end, and returns the exit code. Raises
    Unreadable, OSError."""
    received = handover.received()
    assert received, "the caller has looked"
    vms = read_vms(received)
    daemon = Daemon(StatusFile(received.written["status"]), store_of(received.written))
    daemon.codes.update(received.written["codes"])
    daemon.take_over(vms, received.written["version"])
    answers.go_on(daemon, vms[0].config.control_socket, received.written)
    return _serve(daemon)


def run(config: Config, progress: Progress | None = None) -> int:
    """Serves one VM until the end, and returns the exit code. `progress` shows another process
    when it serves."""
    occupy_standard_streams()
    set_name("vhost9p")
    store = FdStore(take_manager())
    kept = receive(store)
    daemon = Daemon(store=store)
    name = name_of(config)
    if kept:
        daemon.adopt(vms_of(kept), {name: config})
    try:
        answers.begin(daemon, config.control_socket, config.metrics, is_needed=not kept)
        if name not in daemon.vms:
            vm = Vm(name, config, listen(config), speaks=False, progress=progress)
            daemon.add(vm)
    except ListenError as error:
        say(str(error))
        daemon.end()
        return EXIT_FAILURE
    return _serve(daemon)


def _serve(daemon: Daemon) -> int:
    while daemon.vms:
        daemon.step()
    daemon.end()
    return 0 if daemon.stopping else max(daemon.codes)
