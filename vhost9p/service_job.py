"""What systemd is about to do with this service when it sends SIGTERM: stop it, or restart it.

The signal is the same for both. But systemd lists its jobs, and one of the service is there as long
as it is not done. Where it does not answer, nobody knows.
"""

import re

from vhost9p.program import Program

COMMAND = ("systemctl", "--no-pager", "--no-legend", "--full", "list-jobs")
_JOB = re.compile(r"\s*[0-9]+\s+(\S+)\s+(\S+)\s+\S+\s*")
"""Its number, unit, type and state."""
_CGROUP = "/proc/self/cgroup"


class JobQuestion(Program):
    """Asks for the jobs; the answer is there when `receive` has returned True."""

    def __init__(self, cgroup: str) -> None:
        """`cgroup` is that of the service. Raises OSError."""
        self._unit = unit_of(cgroup)
        manager = ("--user",) if "/user@" in cgroup else ()
        super().__init__([COMMAND[0], *manager, *COMMAND[1:]])

    def is_restart(self) -> bool | None:
        """Whether the service is started again at once; None: nobody knows."""
        found = [_JOB.fullmatch(line) for line in self.lines]
        if not all(found):
            return None
        return any(job and job[1] == self._unit and job[2] != "stop" for job in found)


def cgroup_of_service() -> str:
    """Returns the cgroup of this process, if it is a service's; else nothing."""
    with open(_CGROUP, encoding="utf-8", errors="surrogateescape") as file:
        each = [line.rstrip("\n").split(":", 2)[2] for line in file]
    return next((cgroup for cgroup in each if unit_of(cgroup)), "")


def unit_of(cgroup: str) -> str:
    """Returns the unit that a cgroup is of; empty if it is no service's. A name that the kernel has
    a use for has an underscore before it."""
    units = [part for part in cgroup.split("/") if part.endswith(".service")]
    return units[-1].removeprefix("_") if units and not units[-1].startswith("user@") else ""
