"""Runs a vhost9p command as a service of a systemd that answers what a test says.

`python -m tests.system.restarted_daemon ANSWER COMMAND…`: the daemon takes itself for the service
vm.service, and asks a shell that executes ANSWER in the place of `systemctl list-jobs`. What WHEN
of the environment says happens then:

    birth    a stop, when a keeper is to be created where another one was
    upgrade  the death of all other keepers, when the first one was replaced
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.frontend import PATIENCE
from vhost9p.birth import give_birth
from vhost9p.cli import main
from vhost9p.native.process import postpone_end
from vhost9p.takeover import replace


def stop_first(*arguments: Any) -> tuple[int, int]:
    """As give_birth."""
    os.kill(os.getpid(), signal.SIGTERM)
    postpone_end(PATIENCE)  # on a host with much to do
    return give_birth(*arguments)


def replace_one(*arguments: Any) -> tuple[int, int]:
    """As takeover.replace."""
    found = replace(*arguments)
    if os.environ.pop("WHEN", ""):
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if int(pid) != found[0]:
                os.kill(int(pid), signal.SIGKILL)
    return found


if __name__ == "__main__":
    command = ("sh", "-c", sys.argv[1])
    when = os.environ.get("WHEN")
    with (
        patch("vhost9p.service_job.COMMAND", command),
        patch("vhost9p.restarting_daemon.cgroup_of_service", lambda: "/system.slice/vm.service"),
        patch("vhost9p.vm.give_birth", stop_first if when == "birth" else give_birth),
        patch("vhost9p.takeover.replace", replace_one if when == "upgrade" else replace),
    ):
        sys.exit(main(sys.argv[sys.argv.index("vhost9p") + 1 :]))
