"""Which signals end the daemon.

A daemon that ends takes the mounts of its guests along, so nothing may end it but what is meant
to: SIGTERM and SIGINT; SIGQUIT, which asks for a core dump; a fault of its own; a limit of CPU time
that somebody has set; SIGKILL. Everything else that would by default, a hang-up of its terminal
among it, is ignored from the first moment on. The daemon can be stopped and continued by hand
(SIGTSTP), but is not stopped for writing to its terminal from the background (SIGTTOU).

Imports nothing but `signal`: it is what the process does first.
"""

import signal

STOP = (signal.SIGTERM, signal.SIGINT)
"""They end the daemon, once its event loop runs."""

IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""They are ignored, with a line in the log: whoever sent one may expect an effect."""

LEFT = frozenset(
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


def ignore() -> None:
    """Ignores all signals but those above. One that has a handler already is in use."""
    for number in signal.valid_signals() - LEFT:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
