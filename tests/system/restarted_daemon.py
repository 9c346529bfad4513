"""Runs a vhost9p command as a service of a systemd that answers what a test says.

`python -m tests.system.restarted_daemon ANSWER COMMAND…`: the daemon takes itself for the service
vm.service, and asks a shell that executes ANSWER in the place of `systemctl list-jobs`.
"""

import sys
from unittest.mock import patch

from vhost9p.cli import main

if __name__ == "__main__":
    command = ("sh", "-c", sys.argv[1])
    with (
        patch("vhost9p.service_job.COMMAND", command),
        patch("vhost9p.restarting_daemon.cgroup_of_service", lambda: "/system.slice/vm.service"),
    ):
        sys.exit(main(sys.argv[sys.argv.index("vhost9p") + 1 :]))
