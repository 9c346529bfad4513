"""A VM as main sees it: its sockets, its saved state, and its keeper.

Main creates the keeper (keeper_start.py), and takes the next one's start upon itself when it dies.
That comes after the end of all processes of the VM, which is the end of their log (log_pipe.py): a
worker that hangs in a system call may outlive its keeper, and what it still does must not meet the
next one's work. The next keeper goes on with the state of the devices, and with main's copies of
what cannot be reopened (copies.py), or with all descriptors that another main process has left
(parcel.py); where there are none, with a new state.

After an upgrade, main is another version of the code, and knows the VM from what the version before
has written down (`written_down`). The keeper, which is still the old version's, is then replaced by
one that goes on with its VM (takeover.py), or stays what it is if that fails. If there is none,
since it has died, the next one has the copies of the version before.
"""

import errno
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

from vhost9p import confinement, memory_file, plain, takeover
from vhost9p.back_off import BackOff
from vhost9p.birth import AskedToEnd, Failed, Waits, give_birth
from vhost9p.changes.ring import Ring
from vhost9p.config import Config
from vhost9p.confinement import Entered
from vhost9p.copies import Copies, close
from vhost9p.ends import how_it_ended
from vhost9p.forking import without_stop_signals
from vhost9p.inventory import Inventory
from vhost9p.keeper import EXIT_FAILURE, ORDERLY
from vhost9p.keeper_start import KeeperStart
from vhost9p.log_pipe import LogPipe, Origin
from vhost9p.log_record import about
from vhost9p.parcel import Parcel
from vhost9p.progress import Progress
from vhost9p.saved_state import FIRST_ADDRESS, SavedState, Unreadable
from vhost9p.trace.memory import TraceMemory
from vhost9p.vhost_user.listener import Listener
from vhost9p.vm_facts import VmFacts

log = logging.getLogger(__name__)

LACKING = errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN
"""Errors that say that the host has not enough descriptors, memory or processes for now."""
TRIES_S = 30.0
"""Seconds in which to go on after a keeper's death is tried."""
HANG = "mounts of a connected VM hang from now on"
REOPENED = "files are reopened, and locks are lost"


