"""Runs a vhost9p command whose worker ends in the middle of its work, by an error of its own.

`python -m tests.system.ending_daemon FILE COMMAND…`: once there is a file of this name, which it
removes.
"""

import asyncio
import os
import sys
from pathlib import Path
from unittest.mock import patch

from vhost9p.cli import main
from vhost9p.worker import Worker

_serve = Worker.serve


async def serve(self: Worker) -> None:
    """As always, until there is the file."""
    serving = asyncio.ensure_future(_serve(self))
    while not os.path.exists(sys.argv[1]) and not serving.done():
        await asyncio.sleep(0.005)
    if serving.done():
        return
    Path(sys.argv[1]).unlink()
    serving.cancel()
    raise ZeroDivisionError("a fault of the daemon")


if __name__ == "__main__":
    with patch.object(Worker, "serve", serve):
        sys.exit(main(sys.argv[sys.argv.index("vhost9p") + 1 :]))
