"""Where the child has its numbers from: main, on a connection of theirs."""

import socket
import threading
from collections.abc import Callable

from vhost9p.control import Object
from vhost9p.control.client import Place, ask_on

Source = Callable[[], list[Object]]
"""Returns what was counted until now."""


class Main:
    """Main, at the other end of a socket, for one thread after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._one = threading.Lock()

    def __call__(self) -> list[Object]:
        """Asks. Raises ControlError: main has ended."""
        with self._one:
            return list(ask_on(self._socket, Place("main"), {"command": "counts"}))
