"""Rates: what has happened between two answers to "counts" (answers/counts.py).

Counts outlive a worker. Those of a device that has begun anew are smaller than before, and so
counted from zero.
"""

import bisect
import errno
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vhost9p.control import Object, client
from vhost9p.control.client import ControlError, Place
from vhost9p.native.device_view import BOUNDS_S
from vhost9p.trace.notation import LAYOUTS

Key = tuple[str, str, str]
"""A daemon, a VM's name, a device's tag."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What daemons have answered."""

    at: float
    """Monotonic."""
    vms: Sequence[tuple[Place, Object]]
    problems: Sequence[str]
    """Of daemons that do not answer."""


def take(control_socket: str | None, which: str | None) -> Sample:
    """Asks all daemons, or the one at the socket; for one VM, or all. Never raises: what is wrong
    now may be right a moment later."""
    vms: list[tuple[Place, Object]] = []
    problems = []
    try:
        places = client.places(control_socket)
    except ControlError as error:
        return Sample(time.monotonic(), (), (str(error),))
    for place in places:
        try:
            answers = client.ask(place, {"command": "counts"})
            found = _vms(place, answers)
            vms += [(place, each) for each in found if which is None or is_named(each, which)]
        except ControlError as error:
            problems.append(str(error))
    if which is not None:
        problems = [] if vms else [*problems, f"no daemon has a VM {which!r} now"]
    return Sample(time.monotonic(), vms, problems)


def _vms(place: Place, answers: Iterable[Object]) -> list[Object]:
    """Returns the VMs, with what was counted entered with each device. Raises ControlError."""
    found: dict[str, Object] = {}
    for each in answers:
        if "devices" in each:
            found[each["vm"]] = each
        elif any(len(one["buckets"]) != len(BOUNDS_S) + 1 for one in each["counts"]["types"]):
            raise ControlError(f"{place} counts times in other steps: it is of another version")
        elif each["vm"] in found:
            for device in found[each["vm"]]["devices"]:
                if device["tag"] == each["tag"]:
                    device.setdefault("counts", {})[each["export"]] = each["counts"]
    return [*found.values()]


def is_named(vm: Object, which: str) -> bool:
    """Whether a person means this VM: by its name, its configuration file or a socket."""
    paths = [vm.get("config"), *vm.get("sockets", ())]
    path = os.path.realpath(which)
    return which == vm["vm"] or path in {os.path.realpath(each) for each in paths if each}


# ---- rates ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Latencies:
    """How long requests took: how many no longer than each of BOUNDS_S, and how many longer."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, buckets: Iterable[int]) -> None:
        """Counts more."""
        self.buckets = [a + b for a, b in zip(self.buckets, buckets, strict=True)]

    def count(self, seconds: float) -> None:
        """Counts one request."""
        self.buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1

    def quantile(self, part: float) -> float | None:
        """Returns so many seconds that this part of the requests took no longer; infinite beyond
        the last bound. None if there were none."""
        total = sum(self.buckets)
        if not total:
            return None
        seen = 0
        for count, bound in zip(self.buckets, BOUNDS_S, strict=False):
            seen += count
            if seen >= part * total:
                return float(bound)
        return math.inf


@dataclass(slots=True)
class TypeRate:
    """Of the requests of a type."""

    name: str
    requests: float = 0
    """A second."""
    latencies: Latencies = field(default_factory=Latencies)


@dataclass(slots=True)
class DeviceRate:
    """Of a device."""

    vm: str
    tag: str
    state: str
    """serving, starting, waiting, ending; with a VM that serves: mounted, connected or none."""
    restarts: int
    """Of the VM's worker."""
    queue: int = 0
    """Requests that are in work, or wait."""
    fids: int = 0
    requests: float = 0
    """A second, as the next two, in bytes."""
    read: float = 0
    written: float = 0
    latencies: Latencies = field(default_factory=Latencies)
    errors: dict[str, float] = field(default_factory=dict)
    """Replies a second, by the name of the errno."""
    types: dict[str, TypeRate] = field(default_factory=dict)

    def add_latencies(self, seen: Mapping[str, Latencies]) -> None:
        """Adds what was seen of requests by type, if the daemon has not counted it: it takes times
        only with metrics."""
        if any(self.latencies.buckets):
            return
        for name, each in seen.items():
            self.latencies.add(each.buckets)
            self.types.setdefault(name, TypeRate(name)).latencies.add(each.buckets)

    @property
    def failed(self) -> float:
        """Errors a second."""
        return sum(self.errors.values())


def rates(before: Sample, after: Sample) -> list[DeviceRate]:
    """Returns what happened between two samples, for each device of the second one."""
    seconds = max(after.at - before.at, 1e-3)
    known = dict(_devices(before))
    return [
        _rate(vm, device, known.get(key, (None, {}))[1], seconds)
        for key, (vm, device) in _devices(after)
        if vm is not None
    ]


def _devices(sample: Sample) -> Iterator[tuple[Key, tuple[Object | None, Object]]]:
    for place, vm in sample.vms:
        for device in vm["devices"]:
            yield (str(place), vm["vm"], device["tag"]), (vm, device)


def _rate(vm: Object, device: Object, before: Object, seconds: float) -> DeviceRate:
    state = vm["state"]
    if state == "serving":
        state = "mounted" if device["mounted"] else "connected" if device["connected"] else "none"
    found = DeviceRate(vm["vm"], device["tag"], state, vm["deaths"]["count"])
    found.queue, found.fids = device.get("inflight", 0), device.get("fids", 0)
    for export, counts in device.get("counts", {}).items():
        _add_export(found, counts, before.get("counts", {}).get(export, {}), seconds)
    return found


def _add_export(found: DeviceRate, now: Object, old: Object, seconds: float) -> None:
    types = {each["type"]: each for each in old.get("types", ())}
    if any(each["requests"] < types.get(each["type"], each)["requests"] for each in now["types"]):
        old, types = {}, {}
    found.read += max(now["read"] - old.get("read", 0), 0) / seconds
    found.written += max(now["written"] - old.get("written", 0), 0) / seconds
    for code, count in _increase(now["errors"], old.get("errors", {})).items():
        name = errno.errorcode.get(int(code), "other" if code == "0" else str(code))
        found.errors[name] = found.errors.get(name, 0) + count / seconds
    for each in now["types"]:
        was: Mapping[str, Any] = types.get(each["type"], {})
        count = each["requests"] - was.get("requests", 0)
        if not count:
            continue
        name = LAYOUTS[each["type"]].name if each["type"] in LAYOUTS else "other"
        rate = found.types.setdefault(name, TypeRate(name))
        more = [
            max(a - b, 0)
            for a, b in zip(
                each["buckets"], was.get("buckets", [0] * len(each["buckets"])), strict=True
            )
        ]
        rate.requests += count / seconds
        rate.latencies.add(more)
        found.requests += count / seconds
        found.latencies.add(more)


def _increase(now: Mapping[str, int], old: Mapping[str, int]) -> dict[str, int]:
    found = {key: count - old.get(key, 0) for key, count in now.items()}
    return {key: count for key, count in found.items() if count > 0}
