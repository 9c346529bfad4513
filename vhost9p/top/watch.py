"""Which files are asked for most, and which requests take longest: from the requests themselves.

While a `Watch` is there, the daemon has requests recorded (answers/tracing.py); nothing is recorded
otherwise. Each device's records are taken as far as RECORDS_MAX: a busy guest makes more than can
be looked at, and what is left out is counted. A watch is for one interval, so that a daemon or VM
that begins anew meanwhile costs one of them.
"""

import heapq
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from vhost9p.control import client
from vhost9p.control.client import ControlError, Place
from vhost9p.top.sample import Latencies
from vhost9p.trace.events import Event, Source, event_of
from vhost9p.trace.reader import Lost, Reader

RECORDS_MAX = 2000
"""Of a device and interval."""
VMS_MAX = 8
"""VMs that are watched at a time, since each costs a connection, and its guest some time."""
SLOWEST = 10
"""Requests that are kept."""


class Slow(NamedTuple):
    """A request that took long."""

    seconds: float
    vm: str
    tag: str
    request: str
    path: str
    error: str


@dataclass(slots=True)
class Seen:
    """What was seen in an interval."""

    files: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Requests by VM, tag and path."""
    bytes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Of data that these read and wrote."""
    slowest: list[Slow] = field(default_factory=list)
    latencies: dict[tuple[str, str], dict[str, Latencies]] = field(default_factory=dict)
    """By VM and tag, and by type."""
    requests: int = 0
    """How many were looked at,"""
    omitted: int = 0
    """and how many were not."""
    problems: list[str] = field(default_factory=list)

    def add(self, vm: str, event: Event) -> None:
        """Counts a request."""
        self.requests += 1
        tag = event.source.tag
        if event.path:
            key = vm, tag, event.path
            self.files[key] += 1
            if event.request.name in ("Tread", "Twrite"):
                # A count of the reply, or what the reply carries.
                self.bytes[key] += int(event.reply.fields.get("count", 0))
        took = event.record.took / 1e9
        types = self.latencies.setdefault((vm, tag), {})
        types.setdefault(event.request.name, Latencies()).count(took)
        slow = Slow(took, vm, tag, event.request.name, event.path, event.error)
        self.slowest = heapq.nlargest(SLOWEST, [*self.slowest, slow], key=lambda each: each.seconds)


class Watch:
    """Watches VMs until `finish`."""

    def __init__(self, vms: Iterable[tuple[Place, str]]) -> None:
        """Begins. What cannot be watched is a problem of the result."""
        self._seen = Seen()
        self._undo = ExitStack()
        self._readers: list[tuple[str, Source, Reader]] = []
        for place, vm in itertools.islice(vms, VMS_MAX):
            try:
                self._open(place, vm)
            except (ControlError, OSError, StopIteration, LookupError, TypeError) as error:
                self._seen.problems.append(f"{vm}: requests cannot be watched: {error}")

    def _open(self, place: Place, vm: str) -> None:
        stream = client.ask(place, {"command": "trace", "vm": vm, "data": 0}, is_stream=True)
        answer = next(stream)
        self._undo.callback(_end, stream)
        (fd,) = answer["descriptors"]
        try:
            for number, each in enumerate(answer["devices"]):
                reader = Reader(fd, number)
                self._undo.callback(reader.close)
                source = Source(str(each["tag"]), tuple(map(str, each["exports"])))
                self._readers.append((vm, source, reader))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Watches no longer."""
        self._undo.close()

    def finish(self) -> Seen:
        """Returns what was seen, and watches no longer."""
        with self._undo:
            for vm, source, reader in self._readers:
                for each in itertools.islice(reader.read(), RECORDS_MAX):
                    if isinstance(each, Lost):
                        self._seen.omitted += each.count
                    else:
                        self._seen.add(vm, event_of(source, each))
                self._seen.omitted += reader.lost_at_end()
        return self._seen


def _end(stream: Iterator[object]) -> None:
    with suppress(ControlError, OSError):
        stream.close()  # type: ignore[attr-defined]  # a generator, whose end ends the connection
