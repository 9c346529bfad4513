"""Watches a running VM: asks its daemon, and takes events until somebody ends it.

The connection to the daemon stays open, and its end is what switches recording off. If it is the
daemon that has ended it, another version may be taking over (upgrade.py), or a service manager may
start another main process: then it is asked again, under the same name of the VM. What the guest
has asked meanwhile is not recorded, which is said.
"""

import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from vhost9p.control import Object
from vhost9p.control.client import ControlError, Target, ask, find_vm, only_vm, places
from vhost9p.trace.events import Event, Source, event_of
from vhost9p.trace.memory import FORMAT
from vhost9p.trace.reader import Lost, Reader

PAUSE_S = 0.02
"""Between two looks at memory in which nothing has come."""
RETRY_PAUSE_S = 0.1
RETRY_S = 10.0
"""For how long a daemon is asked again that has ended the connection."""


class Gap(NamedTuple):
    """For so many seconds nothing was recorded."""

    seconds: float


Seen = Event | Gap | tuple[Source, Lost]


class _Connection:
    """A daemon that answers: `ended` is set once it does so no longer."""

    def __init__(self, target: Target, data: int) -> None:
        """Raises ControlError."""
        request = {"command": "trace", "vm": target.vm, "data": data}
        self._answer = ask(target.place, request, is_stream=True)
        self.ended = threading.Event()
        self.broke = False
        """Whether the connection has broken: else the VM has ended."""
        first = next(self._answer, {})
        fds = first.get("descriptors", [])
        if first.get("format") != FORMAT or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise ControlError(f"{target.place} traces in another way: upgrade it, or this command")
        (self.fd,) = fds
        self.sources = _sources(first)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        try:
            for found in self._answer:
                if len(sources := _sources(found)) == len(self.sources):
                    self.sources = sources
        except ControlError:
            self.broke = True
        finally:
            self.ended.set()


def _sources(answer: Object) -> list[Source]:
    """Raises ControlError."""
    try:
        return [
            Source(str(each["tag"]), tuple(map(str, each["exports"]))) for each in answer["devices"]
        ]
    except (LookupError, TypeError):
        raise ControlError("a daemon answers with something else than devices") from None


class Tracer:
    """Watches a VM from now on: `which` is its name, its configuration or a socket, or None for
    the only one. `data` is how many bytes of what a request reads or writes are recorded. It asks
    the daemon at the control socket, or all."""

    def __init__(self, which: str | None, data: int, control_socket: str | None = None) -> None:
        """Raises ControlError, OSError."""
        self._control_socket = control_socket
        asked = places(control_socket)
        self._target = only_vm(asked) if which is None else find_vm(which, asked)
        self._data = data
        self._connection = _Connection(self._target, data)
        self._file = 0
        self._readers: list[Reader] = []
        self._open()

    @property
    def vm(self) -> str:
        """The VM's name."""
        return self._target.vm

    @property
    def sources(self) -> list[Source]:
        """Its devices."""
        return self._connection.sources

    def _open(self) -> None:
        """Reads what the connection has brought, unless it is what is read already."""
        fd = self._connection.fd
        file = os.fstat(fd).st_ino
        if file != self._file:
            for reader in self._readers:
                reader.close()
            self._readers = [Reader(fd, i) for i in range(len(self.sources))]
        self._file = file
        os.close(fd)

    def events(self) -> Iterator[Seen | None]:
        """Yields what happens, and None whenever there is nothing more for now, until the VM or
        the daemon has ended. Raises ControlError, OSError."""
        while True:
            ends = self._connection.ended.is_set()
            yield from self._take()
            if ends and not self._connection.broke:
                return
            if ends:
                began = time.monotonic()
                yield from self._attach_again()
                yield Gap(time.monotonic() - began)
            yield None
            self._connection.ended.wait(PAUSE_S)

    def _read_from(self) -> Iterator[tuple[Source, Reader]]:
        return zip(self.sources, self._readers, strict=True)

    def _take(self) -> Iterator[Seen]:
        for source, reader in self._read_from():
            for found in reader.read():
                yield (source, found) if isinstance(found, Lost) else event_of(source, found)

    def _attach_again(self) -> Iterator[None]:
        """Yields between attempts. Raises ControlError, OSError."""
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                target = find_vm(self._target.vm, places(self._control_socket))
                self._connection = _Connection(target, self._data)
                break
            except ControlError as error:
                if time.monotonic() > deadline:
                    raise ControlError(f"the daemon of {self.vm} has ended: {error}") from None
            yield None
            time.sleep(RETRY_PAUSE_S)
        self._open()
