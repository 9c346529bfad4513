"""Requests that wait for a lock that another process holds.

The host grants a lock to a thread that waits in a system call, so a wait occupies a thread, as long
as there are threads. All devices of the process share THREADS evenly, so that one guest's waits
cannot starve another. Further waits go to the device's queue. Each device with a queue has one more
thread, the patrol, which tries the queued locks without waiting: at once when a guest of this
process has released a lock on the file (`Releases`), otherwise at intervals, for locks held by
processes of the host. A thread that has got its lock takes the next wait from the queue.

A wait ends early when the guest flushes it (EINTR), and before the ring stops (BLOCKED: the client
asks again). The patrol then signals the thread until its system call has ended, since a signal that
arrives before the call is lost. Only a stop of the ring waits for that, and briefly, since a file
system may block all signals during a call.

So many requests of a device wait at most as its waiting room has room for.
"""

import errno
import logging
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterable

from vhost9p import threads
from vhost9p.device_log import log_fault
from vhost9p.fs.lock_file import FileId, LockFile
from vhost9p.fs.locks import Cancel, LockTable
from vhost9p.log_record import concerning, concerns
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message
from vhost9p.p9.context import Request
from vhost9p.p9.waiting import WaitingRoom

log = logging.getLogger(__name__)

THREADS = 64
"""Threads that wait for locks, in the whole process; one per device if there are more devices."""
POLL = 0.05
"""Minimum seconds between the patrol's rounds through its queue."""
POLL_SHARE = 20
"""Rounds take at most 1/POLL_SHARE of the patrol's time."""
SIGNAL_INTERVALS = (0.001, 1.0)
"""Seconds between signals to a thread whose wait was cancelled: the first interval, which doubles
each time, and the longest."""
PATIENCE = 1.0
"""Seconds that a stop waits for cancelled waits to end."""

FILES_MAX = 4096
"""Files whose releases a patrol gets one by one, while it is busy; beyond that it tries all
its locks."""

Take = Callable[[Cancel | None], None]
"""Takes a lock; see LockTable.take."""


