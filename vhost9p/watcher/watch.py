"""Watching: reads events, and appends lines to the rings of the devices whose guests see what has
changed and have not done it themselves.

What a guest does, the worker of its VM does, which is a child of the keeper. The kernel says of
each event which process it is of, but maybe only when that has ended. So a worker counts as such
until all events have been read that were there when it was last seen. Main says when another one
serves, so that this is soon, whatever happens in the exports: any process may get its pid later.

After each batch of events the watch rests for a moment, in which the kernel puts events of the same
file together; so who writes without a pause costs a line per batch, and not one per write(2). The
kernel keeps as many events as fs.fanotify.max_queued_events says, and reports it if it loses some.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import zip_longest

from vhost9p.changes import records
from vhost9p.changes.lines import OVERFLOW, Lines
from vhost9p.changes.records import Entry, Event
from vhost9p.changes.report import report
from vhost9p.changes.ring import Ring
from vhost9p.watcher.file_systems import FileSystems
from vhost9p.watcher.places import Gone, Places
from vhost9p.watcher.roots import Roots

A_WORKER_SERVES = b"a worker serves"
"""What main says."""
REST_S = 0.01
"""Seconds between two batches."""
BATCH = 256 * 1024
"""Bytes of events that are taken at a time."""
HANG_S = 30.0
"""Seconds for a batch. A process that takes longer hangs in a file system, and is ended by SIGALRM
(setitimer(2)); the next one finds out which it is (apart.py)."""
LOOKS = 9
"""So many times as long as a look at the mounts takes, nobody looks at them."""
FOLDERS_MAX = 64
"""Directories that are open at a time."""
_MOVES = records.MOVED_FROM | records.MOVED_TO | records.RENAME


class Watch:
    """Watches `file_systems`; `rings` are those of the VM's devices. `children` is the keeper's
    open list of its children (proc_pid_children(5)), `roots` what the worker has open."""

    def __init__(
        self,
        file_systems: FileSystems,
        rings: Sequence[Ring | None],
        children: int,
        roots: Roots,
    ) -> None:
        self._file_systems = file_systems
        self._roots = roots
        self._places = file_systems.places
        self._rings = [ring for ring in rings if ring]
        of_places = [rings[each.device] for each in self._places.all]
        self._ring_of = [ring for ring in of_places if ring]
        """By place."""
        self._children = children
        self._own = self._workers()

    def until(self, main: socket.socket, keeper: int, rest: float) -> bool:
        """Watches until main closes its end, or the pidfd of the keeper is ready, which returns
        False; or, after `rest` seconds at the earliest, other file systems are to be watched.
        Raises OSError."""
        poller = select.poll()
        for fd in (self._file_systems.group, main.fileno(), keeper):
            poller.register(fd, select.POLLIN)
        poller.register(self._file_systems.mounts_change, select.POLLPRI)
        mounts = MountChanges(self._file_systems, time.monotonic() + rest)
        self._overflow()  # what was before, nobody has seen
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0)
            ready = {fd for fd, _ in poller.poll(mounts.timeout)}
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            hears = main.fileno() in ready
            if keeper in ready or (hears and main.recv(len(A_WORKER_SERVES)) != A_WORKER_SERVES):
                return False
            mounts.are_others |= hears and self._roots.have_changed
            if mounts.call_for_another(changed=self._file_systems.mounts_change in ready):
                return True
            if hears or self._file_systems.group in ready:
                mounts.are_others |= self._read()
                time.sleep(REST_S)

    def _overflow(self) -> None:
        for ring in self._rings:
            ring.append(OVERFLOW)

    def _read(self) -> bool:
        """Takes a batch of events. Returns whether a mount is gone, which may become known here
        first. Raises OSError."""
        alive = self._workers()
        try:
            data = os.read(self._file_systems.group, BATCH)
        except BlockingIOError:
            data = b""
        self._own |= alive
        events = [*records.parse(data, self._wants)]
        if any(_moves_directories(event.mask) for event in events):
            self._places.forget()  # what is found from now on is where it was moved to
        with closing(Batch(self._places)) as batch:
            for event in events:
                self._take(event, batch)
        for ring, lines in batch.lines.items():
            ring.append(lines.text)
        if len(data) < BATCH // 2:  # there were no more
            self._own = alive
        return batch.lacks_mount

    def _workers(self) -> set[int]:
        """Returns the pids of the VM's processes that serve. Raises OSError."""
        return {int(each) for each in os.pread(self._children, 4096, 0).split()}

    def _wants(self, mask: int, pid: int) -> bool:
        return pid not in self._own or _moves_directories(mask)

    def _take(self, event: Event, batch: "Batch") -> None:
        if event.mask & records.Q_OVERFLOW:
            batch.overflow(self._rings)
        elif event.entry and event.pid not in self._own:
            try:
                self._report(event, event.entry, batch)
            except Gone:
                batch.lacks_mount = True
                batch.overflow(self._rings)
            except OSError:  # nobody knows where it was
                batch.overflow(self._rings)

    def _report(self, event: Event, entry: Entry, batch: "Batch") -> None:
        """Raises OSError, Gone."""
        where = self._places.find(entry.directory)
        to = self._places.find(event.to.directory) if event.to else {}
        for i in sorted(where.keys() | to.keys()):
            view, ring = self._places.all[i].view, self._ring_of[i]
            for old, new in zip_longest(where.get(i, ()), to.get(i, ())):
                for line in report(view, event, old, new, batch.look):
                    batch.add(ring, line)


