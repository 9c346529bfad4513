"""Which signals end the daemon.

When the daemon ends, its guests' mounts hang. So only deliberate signals end it: SIGTERM and
SIGINT; SIGQUIT, for a core dump; its own faults; a limit of CPU time; SIGKILL. All other signals
that would end it by default, such as a hang-up of its terminal, are ignored from the start. The
daemon can be stopped and continued by hand (SIGTSTP), but it does not stop when it writes to its
terminal from the background (SIGTTOU).

Imports next to nothing: it is what the process does first.
"""

import os
import signal

from vhost9p.stop_signals import STOP

LOGGED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""They have an effect (SIGUSR2 is an upgrade), or are ignored and logged, since their sender may
expect one."""

NOT_IGNORED = frozenset(
    {
        *STOP,
        signal.SIGQUIT,
        # The process's own faults, and the sanitizers' and debuggers'.
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
        # Not to be caught, stopped by hand, or without an effect.
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)

ignored: set[int] = set()
"""Signals that this process ignores of its own accord, so a program that it starts should not."""


def leave_on_stop() -> None:
    """Until the daemon handles the signals to stop, they end the process at once: there is nothing
    to clean up yet. An exception, Python's own way, would come anywhere in the modules that are
    being loaded, and some of them go on after any."""
    for number in STOP:
        signal.signal(number, _leave)


def _leave(*_: object) -> None:
    os._exit(0)


def ignore() -> None:
    """Ignores all signals but those above. One that has a handler already is in use."""
    for number in signal.valid_signals() - NOT_IGNORED:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
            ignored.add(number)
