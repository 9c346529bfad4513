"""The upgrade of the daemon while its VMs run, as main does it.

At SIGUSR2 main writes down what it knows (handover.py), and starts the new code in a child with its
own command line, which only tries: whether it starts at all, knows the options, understands what
was written, reads the saved states (saved_state.py) and can map them where they have to be. Whoever
fails at that, or says nothing for a while, is refused: nothing has changed, and the old code goes
on.

Then main executes the new code itself, which stays the parent of the keepers, and replaces one
after the other (takeover.py). A VM whose keeper cannot be replaced goes on with it. The upgrade has
succeeded when a worker of each new keeper has served.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from vhost9p import __version__, handover
from vhost9p.log_record import about
from vhost9p.program import Program
from vhost9p.stop_signals import STOP

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""Seconds in which the new code has to say that it can go on."""
SERVE_PATIENCE_S = 30.0
"""Seconds in which a worker of each new keeper has to serve, which takes many where there is far
more to do than there are CPUs for. Only the report waits for it."""
LOOK_S = 0.02


class Trial(Program):
    """A child with the new code, which tries whether it can go on. It inherits `fds`."""

    def __init__(self, main: dict[str, Any], fds: Collection[int]) -> None:
        """Raises OSError."""
        written = handover.write(main)
        try:
            env = handover.environment(written, only_tries=True)
            super().__init__(handover.command(), env, [*fds, written])
        finally:
            os.close(written)

    def result(self) -> str:
        """Returns why the new code cannot go on; empty if it can. After `receive` returned True."""
        lines = self.lines
        self.end()
        if lines and lines[-1] == handover.READY:
            return ""
        for line in lines:
            log.warning("the new version says: %s", line, extra=about())
        return lines[-1] if lines else "it ends without a word"


def execute(main: dict[str, Any], fds: Collection[int], is_stopping: Callable[[], bool]) -> None:
    """Replaces the code of this process, which keeps `fds`. Returns if `is_stopping`: a signal to
    stop has arrived; later ones wait for the new code. Raises OSError: the process goes on."""
    written = handover.write(main)
    kept = [*fds, written]
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        if is_stopping():
            return
        for fd in kept:
            os.set_inheritable(fd, True)
        os.execve(
            handover.command()[0],
            handover.command(),
            handover.environment(written, only_tries=False),
        )
    finally:
        for fd in kept:
            os.set_inheritable(fd, False)
        os.close(written)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


@dataclass
class Outcome:
    """How the VMs fare whose keepers were to be replaced."""

    before: str
    """The version before."""
    replaced: int = 0
    failed: int = 0
    awaited: set[str] = field(default_factory=set)
    """Names of VMs whose new keepers have no worker yet that has served."""
    deadline: float = 0.0
    looks_at: float = 0.0
    """When to look at them next."""

    @property
    def is_final(self) -> bool:
        """Whether nothing is waited for any more."""
        return not self.awaited or time.monotonic() >= self.deadline

    @property
    def succeeded(self) -> bool:
        """Whether all VMs are served by the new version."""
        return not self.failed and not self.awaited

    def __str__(self) -> str:
        text = f"upgraded from version {self.before} to {__version__}: {self.replaced} VMs"
        if self.failed:
            text += f"; {self.failed} go on with the old version"
        if self.awaited:
            text += f"; not served after {SERVE_PATIENCE_S:g} s: {', '.join(sorted(self.awaited))}"
        return text
