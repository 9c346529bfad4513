"""Runs a vhost9p command with the synth driver: `python -m tests.fs.synth_daemon TABLE COMMAND…`.

TABLE is a JSON file: [[path below the export, st_dev, st_ino], …]. COMMAND is what would run the
daemon: an interpreter, `-m vhost9p` and its arguments.
"""

import json
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from tests.fs.synth import Numbers, SynthDriver
from vhost9p.cli import main


def run() -> int:
    """Takes the driver's place and goes on as the command would."""
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    numbers = {path.encode(): Numbers(st_dev, st_ino) for path, st_dev, st_ino in rows}
    where = sys.argv.index("vhost9p")
    with patch("vhost9p.exports.LocalDriver", partial(SynthDriver, numbers=numbers)):
        return main(sys.argv[where + 1 :])


if __name__ == "__main__":
    sys.exit(run())
