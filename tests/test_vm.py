"""A VM as main sees it."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from vhost9p import vm as module
from vhost9p.config import Config, DeviceConfig
from vhost9p.copies import Copies
from vhost9p.vhost_user.listener import Listener
from vhost9p.vm import Vm


def test_a_session_waits_for_what_the_host_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that goes on with it cannot be created now: it is tried again, not given up."""
    ours, theirs = socket.socketpair()
    births = iter([OSError(errno.EMFILE, "too many"), OSError(errno.EAGAIN, "too many"), None])

    def give_birth(*unused: object) -> tuple[int, int]:
        if error := next(births):
            raise error
        return 1, -1

    monkeypatch.setattr(module, "give_birth", give_birth)
    monkeypatch.setattr(Vm, "read_entered", lambda _: None)
    monkeypatch.setattr(Copies, "has_sessions", lambda _: True)
    monkeypatch.setattr(Vm, "_start_anew", lambda _: pytest.fail("the session is lost"))
    config = Config((DeviceConfig(()),), log_level="debug")
    vm: Any = Vm("vm", config, [Listener(ours, "socket")], speaks=False)
    vm.goes_on = True
    stop_fd = os.eventfd(0)
    for _ in range(2):
        with pytest.raises(OSError, match="too many"):
            vm.start(stop_fd)
    vm.start(stop_fd)
    assert vm.pid == 1 and not vm.goes_on
    vm.close()
    theirs.close()
    os.close(stop_fd)
