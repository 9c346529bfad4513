"""A VM as main sees it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from vhost9p import vm as module
from vhost9p.birth import AskedToEnd, Failed
from vhost9p.config import Config, DeviceConfig
from vhost9p.copies import Copies
from vhost9p.vhost_user.listener import Listener
from vhost9p.vm import Vm


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One whose keeper has died, with copies of its session."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(Vm, "read_entered", lambda _: None)
    monkeypatch.setattr(Copies, "has_sessions", lambda _: True)
    config = Config((DeviceConfig(()),), log_level="debug")
    vm = Vm("vm", config, [Listener(ours, "socket")], speaks=False)
    vm.goes_on = True
    yield vm
    vm.close()
    theirs.close()


@pytest.fixture
def stop_fd() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


def births(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
    """What becomes of a new keeper: these errors, then there is one."""
    each = iter(errors)

    def give_birth(*unused: object) -> tuple[int, int]:
        if error := next(each, None):
            raise error
        return 1, -1

    monkeypatch.setattr(module, "give_birth", give_birth)


FAILURES = [
    (OSError(errno.EMFILE, "too many"), "too many"),
    (OSError(errno.EAGAIN, "too many"), "too many"),
    (Failed("the new keeper died"), "the new keeper died"),
    (AskedToEnd(), "told to end"),
]


def test_a_session_waits_for_a_keeper(
    vm: Any, stop_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that goes on with it cannot be created now: it is tried again, and nothing is lost."""
    monkeypatch.setattr(Vm, "_start_anew", lambda _: pytest.fail("the session is lost"))
    births(monkeypatch, *(error for error, _ in FAILURES))
    for _, why in FAILURES:
        with pytest.raises(OSError, match=why):
            vm.start(stop_fd)
        assert vm.goes_on
    vm.start(stop_fd)
    assert vm.pid == 1 and not vm.goes_on


def test_a_session_does_not_wait_for_ever(
    vm: Any, stop_fd: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[Vm] = []

    def begin(vm: Vm) -> None:
        begun.append(vm)

    monkeypatch.setattr(Vm, "_start_anew", begin)
    monkeypatch.setattr(module, "TRIES_S", 0.0)
    births(monkeypatch, Failed("the new keeper died"))
    vm.start(stop_fd)
    assert begun == [vm] and "cannot go on: the new keeper died" in caplog.text
    monkeypatch.setattr(module, "TRIES_S", 30.0)
    births(monkeypatch, Failed("the new keeper died"))
    vm.goes_on = True
    with pytest.raises(OSError, match="the new keeper died"):
        vm.start(stop_fd)  # its time begins anew


def test_code_is_new_until_it_has_served(vm: Any) -> None:
    """What the old code has served before says nothing of it."""
    vm.code_is_new = True
    vm._progress.serves()
    assert vm._beginning().code_is_new
    vm._has_begun()
    vm._progress.begin_anew()
    assert vm._beginning().code_is_new
    vm._progress.serves()
    assert not vm._beginning().code_is_new
