"""How a worker has ended, and whether what it served may be why.

A fault (a signal that the kernel sends for what a process did, abort(3), or an error that nobody
expected in Python) comes again if its cause does: a request, a message, or the state that workers
take over. So does the end by the kernel for want of memory, if a request is what takes so much.
These ends are counted against what ran (csrc/request/suspects.h). Any other end is an accident,
however often it comes: somebody's `kill -9`, a successor that lacks something for now.

The kernel kills for want of memory by SIGKILL, too. It counts how often it does so, for the whole
host (`oom_kill` in /proc/vmstat): if it did while the worker lived, SIGKILL is taken for that.
"""

import os
import signal
from enum import Enum

EXIT_FAULT = 70
"""Of a process that ends by an error that nobody expected."""
FAULTS = frozenset(
    {
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE),
        *(signal.SIGILL, signal.SIGSYS, signal.SIGTRAP),
    }
)
OOM_KILLS = "/proc/vmstat"


class Cause(Enum):
    """Why a worker has ended."""

    OTHER = 0
    FAULT = 1
    MEMORY = 2
    """The host had none left, which the worker may have caused, or somebody else."""


def cause_of(end: os.waitid_result, *, oom_kills: int) -> Cause:
    """`oom_kills` is how often the kernel has killed for want of memory meanwhile."""
    if end.si_code == os.CLD_EXITED:
        return Cause.FAULT if end.si_status == EXIT_FAULT else Cause.OTHER
    if end.si_status in FAULTS:
        return Cause.FAULT
    return Cause.MEMORY if end.si_status == signal.SIGKILL and oom_kills > 0 else Cause.OTHER


def count_oom_kills(fd: int) -> int:
    """Reads the kernel's count from OOM_KILLS; 0 if it is not to be had."""
    try:
        lines = os.pread(fd, 1 << 16, 0).splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(b"oom_kill ")), 0)
    except (OSError, ValueError):
        return 0


def how_it_ended(end: os.waitid_result, cause: Cause = Cause.OTHER) -> str:
    """Returns how a process has ended, for the log."""
    if end.si_code == os.CLD_EXITED:
        return f"ended with status {end.si_status}"
    why = ", for want of memory" if cause is Cause.MEMORY else ""
    try:
        return f"died of {signal.Signals(end.si_status).name}{why}"
    except ValueError:
        return f"died of signal {end.si_status}"
