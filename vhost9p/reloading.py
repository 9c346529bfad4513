"""A VM gets another configuration while it runs, as main carries it out. What that is to change is
decided before (reload.py).

1. What the VM's processes are to see is mounted in their namespace, by a process that joins it for
   that; the worker goes on serving meanwhile. The copies of the directories come from who has
   checked the configuration (preparation.py), which takes paths of the host, that may hang.
2. The keeper is replaced by one with the new configuration (takeover.py). If that fails, the old
   one goes on, and nothing has changed.
3. Its worker has to serve. It may not: the host lacks something that the check has not seen, or
   counting the files of a new quota takes long, while the guest waits. When time is up, the keeper
   is replaced by one with the old configuration.
4. What nobody uses any more is unmounted: last, so that the third step can be undone. A mount that
   is left because main has died meanwhile goes with the next reload.
"""

import errno
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from vhost9p import confinement
from vhost9p.birth import Failed, Waits
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
        self._waits = Waits(stop_fd)
        self._deadline = time.monotonic() + BEGIN_PATIENCE_S
        self._has_begun = False
        self.looks_at = 0.0
        """When `go_on` is due."""

    def go_on(self) -> bool:
        """Goes on. Returns whether it is over, which has succeeded then. Raises Failed: it is over,
        and the VM is served as before, or has ended."""
        self.looks_at = time.monotonic() + LOOK_S
        try:
            return self._serves() if self._has_begun else self._begin()
        except Failed:
            self.end()
            raise

    def end(self) -> None:
        """Gives it up, or has finished it."""
        for fd in self._trees:
            os.close(fd)
        self._trees = []

    # ---- the steps --------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Returns whether there is nothing to be done."""
        if not self.plan.changes:
            return True
        if self.vm.stopped_at is not None:
            raise Failed("it is about to end")
        if not self.vm.pid or self.vm.why_left_out or not self.vm.serves_anew:
            if time.monotonic() >= self._deadline:
                raise Failed(self.vm.why_left_out or "no worker of it serves")
            return False
        try:
            if self._has_own_files:
                self._in_files(self._attach)
            self._forget_counts()
            self._replace(self.plan.config)
        except (Failed, OSError, Unreadable) as error:
            self._clear()
            raise Failed(_text(error)) from error
        self.end()
        self._has_begun = True
        self._deadline = time.monotonic() + SERVE_PATIENCE_S
        return False

    def _serves(self) -> bool:
        """Whether a worker serves with the new configuration."""
        if self.vm.stopped_at is not None:
            raise Failed("it is about to end")
        if self.vm.serves_anew:
            self._clear()
            return True
        if time.monotonic() < self._deadline:
            return False
        why = f"it is not served with it within {SERVE_PATIENCE_S:g} s"
        try:
            self._replace(self._before)
        except (Failed, OSError, Unreadable) as error:
            raise Failed(f"{why}, and cannot be served as before: {_text(error)}") from error
        self._clear()
        raise Failed(why)

    def _replace(self, config: Config) -> None:
        """A keeper that is started after a death begins with it. Raises Failed, OSError,
        Unreadable: the old keeper goes on."""
        before, self.vm.config = self.vm.config, config
        try:
            if self.vm.pid:
                self._around(partial(self.vm.take_over, self._stop_fd))
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

    def _clear(self) -> None:
        """What the VM's configuration does not have is unmounted; and what was only to be read is
        so, as far as nothing is open that was to be written. No failure of that is one of the
        reload."""
        with suppress(Failed, OSError, Unreadable):
            if self.vm.pid and self._has_own_files:
                self._in_files(self._detach)

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

    def _in_files(self, work: Callable[[], None]) -> None:
        """Runs `work` in a child in the VM's mount namespace. Raises Failed, OSError."""
        with without_stop_signals():
            pid = os.fork()
            if pid == 0:
                _be_inside(self.vm.pid, self.vm.pidfd, work)
        if not self._waits.true(MOUNT_PATIENCE_S, partial(_has_ended, pid)):
            os.kill(pid, signal.SIGKILL)  # main reaps it like any child that it does not know
            raise Failed("its mounts cannot be changed: the kernel hangs")
        if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise Failed(f"its mounts cannot be changed: {os.strerror(abs(code))}")


def _has_ended(pid: int) -> bool:
    return bool(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))


def _be_inside(pid: int, pidfd: int, work: Callable[[], None]) -> None:
    """The child. It ends here, with an errno as its exit code."""
    code = errno.EIO
    try:
        sandbox.join_files(pid, pidfd)
        work()
        code = 0
    except OSError as error:
        code = error.errno or errno.EIO
    finally:
        os._exit(code)


def _text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