class Bell:
    """Wakes a patrol, and collects the files whose locks were released. Thread-safe. A patrol may
    hang in a file system while other devices release locks: so no more than FILES_MAX."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._files: set[FileId] = set()
        self._too_many = False

    def ring(self, file: FileId | None = None) -> None:
        """Wakes the patrol."""
        with self._lock:
            if file and len(self._files) < FILES_MAX:
                self._files.add(file)
            elif file not in self._files:
                self._too_many |= file is not None
            self._event.set()

    def wait(self, seconds: float) -> set[FileId] | None:
        """Returns the files since the last call, none after a timeout; None: any file."""
        self._event.wait(max(seconds, 0))
        with self._lock:
            self._event.clear()
            files, self._files = self._files, set()
            too_many, self._too_many = self._too_many, False
            return None if too_many else files


class Releases:
    """Shared by the waits of all devices of a process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._devices = 0
        self._bells: frozenset[Bell] = frozenset()

    def count(self, devices: int) -> None:
        """Adds devices to the count, or removes them (negative)."""
        with self._lock:
            self._devices += devices

    def threads(self) -> int:
        """The number of threads of one device that may wait."""
        return max(THREADS // max(self._devices, 1), 1)

    def listen(self, bell: Bell) -> None:
        """Rings the bell from now on when a lock is released."""
        with self._lock:
            self._bells |= {bell}

    def ignore(self, bell: Bell) -> None:
        """Stops ringing the bell."""
        with self._lock:
            self._bells -= {bell}

    def released(self, file: FileId) -> None:
        """Reports that a range of this file may be free now."""
        for bell in self._bells:
            bell.ring(file)


RELEASES = Releases()
"""This process's."""


class _Wait:
    """A request that waits.

    `_guard` keeps the thread alive between the check that it still waits and the signal:
    pthread_kill(3) on an ended thread is undefined.
    """

    def __init__(self, request: Request, file: LockFile, what: Hashable, take: Take) -> None:
        self.request = request
        self.file = file
        self.take = take
        self.cancel = Cancel()
        self.flushed = False
        self.tried = False
        """The patrol handles this wait: no thread may take it."""
        self.ended = threading.Event()
        self._what = (file.file_id, what)
        self._guard = threading.Lock()
        self._thread = 0

    @property
    def what(self) -> Hashable:
        """Equal for waits for the same lock; None if unknown."""
        return None if self.file.holds_something else self._what

    def runs_here(self) -> None:
        """Records the calling thread as the one that waits."""
        with self._guard:
            self._thread = threading.get_ident()

    def end(self) -> None:
        """Records that the request was answered."""
        with self._guard:
            self.ended.set()

    def signal(self, number: int) -> None:
        """Interrupts the system call of its thread, if it is in one."""
        with self._guard:
            if self._thread and not self.ended.is_set():
                signal.pthread_kill(self._thread, number)


class LockWaits:
    """The waits of one device (see the module), in its waiting room. `wake_signal` interrupts a
    waiting system call."""

    def __init__(self, table: LockTable, wake_signal: int, room: WaitingRoom) -> None:
        self._table = table
        self._room = room
        self._wake_signal = wake_signal
        self._concerns = concerns()
        self._lock = threading.Lock()
        self._waits: dict[tuple[int, int], _Wait] = {}
        self._queue: dict[tuple[int, int], _Wait] = {}
        """The waits without a thread, oldest first."""
        self._threads = 0
        self._patrolled = False
        self._bell = Bell()
        self._draining = False
        RELEASES.count(1)

    def close(self) -> None:
        """Ends the patrol, when the device goes. Nothing may wait any more."""
        RELEASES.count(-1)

    def start(self, request: Request, file: LockFile, what: Hashable, take: Take) -> bool:
        """Lets a request wait, then answers it. Returns False if too many wait. `what` is equal for
        requests for the same lock on a file."""
        wait = _Wait(request, file, what, take)
        with self._lock:
            if self._draining or not self._room.enter():
                return False
            if self._threads < RELEASES.threads() and self._spawn("lock-wait", self._block, wait):
                self._threads += 1
            elif self._patrol_runs():
                self._queue[request.key] = wait
                self._bell.ring(file.file_id)  # for a lock released before the queue had this wait
            else:
                self._room.leave()
                return False
            self._waits[request.key] = wait
        return True

    def _spawn(self, name: str, work: Callable[..., None], *args: object) -> bool:
        thread = threading.Thread(target=work, args=args, name=name, daemon=True)
        try:
            threads.start(thread)
        except OSError:
            return False
        return True

    def _patrol_runs(self) -> bool:
        if not self._patrolled:
            self._patrolled = self._spawn("lock-patrol", self._patrol)
        if self._patrolled:
            RELEASES.listen(self._bell)
        return self._patrolled

    # ---- waiting ----------------------------------------------------------------------------

    def _block(self, wait: _Wait | None) -> None:
        """Thread: waits for one lock after another."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {self._wake_signal})
        while wait:
            wait.runs_here()
            self._settle(wait, wait.cancel)
            wait = self._next()

    def _next(self) -> _Wait | None:
        with self._lock:
            for key, wait in self._queue.items():
                if not wait.tried:
                    del self._queue[key]
                    return wait
            self._threads -= 1
            return None

    def _settle(self, wait: _Wait, cancel: Cancel | None) -> bool:
        """Takes a lock and answers the request. Returns False if it is held and there is no
        `cancel`."""
        reply: Message | None = None
        code = 0
        try:
            if wait.cancel.is_set():
                raise InterruptedError(errno.EINTR, "the wait was cancelled")
            wait.take(cancel)
            reply = m.Rlock(c.LOCK_SUCCESS)
        except BlockingIOError:
            return False
        except InterruptedError:
            if wait.flushed:
                code = errno.EINTR
            else:
                reply = m.Rlock(c.LOCK_BLOCKED)
        except OSError as error:
            code = error.errno or errno.EIO
        except Exception as error:
            with concerning(**self._concerns):
                log_fault(log, "unexpected error while waiting for a lock: a bug, report it", error)
            code = errno.EIO
        try:
            self._table.done(wait.file)
            with self._lock:
                del self._waits[wait.request.key]
                self._queue.pop(wait.request.key, None)
            self._room.leave()
            if reply:
                wait.request.reply(reply.encode(wait.request.tag))
            else:
                wait.request.fail(code)
        finally:
            wait.end()
        return True

    # ---- the patrol -------------------------------------------------------------------------

    def _patrol(self) -> None:
        """Thread: tries the waits in the queue, and sends signals."""
        due = pause = 0.0
        interval, longest = SIGNAL_INTERVALS
        while True:
            seconds = due - time.monotonic()
            freed = self._bell.wait(min(seconds, interval) if interval else seconds)
            with self._lock:
                queued = list(self._queue.values())
                cancelled = [w for w in self._waits.values() if w.cancel.is_set()]
                if not queued and not cancelled:
                    RELEASES.ignore(self._bell)
                    self._patrolled = False
                    return
            for wait in cancelled:
                wait.signal(self._wake_signal)
            interval = min(max(interval, SIGNAL_INTERVALS[0]) * 2, longest) if cancelled else 0.0
            began = time.monotonic()
            if began >= due or freed is None:
                self._round(queued)
                pause = max(POLL, POLL_SHARE * (time.monotonic() - began))
                due = time.monotonic() + pause
            else:
                self._round(w for w in queued if w.file.file_id in freed or w.cancel.is_set())

    def _round(self, waits: Iterable[_Wait]) -> None:
        held = set()
        for wait in waits:
            what = wait.what
            if what in held and not wait.cancel.is_set():
                continue
            with self._lock:
                if wait.request.key not in self._queue:
                    continue
                wait.tried = True
            if not self._settle(wait, None):
                wait.tried = False
                if what:
                    held.add(what)

    # ---- calling off ------------------------------------------------------------------------

    def flush(self, key: tuple[int, int]) -> None:
        """Cancels the wait of a request that the guest has flushed."""
        with self._lock:
            wait = self._waits.get(key)
            if wait:
                wait.flushed = True
                self._call_off([wait])

    def _call_off(self, waits: list[_Wait]) -> None:
        for wait in waits:
            wait.cancel.set()
            wait.signal(self._wake_signal)
        if waits and self._patrol_runs():
            self._bell.ring()

    def stop(self) -> None:
        """Cancels all waits, and waits up to PATIENCE for their replies. Nothing may wait until
        `resume`."""
        with self._lock:
            self._draining = True
            waits = list(self._waits.values())
            self._call_off(waits)
        deadline = time.monotonic() + PATIENCE
        for wait in waits:
            wait.ended.wait(max(deadline - time.monotonic(), 0))

    def resume(self) -> None:
        """Allows waits again, when the ring runs."""
        with self._lock:
            self._draining = False
