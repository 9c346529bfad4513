"""Runs a vhost9p command with faults: `python -m tests.system.faulty_daemon TABLE COMMAND…`.

The policy fails at every device but the export's own, and locks always, all of them with what no
request may fail with. TABLE is the synth driver's (tests.fs.synth_daemon).
"""

import sys
from unittest.mock import patch

from tests.fs import synth_daemon
from vhost9p.p9.locks import LockFamily
from vhost9p.policy.remap import RemapPolicy

FAULTY = 99
"""The device number of the files that the policy fails at."""

_device = RemapPolicy.device


def device(self: RemapPolicy, st_dev: int, mnt_id: int, fd: int) -> None:
    """A fault in the middle of a decision."""
    if st_dev == FAULTY:
        raise ZeroDivisionError("a fault of the policy")
    _device(self, st_dev, mnt_id, fd)


def getlock(self: LockFamily, request: object, t: object) -> None:
    """Not even an Exception."""
    raise KeyboardInterrupt("a fault of a handler")


def try_lock(self: LockFamily, *args: object) -> bool:
    """The same for what C asks Python."""
    raise KeyboardInterrupt("a fault of a lock")


if __name__ == "__main__":
    with (
        patch.object(RemapPolicy, "device", device),
        patch.object(LockFamily, "getlock", getlock),
        patch.object(LockFamily, "try_lock", try_lock),
    ):
        sys.exit(synth_daemon.run())
