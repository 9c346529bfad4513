"""A VM gets another configuration while it runs, as main carries it out. What that is to change is
decided before (reload.py).

1. What the VM's processes are to see is mounted in their namespace, by a process that joins it for
   that; the worker goes on serving meanwhile. The copies of the directories come from who has
   checked the configuration (preparation.py), which takes paths of the host, that may hang.
2. The keeper is replaced by one with the new configuration (takeover.py). If that fails, the old
   one goes on, and nothing has changed.
3. Its worker has to serve. It may not: the host lacks something that the check has not seen, or
   counting the files of a new quota takes long, while the guest waits. When time is up, the keeper
   is replaced by one with the old configuration. Nothing is lost by that: a worker takes nothing
   from the guest before it has opened all that it needs, and says so (`Progress.opens`); from then
   on nothing is taken back. If another main process follows meanwhile, it goes on with the old one.
4. What nobody uses any more is unmounted: last, so that the third step can be undone. A mount that
   is left because main has died meanwhile goes with the next reload.

Main does not wait for a process that touches mounts, which hang with their servers: it looks again
after a while (`go_on`).
"""

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial

from vhost9p import confinement
from vhost9p.birth import Failed
from vhost9p.config import Config, Level
from vhost9p.forking import without_stop_signals
from vhost9p.native import sandbox
from vhost9p.native.sandbox import Mount
from vhost9p.reload import Plan
from vhost9p.saved_state import Unreadable
from vhost9p.vm import Vm
from vhost9p.vm_facts import forget_counts

BEGIN_PATIENCE_S = 10.0
"""Seconds within which a VM whose keeper or worker is just being replaced has to serve."""
SERVE_PATIENCE_S = 10.0
"""Seconds within which the VM has to serve with the new configuration."""
MOUNT_PATIENCE_S = 5.0
LOOK_S = 0.02
NOT_SERVED = f"it is not served with it within {SERVE_PATIENCE_S:g} s"


class _TooLateError(Failed):
    """The guest may have lost something already."""


