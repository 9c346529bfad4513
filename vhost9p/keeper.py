"""The keeper of a VM: starts its worker, waits for it, and starts the next one when it dies.

The worker does everything that meets a guest. The keeper reads nothing that a guest or a frontend
wrote, runs one thread, and holds what a worker must not take along when it dies. It is forked from
main, which has loaded all modules: each worker is a clone of the keeper, and begins in
milliseconds.

Descriptors. A worker shares the keeper's table of descriptors (CLONE_FILES of clone(2)): what a
worker opens stays open after it was killed, with its number, position and locks. The keeper opens
none meanwhile, save the worker's pidfd. The next worker goes on with what the one before had, and
closes what nobody owns (shared_state.py): neither frontend nor guest notices.

Ends. A worker that exits with 0, or before the VM was ever served with 1 or 2, has ended of its own
accord, and so does the keeper, with the same code. Any other end is a death: a signal, an error
that nobody expected, or a successor that lacks something for now, such as memory or an export.
The next worker starts at once if the last one has answered requests and was only killed, else after
a pause that grows (back_off.py): a guest that can make workers fault must not fill the host's time
and log by that. It stays short where somebody has killed them, since a guest may wait. The next
worker never starts before the kernel has finished with the last one: one that hangs in a system
call in an uninterruptible sleep is waited for. A frontend that speaks ends the pause: QEMU waits
for the answer in its main loop, and the VM's monitor with it. The next worker is told why the last
one ended (ends.py). There is no next one if the VM has never been served, since the host lacks
something (progress.py). A worker is killed when its keeper ends, the keeper when main ends
(PR_SET_PDEATHSIG).

A worker that an attacker controls can close or replace the keeper's descriptors. It gains nothing:
the keeper notices a closed one and kills the worker, and the rest delays the end of the VM's own
processes until main kills them.
"""

import logging
import os
import select
import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from vhost9p.back_off import FIRST_S, BackOff
from vhost9p.ends import EXIT_FAULT, OOM_KILLS, Cause, cause_of, count_oom_kills, how_it_ended
from vhost9p.native.process import Signals, clone, close_others, end_with, set_name
from vhost9p.progress import Progress
from vhost9p.stop_signals import STOP

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
ORDERLY = (0, 1, 2)
"""Exit codes that the command line documents."""
SAFER = 100
"""By so much of oom_score_adj the kernel prefers to kill the worker, and spares the keeper."""


@dataclass(frozen=True)
class Task:
    """What the workers of a VM are for."""

    work: Callable[[Collection[int], Cause], int]
    """What a worker does; its exit code. It is given the keeper's descriptors, and closes the
    others that nobody owns; and why the worker before it ended."""
    answered: Callable[[], int] = lambda: 0
    """How many requests of guests all workers have answered."""
    frontends: Callable[[], Collection[int]] = lambda: ()
    """The descriptors that become readable when a frontend speaks."""
    is_awaited: Callable[[], bool] = lambda: False
    """Whether a frontend waits for the answer to what it has said already."""
    left: Collection[int] = ()
    """Descriptors that the keeper has from the one before (takeover.py), for the first worker."""


