"""What main makes of what a watcher says, whoever that is by now."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vhost9p.vm import Vm
from vhost9p.watcher.process import MESSAGE_MAX, SAID_MAX, _Watcher


def heard(*messages: bytes) -> list[bool]:
    """Whether the watcher goes on after each."""
    device = SimpleNamespace(tag="host0")
    vm: Any = SimpleNamespace(
        name="vm", rings=[object()], config=SimpleNamespace(devices=[device, device])
    )
    watcher = _Watcher(cast(Vm, vm))
    watcher.channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.settimeout(0)
    found = []
    with its, watcher.channel:
        for message in messages:
            its.send(message)
            found.append(watcher.hear())
    return found


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"[" * (MESSAGE_MAX // 2),
        b'{"lacks":' * 5000,
        b"[]",
        b"1",
        b'{"lacks": 1}',
        b'{"lacks": {"0": 1}}',
        b"{}",
        b'{"failure": "none"}',
    ],
)
def test_what_is_no_message_ends_it(message: bytes) -> None:
    assert heard(message) == [False]


def test_it_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    messages = [
        json.dumps({"lacks": {"0": [f"{number}/{i}\n" for i in range(100)]}}).encode()
        for number in range(10)
    ]
    assert heard(*messages) == [True] * 10
    assert len(caplog.records) == SAID_MAX
    assert not [each for each in caplog.records if "\n" in each.getMessage()]
