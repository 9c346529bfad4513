"""Reading the events of marked directories: a thread of the worker, for each device that has marks.

The guest itself does what this process does; the kernel says of no other process which it is. After
each batch of events the reader rests, in which the kernel puts events of the same file together.

Before the guest hears of a batch, the reader looks whether the directories that it names are there.
Where one is not, although all events have been read, somebody has moved it unseen, and maybe out of
the export: the guest hears of an overflow instead.

A directory that is lost (places.py) may be one that the guest has: the reader looks for it soon.
If events were lost, if a rename is unclear, or if there may be no more marks, the reader *begins
anew*: all marks go, the directories that the guest has by now are marked, and the guest hears of an
overflow, since nobody has watched in between. A worker that follows another one begins in the same
way.
"""

import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import zip_longest

from vhost9p import host, threads
from vhost9p.changes import records
from vhost9p.changes.lines import OVERFLOW, Lines
from vhost9p.changes.records import Entry, Event
from vhost9p.changes.report import View, report
from vhost9p.changes.ring import Ring
from vhost9p.config import Config
from vhost9p.device_log import DeviceLog, log_fault
from vhost9p.log_record import about
from vhost9p.marked.places import Places, Unclear
from vhost9p.native import descriptors
from vhost9p.native.dir_marks import DirMarks, Note, allow_marking, id_of
from vhost9p.native.export import Export
from vhost9p.native.fanotify import can_mark_file_system, may_mark_file_systems

log = logging.getLogger(__name__)

REST_S = 0.02
"""Seconds between two batches."""
ANEW_REST_S = 1.0
"""Seconds after it has begun anew, or looked for lost directories, until it does once more at the
earliest."""
FULL_REST_S = 600.0
"""The same if the guest has more directories than there may be marks."""
MARKS_MAX = 32768
"""Of a device."""
READS = 32
"""Of events, for one batch."""
_USER_SHARE = 4
"""The devices of a VM together get this part of what the user may have."""
_MOVES = records.MOVED_FROM | records.MOVED_TO