class Refused(Exception):
    """The VM cannot be served, for a reason that was said; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Keeper:
    """Keeps a worker of the VM `name` alive, which does `task`. `kept` are the VM's descriptors."""

    def __init__(
        self,
        name: str,
        kept: Collection[int],
        task: Task,
        progress: Progress,
        *,
        oom_score: int = -1,
        oom_kills: int = -1,
        back_off: BackOff | None = None,
    ) -> None:
        """The signals to stop are blocked. `oom_score` is this process's open oom_score_adj and
        `oom_kills` the open OOM_KILLS, both of `kept`. Raises OSError."""
        self._name = name
        self._task = task
        self._progress = progress
        self._tampered = False
        self._back_off = back_off or BackOff()
        self._signals = Signals(STOP)
        self._kept = {*kept, self._signals.fileno()}
        self._oom_score = oom_score
        self._oom_kills = oom_kills
        self._stopping = False

    def run(self) -> int:
        """Returns when the VM ends, with its exit code. Raises OSError."""
        close_others({*self._kept, *self._task.left})
        cause = Cause.OTHER
        while True:
            self._back_off.started()
            oom_kills = count_oom_kills(self._oom_kills)
            answered = self._task.answered()
            ends = ORDERLY if not self._progress.has_served else ORDERLY[:1]
            _shift_oom_score(self._oom_score, SAFER)
            kept = (*self._kept, _next_descriptor())
            pid, pidfd = clone()
            if pid == 0:
                become_worker(self._name, self._task, kept, cause)
            assert pidfd in kept, "nobody else opens a descriptor meanwhile"
            _shift_oom_score(self._oom_score, -SAFER)
            end = self._wait(pid, pidfd)
            if end.si_code == os.CLD_EXITED and end.si_status in ends:
                self._explain(end.si_status)
                return end.si_status
            if self._stopping:
                return 0
            cause = cause_of(end, oom_kills=count_oom_kills(self._oom_kills) - oom_kills)
            killed = cause is Cause.OTHER and end.si_code != os.CLD_EXITED
            served = killed and self._task.answered() != answered
            pause = self._back_off.died(served=served, at_most=FIRST_S if killed else None)
            why_last = self._why_last()
            self._progress.died(how_it_ended(end, cause))
            log.error("%s", self._describe(how_it_ended(end, cause), pause, why_last))
            if why_last:
                return EXIT_FAILURE
            os.close(pidfd)
            if pause and self._is_stopped_within(pause):
                return 0

    def _wait(self, pid: int, pidfd: int) -> os.waitid_result:
        """Waits until the worker has ended, and passes on the signals to stop."""
        try:
            while pidfd not in self._ready(pidfd):
                for number in self._signals.read():
                    self._stopping = True
                    os.kill(pid, number)
        except _Tampered:
            log.error("the worker closed a descriptor of its keeper: both end")
            os.kill(pid, signal.SIGKILL)
            self._tampered = True
        end = os.waitid(os.P_PID, pid, os.WEXITED)
        assert end is not None, "it waits"
        return end

    def _ready(self, *fds: int, timeout: float | None = None) -> set[int]:
        """Returns which of these descriptors, and of the signals', are ready within so many
        seconds."""
        poller = select.poll()
        for fd in (*fds, self._signals.fileno()):
            poller.register(fd, select.POLLIN)
        found = poller.poll(timeout if timeout is None else timeout * 1000)
        if any(events & select.POLLNVAL for _, events in found):
            raise _Tampered
        return {fd for fd, _ in found}

    def _is_stopped_within(self, pause: float) -> bool:
        """Waits so many seconds before the next worker, less if a frontend speaks. Returns whether
        a signal to stop has come. A frontend's descriptor may be any number: a worker said it."""
        if self._ready(timeout=min(pause, FIRST_S)):
            return True
        if self._task.is_awaited():
            return False
        poller = select.poll()
        for fd in (self._signals.fileno(), *(fd for fd in self._task.frontends() if fd >= 0)):
            poller.register(fd, select.POLLIN)
        poller.poll((pause - FIRST_S) * 1000)
        return bool(self._ready(timeout=0))

    def _why_last(self) -> str:
        """Returns why no worker follows the one that has died; empty if one does."""
        if not self._progress.has_served:
            return "it has not served yet, so the VM ends"
        if self._tampered:
            return "mounts of a connected VM hang from now on"
        return ""

    def _explain(self, status: int) -> None:
        """A worker has ended in order. Logs it if neither main nor the last connection is why."""
        if status == 0 and not self._stopping and not self._progress.all_finished:
            log.warning("the worker was told to end, but not by the daemon: its VM ends")

    def _describe(self, how: str, pause: float, why_last: str) -> str:
        """Returns the line that reports a death."""
        text = f"the worker {how}, death {self._back_off.deaths}: "
        if why_last:
            return text + why_last
        when = f"in {pause:.1f} s" if pause else "at once"
        return f"{text}the next one goes on {when}"


