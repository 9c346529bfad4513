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
from collections.abc import Iterator

from vhost9p import upgrade_status
from vhost9p.cli_parser import typed
from vhost9p.config_values import parse_number
from vhost9p.errors import EXIT_FAILURE, EXIT_USAGE
from vhost9p.log_record import one_line
from vhost9p.output import say

SIGNAL = signal.SIGUSR2
PATIENCE_S = 120.0
PAUSE_S = 0.05
PID_MAX = 2**31 - 1
"""Of pid_t, an int."""

SUMMARY = "replace the code of running daemons by what is installed now"
DETAILS = (
    "Their VMs go on. Exits with 0 if all have the new code, with 1 if a daemon goes on with the "
    "old code or with a part of it, and with 2 if a pid is that of no daemon, or of one that this "
    "user may not signal."
)
EXAMPLE = "vhost9p upgrade 4711"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the daemons."""
    parser.add_argument(
        "pid",
        nargs="*",
        type=typed(parse_number(1, PID_MAX)),
        help="main process of a daemon (default: all of this user; root: of everybody)",
    )


def run(options: argparse.Namespace) -> int:
    """Asks the daemons, and waits for the outcomes; returns the exit code."""
    pids = options.pid
    asked, codes = [], [0]
    for pid in pids or upgrade_status.find_all(with_same_files=True):
        try:
            asked.append(_Asked(pid))
        except ProcessLookupError as error:
            if pids:
                say(f"{pid}: {error.strerror}")
                codes.append(EXIT_USAGE)
        except OSError as error:
            say(f"{pid}: {error.strerror or error}")
            codes.append(EXIT_USAGE)
    return max([*codes, *_outcomes(asked)])


class _Asked:
    """A daemon that was asked to be upgraded."""

    def __init__(self, pid: int) -> None:
        """Raises OSError."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._fd = upgrade_status.find(pid)
        before = upgrade_status.read(self._fd) if self._fd >= 0 else None
        if not before:
            raise OSError("is no daemon that can be upgraded")
        self._count = before.count
        signal.pidfd_send_signal(self._pidfd, SIGNAL)

    def outcome(self) -> int | None:
        """Returns the exit code, once there is one, and says why. Raises OSError."""
        now = upgrade_status.read(self._fd)
        if now and now.count > self._count:
            where = sys.stdout if now.succeeded else sys.stderr
            print(one_line(f"{self.pid}: {now.text}"), file=where, flush=True)
            return 0 if now.succeeded else EXIT_FAILURE
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if poller.poll(0):
            say(f"{self.pid} has ended")
            return EXIT_FAILURE
        return None


def _outcomes(asked: list[_Asked]) -> Iterator[int]:
    """Waits for all of them. Yields the exit codes."""
    deadline = time.monotonic() + PATIENCE_S
    while asked and time.monotonic() < deadline:
        for each in [*asked]:
            if (code := each.outcome()) is not None:
                asked.remove(each)
                yield code
        time.sleep(PAUSE_S)
    for each in asked:
        say(f"{each.pid} has not said within {PATIENCE_S:g} s how the upgrade went")
        yield EXIT_FAILURE
