"""Descriptors of devices: each counts against the budget of the device that it was opened for
(csrc/base/budget.h). What C has opened is closed by `close` here."""

from vhost9p import procfs
from vhost9p.native.library import check, lib


def close(fd: int) -> None:
    """Closes a descriptor, whoever opened it."""
    lib.v9_budget_close(fd)


def share() -> int:
    """Returns the number of descriptors that a device may always hold, whatever others do."""
    return int(lib.v9_budget_share())


def needed(devices: int, limit: int) -> int:
    """Returns the limit of open files that so many devices need, if it is `limit` so far."""
    return int(lib.v9_budget_needed(devices, min(limit, 2**31 - 1)))


def divide() -> int:
    """Divides the remaining limit of open files among the devices; called once, after they are
    created. Returns 0, or the limit that would be needed to serve them all."""
    return check(lib.v9_budget_begin())


def go_to() -> None:
    """Makes the directory of this process's descriptors the current one, from which C reaches their
    files soonest (csrc/base/proc.h). Raises OSError."""
    check(lib.v9_proc_go_to_fds())
    procfs.fds_are_here()
