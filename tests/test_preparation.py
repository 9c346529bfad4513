"""What is prepared in a child of main."""

from __future__ import annotations

import os
import resource
import select
from pathlib import Path

from tests.frontend import PATIENCE
from vhost9p.config import Config, DeviceConfig
from vhost9p.preparation import Preparation, Prepared


def test_too_many_open_files_are_a_problem_of_the_file(tmp_path: Path) -> None:
    """Main has room for one of the sockets, and goes on."""
    before = os.listdir("/proc/self/fd")
    config = Config(tuple(DeviceConfig((), socket=f"{tmp_path}/{i}") for i in range(3)))
    preparation = Preparation("vm", lambda: Prepared(config=config))
    free = os.dup(0)
    os.close(free)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        poller = select.poll()
        poller.register(preparation.fileno(), select.POLLIN)
        done = False
        while not done and poller.poll(PATIENCE * 1000):
            done = preparation.receive()
        assert done
        prepared, listeners, trees = preparation.result()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (problem,) = prepared.problems
    assert problem.startswith("vm: its file cannot be taken up: Too many open files; raise ")
    assert not listeners and not trees
    assert os.listdir("/proc/self/fd") == before
