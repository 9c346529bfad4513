"""Runs a vhost9p command that is held up: `python -m tests.system.held_daemon COMMAND…`.

A rename to the name "held" does not return, once the host has made it, before there is a file "go"
beside it. COMMAND is what would run the daemon: an interpreter, `-m vhost9p` and its arguments.
"""

import os
import sys
import time
from unittest.mock import patch

from vhost9p.cli import main
from vhost9p.fs.local import LocalDriver

HELD, GO = b"held", b"go"

_rename = LocalDriver.rename


def rename(self: LocalDriver, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
    """See the module."""
    _rename(self, old_dir, old, new_dir, new)
    while new == HELD and not _is_there(new_dir):
        time.sleep(0.005)


def _is_there(dir_fd: int) -> bool:
    try:
        os.stat(GO, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    return True


if __name__ == "__main__":
    where = sys.argv.index("vhost9p")
    with patch.object(LocalDriver, "rename", rename):
        sys.exit(main(sys.argv[where + 1 :]))
