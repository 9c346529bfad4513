"""What all tests share: how they are spread over processes, and what a failure shows.

`make test` runs JOBS worker processes (pytest-xdist), each of which takes one unit of work after
the other. A unit is a file, because tests of a file share daemons and what they build. Tests that
boot guests are the longest, so they begin first and in smaller units: those on one guest with one
kernel stay together, others are units of their own. The short files fill the end of the run.

Each process has directories, sockets and daemons of its own. What they have in common is the
cache of tests/guest/cache.py, which builds each entry once under a lock.
"""

from __future__ import annotations

import functools
import gc
import re
import shlex
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.frontend.daemon import Daemon

# No property may fail because the machine was busy for a moment.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

Daemon.warm = True

_TOP = Path(__file__).parents[1]
_KERNEL = re.compile(r"[\[-](\d+\.\d+|newest)[\]-]")
_SHARED = re.compile(r'scope="module"|boot_shared')
_LOG_LINES = 60


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Gives whole units to the workers, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # by the number of tests, which says little here
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        kernel = _KERNEL.search(nodeid)
        if kernel is None:
            return file
        return f"{file} {kernel[1]}" if _shares_guests(file) else nodeid


@pytest.fixture(scope="module", autouse=True)
def no_garbage_of_other_files() -> None:
    """What the tests of other files have left to the garbage collector goes before those of this
    file, which may count descriptors: else it goes in the middle of them, and its descriptors with
    it."""
    gc.collect()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What the collection has made stays until the end of the run, and is much: no search for
    garbage looks at it again."""
    gc.collect()
    gc.freeze()


@functools.cache
def _shares_guests(file: str) -> bool:
    return _SHARED.search((_TOP / file).read_text()) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Units:
    return Units(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def length(item: pytest.Item) -> int:
        return sum(item.get_closest_marker(name) is not None for name in ("guest", "long"))

    items.sort(key=length, reverse=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    Daemon.forget_ended()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the end of the log of every daemon that ran during a test that failed."""
    report = yield
    if report.failed:
        for daemon in Daemon.started:
            end = "\n".join(daemon.lines[-_LOG_LINES:])
            report.sections.append((f"log of vhost9p {shlex.join(daemon.args)}", end))
    return report
