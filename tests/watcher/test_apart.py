"""Steps that may hang, in children."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from vhost9p.watcher import apart
from vhost9p.watcher.apart import Hangs, Outcome


def say(what: object) -> Outcome:
    return what, []


def hang() -> NoReturn:
    while True:
        signal.pause()


def fail() -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, "nothing there")


def die() -> NoReturn:
    os._exit(1)


def opened(path: Path) -> Outcome:
    return None, [os.open(path, os.O_RDONLY)]


def outcomes(*steps: Callable[[], Outcome]) -> list[Outcome | OSError]:
    return [*apart.try_each(steps, [])]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "PATIENCE_S", 1.5)
    monkeypatch.setattr(apart, "LEAST_S", 1.5)


def test_each_step_has_its_outcome_whatever_becomes_of_others() -> None:
    steps: list[Callable[[], Outcome]] = [
        partial(say, 1),
        fail,
        hang,
        partial(say, 2),
        die,
        hang,
        partial(say, [3]),
    ]
    found = [
        each.errno if isinstance(each, OSError) else json.dumps(each[0])
        for each in outcomes(*steps)
    ]
    late, dead = errno.ETIMEDOUT, errno.EIO
    assert found == ["1", errno.ENOENT, late, "2", dead, late, "[3]"]


def test_what_is_opened_comes_here(tmp_path: Path) -> None:
    first, other = outcomes(hang, partial(opened, tmp_path))
    assert isinstance(first, Hangs) and not isinstance(other, OSError)
    (fd,) = other[1]
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    os.close(fd)


def test_no_process_is_left(tmp_path: Path) -> None:
    """But what hangs."""
    with suppress(ChildProcessError):  # of another test
        while os.waitpid(-1, 0):
            pass
    before = set(os.listdir("/proc/self/fd"))
    outcomes(partial(say, 1), fail)
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
