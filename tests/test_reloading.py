"""The change of a VM whose keeper is away at a bad moment."""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from vhost9p import plain
from vhost9p.birth import Failed
from vhost9p.config import Config, DeviceConfig, Level
from vhost9p.reload import Plan
from vhost9p.reloading import Reloading
from vhost9p.vhost_user.listener import Listener
from vhost9p.vm import Vm


def test_without_a_keeper_at_the_end_the_next_one_has_the_old_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keeper with the new one has died, and nobody serves before the time is up."""
    old, new = Config((), log_level="info"), Config((), log_level="debug")
    vm: Any = SimpleNamespace(
        config=old, pid=1, pidfd=-1, stopped_at=None, why_left_out="", serves_anew=True,
        read_entered=lambda: SimpleNamespace(level=None),
        trace=SimpleNamespace(renew=lambda: None), take_over=lambda: None,
        facts=SimpleNamespace(states=()), has_opened=False, has_not_opened=lambda: None,
    )  # fmt: skip

    def around(replace: Any) -> None:
        assert vm.pid, "nobody watches a keeper that there is not"
        vm.serves_anew = False

    monkeypatch.setattr("vhost9p.reloading.SERVE_PATIENCE_S", 0)
    change = Reloading(vm, Plan(new, ("log_level",)), [], -1, around)
    assert not change.go_on()
    assert (vm.config, vm.config_before) == (new, old)
    vm.pid = 0
    with pytest.raises(Failed, match="not served with it"):
        change.go_on()
    assert (vm.config, vm.config_before) == (old, None)


@pytest.mark.parametrize("serves", [False, True])
def test_another_main_process_goes_on_with_what_was_served(serves: bool) -> None:
    """Main ends before the change is over: before or after it is served."""
    old, new = Config((), log_level="info"), Config((), log_level="debug")
    ours, theirs = socket.socketpair()
    vm: Any = Vm("vm", Config((DeviceConfig(()),)), [Listener(ours, "socket")], speaks=False)
    vm.config = old
    one: Any = SimpleNamespace(
        config=old, pid=1, pidfd=-1, stopped_at=None, why_left_out="", serves_anew=True,
        read_entered=lambda: SimpleNamespace(level=None),
        trace=SimpleNamespace(renew=lambda: None), has_opened=True, take_over=lambda *_: None,
        facts=SimpleNamespace(states=()), has_not_opened=lambda: None,
    )  # fmt: skip
    change = Reloading(one, Plan(new, ("log_level",)), [], -1, lambda replace: replace())
    assert not change.go_on()
    if serves:
        assert change.go_on()
    change.end()
    vm.config, vm.config_before = one.config, one.config_before
    written = vm.written_for_store()["config"]
    assert plain.from_plain(Config, written) == (new if serves else old)
    vm.close()
    theirs.close()


@pytest.fixture
def confined() -> Any:
    """A VM that serves, and has mounts of its own."""
    return SimpleNamespace(
        config=Config(()), pid=os.getpid(), pidfd=-1, stopped_at=None, why_left_out="",
        serves_anew=True, has_opened=False,
        read_entered=lambda: SimpleNamespace(level=Level.NAMESPACE),
    )  # fmt: skip


def test_main_does_not_wait_for_mounts_that_hang(
    confined: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks again later; and leaves it when it has to."""
    reading, writing = os.pipe()

    def hang(*_: object) -> None:
        os.write(writing, b"%d" % os.getpid())
        time.sleep(10000)

    monkeypatch.setattr("vhost9p.native.sandbox.join_files", hang)
    monkeypatch.setattr("vhost9p.reloading.MOUNT_PATIENCE_S", math.inf)
    change = Reloading(confined, Plan(Config(()), ("log_level",)), [], -1, lambda replace: None)
    assert not change.go_on()
    assert not change.go_on()
    pid = int(os.read(reading, 20))
    for fd in (reading, writing):
        os.close(fd)
    change.end()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_a_failure_among_the_mounts_changes_nothing(
    confined: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr("vhost9p.native.sandbox.join_files", fail)
    change = Reloading(confined, Plan(Config(()), ("log_level",)), [], -1, lambda replace: None)
    with pytest.raises(Failed, match="mounts cannot be changed: Operation not permitted"):
        while not change.go_on():
            pass


def test_what_the_guest_may_have_lost_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has opened everything at the last moment: before, or when it was ended."""
    new = Config((), log_level="debug")
    for when in ("before", "meanwhile"):
        vm: Any = SimpleNamespace(
            config=Config(()), pid=1, pidfd=-1, stopped_at=None, why_left_out="", serves_anew=True,
            read_entered=lambda: SimpleNamespace(level=None),
            trace=SimpleNamespace(renew=lambda: None), has_opened=False,
            facts=SimpleNamespace(states=()), has_not_opened=lambda: None,
        )  # fmt: skip

        def take_over(_: int, may: Any, vm: Any = vm, when: str = when) -> None:
            if vm.config is not new:
                vm.has_opened = when == "meanwhile"
            may()

        vm.take_over = take_over
        monkeypatch.setattr("vhost9p.reloading.SERVE_PATIENCE_S", 0)
        change = Reloading(vm, Plan(new, ("log_level",)), [], -1, lambda replace: replace())
        assert not change.go_on()
        vm.serves_anew, vm.has_opened = False, when == "before"
        assert change.go_on()
        assert vm.config is new
