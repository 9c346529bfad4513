"""What a guest and its frontend can take at most: a table for `--print-limits`, from the constants
that hold the limits.

The memory of each limit is what all of it takes at most. The sum leaves out what does not depend on
the guest (a VM that does nothing), the guest's own memory, and the stacks of threads.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vhost9p import device_log, failures, log_pipe
from vhost9p.config import Config, DeviceConfig
from vhost9p.device import memory_bytes, memory_slots
from vhost9p.fs import lock_files, lock_records, locked_ranges
from vhost9p.fs.locks import MEMORY_SIZE
from vhost9p.marked import reader
from vhost9p.native import memory
from vhost9p.p9 import dialect_u_reading, lock_waits, waiting
from vhost9p.policy import remap
from vhost9p.policy.quota import REMEMBERED
from vhost9p.vhost_user import descriptors

RANGE_BYTES = 600
"""Of a locked range: its numbers, its places in two tables."""
LOCK_FILE_BYTES = 4096
"""Of a lock file with its client_id, and of a process or fid that shares it."""
LOCK_LINK_BYTES = 2048
ENTRY_BYTES = 16
"""Times the size of a directory's entry: what it takes while Python answers a Tread."""
UPCALL_MESSAGES = 4
"""Messages of msize bytes that a request may have in Python at a time."""

MARK_BYTES = 1024
"""Of a marked directory: its key, its place in the tree, its note until that is read."""


class Limit(NamedTuple):
    """At most so many of something. `beyond` is what happens then."""

    what: str
    most: int
    beyond: str
    memory: int = 0

    @property
    def took(self) -> str:
        """The memory, as text; empty if it is that of another limit, or not the guest's."""
        return _mib(self.memory) if self.memory else ""


def of_device(config: DeviceConfig, devices: int) -> Iterator[Limit]:
    """Yields the limits of one of so many devices of a VM."""
    native = memory.of_device(config.max_fids, config.msize_max)
    upcall = UPCALL_MESSAGES * config.msize_max + ENTRY_BYTES * dialect_u_reading.BATCH
    yield Limit("fids, with their files, names and paths", config.max_fids, "EMFILE", native.files)
    if config.max_xattr:
        yield Limit("values of extended attributes", config.max_xattr, "ENOSPC")
    yield Limit("bytes of such values", native.values // 2, "ENOSPC", native.values)
    yield Limit("requests in flight", native.slots, "they wait in the ring", native.requests)
    yield Limit(
        "serving threads",
        native.threads,
        "requests wait",
        native.threads * (native.thread + upcall),
    )
    yield from _of_locks()
    files = config.max_fids + REMEMBERED
    for export in config.exports:
        if export.quota:
            what = f"files that a quota knows ({export.path})"
            yield Limit(what, files, "ENFILE", memory.of_quota(files))
    if config.multidevs == "remap":
        known = remap.MAX_GROUPS + remap.MAX_FILES
        what = "groups of files, and files without one, that remap knows"
        yield Limit(what, known, "ENFILE", memory.of_qidmap(known))
    if config.notify:
        marks, size = reader.MARKS_MAX, reader.MARKS_MAX * MARK_BYTES
        what = "directories that are marked, where the daemon may not watch file systems"
        yield Limit(what, marks, "the guest hears of an overflow", size)
    slots, size = memory_slots(devices), memory_bytes(config, devices)
    yield Limit("regions of guest memory", slots, "the message is refused")
    yield Limit("bytes of guest memory", size, "the message is refused")
    pending = descriptors.MAX_PENDING
    yield Limit("descriptors of the frontend that wait to be closed", pending, "it is not read")
    yield Limit("threads that close these", descriptors.MAX_THREADS, "they wait")
    yield Limit("lines of the log a second", device_log.LINES_PER_SECOND, "dropped, and counted")
    yield Limit("lines of the log at once", device_log.BURST, "dropped, and counted")
    yield Limit("failed requests logged a second", failures.LINES_PER_SECOND, "counted")
    yield Limit("failed requests logged at once", failures.BURST, "counted")


def _of_locks() -> Iterator[Limit]:
    files, pieces = lock_files.FILES_MAX, locked_ranges.PIECES_MAX
    links = lock_records.LINKS - lock_records.LINKS_SPARE
    yield Limit("files locked by a process each", files, "ENOLCK", files * LOCK_FILE_BYTES)
    what = "further fids and processes with locks"
    yield Limit(what, links, "ENOLCK", MEMORY_SIZE + lock_records.LINKS * LOCK_LINK_BYTES)
    yield Limit("locked ranges", pieces, "ENOLCK", pieces * RANGE_BYTES)
    yield Limit("locked ranges of one file", locked_ranges.FILE_PIECES_MAX, "ENOLCK")
    what = "requests that wait for a lock, or for changes"
    yield Limit(what, waiting.WAITS_MAX, "the client asks again, or EAGAIN")
    yield Limit("threads that wait for locks", lock_waits.THREADS, "locks wait without one")


def report(config: Config) -> Iterator[str]:
    """Yields the lines that show the limits of a VM."""
    devices, total = len(config.devices), 0
    for each in config.devices:
        yield f"{each.tag}:"
        limits = list(of_device(each, devices))
        total += sum(limit.memory for limit in limits)
        for limit in limits:
            took = ", ".join(filter(None, (f"{limit.most:,}", limit.took)))
            yield f"  {limit.what}: {took}; beyond: {limit.beyond}"
    lines, burst = devices * log_pipe.LINES_PER_SECOND, devices * log_pipe.BURST
    yield f"all of the VM: {_mib(total)}; {lines} lines of the log a second, {burst} at once"


def _mib(size: int) -> str:
    return f"{-(-size // 2**20):,} MiB"
