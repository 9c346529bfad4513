"""Descriptors of devices: each counts against the budget of the device that it was opened for
(csrc/base/budget.h). What C has opened is closed by `close` here."""

from vhost9p.native.library import check, lib


def close(fd: int) -> None:
    """Closes a descriptor, whoever opened it."""
    lib.v9_budget_close(fd)


def share() -> int:
    """How many descriptors a device may always hold, whatever others do."""
    return int(lib.v9_budget_share())


def divide() -> int:
    """Divides what the limit of open files leaves among the devices that there are; once, when they
    have been made. Returns 0, or how high the limit would have to be to serve them all."""
    return check(lib.v9_budget_begin())