def _moves_directories(mask: int) -> bool:
    """Whether paths of directories may have changed."""
    return bool((mask & records.ONDIR and mask & _MOVES) or mask & records.Q_OVERFLOW)


class MountChanges:
    """Whether mounts that have come or gone call for another watcher, `not_before` some time. The
    table of mounts may be long, and change without a pause: it is read for a small part of the
    time."""

    def __init__(self, file_systems: FileSystems, not_before: float) -> None:
        self.are_others = False
        """Whether others are to be watched."""
        self._file_systems = file_systems
        self._not_before = not_before
        self._next_look = 0.0
        self._looks_at: float | None = None
        """When the mounts are looked at; None: they have not changed."""

    @property
    def timeout(self) -> float | None:
        """Milliseconds until `call_for_another` is to be called, if nothing else happens."""
        at = self._not_before if self.are_others else self._looks_at
        return None if at is None else max(0.0, at - time.monotonic()) * 1000 + 1

    def call_for_another(self, *, changed: bool) -> bool:
        """Looks, if it is time. `changed`: poll(2) has reported a change. Raises OSError."""
        now = time.monotonic()
        if changed and self._looks_at is None:
            self._looks_at = self._next_look
        if self._looks_at is not None and self._looks_at <= now and not self.are_others:
            self._looks_at = None
            self.are_others = self._file_systems.have_changed
            self._file_systems.places.forget_mounts()
            self._next_look = time.monotonic() + LOOKS * (time.monotonic() - now)
        return self.are_others and now >= self._not_before


class Batch:
    """What one batch of events becomes."""

    def __init__(self, places: Places) -> None:
        self.lines: dict[Ring, Lines] = {}
        self.lacks_mount = False
        """Whether one is gone of which there are events."""
        self._places = places
        self._folders: dict[bytes, int] = {}

    def add(self, ring: Ring, line: bytes) -> None:
        """Adds a line, unless it says nothing new."""
        self.lines.setdefault(ring, Lines()).add(line)

    def overflow(self, rings: Sequence[Ring]) -> None:
        """Lines are lost for all of them."""
        for ring in rings:
            self.add(ring, OVERFLOW)

    def look(self, entry: Entry) -> os.stat_result | None:
        """Returns what an entry is now, without following it; None if it is gone. Raises Gone."""
        with suppress(OSError):
            folder = self._folders.get(entry.directory)
            if folder is None:
                if len(self._folders) >= FOLDERS_MAX:
                    self.close()
                folder = self._folders[entry.directory] = self._places.open(entry.directory)
            return os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
        return None

    def close(self) -> None:
        """Closes the directories that were looked into."""
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()