def make_marks(tag: str, devices: int) -> DirMarks | None:
    """Returns marks for one of so many devices of the VM; None if there can be none now, which the
    log says. Called before the process is confined."""
    most = min(MARKS_MAX, host.max_user_marks() // _USER_SHARE // devices)
    try:
        marks = DirMarks(max(most, 1))
    except OSError as error:
        log.warning(
            "%s: changes by the host are not reported to the guest: %s",
            *(tag, error.strerror),
            extra=about(device=tag),
        )
        return None
    allow_marking()
    return marks


def needs_marks(config: Config) -> bool:
    """Whether what changes in the exports whose changes are reported cannot be watched otherwise:
    this process may not mark file systems, or one of them cannot be marked. Paths in `config` are
    as this process sees them."""
    return not all(
        can_mark_file_system(export.place or export.path)
        for device in config.devices
        if device.notify
        for export in device.exports
    )


def why_not_notify() -> str | None:
    """Returns why this process can learn of no changes at all; None if it can."""
    if may_mark_file_systems():
        return None
    try:
        DirMarks(1).close()
    except OSError as error:
        if error.errno == errno.EMFILE:
            return (
                "this user has too many groups of fanotify(7); end something, or raise "
                "fs.fanotify.max_user_groups"
            )
        return (
            f"the kernel reports no changes to this user (fanotify_init: {error.strerror}); leave "
            "notify out, or use Linux 5.13 or newer"
        )
    return None


class Reader:
    """Reads what `marks` report, and appends lines to `ring`. `exports` and `views` are the
    device's, by index; `mark_all` marks what the guest has (Device.mark_dirs of native/device.py).
    """

    def __init__(
        self,
        marks: DirMarks,
        ring: Ring,
        exports: Mapping[int, Export],
        views: Mapping[int, View],
        mark_all: Callable[[], None],
        device_log: DeviceLog,
    ) -> None:
        self._marks = marks
        self._ring = ring
        self._exports = exports
        self._views = views
        self._mark_all = mark_all
        self._log = device_log
        self._places = Places(marks.drop)
        self._is_due = True
        """Whether it has to begin anew."""
        self._has_lost = False
        """Whether it has to look for lost directories (places.py)."""
        self._next = 0.0
        """When it may do either."""
        self._named: set[bytes] = set()
        """The directories that the lines of the batch name."""
        self._said: set[int] = set()
        """Of which errors the log has a line."""
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """The device serves from now on. Raises OSError."""
        thread = threading.Thread(target=self._run, name="marks", daemon=True)
        threads.start(thread)
        self._thread = thread

    def stop(self) -> None:
        """Ends the thread, if it was started."""
        if self._thread:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        try:
            self._read_all()
        except Exception as error:
            log_fault(log, "changes by the host are reported no more: a bug, report it", error)
            self._ring.append(OVERFLOW)

    def _read_all(self) -> None:
        poll = select.poll()
        for fd in (self._stop, self._marks.bell, self._marks.group):
            poll.register(fd, select.POLLIN)
        while True:
            rest = max(0.0, self._next - time.monotonic())
            is_due = self._is_due or self._has_lost
            ready = {fd for fd, _ in poll.poll(rest * 1000 + 1 if is_due else None)}
            if self._stop in ready:
                return
            if self._marks.bell in ready:
                self._hear()
            if is_due and time.monotonic() >= self._next:
                self._renew()
            elif self._marks.group in ready:
                self._read()
                time.sleep(REST_S)

    def _renew(self) -> None:
        if self._is_due:
            self._begin_anew()
        else:
            self._find_lost()

    def _find_lost(self) -> None:
        """The guest may have looked at a directory where it is now before the reader knew that it
        has been moved, and will not do so again."""
        lost = self._places.lost
        self._has_lost = False
        self._mark_all()
        self._take_notes()
        self._next = time.monotonic() + ANEW_REST_S
        if self._places.lost < lost:
            self._ring.append(OVERFLOW)

    def _begin_anew(self) -> None:
        self._marks.clear()
        self._places.clear()
        self._is_due = self._has_lost = False
        self._mark_all()
        self._take_notes()
        self._next = time.monotonic() + ANEW_REST_S
        if self._marks.is_full:
            self._is_due = True
            self._next += FULL_REST_S
            self._warn(0, "the guest uses more directories than may be watched")
        self._ring.append(OVERFLOW)

    def _hear(self) -> None:
        """Some directory could not be marked."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._marks.bell)
        self._take_notes()
        self._is_due |= self._marks.is_full

    def _take_notes(self) -> None:
        for note in self._marks.notes():
            if note.error:
                self._refused(note)
            elif note.id:
                self._try(partial(self._places.note, note))

    def _refused(self, note: Note) -> None:
        view = self._views.get(note.export, View())
        path = os.fsdecode(view.base + note.path or b".")
        self._warn(note.error, f"{path}: {os.strerror(note.error)}")
        self._places.has_no_events(note.number)

    def _warn(self, error: int, why: str) -> None:
        if error not in self._said:
            self._said.add(error)
            self._log.warning("changes by the host are not reported to the guest: %s", why)

    def _try(self, change: Callable[[], None]) -> None:
        try:
            change()
        except Unclear:
            self._is_due = True

    # ---- events -----------------------------------------------------------------------------

    def _read(self) -> None:
        """Takes a batch of events."""
        lines, lost = Lines(), self._places.lost
        self._named.clear()
        try:
            self._take_all(self._marks.read(), lines)
            lines = self._settled(lines)
        except (OSError, ValueError):
            lines, self._is_due = Lines(), True
        self._has_lost |= self._places.lost > lost
        self._ring.append(lines.text)

    def _settled(self, lines: Lines) -> Lines:
        """Returns the lines of the batch, with those of all events until now if need be; an
        overflow if they name a directory that is elsewhere. Raises OSError, ValueError."""
        if all(map(self._is_right, self._named)):
            return lines
        self._catch_up(lines)
        astray = [each for each in self._named if not self._is_right(each)]
        for each in astray:
            self._places.leave(each, partial(self._is_there, each))
        if astray:
            lines = Lines()
            lines.add(OVERFLOW)
        return lines

    def _take_all(self, data: bytes, lines: Lines) -> None:
        """Raises ValueError."""
        for event in records.parse(data):
            self._take(event, lines)

    def _catch_up(self, lines: Lines) -> None:
        """Takes all events until now. Raises OSError, ValueError."""
        group = select.poll()
        group.register(self._marks.group, select.POLLIN)
        for _ in range(READS):
            if not group.poll(0):
                break
            self._take_all(self._marks.read(), lines)

    def _is_right(self, ident: bytes) -> bool:
        """Whether a directory is in all places where the guest sees it."""
        return all(self._is_there(ident, *place) for place in self._places.find(ident))

    def _is_there(self, ident: bytes, export: int, path: bytes) -> bool:
        view = self._views.get(export)
        if not path or not view or not view.shows(path):
            return True  # a root does not move; of what is hidden nothing is told
        try:
            folder = self._exports[export].descend(path.rstrip(b"/"))
        except OSError as error:  # maybe the daemon must not look there any more
            return error.errno == errno.EACCES and self._places.is_followed(ident)
        try:
            return id_of(folder) == ident
        finally:
            descriptors.close(folder)

    def _take(self, event: Event, lines: Lines) -> None:
        if event.mask & records.Q_OVERFLOW:
            self._is_due = True
            return
        is_dir = bool(event.mask & records.ONDIR)
        self._learn(event, is_dir=is_dir)
        if event.pid != os.getpid():
            for line in self._lines(event):
                lines.add(line)
        if is_dir:
            self._try(partial(self._follow, event))

    def _learn(self, event: Event, *, is_dir: bool) -> None:
        """Takes notes if they may have what the event needs."""
        needed = [entry.directory for entry in (event.entry, event.to) if entry]
        if is_dir and event.what:
            needed.append(event.what)
        if not all(each in self._places for each in needed):
            self._take_notes()

    def _lines(self, event: Event) -> Iterator[bytes]:
        """Yields what the guest sees of an event, for each place where it sees it."""
        where, to = self._where(event.entry), self._where(event.to)
        for export in sorted(where.keys() | to.keys()):
            view = self._views.get(export)
            for old, new in zip_longest(where.get(export, ()), to.get(export, ())):
                if view:
                    yield from report(view, event, old, new, self._looker(export))

    def _where(self, entry: Entry | None) -> dict[int, list[bytes]]:
        """The paths of an entry's directory, by export."""
        found: dict[int, list[bytes]] = {}
        if entry:
            self._named.add(entry.directory)
        for export, path in self._places.find(entry.directory) if entry else ():
            found.setdefault(export, []).append(path)
        return found

    def _looker(self, export: int) -> Callable[[Entry], os.stat_result | None]:
        def look(entry: Entry) -> os.stat_result | None:
            for path in self._where(entry).get(export, ()):
                with suppress(OSError):
                    return self._stat(self._exports[export], path, entry.name)
            return None

        return look

    @staticmethod
    def _stat(export: Export, path: bytes, name: bytes) -> os.stat_result:
        folder = export.descend(path.rstrip(b"/") or b".")
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        finally:
            descriptors.close(folder)

    def _follow(self, event: Event) -> None:
        """Follows a change of the tree of directories. Raises Unclear."""
        if event.mask & records.RENAME:
            self._places.renamed(event.what, event.entry, event.to)
        elif event.mask & _MOVES:
            raise Unclear  # before Linux 5.17: which one was moved is not said
        if event.mask & records.DELETE:
            self._places.removed(event.what, event.entry)