class Reloading:
    """The change of one VM. `trees` are the copies of what `plan` adds, in its order, which are
    owned from now on. `around` calls its argument, which replaces the keeper, so that nobody
    watches the old one."""

    def __init__(
        self,
        vm: Vm,
        plan: Plan,
        trees: list[int],
        stop_fd: int,
        around: Callable[[Callable[[], None]], None],
    ) -> None:
        self.vm = vm
        self.plan = plan
        self._around = around
        self._before = vm.config
        self._trees = trees
        self._stop_fd = stop_fd
        self._steps = self._work()
        self.looks_at = 0.0
        """When `go_on` is due."""

    def go_on(self) -> bool:
        """Goes on. Returns whether it is over, which has succeeded then. Raises Failed: it is over,
        and the VM is served as before, or has ended."""
        self.looks_at = time.monotonic() + LOOK_S
        try:
            if self.plan.changes and self.vm.stopped_at is not None:
                raise Failed("it is about to end")
            next(self._steps)
        except StopIteration:
            self.end()
            return True
        except Failed:
            self.vm.config_before = None
            self.end()
            raise
        return False

    def end(self) -> None:
        """Gives it up, or has finished it."""
        self._steps.close()
        self._close_trees()

    def _close_trees(self) -> None:
        for fd in self._trees:
            os.close(fd)
        self._trees = []

    # ---- the steps --------------------------------------------------------------------------

    def _work(self) -> Generator[None]:
        """Yields where it has to be looked at again later. Raises Failed."""
        if not self.plan.changes:
            return
        yield from self._wait_for_worker()
        keeper = self.vm.pid
        try:
            if self._has_own_files:
                yield from self._in_files(self._attach)
            if self.vm.pid != keeper:
                raise Failed("its keeper has ended meanwhile")
            self._forget_counts()
            self._replace(self.plan.config, self.vm.has_not_opened)
        except (Failed, OSError, Unreadable) as error:
            yield from self._clear()
            raise Failed(_text(error)) from error
        self.vm.config_before = self._before
        self._close_trees()
        deadline = time.monotonic() + SERVE_PATIENCE_S
        yield
        while not self.vm.serves_anew:
            if time.monotonic() < deadline:
                yield
                continue
            if self._takes_back():
                yield from self._clear()
                raise Failed(NOT_SERVED)
            break
        self.vm.config_before = None
        yield from self._clear()

    def _wait_for_worker(self) -> Generator[None]:
        """Until a worker serves that was there before."""
        deadline = time.monotonic() + BEGIN_PATIENCE_S
        while not self.vm.pid or self.vm.why_left_out or not self.vm.serves_anew:
            if time.monotonic() >= deadline:
                raise Failed(self.vm.why_left_out or "no worker of it serves")
            yield

    def _takes_back(self) -> bool:
        """Whether the VM has its old configuration again; not if a worker has come so far that the
        guest loses what is not served any more. Raises Failed."""
        try:
            self._require_not_opened()
            self._replace(self._before, self._require_not_opened)
        except _TooLateError:
            return False
        except (Failed, OSError, Unreadable) as error:
            text = f"{NOT_SERVED}, and cannot be served as before: {_text(error)}"
            raise Failed(text) from error
        return True

    def _require_not_opened(self) -> None:
        if self.vm.has_opened:
            raise _TooLateError

    def _replace(self, config: Config, may: Callable[[], None]) -> None:
        """A keeper that is started after a death begins with it. `may` is called when no worker
        runs. Raises Failed, OSError, Unreadable: the old keeper goes on."""
        before, self.vm.config = self.vm.config, config
        try:
            if self.vm.pid:
                self._around(partial(self.vm.take_over, self._stop_fd, may))
        except BaseException:
            self.vm.config = before
            raise
        self.vm.trace.renew()

    def _forget_counts(self) -> None:
        """An export that is added begins at 0. Raises OSError."""
        devices = zip(self.vm.config.devices, self.plan.config.devices, strict=True)
        for state, (before, after) in zip(self.vm.facts.states, devices, strict=True):
            for index in after.indexed.keys() - before.indexed.keys():
                forget_counts(state, index)

    # ---- mounts -----------------------------------------------------------------------------

    @property
    def _has_own_files(self) -> bool:
        return self.vm.read_entered().level is Level.NAMESPACE

    def _clear(self) -> Generator[None]:
        """What the VM's configuration does not have is unmounted; and what was only to be read is
        so, as far as nothing is open that was to be written. No failure of that is one of the
        reload."""
        with suppress(Failed, OSError, Unreadable):
            if self.vm.pid and self._has_own_files:
                yield from self._in_files(self._detach)

    def _attach(self) -> None:
        """In the VM's mount namespace."""
        for mount, tree in zip(self.plan.added, self._trees, strict=True):
            sandbox.detach(mount.target)
            sandbox.attach(tree, mount.target)
        for mount in self.plan.readonly:
            if not mount.readonly:
                sandbox.set_readonly(mount.target, readonly=False)

    def _detach(self) -> None:
        """In the VM's mount namespace."""
        mounts = list(confinement.mounts(self.vm.config))
        kept = {each.target for each in mounts}
        for name in os.listdir(confinement.EXPORTS):
            if (target := f"{confinement.EXPORTS}/{name}") not in kept:
                sandbox.detach(target)
        for mount in mounts:
            with suppress(OSError):
                if mount.readonly and self._changes(mount):
                    sandbox.set_readonly(mount.target, readonly=True)

    def _changes(self, mount: Mount) -> bool:
        return any(each.target == mount.target for each in self.plan.readonly)

    def _in_files(self, work: Callable[[], None]) -> Generator[None]:
        """Runs `work` in a child in the VM's mount namespace, which may hang: main does not wait
        for it. Raises Failed, OSError."""
        deadline = time.monotonic() + MOUNT_PATIENCE_S
        child = _Child(partial(_be_inside, self.vm.pid, self.vm.pidfd, work))
        try:
            while (code := child.code()) is None:
                if time.monotonic() >= deadline:
                    raise Failed("its mounts cannot be changed: the kernel hangs")
                yield
        finally:
            child.close()
        if code:
            raise Failed(f"its mounts cannot be changed: {os.strerror(code)}")


class _Child:
    """A process that runs `work`, which returns an errno or 0. If it is killed and hangs, main
    reaps it later, like any child that it does not know."""

    def __init__(self, work: Callable[[], int]) -> None:
        """Raises OSError."""
        self._out, theirs = os.pipe()
        try:
            with without_stop_signals():
                pid = os.fork()
                if pid == 0:
                    try:
                        os.write(theirs, bytes([work()]))
                    finally:
                        os._exit(0)
            self._pidfd = os.pidfd_open(pid)
        except BaseException:
            os.close(self._out)
            raise
        finally:
            os.close(theirs)

    def code(self) -> int | None:
        """Returns what `work` has returned, or EIO if it has died; None: it has not ended."""
        if not select.select([self._pidfd], [], [], 0)[0]:
            return None
        with suppress(ChildProcessError):  # main may have been faster
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        return (os.read(self._out, 1) or bytes([errno.EIO]))[0]

    def close(self) -> None:
        """Ends it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        os.close(self._out)


def _be_inside(pid: int, pidfd: int, work: Callable[[], None]) -> int:
    """In the child."""
    try:
        sandbox.join_files(pid, pidfd)
        work()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
