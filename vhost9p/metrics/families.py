"""Which metrics there are: their names, labels and meanings, and how they follow from what main
answers to "counts".

Names and units are those of Prometheus' conventions. No label has more values than there are VMs,
devices, exports, types of messages and errnos.
"""

import errno
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from vhost9p.control import Object
from vhost9p.metrics.source import Source
from vhost9p.native.device_view import BOUNDS_S
from vhost9p.p9.requests import REQUESTS

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

VM = ("vm",)
DEVICE = ("vm", "tag")
EXPORT = ("vm", "tag", "export")
TYPE = ("vm", "tag", "export", "type")
ERROR = ("vm", "tag", "export", "errno")

OF_VM: dict[str, tuple[str, str]] = {
    "worker_memory_bytes": ("memory", "Memory that the worker has to itself"),
    "worker_shared_memory_bytes": ("shared", "Memory of the worker that others map, too"),
    "worker_open_descriptors": ("descriptors", "Descriptors that the worker has open"),
}
"""Gauges by name: the field of the worker, and what it means."""
OF_DEVICE: dict[str, tuple[str, str]] = {
    "connected": ("connected", "Whether a VMM is connected"),
    "mounted": ("mounted", "Whether a guest has mounted the device"),
    "msize_bytes": ("msize", "Largest message of the session"),
    "fids": ("fids", "Fids that the guest holds"),
    "fids_limit": ("max_fids", "Fids that the guest may hold"),
    "qid_groups": ("qid_groups", "Groups of inodes that multidevs remap has numbered"),
    "qid_groups_limit": ("qid_groups_limit", "Groups of inodes that it may number"),
    "qid_single_files": ("qid_single_files", "Files numbered singly, since no group was left"),
    "files": ("inodes", "Files that fids stand for, or that are cached"),
    "files_evicted": ("evicted", "Files among them without descriptors"),
    "xattr_values": ("values", "Values of extended attributes that are read or written"),
    "requests_in_flight": ("inflight", "Requests that are not answered yet"),
    "requests_rate_limited": ("rate_limited", "Requests that wait for a rate limit now"),
    "requests_hung": ("dead", "Requests that were given up, and hang in the host"),
    "serving_threads": ("threads", "Threads that serve, those that hang included"),
    "guest_memory_bytes": ("guest_memory", "Memory of the guest that is mapped"),
    "ring_broken": ("broken", "Whether the virtqueue is broken"),
}
"""Gauges by name: the field of the device, and what it means."""
COUNTED: dict[str, tuple[str, str]] = {
    "upcalls": ("upcalls", "Requests that Python has answered"),
    "notifications": ("signals", "Notifications of the guest"),
}
"""The same, of counters."""
OF_EXPORT: dict[str, tuple[str, str]] = {
    "read_bytes": ("read", "Bytes of files, and of values of attributes, that were read"),
    "written_bytes": ("written", "Bytes of files, and of values of attributes, that were written"),
    "throttled_requests": ("throttled", "Requests that had to wait for a rate limit"),
    "throttle_wait_seconds": ("waited", "How long they have waited"),
}


class Metrics(Collector):
    """Collects all families, from what `source` says when they are asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterable[Family]:
        """Yields the families. Raises ControlError: main has ended."""
        return families(self._source())

    def describe(self) -> Iterable[Family]:
        """Nothing: names are not looked for before."""
        return ()


def families(objects: Iterable[Object]) -> Iterator[Family]:
    """Yields the families of what main has answered."""
    found = list(objects)
    vms = [each for each in found if "devices" in each]
    exports = [each for each in found if "counts" in each]
    yield from _of_vms(vms)
    yield from _of_devices(vms)
    yield from _of_exports(exports)
    yield from _by_type(exports)


def _counter(name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(f"vhost9p_{name}", text, labels=labels)


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vhost9p_{name}", text, labels=labels)


def _of_vms(vms: list[Object]) -> Iterator[Family]:
    deaths = _counter("worker_deaths", "Workers that have died, and were followed by others", VM)
    serving = _gauge("serving", "Whether a worker serves the VM", VM)
    for vm in vms:
        deaths.add_metric([vm["vm"]], vm["deaths"]["count"])
        serving.add_metric([vm["vm"]], vm["state"] == "serving" and bool(vm["worker"]))
    yield deaths
    yield serving
    for name, (field, text) in OF_VM.items():
        family = _gauge(name, text, VM)
        for vm in vms:
            if vm["worker"] and (value := vm["worker"][field]) is not None:
                family.add_metric([vm["vm"]], value)
        yield family


def _of_devices(vms: list[Object]) -> Iterator[Family]:
    for make, described in ((_gauge, OF_DEVICE), (_counter, COUNTED)):
        for name, (field, text) in described.items():
            family = make(name, text, DEVICE)
            for vm in vms:
                for device in vm["devices"]:
                    if field in device:
                        family.add_metric([vm["vm"], device["tag"]], device[field])
            yield family


def _labels(found: Object) -> list[str]:
    return [found["vm"], found["tag"], found["export"]]


def _of_exports(exports: list[Object]) -> Iterator[Family]:
    for name, (field, text) in OF_EXPORT.items():
        family = _counter(name, text, EXPORT)
        for each in exports:
            family.add_metric(_labels(each), each["counts"][field])
        yield family
    errors = _counter("request_errors", "Requests that were answered with an error", ERROR)
    for each in exports:
        for code, count in each["counts"]["errors"].items():
            errors.add_metric([*_labels(each), errno.errorcode.get(int(code), "other")], count)
    yield errors


def _name(number: int) -> str:
    """Returns how a type of requests is labelled."""
    return REQUESTS[number][0] if number in REQUESTS else "other"


def _by_type(exports: list[Object]) -> Iterator[Family]:
    requests = _counter("requests", "Requests that were answered", TYPE)
    durations = HistogramMetricFamily(
        "vhost9p_request_duration_seconds",
        "From when a request is taken from the virtqueue to its answer",
        labels=TYPE,
    )
    for each in exports:
        for found in each["counts"]["types"]:
            labels = [*_labels(each), _name(found["type"])]
            requests.add_metric(labels, found["requests"])
            if any(found["buckets"]):
                counts = accumulate(found["buckets"])
                bounds = [*map(str, BOUNDS_S), "+Inf"]
                durations.add_metric(labels, [*zip(bounds, counts, strict=True)], found["seconds"])
    yield requests
    yield durations
