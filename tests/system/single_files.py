"""Runs a vhost9p command whose remap policy numbers each file by itself: `python -m
tests.system.single_files GATE COMMAND…`. So each new file is a question to Python, which waits for
as long as the path GATE exists, and makes GATE.asked when it does.
"""

import sys
import time
from pathlib import Path
from unittest.mock import patch

from vhost9p.cli import main
from vhost9p.policy.remap import RemapPolicy


def run() -> int:
    """Goes on as the command would."""
    gate = Path(sys.argv[1])
    decide = RemapPolicy.group

    def group(self: RemapPolicy, device: int, ino: int) -> None:
        while gate.exists():
            Path(f"{gate}.asked").touch()
            time.sleep(0.01)
        decide(self, device, ino)

    where = sys.argv.index("vhost9p")
    with (
        patch("vhost9p.policy.remap.MAX_GROUPS", 0),
        patch.object(RemapPolicy, "group", group),
    ):
        return main(sys.argv[where + 1 :])


if __name__ == "__main__":
    sys.exit(run())