class Vm:
    """A VM: its configuration, its sockets, and its keeper, which lives between `start` and
    `ended`. `speaks` as `name` before each line of the log, if there are other VMs."""

    def __init__(
        self,
        name: str,
        config: Config,
        listeners: list[Listener],
        *,
        speaks: bool,
        progress: Progress | None = None,
        inventory: Inventory | None = None,
        trace: TraceMemory | None = None,
        rings: Sequence[Ring | None] | None = None,
    ) -> None:
        """Takes ownership of the listeners, one for each device. Raises OSError."""
        self.name = name
        self.config = config
        self.config_before: Config | None = None
        """Of a VM that is being reloaded: with which another main process goes on, until it is
        served with `config`."""
        self.listeners = listeners
        self.code = 0
        self.pid = 0
        """Of the keeper; 0 if there is none."""
        self.pidfd = -1
        self.stopped_at: float | None = None
        """When it was told to end."""
        self.killed = False
        """Whether its time to end was up; it ends as soon as the kernel can."""
        self.next_start: float | None = None
        """When a keeper that has died is to be started again."""
        self.awaits_worker = False
        """Whether a worker has outlived its keeper, which is said once."""
        self.log: LogPipe | None = None
        """Of the keeper and its workers, until the last of them has ended."""
        self._speaks = speaks
        self._back_off = BackOff()
        self._progress = progress or Progress(len(listeners))
        self._has_served = False
        self._inventory = inventory or Inventory(len(listeners))
        self.copies = Copies(name, self._inventory)
        self.trace = trace or TraceMemory(len(listeners))
        self.rings = rings or [Ring() if each.notify else None for each in config.devices]
        """For each device what is reported to its guest, if anything is."""
        self.goes_on = False
        """Whether there is no keeper, and the next one goes on with the state of the one before."""
        self.parcel: Parcel | None = None
        """All descriptors of the keeper before, which the next one begins with; or of one that has
        stopped for good, for the next main process."""
        self._states: list[SavedState] = []
        """Of the devices, since the keeper's start."""
        self._report = -1
        """A file in memory, where the keeper says how far it is confined."""
        self.code_is_new = False
        """Whether another version of the code has served it, and this one has not yet."""
        self._has_own_keeper = False
        """Whether this process has created a keeper of it."""
        self._fails_since: float | None = None
        """When the first of several attempts to go on has failed; None: the last has not."""

    # ---- start ------------------------------------------------------------------------------

    def start(self, stop_fd: int) -> None:
        """Starts the keeper; there is no log of the last one. `stop_fd` becomes readable after a
        signal to stop. Raises OSError."""
        self._back_off.started()
        self.next_start = None
        self.awaits_worker = False
        if self.goes_on:
            goes_on = self._goes_on_with(stop_fd)
            self.goes_on = False
            if goes_on:
                return
        self._start_anew()

    def _start_anew(self) -> None:
        self._drop_parcel()
        self.copies.drop()
        self._close_states()
        self._create_states()
        log = self._create_log()
        try:
            self._fork(log)
        except OSError:
            log.close()
            raise
        log.close_write_end()
        self.log = log

    def _create_log(self, *left: Any) -> LogPipe:
        """A pipe for the log, or the one that another version has `left`. Raises OSError."""
        pipe = LogPipe(Origin(self.name, lambda: self.config, self._speaks), *left)
        if self.config.log_level != "debug":
            pipe.limit(len(self.listeners))
        return pipe

    def _create_states(self) -> None:
        """Raises OSError."""
        address = FIRST_ADDRESS
        self._report = memory_file.create("vhost9p-report")
        for device in self.config.devices:
            self._states.append(SavedState.create(device.max_fids, address))
            address = self._states[-1].header.next_address

    def _close_states(self) -> None:
        for each in self._states:
            each.close()
        self._states = []
        if self._report >= 0:
            os.close(self._report)
            self._report = -1

    def _fork(self, log: LogPipe) -> None:
        with without_stop_signals():
            self.pid = confinement.fork(self.config)
            if self.pid == 0:
                try:
                    self._beginning().begin(log.write_end)
                finally:  # it never comes back here
                    os._exit(EXIT_FAILURE)
            self._supervise()

    def _supervise(self) -> None:
        """Opens the pidfd of the keeper; else no keeper is left. Raises OSError."""
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:  # too many open files
            os.kill(self.pid, signal.SIGKILL)
            os.waitid(os.P_PID, self.pid, os.WEXITED)
            self.pid = 0
            raise

    # ---- start after a death ----------------------------------------------------------------

    def _goes_on_with(self, stop_fd: int) -> bool:
        """Starts a keeper that goes on with the state of the one before. Returns whether that was
        possible. Raises InterruptedError: a signal to stop has arrived; OSError: it may be
        possible later. Then nothing is lost."""
        if self.parcel:
            inherits = self._start_again(self.parcel, Waits(None))  # or the parcel would be lost
            self._drop_parcel()
            if inherits:
                self.copies.keep_numbers()
                return True
        return self.copies.has_sessions() and self._start_again(None, Waits(stop_fd))

    def _drop_parcel(self) -> None:
        if self.parcel:
            close(self.parcel.fds)
            self.parcel = None

    def _start_again(self, parcel: Parcel | None, waits: Waits) -> bool:
        """The keeper has what is in the parcel, or main's copies. Raises OSError, see above."""
        log_pipe = self._create_log()
        try:
            entered, start = self.read_entered(), self._beginning()
            if parcel:
                live = partial(start.inherit, log_pipe.write_end, entered, parcel)
            else:
                live = partial(start.live_again, log_pipe.write_end, entered, self.copies.loss())
            enter = partial(confinement.fork_in, self.copies.namespaces, entered)
            self.pid, self.pidfd = give_birth(waits, enter, live)
        except AskedToEnd as error:
            log_pipe.close()
            raise InterruptedError(errno.EINTR, str(error)) from error
        except (Failed, OSError, Unreadable) as error:
            log_pipe.close()
            if isinstance(error, OSError) and error.errno in LACKING:
                raise
            why = getattr(error, "strerror", None) or error
            if not parcel and not isinstance(error, Unreadable) and self._is_tried_again():
                raise OSError(errno.EAGAIN, str(why)) from error
            self._fails_since = None
            means = REOPENED if parcel and self.copies.has_sessions() else HANG
            log.error("%s cannot go on: %s: %s", self.name, why, means, extra=about(vm=self.name))
            return False
        log_pipe.close_write_end()
        self.log = log_pipe
        self._has_begun()
        return True

    def _is_tried_again(self) -> bool:
        """Whether to go on with main's copies, of which nothing is lost, is tried once more: what
        has ended a new keeper may be what has ended the one before, such as want of memory."""
        now = time.monotonic()
        self._fails_since = self._fails_since or now
        return now - self._fails_since < TRIES_S

    def _has_begun(self) -> None:
        """There is a keeper of this code."""
        self._fails_since = None
        self._has_own_keeper = True

    def _beginning(self) -> KeeperStart:
        """What a keeper begins with that is created now."""
        if self._has_own_keeper and self.serves_anew:
            self.code_is_new = False
        return KeeperStart(
            self.name, self.config, self.listeners, self._states, self._progress, self._inventory,
            self.trace, self.rings, self._report, self.marks_dirs, self.code_is_new,
        )  # fmt: skip

    # ---- end --------------------------------------------------------------------------------

    def stop(self, number: int) -> None:
        """Has the VM end: its sockets are removed, and its keeper gets the signal."""
        self.stopped_at = time.monotonic()
        for each in self.listeners:
            each.close()
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Ends the keeper, and with it the worker, whatever hangs."""
        self.killed = True
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def ended(self) -> bool:
        """Called when the keeper has ended. Returns whether the VM has ended, too, with the exit
        code `code`; else `next_start` says when it goes on."""
        end = os.waitid(os.P_PID, self.pid, os.WEXITED)
        os.close(self.pidfd)
        self.pidfd = -1
        self.pid = 0
        assert end is not None, "it waits"
        is_orderly = end.si_code == os.CLD_EXITED and end.si_status in ORDERLY
        if self.stopped_at is not None or is_orderly:
            self.code = end.si_status if self.stopped_at is None else 0
            return True
        if not self.has_served:
            log.error(
                "the keeper of %s %s before it served",
                *(self.name, how_it_ended(end)),
                extra=about(vm=self.name),
            )
            self.code = EXIT_FAILURE
            return True
        self._expect_keeper()
        self._progress.died(f"keeper {how_it_ended(end)}")
        log.error(
            "the keeper of %s %s: %s",
            *(self.name, how_it_ended(end), self.outlook),
            extra=about(vm=self.name),
        )
        can_connect = self.goes_on or all(each.is_listening for each in self.listeners)
        if not can_connect or self._progress.all_finished:
            self.code = EXIT_FAILURE
            return True
        self.wait_for_start()
        return False

    def wait_for_start(self) -> None:
        """The keeper has died, or could not be started: `next_start` says when to try again."""
        self.next_start = time.monotonic() + self._back_off.died()

    def end_log(self) -> None:
        """Writes what is left of the log, if it has not ended yet."""
        if self.log:
            self.log.close()
            self.log = None

    def close(self) -> None:
        """Removes the sockets, and writes what is left of the log."""
        self.end_log()
        self._close_states()
        self._drop_parcel()
        self.copies.drop()
        self._inventory.close()
        self.trace.close()
        for ring in filter(None, self.rings):
            ring.close()
        self._progress.close()
        for each in self.listeners:
            each.close()

    # ---- upgrade ----------------------------------------------------------------------------

    @property
    def is_about_to_end(self) -> bool:
        """Whether no other version of the code can take over now, since that would not know. One
        that was killed, and hangs, is left behind."""
        return self.stopped_at is not None and not self.killed

    @property
    def why_left_out(self) -> str:
        """Why its keeper cannot be replaced now; empty if it can, or there is none."""
        if not self.pid:
            return ""  # its next keeper will be of the new version
        if not self.has_served or not (report := self._read_report()):
            return "it has not begun to serve yet: try again"
        if not report["at_home"]:
            return "the memory of its state is not where other processes can map it"
        return ""

    def _read_report(self) -> dict[str, Any]:
        """What the keeper has said; nothing if it has not come so far."""
        data = os.pread(self._report, 65536, 0) if self._report >= 0 else b""
        return dict(json.loads(data)) if data else {}

    @property
    def marks_dirs(self) -> bool:
        """Whether workers watch themselves what their guests look at (vhost9p/marked). The first
        keeper has decided it."""
        return bool(self._read_report().get("marks_dirs"))

    @property
    def descriptors(self) -> list[int]:
        """Those that the next version gets."""
        states = [each.fd for each in self._states]
        sockets = [each.fileno() for each in self.listeners]
        logs = [self.log.fileno()] if self.log else []
        shared = self._report, self._progress.fd, self._inventory.fd, self._inventory.bell
        rings = [fd for each in self.rings if each for fd in (each.fd, each.bell)]
        return [*sockets, *states, *shared, self.trace.fd, *logs, *rings]

    def written_down(self) -> dict[str, Any]:
        """What the next version has to know of the VM, for JSON."""
        return {
            "name": self.name,
            "speaks": self._speaks,
            "config": plain.to_plain(self.config_before or self.config),
            "keeper": self.pid,
            "sockets": [each.written_down() for each in self.listeners],
            "states": [each.fd for each in self._states],
            "report": self._report,
            "progress": self._progress.fd,
            "has_served": self.has_served,
            "inventory": self._inventory.fd,
            "bell": self._inventory.bell,
            "trace": self.trace.fd,
            "rings": [each and [each.fd, each.bell] for each in self.rings],
            "log": self.log.fileno() if self.log else -1,
            "log_rest": self.log.rest if self.log else "",
            "copies": self.copies.written_down() if self.goes_on else None,
            "parcel": self.parcel and self.parcel.written_down(),
        }

    def written_for_store(self) -> dict[str, Any]:
        """What another main process has to know of the VM if this one dies, for JSON."""
        return {**self.written_down(), "keeper": 0, "copies": self.copies.written_down()}

    def _expect_keeper(self) -> None:
        """There is no keeper any more."""
        has_session = bool(self.parcel) or self.copies.has_sessions()
        self.goes_on = has_session and bool(self._read_report().get("at_home"))

    @property
    def all_descriptors(self) -> list[int]:
        """Those, and what the next keeper begins with."""
        parcel = self.parcel.fds if self.parcel else ()
        return [*self.descriptors, *parcel, *self.copies.fds]

    @property
    def inherits(self) -> bool:
        """Whether the next keeper begins with all that the one before had."""
        return self.goes_on and self.parcel is not None

    @property
    def outlook(self) -> str:
        """What the end of the keeper means to the guest."""
        lasts = "it goes on with its open files and locks" if self.parcel else REOPENED
        return lasts if self.goes_on else HANG

    @classmethod
    def read(cls, written: dict[str, Any]) -> Self:
        """A VM that another main process has written down, without what its next keeper begins
        with. Raises OSError, Unreadable."""
        config = plain.from_plain(Config, written["config"])
        listeners = [
            Listener.read(socket.socket(fileno=each["fd"]), each) for each in written["sockets"]
        ]
        progress = Progress(len(listeners), written["progress"])
        shared = written.get("inventory", -1), written.get("bell", -1)  # older versions have none
        inventory = Inventory(len(listeners), *shared)
        vm = cls(
            written["name"], config, listeners, speaks=written["speaks"],
            progress=progress, inventory=inventory,
            trace=TraceMemory(len(listeners), written.get("trace", -1)),
            rings=[each and Ring(*each) for each in written.get("rings", ())],
        )  # fmt: skip
        vm._states = [SavedState.open(fd) for fd in written["states"]]
        vm._report = written["report"]
        vm._has_served = written.get("has_served", False)  # older versions do not say
        if written["log"] >= 0:
            vm.log = vm._create_log(written["log"], written.get("log_rest", ""))
        vm.pid = written["keeper"]
        for fd in vm.descriptors:
            os.set_inheritable(fd, False)
        return vm

    @property
    def bell(self) -> int:
        """The descriptor that becomes readable when `copies` have to be taken."""
        return self._inventory.bell

    def supervise(self) -> None:
        """Goes on with the keeper that the main process before has started; if that has ended, the
        next one is due. Raises OSError: then it is killed, and the next one begins anew."""
        self.trace.begin_anew()
        if self.pid:
            self._supervise()
        else:
            self._expect_keeper()
            self.wait_for_start()

    def rehearse(self) -> None:
        """Does what a new keeper will do, as far as it changes nothing. Raises OSError,
        Unreadable."""
        if self.why_left_out:
            return
        if self.pid:
            self.read_entered()
        for each in self._states:
            each.try_map()

    def read_entered(self) -> Entered:
        """Returns how far its keeper is confined. Raises Unreadable."""
        return plain.from_plain(Entered, self._read_report().get("entered"))

    def take_over(self, stop_fd: int, may: Callable[[], None] = lambda: None) -> None:
        """Replaces the keeper by one of this version. Raises Failed, OSError, Unreadable: the
        old one goes on. `stop_fd` becomes readable after a signal to stop, which ends it. `may` is
        called when no worker runs any more, and may raise Failed."""
        if why := self.why_left_out:
            raise Failed(why)
        entered = self.read_entered()
        log = self._create_log()
        with ExitStack() as undo:
            undo.callback(log.close)
            succeed = partial(self._beginning().succeed, log.write_end, entered)
            self.pid, pidfd = takeover.replace(self.pid, self.pidfd, stop_fd, may, succeed)
            undo.pop_all()
        self._has_begun()
        os.close(self.pidfd)
        self.pidfd = pidfd
        self.copies.keep_numbers()
        self.end_log()
        log.close_write_end()
        self.log = log

    @property
    def facts(self) -> VmFacts:
        """What main can tell of it."""
        keeper = 0 if self.next_start is not None else self.pid
        known = self.name, self.config, keeper, self._states, self._progress
        return VmFacts(*known, self._read_report())

    @property
    def has_served(self) -> bool:
        """Whether a worker has ever served."""
        return self._has_served or self._progress.has_served

    def note_progress(self) -> None:
        """From now on no worker can deny that one has served."""
        self._has_served = self.has_served

    @property
    def has_opened(self) -> bool:
        """Whether a worker has opened all that a new configuration names; see Progress."""
        return self._progress.has_opened

    def has_not_opened(self) -> None:
        """See Progress."""
        self._progress.has_not_opened()

    @property
    def serves_anew(self) -> bool:
        """Whether a worker of the new keeper has served."""
        return self._progress.serves_anew
