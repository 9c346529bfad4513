"""How main creates a keeper in namespaces that there are already.

One process is in between: main forks a child that enters the namespaces and creates the keeper as a
child of main (CLONE_PARENT), since a process gets into a pid namespace by birth, and main itself
must not enter anything. Main waits until the keeper is ready, but for nobody without end; a signal
to stop ends each wait.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

from vhost9p.forking import without_stop_signals
from vhost9p.keeper import open_own

START_PATIENCE_S = 10.0
"""How long a step of the new keeper may take, on a host with much to do."""
PAUSE_S = 0.001
MESSAGE_MAX = 4096


class Failed(Exception):
    """There is no new keeper; the text says why."""


class AskedToEnd(Failed):
    """A signal to stop has arrived."""

    def __init__(self) -> None:
        super().__init__("the daemon was told to end")


class Waits:
    """Waits of main, which a signal to stop ends."""

    def __init__(self, stop_fd: int | None) -> None:
        """`stop_fd` becomes readable then; without it, these waits are not ended."""
        self._stop_fd = stop_fd

    def readable(self, seconds: float, fd: int | None = None) -> bool:
        """Waits so long until a descriptor is readable. Returns whether it is. Raises
        AskedToEnd."""
        poller = select.poll()
        for each in (self._stop_fd, fd):
            if each is not None:
                poller.register(each, select.POLLIN)
        ready = {each for each, _ in poller.poll(seconds * 1000)}
        if self._stop_fd in ready:
            raise AskedToEnd
        return fd in ready

    def true(self, seconds: float, condition: Callable[[], bool]) -> bool:
        """Waits so long for a condition. Returns whether it is met. Raises AskedToEnd."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self.readable(PAUSE_S)
        return True


class Newborn:
    """In the new keeper: its way to main, until it goes on alone."""

    def __init__(self) -> None:
        self._out = socket.socket(socket.AF_UNIX)
        """Leads to main."""
        self.own = -1, -1, -1
        """See keeper.open_own."""

    def begin(self, out: socket.socket) -> None:
        """Waits until main knows of this process."""
        self._out = out
        data, fds, _, _ = socket.recv_fds(out, MESSAGE_MAX, 3)
        if not data:
            os._exit(1)
        self.own = fds[0], fds[1], fds[2]

    @property
    def channel(self) -> int:
        """A descriptor that is needed until `take_leave`."""
        return self._out.fileno()

    def take_leave(self) -> None:
        """This process is ready. From here on there is no other keeper."""
        self._out.send(b"{}")
        if not self._out.recv(MESSAGE_MAX):
            os._exit(1)
        self._out.close()

    def fail(self, error: Exception) -> NoReturn:
        """This process ends, and main hears why."""
        _report(self._out, error)


def _report(out: socket.socket, error: Exception) -> NoReturn:
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    with suppress(OSError):
        out.send(json.dumps({"error": text or type(error).__name__}).encode())
    os._exit(1)


def give_birth(
    waits: Waits,
    enter: Callable[[], int],
    live: Callable[[socket.socket], None],
    is_ready: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Creates a keeper, whose pid and pidfd are returned. `enter` runs in the process in between,
    and returns as os.fork does: the child is the keeper, where `live` runs, with what `Newborn`
    begins with. `is_ready` is called here when the keeper is. Raises Failed, OSError: then there
    is no keeper."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as undo:
        undo.enter_context(here)
        with there, without_stop_signals():
            between = os.fork()
            if between == 0:
                here.close()
                _be_between(there, enter, live)
        try:
            pid = int(_receive(here, waits)["pid"])
        finally:
            os.kill(between, signal.SIGKILL)
        undo.callback(os.kill, pid, signal.SIGKILL)
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        own = open_own(pid)
        try:
            socket.send_fds(here, [b"begin"], own)
        finally:
            for fd in own:
                os.close(fd)
        _receive(here, waits)
        is_ready()
        undo.pop_all()
    with here, suppress(OSError):  # if it has died, main hears of it like of any keeper's death
        here.send(b"go on")
    return pid, pidfd


def _be_between(
    out: socket.socket, enter: Callable[[], int], live: Callable[[socket.socket], None]
) -> NoReturn:
    """In the child: creates the keeper."""
    try:
        pid = enter()
        if pid:
            out.send(json.dumps({"pid": pid}).encode())
        else:
            live(out)
    except Exception as error:
        _report(out, error)
    finally:
        os._exit(1)


def _receive(channel: socket.socket, waits: Waits) -> dict[str, Any]:
    """Raises Failed."""
    if not waits.readable(START_PATIENCE_S, channel.fileno()):
        raise Failed("the new keeper hangs")
    message = dict(json.loads(channel.recv(MESSAGE_MAX) or b'{"error": "the new keeper died"}'))
    if "error" in message:
        raise Failed(str(message["error"]))
    return message
