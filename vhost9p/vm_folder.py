"""Serves the VMs that a folder describes, one file for each (--config-dir).

At the start, and at each SIGHUP, files that are new begin to be served, and the VMs of those that
are gone end. A file with errors is reported, and no other VM suffers from it: it is read again at
the next SIGHUP. So is the file of a VM that has ended by itself. A file that has changed takes
effect when its VM begins anew.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from vhost9p import answers, handover, plain, preflight
from vhost9p.config import Config
from vhost9p.daemon import Daemon
from vhost9p.errors import EXIT_FAILURE, UserError
from vhost9p.fd_store import FdStore
from vhost9p.native.process import set_name
from vhost9p.notify import take_manager
from vhost9p.output import occupy_standard_streams, say
from vhost9p.predecessor import read_vms, receive, store_of, vms_of
from vhost9p.preparation import Preparation, Prepared
from vhost9p.saved_state import Unreadable
from vhost9p.upgrade_status import StatusFile
from vhost9p.vhost_user.listener import Listener, ListenError
from vhost9p.vm import Vm

log = logging.getLogger(__name__)

SUFFIX = ".yaml"
PATIENCE_S = 10.0
"""Seconds in which a file has to be read and checked, and its sockets bound."""


def names_of_files(folder: str) -> list[str]:
    """Returns the paths of the configurations in a folder, in order. Raises OSError."""
    return [
        os.path.join(folder, file)
        for file in sorted(os.listdir(folder))
        if file.endswith(SUFFIX) and not file.startswith(".")
    ]


class FolderDaemon(Daemon):
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
        self._again: set[str] = set()
        """Names of files that are taken up again when a VM that is about to end has ended."""
        self._ended_meanwhile = False
        """Whether a VM has ended since the preparation began."""
        self._preparation: Preparation | None = None
        self._deadline = 0.0
        """When the time of the preparation is up."""

    # ---- events

    def take(self, number: signal.Signals) -> None:
        """SIGHUP: looks again; see Daemon."""
        if number == signal.SIGHUP:
            self.look()
        else:
            super().take(number)

    def stop(self) -> None:
        """See Daemon."""
        self._waiting.clear()
        self._drop_preparation()
        super().stop()

    def forget(self, vm: Vm) -> None:
        """See Daemon."""
        super().forget(vm)
        self._ended_meanwhile = True
        if self._again and not self.stopping:
            self._waiting += sorted(self._again)
            self._again.clear()
            self._go_on()

    def due(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """See Daemon."""
        yield from super().due()
        if self._preparation:
            yield self._deadline, self._give_up

    @property
    def is_ready(self) -> bool:
        """See Daemon. A VM that does not serve yet holds up no other."""
        return not self._preparation

    # ---- upgrade

    def why_not_now(self) -> str:
        """See Daemon."""
        if self._preparation or self._waiting or self._again:
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
        as if another version had written it down, or one without a folder, they have changed."""
        try:
            self._take_read({"read": {}, **written})
        except Unreadable as error:
            log.warning("what the files said is not known any more: %s", error)
        self.adopt(vms)

    def _take_read(self, written: dict[str, Any]) -> None:
        self._read = {
            name: plain.from_plain(Config, config) for name, config in written["read"].items()
        }

    # ---- files

    def look(self) -> None:
        """Takes up which files there are."""
        if self.stopping:
            return
        try:
            files = names_of_files(self._folder)
        except OSError as error:
            log.error("%s: cannot be read, and nothing changes: %s", self._folder, error.strerror)
            return
        self._drop_preparation()
        self._again.clear()
        names = [os.path.basename(file).removesuffix(SUFFIX) for file in files]
        self._waiting = sorted(names, key=self.vms.__contains__)  # new ones first
        for name in set(self.vms) - set(self._waiting):
            if self.vms[name].stopped_at is None:
                log.info("%s: its file is gone, so its VM ends", name)
                self.vms[name].stop(signal.SIGTERM)
        self._go_on()

    def _go_on(self) -> None:
        """Begins with the next file, unless one is being prepared."""
        while not self._preparation:
            if not self._waiting:
                log.info("%s: %d VMs", self._folder, len(self.vms))
                return
            self._take_up(self._waiting.pop(0))

    def _take_up(self, name: str) -> None:
        """There is a file of this name."""
        vm = self.vms.get(name)
        if vm and vm.stopped_at is not None:
            self._again.add(name)
            return
        beside = [each.config for each in self.vms.values()]
        try:
            self._preparation = Preparation(
                name, partial(self._prepare, name, beside, is_new=vm is None)
            )
        except OSError as error:  # too many processes or open files, for now
            say(f"{name}: serving cannot begin: {error.strerror}")
            return
        self._ended_meanwhile = False
        self._deadline = time.monotonic() + PATIENCE_S
        self._watch(self._preparation.fileno(), self._prepared)

    def _prepare(self, name: str, beside: list[Config], *, is_new: bool) -> Prepared:
        """Runs in a child. Raises UserError, OSError."""
        file = os.path.join(self._folder, name + SUFFIX)
        if os.path.exists(file) and not os.path.isfile(file):
            raise UserError(f"{file}: is no regular file")
        read = self._load(file)
        return Prepared(read, preflight.check(read, beside) if is_new else None)

    def _prepared(self) -> None:
        """The child has returned a part of its result, or all."""
        done = self._preparation
        if not done or not done.receive():
            return
        self._selector.unregister(done.fileno())
        self._preparation = None
        prepared, listeners = done.result()
        if prepared.problems:
            self._report(done.name, prepared.problems)
        elif prepared.config:
            self._begin(done.name, prepared, listeners)
        elif done.name in self.vms and prepared.read != self._read.get(done.name):
            log.warning("%s: its file has changed, which its VM ignores until it ends", done.name)
        self._go_on()

    def _report(self, name: str, problems: Collection[str]) -> None:
        """Reports problems, unless what is in the way may have ended, or be about to end, as the VM
        of a renamed file is."""
        if any(each.stopped_at is not None for each in self.vms.values()):
            self._again.add(name)
            return
        if self._ended_meanwhile:
            self._waiting.insert(0, name)
            return
        for text in problems:
            say(text)

    def _begin(self, name: str, prepared: Prepared, listeners: list[Listener]) -> None:
        assert prepared.config, "it is to begin"
        try:
            self.add(Vm(name, prepared.config, listeners, speaks=True))
            self._read[name] = prepared.read
        except OSError as error:
            say(f"{name}: serving cannot begin: {error.strerror or error}")

    def _give_up(self) -> None:
        """The time of the preparation is up."""
        if not self._preparation or time.monotonic() < self._deadline:
            return  # what was due before has begun another one
        say(
            f"{self._preparation.name}: what it names cannot be checked within {PATIENCE_S:g} s, "
            "as if a file system hung: it is left out until the next SIGHUP"
        )
        self._drop_preparation()
        self._go_on()

    def _drop_preparation(self) -> None:
        if self._preparation:
            self._selector.unregister(self._preparation.fileno())
            self._preparation.kill()
            self._preparation = None


def run(
    folder: str, load: Callable[[str], Config], control: str | None, metrics: str | None
) -> int:
    """Serves until a signal to stop arrives, and returns the exit code. `control` and `metrics` are
    those of a Config. Raises Unreadable, UserError, OSError."""
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
        kept = receive(store)
        daemon = FolderDaemon(folder, load, store=store)
        try:
            answers.begin(daemon, control, metrics, is_needed=not kept)
        except ListenError as error:
            say(str(error))
            return EXIT_FAILURE
        if kept:
            daemon.go_on_after_death(vms_of(kept), kept.written)
        daemon.look()
    while daemon.vms or not daemon.stopping:
        daemon.step()
    daemon.end()
    return 0
