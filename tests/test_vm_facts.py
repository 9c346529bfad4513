"""What main can tell of a VM whose processes are in any state."""

from __future__ import annotations

import os
import signal

from vhost9p.config import Config
from vhost9p.progress import Progress
from vhost9p.vm_facts import VmFacts


def test_a_worker_that_has_died_and_was_not_reaped_is_none() -> None:
    """The kernel says nothing of its memory any more."""
    reading, writing = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        try:
            worker = os.fork()
            if worker == 0:
                os._exit(0)
            os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.read(reading, 1)
    progress = Progress(1)
    try:
        assert VmFacts("vm", Config(()), keeper, (), progress, {}).worker() is None
    finally:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
        os.close(reading)
        os.close(writing)
        progress.close()
