"""Main's part: what the processes say, and which of them there are."""

from __future__ import annotations

import json
import os
import socket
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vhost9p.config import Config, DeviceConfig
from vhost9p.vm import Vm
from vhost9p.watcher.child import MOUNTS_HAVE_CHANGED
from vhost9p.watcher.process import (
    HUNG_REST_MAX_S,
    HUNG_REST_S,
    PAUSE_S,
    REST_S,
    SAID_MAX,
    SLOW_S,
    Watchers,
)

GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"3",
    b'"text"',
    b"{}",
    b'{"lacks": 3}',
    b'{"lacks": {"0": 3}}',
    b'{"failure": {}, "lacks": null}',
    b"[" * 60000,
    b"\xff",
]


def vm_of(*devices: DeviceConfig, **more: Any) -> Vm:
    rings = [object() if each.notify else None for each in devices]
    fields = {"marks_dirs": False, "pid": 1, "pidfd": -1, "stopped_at": None, "serves_anew": True}
    config = Config(devices)
    return cast(Vm, SimpleNamespace(name="vm", config=config, rings=rings, **{**fields, **more}))


class Main:
    """What main watches."""

    def __init__(self) -> None:
        self.watched: dict[int, Any] = {}
        self.watchers = Watchers(self.watched.__setitem__, self.watched.pop)

    def begin(self, vm: Vm) -> socket.socket:
        """There is a process, of which this is the other end."""
        self.watchers.serves(vm)
        each = self.watchers._all[vm.name]
        each.channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        each.next_start = None
        self.watched[each.channel.fileno()] = lambda: self.watchers._hear(each)
        return its

    def end(self, vm: Vm, *said: bytes, first: bytes = b'{"lacks": {}}') -> float:
        """A process that begins to watch, has something more to say, and ends. Returns in how many
        seconds the next one is due."""
        with self.begin(vm) as its:
            watcher = self.watchers._all[vm.name]
            watcher._started = time.monotonic()
            watcher._back_off.started()
            watcher._changes.started()
            for each in (first, *said):
                its.send(each)
        while self.watched:
            self.step()
        ((at, _),) = self.watchers.due()
        return at - time.monotonic()

    def step(self) -> None:
        (ready,) = self.watched.values()
        ready()


@pytest.mark.parametrize("said", GARBAGE, ids=range(len(GARBAGE)))
def test_a_process_that_says_nonsense_is_replaced(said: bytes) -> None:
    main, vm = Main(), vm_of(DeviceConfig((), notify=True))
    with main.begin(vm) as its:
        its.send(said) if said else its.close()
        main.step()
    assert not main.watched and main.watchers.lacks("vm", 0) is None
    ((at, _),) = main.watchers.due()
    assert at >= PAUSE_S


def test_what_a_process_says_is_shown_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    main, vm = Main(), vm_of(DeviceConfig((), tag="one"), DeviceConfig((), tag="two", notify=True))
    said = json.dumps({"lacks": {"1": ["a\nb: no handles"]}}).encode()
    for _ in range(2):
        its = main.begin(vm)
        its.send(said)
        main.step()
        assert main.watchers.lacks("vm", 0) == []
        assert main.watchers.lacks("vm", 1) == ["a\\nb: no handles"]
        its.send(said)
        main.step()
        assert not main.watched, "it says it once"
        its.close()
    assert [record.message for record in caplog.records] == [
        "two: changes by the host are not reported to the guest: a\\nb: no handles"
    ]
    main.begin(vm).close()
    main.watchers.forget(vm)
    assert not main.watched and not [*main.watchers.due()]


@pytest.mark.parametrize(
    "why",
    [{"pid": 0}, {"stopped_at": 1.0}, {"serves_anew": False}],
    ids=lambda why: next(iter(why)),
)
def test_no_process_is_started_where_nothing_is_served(why: dict[str, Any]) -> None:
    main = Main()
    main.watchers.serves(vm_of(DeviceConfig((), notify=True), **why))
    assert not [*main.watchers.due()]


def test_no_process_is_started_that_nobody_needs() -> None:
    main = Main()
    main.watchers.serves(vm_of(DeviceConfig(())))
    main.watchers.serves(vm_of(DeviceConfig((), notify=True), marks_dirs=True))
    assert not [*main.watchers.due()]


def test_a_host_that_lacks_something_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    main = Main()
    main.watchers.serves(vm_of(DeviceConfig((), notify=True), read_entered=lambda: None))
    for _ in range(3):
        ((_, start),) = main.watchers.due()
        start()
    assert not main.watched and len(caplog.records) == 1
    assert "which is tried again: [Errno 11]" in caplog.records[0].message


def test_processes_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    main, vm = Main(), vm_of(DeviceConfig((), tag="one", notify=True))
    for number in range(10):
        with main.begin(vm) as its:
            its.send(json.dumps({"lacks": {"0": [f"{number}/{i}" for i in range(100)]}}).encode())
            main.step()
            main.watchers._end(main.watchers._all["vm"])
    assert len(caplog.records) == SAID_MAX


def test_mounts_that_change_again_and_again_are_no_deaths() -> None:
    """The next process follows soon, and watches longer and longer before it may be replaced."""
    main, vm = Main(), vm_of(DeviceConfig((), notify=True))
    rests = []
    for _ in range(20):
        main.watchers.serves(vm)
        rests.append(main.watchers._all["vm"]._rest)
        assert main.end(vm, MOUNTS_HAVE_CHANGED) <= max(PAUSE_S, rests[-1])
    assert rests[:2] == [0.0, 0.0] and rests == sorted(rests) and rests[-1] == REST_S
    assert main.end(vm) <= PAUSE_S, "this is the first death"


def test_what_hangs_is_found_out_less_and_less_often() -> None:
    """Each process that does so leaves one behind."""
    main, vm = Main(), vm_of(DeviceConfig((), notify=True))
    rests = []
    for _ in range(20):
        main.end(vm, MOUNTS_HAVE_CHANGED, first=b'{"lacks": {}, "hangs": true}')
        rests.append(main.watchers._all["vm"].hung_rest)
    assert rests[:2] == [2 * HUNG_REST_S, 4 * HUNG_REST_S] and rests == sorted(rests)
    assert rests[-1] == HUNG_REST_MAX_S
    main.end(vm, MOUNTS_HAVE_CHANGED)
    assert main.watchers._all["vm"].hung_rest == HUNG_REST_S, "nothing hangs any more"


def test_a_process_that_never_watches_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    main, vm = Main(), vm_of(DeviceConfig((), notify=True))
    with main.begin(vm):
        watcher = main.watchers._all["vm"]
        watcher.is_late_at = SLOW_S
        ((at, say),) = main.watchers.due()
        say()
        assert at == SLOW_S and not [*main.watchers.due()]
    (record,) = caplog.records
    assert record.message.endswith("which is tried again: the process that is to watch hangs")
