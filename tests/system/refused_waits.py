"""Runs a vhost9p command where no lock is granted that somebody waits for, since the host refuses:
`python -m tests.system.refused_waits COMMAND…`."""

import errno
import os
import sys
from typing import Any
from unittest.mock import patch

from vhost9p.__main__ import main
from vhost9p.fs.locks import LockTable

_take = LockTable.take


def _refuse(self: LockTable, *args: Any) -> None:
    if args[-1] is not None:  # what cancels a wait
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    _take(self, *args)


if __name__ == "__main__":
    sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
    with patch.object(LockTable, "take", _refuse):
        sys.exit(main())
