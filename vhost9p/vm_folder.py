"""Serves the VMs that a folder describes, one file for each (--config-dir).

At the start, and at each reload, files that are new begin to be served, the VMs of those that are
gone end, and those of files that have changed are changed (reload.py). A file with errors is
reported, and no other VM suffers from it: it is read again at the next reload. So is the file of a
VM that has ended by itself.
"""

import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from vhost9p import answers, handover, plain, preflight
from vhost9p.config import Config
from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.fd_store import FdStore
from vhost9p.log_record import about
from vhost9p.native.process import set_name
from vhost9p.notify import HandedOver, take_manager
from vhost9p.output import occupy_standard_streams, say
from vhost9p.predecessor import read_vms, receive, store_of, vms_of
from vhost9p.preparation import Prepared
from vhost9p.reloading_daemon import ReloadingDaemon
from vhost9p.saved_state import Unreadable
from vhost9p.upgrade_status import StatusFile
from vhost9p.vhost_user.listener import Listener, ListenError
from vhost9p.vm import Vm

log = logging.getLogger(__name__)

SUFFIX = ".yaml"


def names_of_files(folder: str) -> list[str]:
    """Returns the paths of the configurations in a folder, in order. Raises OSError."""
    return [
        os.path.join(folder, file)
        for file in sorted(os.listdir(folder))
        if file.endswith(SUFFIX) and not file.startswith(".")
    ]


