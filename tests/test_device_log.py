"""A device's log lines: named, and so many a second."""

from __future__ import annotations

import logging

import pytest

from vhost9p.device import memory_slots
from vhost9p.device_log import BURST, LINES_PER_SECOND, DeviceLog, log_fault


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> DeviceLog:
    caplog.set_level(logging.DEBUG)
    return DeviceLog(logging.getLogger("test"), "vm", clock)


def test_lines_are_named(log: DeviceLog, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("%s is wrong", "this")
    assert caplog.messages == ["vm: this is wrong"]


def test_too_many_are_counted(
    log: DeviceLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(BURST + 50):
        log.info("line")
    assert caplog.messages == ["vm: line"] * BURST
    caplog.clear()
    clock.now = 1.0
    for _ in range(50):
        log.error("again")
    assert caplog.messages == [
        "vm: 50 lines were dropped by the rate limit",
        *["vm: again"] * LINES_PER_SECOND,
    ]


def test_devices_do_not_take_each_others(log: DeviceLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2 * BURST):
        log.info("line")
    caplog.clear()
    DeviceLog(logging.getLogger("test"), "other").info("line")
    assert caplog.messages == ["other: line"]


def test_debug_has_all_and_takes_nothing(log: DeviceLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2 * BURST):
        log.debug("detail")
    log.info("line")
    assert len(caplog.messages) == 2 * BURST + 1
    caplog.set_level(logging.WARNING)
    for _ in range(2 * BURST):
        log.info("not wanted")
    log.warning("wanted")
    assert caplog.messages[-1] == "vm: wanted"


def test_traceback_is_kept(log: DeviceLog, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("a mistake")
    except RuntimeError:
        log.exception("failed")
    assert "RuntimeError: a mistake" in caplog.text


def test_a_fault_is_logged_once_for_each_place(caplog: pytest.LogCaptureFixture) -> None:
    def fail(number: int) -> None:
        if number % 2:
            raise RuntimeError("odd")
        raise RuntimeError("even")

    for number in range(10):
        try:
            fail(number)
        except RuntimeError as error:
            log_fault(logging.getLogger("test"), "failed", error)
    assert caplog.messages == ["failed", "failed"]
    assert "RuntimeError: odd" in caplog.text and "RuntimeError: even" in caplog.text


def test_memory_slots_are_shared_evenly() -> None:
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        maps = int(file.read())
    assert memory_slots(1) == min(509, maps // 16)
    assert memory_slots(10**6) == 8  # what SET_MEM_TABLE may have
    for devices in (2, 16, 64):
        assert 8 < memory_slots(devices) <= max(maps // 16 // devices, 8)
