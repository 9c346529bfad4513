"""What main can tell of a VM that runs, for whoever asks (answers/).

It comes from main itself, from the kernel, and from memory that the VM's worker writes: that is
read as a copy, without a lock and without waiting, and anything may be there. So numbers are only
shown, texts are cut and escaped, and nothing of it decides anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from vhost9p.config import Config
from vhost9p.log_record import one_line
from vhost9p.native import device_view
from vhost9p.native.device_view import DeviceView, ExportCounts
from vhost9p.native.export import NOTICES
from vhost9p.progress import Progress
from vhost9p.saved_state import PAGE, SavedState


class Worker(NamedTuple):
    """A worker as the kernel sees it."""

    pid: int
    descriptors: int | None
    """Open ones; None: the kernel does not say (it does since Linux 6.2)."""
    memory: int
    """Bytes that it has to itself (RssAnon of proc_pid_status(5))."""
    shared: int
    """Bytes of files in memory, as the guest's memory, and of what outlives the worker."""


class DeviceFacts(NamedTuple):
    """A device now."""

    is_connected: bool
    view: DeviceView


@dataclass(frozen=True)
class VmFacts:
    """A VM now."""

    name: str
    config: Config
    keeper: int
    """Its pid; 0: there is none."""
    states: Sequence[SavedState]
    progress: Progress
    report: dict[str, Any]
    """Of the keeper, who wrote it before there was a worker."""

    def device(self, number: int) -> DeviceFacts | None:
        """A device by its number; None if it has not begun."""
        if number >= len(self.states):
            return None
        state = self.states[number]
        connection, _, device, _ = state.header.offsets
        size = device_view.connection_view_size()
        connected = os.pread(state.fd, size, PAGE + connection)
        copy = os.pread(state.fd, device_view.view_size(), PAGE + device)
        if len(connected) < size or len(copy) < device_view.view_size():
            return None
        return DeviceFacts(device_view.is_connected(connected), device_view.view(copy))

    def counts(self, number: int) -> Iterator[tuple[str, ExportCounts]]:
        """Yields what was counted for each export of a device, by the name of the export; empty for
        the mount's own root. The directory of notices counts as one."""
        if number >= len(self.states):
            return
        state = self.states[number]
        device = self.config.devices[number]
        names = {0: "", **{index: each.name or "" for index, each in device.indexed.items()}}
        if device.notify:
            names[NOTICES] = device.notify_name
        for index, name in names.items():
            copy = os.pread(state.fd, device_view.COUNTS_SIZE, _counts_at(state, index))
            if len(copy) == device_view.COUNTS_SIZE:
                yield name, device_view.counts(copy)

    @property
    def why_last(self) -> str:
        """How the last worker that died has ended; empty if none has."""
        deaths = self.progress.deaths
        return one_line(deaths.how.decode(errors="replace")) if deaths.count else ""

    @property
    def confinement(self) -> str:
        """How far the workers are confined; empty if they have not begun."""
        entered = self.report.get("entered")
        return str(entered.get("level", "")) if isinstance(entered, dict) else ""

    @property
    def lacks(self) -> list[str]:
        """What of the confinement the host does not allow."""
        entered = self.report.get("entered")
        return [str(each) for each in entered.get("lacks", ())] if isinstance(entered, dict) else []

    def worker(self) -> Worker | None:
        """The worker; None: there is none now."""
        if not self.keeper:
            return None
        with suppress(OSError, ValueError, LookupError):  # a zombie has no memory
            with open(f"/proc/{self.keeper}/task/{self.keeper}/children", encoding="ascii") as file:
                pid = int(file.read(64).split()[0])
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            size = os.stat(f"/proc/{pid}/fd").st_size  # how many, since Linux 6.2; 0 before
            memory = int(fields["RssAnon"].split()[0]) * 1024
            shared = int(fields["RssShmem"].split()[0]) * 1024
            return Worker(pid, size or None, memory, shared)
        return None


def forget_counts(state: SavedState, index: int) -> None:
    """What was counted for an export that is not served any more, or not yet, is forgotten, since
    another one gets its index. Raises OSError."""
    os.pwrite(state.fd, bytes(device_view.COUNTS_SIZE), _counts_at(state, index))


def _counts_at(state: SavedState, index: int) -> int:
    """Where the counts of an export are in a device's file."""
    return PAGE + state.header.offsets[2] + device_view.counts_at(index)
