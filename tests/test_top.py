"""Rates, and how they are laid out."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest

from vhost9p.commands import top as command
from vhost9p.control.client import Place
from vhost9p.escapes import to_json
from vhost9p.native.device_view import BOUNDS_S
from vhost9p.top import sample, view
from vhost9p.top.sample import Latencies, Sample
from vhost9p.top.view import Shown
from vhost9p.top.watch import RECORDS_MAX, Seen, Slow
from vhost9p.trace.notation import REQUESTS

PLACE = Place("/run/control", 7)
NONE = [0] * (len(BOUNDS_S) + 1)


def vm(name: str, reads: int, *, slow: int = 0, errors: dict[str, int] | None = None) -> Any:
    buckets = [reads - slow, *NONE[1:-1], slow]
    one = {"type": REQUESTS["Tread"], "requests": reads, "seconds": 1.0, "buckets": buckets}
    counts = {"read": 4096 * reads, "written": 0, "errors": errors or {}, "types": [one]}
    device = {"tag": "host0", "mounted": True, "connected": True, "inflight": 3, "fids": 5}
    return {
        "vm": name,
        "state": "serving",
        "deaths": {"count": 2},
        "devices": [{**device, "counts": {"": counts}}],
    }


def taken(at: float, *vms: Any) -> Sample:
    return Sample(at, [(PLACE, each) for each in vms], ())


def test_rates_are_those_between_two_samples() -> None:
    before = taken(10, vm("web", 100, errors={"2": 1}))
    (rate,) = sample.rates(before, taken(12, vm("web", 300, slow=4, errors={"2": 5, "13": 2})))
    assert (rate.vm, rate.tag, rate.state, rate.restarts) == ("web", "host0", "mounted", 2)
    assert (rate.requests, rate.read, rate.queue, rate.fids) == (100, 100 * 4096, 3, 5)
    assert rate.errors == {"ENOENT": 2, "EACCES": 1} and rate.failed == 3
    assert rate.types["Tread"].requests == 100
    assert rate.latencies.quantile(0.5) == BOUNDS_S[0]
    assert rate.latencies.quantile(0.99) == float("inf")


def test_a_device_that_has_begun_anew_is_counted_from_zero() -> None:
    (rate,) = sample.rates(taken(0, vm("web", 10**6)), taken(1, vm("web", 20)))
    assert (rate.requests, rate.read) == (20, 20 * 4096)


def test_vms_come_and_go() -> None:
    (rate,) = sample.rates(taken(0, vm("old", 5)), taken(1, vm("new", 7)))
    assert (rate.vm, rate.requests) == ("new", 7)
    starting = vm("new", 0)
    starting["state"] = "waiting"
    del starting["devices"][0]["counts"]
    (rate,) = sample.rates(taken(1, vm("new", 7)), taken(2, starting))
    assert (rate.state, rate.requests) == ("waiting", 0)
    assert sample.rates(taken(2, starting), taken(3)) == []


def test_times_that_were_seen_stand_in_for_those_not_counted() -> None:
    seen = Latencies()
    for each in (1.5e-6, 1.5e-6, 1.0, 1e9):
        seen.count(each)
    quiet = vm("web", 4)
    quiet["devices"][0]["counts"][""]["types"][0]["buckets"] = NONE
    (rate,) = sample.rates(taken(0), taken(1, quiet))
    assert rate.latencies.quantile(0.5) is None
    rate.add_latencies({"Tread": seen})
    assert (
        rate.latencies.quantile(0.5) == BOUNDS_S[1] == rate.types["Tread"].latencies.quantile(0.5)
    )
    before = copy.deepcopy(rate)
    rate.add_latencies({"Tread": seen})
    assert rate == before


def shown(names: int = 3) -> Shown:
    rates = sample.rates(
        taken(0), taken(1, *(vm(f"vm{i}", 10 * i + 1, errors={"2": i}) for i in range(names)))
    )
    seen = Seen(requests=RECORDS_MAX, omitted=5)
    for i in range(50):
        seen.files["vm1", "host0", f"/dir/file{i}\x1b[2J\n"] += 100 - i
        seen.slowest.append(Slow(0.01, "vm1", "host0", "Tread", f"/slow{i}", "EIO"))
    return Shown(rates, seen, ("daemon 1 has ended",), 1.0)


@pytest.mark.parametrize("names", [0, 1, 3, 40])
@pytest.mark.parametrize("width,height", [(80, 23), (80, 10), (40, 5), (200, 60)])
def test_all_fits(names: int, width: int, height: int) -> None:
    lines = view.lines(shown(names), "requests", width, height)
    assert len(lines) <= height and max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    if height >= 23:
        text = "\n".join(lines)
        for part in ("! daemon 1 has ended", "QLEN", "HOT FILES", "/dir/file0", "SLOWEST"):
            assert part in text


def test_a_busy_device_with_long_names_fits_into_80_characters() -> None:
    busy = vm("/run/user/1000/a-long-name.sock", 9999, slow=5000, errors={"2": 999})
    busy["devices"][0].update(tag="a-long-tag", inflight=1024, fids=999_999)
    (rate,) = sample.rates(taken(0), taken(1, busy))
    rate.read = rate.written = 999.4 * 1024**3
    rate.restarts = 9999
    (line,) = view.lines(Shown([rate], Seen(), (), 1.0), "name", 0, 0)[1:2]
    assert len(line) <= 80 and line.endswith(" 9999"), line


@pytest.mark.parametrize("sort", view.SORTS)
def test_devices_are_sorted(sort: str) -> None:
    lines = view.lines(shown(), sort, 0, 0)
    first = "vm0" if sort in ("name", "latency", "queue") else "vm2"
    assert lines[2].startswith(f"{first} ")


def test_json_has_all_of_it() -> None:
    plain = json.loads(to_json(view.as_plain(shown(), "requests")))
    assert [each["vm"] for each in plain["devices"]] == ["vm2", "vm1", "vm0"]
    assert plain["devices"][0]["errors"] == {"ENOENT": 2}
    assert plain["files"][0]["path"].startswith("/dir/file0")
    assert plain["watched"] == {"requests": RECORDS_MAX, "omitted": 5}


@pytest.mark.parametrize(
    "value,text",
    [(None, ""), (5e-6, "5us"), (0.0123, "12ms"), (12.4, "12s"), (float("inf"), "long")],
)
def test_times_are_short(value: float | None, text: str) -> None:
    assert view.duration(value) == text


def test_sizes_are_short() -> None:
    assert [view.size(10**i) for i in (0, 2, 4, 6, 9, 12)] == [
        "1", "100", "9.8K", "977K", "954M", "931G",
    ]  # fmt: skip
    assert [view.number(each) for each in (0, 2, 2.26, 250.4, 12345)] == [
        "0", "2", "2.3", "250", "12k",
    ]  # fmt: skip


def test_the_command_and_the_view_know_the_same_sorts() -> None:
    assert tuple(view.SORTS) == command.SORTS


def test_who_cannot_be_asked_is_named() -> None:
    found = sample.take("/nowhere/socket", None)
    assert [*found.problems] == ["/nowhere/socket: no daemon listens there"] and not found.vms
    assert found.at <= time.monotonic()
