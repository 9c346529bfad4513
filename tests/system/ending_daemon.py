"""Runs a vhost9p command that ends in the middle of its work, by an error of its own.

`python -m tests.system.ending_daemon CONTROL COMMAND…`: once a byte comes on descriptor CONTROL.
"""

import asyncio
import os
import sys
from unittest.mock import patch

from vhost9p.cli import main
from vhost9p.daemon import Daemon

_serve = Daemon.serve


async def serve(self: Daemon) -> None:
    """As always, until the byte."""
    serving = asyncio.ensure_future(_serve(self))
    await asyncio.get_running_loop().run_in_executor(None, os.read, int(sys.argv[1]), 1)
    serving.cancel()
    raise ZeroDivisionError("a fault of the daemon")


if __name__ == "__main__":
    with patch.object(Daemon, "serve", serve):
        sys.exit(main(sys.argv[sys.argv.index("vhost9p") + 1 :]))