class FolderDaemon(ReloadingDaemon):
    """Serves what the files of a folder describe. `load` reads one of them, and raises UserError
    with its errors."""

    def __init__(
        self,
        folder: str,
        load: Callable[[str], Config],
        status: StatusFile | None = None,
        store: FdStore | None = None,
    ) -> None:
        """Raises OSError."""
        super().__init__(status, store)
        self._folder = folder
        self._load = load
        self._read: dict[str, Config] = {}
        """What the files of the VMs said when these began."""
        self._waiting: list[str] = []
        """Names of files that are yet to be taken up."""
        self._later: set[str] = set()
        """Names of files that are taken up again when a VM that is about to end has ended."""
        self._ended_meanwhile = False
        """Whether a VM has ended since the preparation began."""

    # ---- events

    def take(self, number: signal.Signals) -> None:
        """SIGHUP: looks again; see Daemon."""
        if number == signal.SIGHUP:
            self.reload()
        else:
            super().take(number)

    def stop(self) -> None:
        """See Daemon."""
        self._waiting.clear()
        super().stop()

    def forget(self, vm: Vm) -> None:
        """See Daemon."""
        self._ended_meanwhile = True
        super().forget(vm)
        if self._later and not self.stopping:
            self._waiting += sorted(self._later)
            self._later.clear()
            if not self._in_round:
                self._in_round = True
                self.take_up_next()

    @property
    def is_ready(self) -> bool:
        """See Daemon. A VM that does not serve yet holds up no other."""
        return not self._in_round

    # ---- upgrade

    def why_not_now(self) -> str:
        """See Daemon."""
        if self._later:
            return "files are being taken up: try again"
        return super().why_not_now()

    def written_down(self) -> dict[str, Any]:
        """See Daemon."""
        read = {name: plain.to_plain(self._read[name]) for name in self.vms if name in self._read}
        return {**super().written_down(), "read": read}

    def go_on(self, vms: Collection[Vm], written: dict[str, Any]) -> None:
        """Serves the VMs of the version before."""
        self._take_read(written)
        self.take_over(vms, written["version"])

    def go_on_after_death(self, vms: Collection[Vm], written: dict[str, Any]) -> None:
        """Serves the VMs of a main process that has died. If what their files said is not known,
        as if another version had written it down, or one without a folder, all are reloaded."""
        try:
            self._take_read({"read": {}, **written})
        except Unreadable as error:
            log.warning(
                "%s: what the files said is not known any more, so each is taken for changed: %s",
                *(self._folder, error),
                extra=about(),
            )
        self.adopt(vms, restarts=bool(written.get("restarts")))

    def _take_read(self, written: dict[str, Any]) -> None:
        self._read = {
            name: plain.from_plain(Config, config) for name, config in written["read"].items()
        }

    # ---- files

    def begin_round(self) -> None:
        """Takes up which files there are."""
        try:
            files = names_of_files(self._folder)
        except OSError as error:
            self.report(f"{self._folder}: cannot be read, and nothing changes: {error.strerror}")
            self.end_round()
            return
        self._later.clear()
        names = [os.path.basename(file).removesuffix(SUFFIX) for file in files]
        self._waiting = sorted(names, key=self.vms.__contains__)  # new ones first
        for name in set(self.vms) - set(self._waiting):
            if self.vms[name].stopped_at is None:
                self.note(f"{name}: its file is gone, so its VM ends", name)
                self.vms[name].stop(signal.SIGTERM)
        self.take_up_next()

    def take_up_next(self) -> None:
        """Begins with the next file."""
        while self._waiting:
            if self._take_up(self._waiting.pop(0)):
                return
        log.info("%s: %d VMs", self._folder, len(self.vms))
        self.end_round()

    def _take_up(self, name: str) -> bool:
        """There is a file of this name. Returns whether it is being prepared."""
        vm = self.vms.get(name)
        if vm and vm.stopped_at is not None:
            self._later.add(name)
            return False
        self._ended_meanwhile = False
        file = os.path.join(self._folder, name + SUFFIX)
        if vm:
            return self.prepare_change(vm, partial(self._load_file, file), self._read.get(name))
        return self.prepare(name, partial(self._prepare, file, [*self._configs()]))

    def _configs(self) -> Iterator[Config]:
        return (each.config for each in self.vms.values())

    def _load_file(self, file: str) -> Config:
        """Runs in a child. Raises UserError, OSError."""
        if os.path.exists(file) and not os.path.isfile(file):
            raise UserError(f"{file}: is no regular file")
        return self._load(file)

    def _prepare(self, file: str, beside: list[Config]) -> Prepared:
        """Runs in a child. Raises UserError, OSError."""
        read = self._load_file(file)
        return Prepared(read, preflight.check(read, beside))

    def take_prepared(self, name: str, prepared: Prepared, listeners: list[Listener]) -> None:
        """See ReloadingDaemon."""
        if prepared.problems:
            self._take_problems(name, prepared.problems)
        elif prepared.config:
            self._begin(name, prepared, prepared.config, listeners)

    def has_reloaded(self, vm: Vm, read: Config) -> None:
        """See ReloadingDaemon."""
        self._read[vm.name] = read

    def _take_problems(self, name: str, problems: Collection[str]) -> None:
        """Reports problems, unless what is in the way may have ended, or be about to end, as the VM
        of a renamed file is."""
        if any(each.stopped_at is not None for each in self.vms.values()):
            self._later.add(name)
            return
        if self._ended_meanwhile:
            self._waiting.insert(0, name)
            return
        for text in problems:
            self.report(text, vm=name)

    def _begin(
        self, name: str, prepared: Prepared, config: Config, listeners: list[Listener]
    ) -> None:
        try:
            self.add(Vm(name, config, listeners, speaks=True))
            self._read[name] = prepared.read
        except OSError as error:
            self.report(f"{name}: serving cannot begin: {error.strerror or error}", vm=name)


def run(
    folder: str,
    load: Callable[[str], Config],
    control: str | None,
    metrics: str | None,
    kept: Collection[HandedOver] = (),
) -> int:
    """Serves until a signal to stop arrives, and returns the exit code. `control` and `metrics` are
    those of a Config. `kept` is what the service manager has kept. Raises Unreadable, UserError,
    OSError."""
    if received := handover.received():
        vms = read_vms(received)
        status, store = StatusFile(received.written["status"]), store_of(received.written)
        daemon = FolderDaemon(folder, load, status, store)
        daemon.go_on(vms, received.written)
        answers.go_on(daemon, control, received.written)
    else:
        occupy_standard_streams()
        set_name("vhost9p")
        store = FdStore(take_manager())
        left = receive(store, kept)
        daemon = FolderDaemon(folder, load, store=store)
        try:
            answers.begin(daemon, control, metrics, is_needed=not left)
        except ListenError as error:
            say(str(error))
            return EXIT_FAILURE
        if left:
            daemon.go_on_after_death(vms_of(left), left.written)
        daemon.reload()
    while daemon.vms or not daemon.stopping:
        daemon.step()
    daemon.end()
    return 0
