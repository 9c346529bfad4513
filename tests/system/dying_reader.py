"""Runs a vhost9p command whose worker is killed when it is about to send an empty reply to a read
of the stream of changes.

`python -m tests.system.dying_reader FILE COMMAND…`: once there is a file of this name, which it
removes.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vhost9p.cli import main
from vhost9p.p9.notices import NoticesFamily

_answer = NoticesFamily._answer


def answer(self: NoticesFamily, read: Any) -> bytes | None:
    """What it does is done."""
    data = _answer(self, read)
    if data == b"" and os.path.exists(sys.argv[1]):
        Path(sys.argv[1]).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return data


if __name__ == "__main__":
    with patch.object(NoticesFamily, "_answer", answer):
        sys.exit(main(sys.argv[sys.argv.index("vhost9p") + 1 :]))
