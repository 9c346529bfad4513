"""Listens on the sockets of a configuration's devices."""

from contextlib import ExitStack

from vhost9p.config import SOCKET_MODE, Config, DeviceConfig
from vhost9p.vhost_user.listener import Listener


def _listen(config: DeviceConfig) -> Listener:
    if config.fd is not None:
        return Listener.inherit(config.fd, config.place)
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