class _Tampered(Exception):
    """A descriptor of the keeper is closed."""


def _next_descriptor() -> int:
    """Returns the number that the next descriptor of this process will have."""
    number = os.dup(0)
    os.close(number)
    return number


def become_worker(name: str, task: Task, kept: Collection[int], cause: Cause) -> NoReturn:
    """Runs a worker in this process, which a keeper has just cloned, and ends it. `cause` is why
    the one before ended."""
    code = EXIT_FAULT
    try:
        set_name("vhost9p-worker", f"vhost9p: worker of {name}")
        end_with(_keeper)
        code = task.work(kept, cause)
    except ProcessLookupError:
        pass  # the keeper has ended
    except BaseException:
        log.critical("the worker ends by an error of its own", exc_info=True)
    finally:
        os._exit(code)  # without waiting for threads, which may hang


_keeper = -1
"""The keeper's pid, which its clones have, too."""


def become_keeper(
    name: str,
    log_fd: int,
    kept: Sequence[int],
    prepare: Callable[[], Task],
    progress: Progress,
    needed: Collection[int] = (),
    own: tuple[int, int, int] | None = None,
) -> NoReturn:
    """Runs a keeper in this process, which main has just forked, and ends it. What it and its
    workers write goes to `log_fd`, a pipe that main reads. `prepare` confines the process, may
    raise Refused, and returns what workers are for; the descriptors in `needed` stay open for
    it. `own` is what `open_own` returns, where this process cannot call it any more."""
    global _keeper  # noqa: PLW0603
    code = EXIT_FAULT
    try:
        _keeper = os.getpid()
        names = "vhost9p-keeper", f"vhost9p: keeper of {name}"
        set_name(*names)
        for number in STOP:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # main's timer
        null, oom_score, oom_kills = own or open_own("self")
        _shift_oom_score(oom_score, -SAFER)
        os.dup2(null, 0)
        for stream in (1, 2):
            os.dup2(log_fd, stream)
        kept = (0, 1, 2, oom_score, oom_kills, *kept)
        close_others((*kept, *needed))
        task = prepare()
        set_name(
            *names
        )  # the command line was not to be had where /proc has not shown this process
        end_with(os.getppid())  # 0 for the init of a pid namespace, so it says nothing of main
        if _is_read(2):  # else main has ended
            keeper = Keeper(name, kept, task, progress, oom_score=oom_score, oom_kills=oom_kills)
            code = keeper.run()
    except Refused as refused:
        code = refused.code
    except BaseException:
        log.critical("the keeper ends by an error of its own", exc_info=True)
    finally:
        os._exit(code)


def open_own(process: int | str) -> tuple[int, int, int]:
    """Opens /dev/null, the oom_score_adj of a process, and OOM_KILLS; what cannot be opened is
    /dev/null, too, and says nothing. Raises OSError."""
    oom_score = f"/proc/{process}/oom_score_adj", os.O_RDWR
    return _open(os.devnull, os.O_RDWR), _open(*oom_score), _open(OOM_KILLS, os.O_RDONLY)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        if path == os.devnull:
            raise
        return _open(os.devnull, flags)


def _is_read(pipe: int) -> bool:
    """Whether somebody has the other end of a pipe."""
    poller = select.poll()
    poller.register(pipe, 0)
    return not poller.poll(0)


def _shift_oom_score(fd: int, by: int) -> None:
    """Changes how willingly the kernel kills this process, which a child inherits. Only a
    privileged one may make it less willing than at its start (proc_pid_oom_score_adj(5))."""
    with suppress(OSError, ValueError):
        score = int(os.pread(fd, 16, 0))
        os.pwrite(fd, str(max(-1000, min(score + by, 1000))).encode(), 0)
