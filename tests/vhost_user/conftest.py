"""Every test here is a test for leaked descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

Run = Callable[[Coroutine[Any, Any, None]], None]


def open_fds() -> set[str]:
    return {f"{fd} {_target(fd)}" for fd in os.listdir("/proc/self/fd")}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the one that listed the directory
        return "listing"


def kept_fds() -> set[str]:
    return {line for line in open_fds() if not line.endswith(" listing")}


@pytest.fixture(scope="session", autouse=True)
def warm_up() -> None:
    """The first loop of a process opens a pipe for its signals and keeps it."""
    uvloop.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def no_leaks(warm_up: None) -> Iterator[None]:
    before = kept_fds()
    yield
    gc.collect()
    assert kept_fds() == before


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a new loop, of each kind."""
    return asyncio.run if request.param == "asyncio" else uvloop.run
