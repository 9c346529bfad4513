"""`vhost9p upgrade`: has running daemons replaced by the code that is installed now.

It sends the signal, and waits until the daemon says how that went (upgrade_status.py). Without a
pid it asks all daemons that run from the same files (mount namespace), and that this user may
signal: for the script of a package.
"""

import argparse
import os
import select
import signal
import sys
import time
from contextlib import suppress

from vhost9p import upgrade_status
from vhost9p.output import say

SIGNAL = signal.SIGUSR2
PATIENCE_S = 120.0
PAUSE_S = 0.05
EXIT_FAILURE, EXIT_USAGE = 1, 2


def run(words: list[str]) -> int:
    """Returns the exit code: 1 if a daemon goes on with the old code, or with a part of it."""
    parser = argparse.ArgumentParser(
        prog="vhost9p upgrade",
        description="Replaces the code of running daemons by what is installed now. Their VMs go "
        "on. Exits with 0 if all have the new code.",
    )
    parser.add_argument(
        "pid", nargs="*", type=int,
        help="main process of a daemon (default: all of this user; root: of everybody)",
    )  # fmt: skip
    pids = parser.parse_args(words).pid or _all()
    return max([_upgrade(pid) for pid in pids], default=0)


def _all() -> list[int]:
    """Daemons that see the same files."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/mnt") != os.stat("/proc/self/ns/mnt"):
                continue
            if upgrade_status.read(pid):
                found.append(pid)
    return sorted(found)


def _upgrade(pid: int) -> int:
    try:
        pidfd = os.pidfd_open(pid)
        before = upgrade_status.read(pid)
        if not before:
            say(f"{pid} is no daemon that can be upgraded")
            return EXIT_USAGE
        signal.pidfd_send_signal(pidfd, SIGNAL)
    except (ProcessLookupError, PermissionError) as error:
        say(f"{pid}: {error.strerror}")
        return EXIT_USAGE
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        now = upgrade_status.read(pid)
        if now and now.count > before.count:
            print(f"{pid}: {now.text}", file=sys.stdout if now.succeeded else sys.stderr)
            return 0 if now.succeeded else EXIT_FAILURE
        if select.select([pidfd], [], [], PAUSE_S)[0]:
            say(f"{pid} has ended")
            return EXIT_FAILURE
    say(f"{pid} has not said within {PATIENCE_S:g} s how the upgrade went")
    return EXIT_FAILURE
