"""The metrics as Prometheus reads them, from what a worker that was taken over may have written,
too; and the dashboard, whose queries name metrics and labels that there are."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, parser

from vhost9p import config_values as v
from vhost9p.metrics import child
from vhost9p.metrics.families import Metrics
from vhost9p.native import device_view

parse: Any = parser.text_string_to_metric_families
ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "docs/grafana-dashboard.json").read_text(encoding="utf-8"))
WATCHING = (ROOT / "docs/watching.md").read_text(encoding="utf-8")
SERIES = re.compile(r"\b(vhost9p_\w+)(\{[^}]*\})?")


def objects(seed: int = 0) -> list[dict[str, Any]]:
    """What main answers, from memory at random."""
    chance = random.Random(seed)
    view = device_view.view(chance.randbytes(device_view.view_size()))
    counts = device_view.counts(chance.randbytes(device_view.COUNTS_SIZE))
    device = {"tag": "host0", "connected": True, "mounted": True, "max_fids": 5}
    device |= {"qid_groups": 2, "qid_groups_limit": 65535, "qid_single_files": 0}
    device |= {name: getattr(view, name) for name in view.__slots__}
    worker = {"memory": 1, "shared": 2, "descriptors": 3}
    vm = {"vm": "a\n", "state": "serving", "worker": worker, "deaths": {"count": 3}}
    counted = {**counts._asdict(), "types": [each._asdict() for each in counts.types]}
    written = [
        {**vm, "devices": [device]},
        {"vm": "a\n", "tag": "host0", "export": "", "counts": counted},
    ]
    return [json.loads(json.dumps(each)) for each in written]


def exposed(found: list[dict[str, Any]]) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(lambda: found))
    return generate_latest(registry).decode()


def labels() -> dict[str, set[str]]:
    """The labels of each series."""
    known: dict[str, set[str]] = {}
    for family in parse(exposed(objects())):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
        known.setdefault(family.name, set())
    return known


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_worker_writes_can_be_read(seed: int) -> None:
    found = {each.name for each in parse(exposed(objects(seed)))}
    assert {"vhost9p_requests", "vhost9p_request_duration_seconds", "vhost9p_fids"} <= found


def test_labels_have_few_values() -> None:
    """A worker that was taken over makes no series but these."""
    types, errnos = set(), set()
    for family in parse(exposed(objects())):
        for sample in family.samples:
            types.add(sample.labels.get("type"))
            errnos.add(sample.labels.get("errno"))
    assert len(types) < 40 and len(errnos) < 140
    assert "other" in types and "other" in errnos


def test_buckets_add_up() -> None:
    (family,) = (
        each
        for each in parse(exposed(objects()))
        if each.name == "vhost9p_request_duration_seconds"
    )
    of_walk = [each for each in family.samples if each.labels["type"] == "Twalk"]
    buckets = [each.value for each in of_walk if each.name.endswith("_bucket")]
    (count,) = (each.value for each in of_walk if each.name.endswith("_count"))
    assert buckets == sorted(buckets) and buckets[-1] == count
    assert len(buckets) == len(device_view.BOUNDS_S) + 1


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


@pytest.mark.parametrize("query", list(queries()))
def test_the_dashboard_asks_for_what_there_is(query: str) -> None:
    known = labels()
    found = SERIES.findall(query)
    assert found
    for name, braces in found:
        assert name in known, name
        used = set(re.findall(r"(\w+)=", braces))
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            used |= set(re.split(r",\s*", grouped))
        assert used <= known[name], (name, used)


def test_the_legends_name_labels_that_the_queries_leave() -> None:
    known = labels()
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            left = set(re.split(r",\s*", grouped[0])) if grouped else set()
            if not grouped and "sum(" not in target["expr"]:
                left = known[SERIES.findall(target["expr"])[0][0]]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left


def test_the_panels_do_not_overlap() -> None:
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in DASHBOARD["panels"]]
    assert len(places) == len(set(places))
    assert len({each["id"] for each in DASHBOARD["panels"]}) == len(places)


def test_the_documents_list_each_metric() -> None:
    for family in parse(exposed(objects())):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}`" in WATCHING, name


PLACES = ["127.0.0.1:9564", "[::1]:1", "127.1.2.3:65535", "/run/x", "off"]
WRONG = ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "0.0.0.0:9564", "[::]:1", "127.0.0.999:1"]


@pytest.mark.parametrize("text", PLACES)
def test_a_place_is_taken(text: str) -> None:
    assert v.parse_metrics(text) == text


@pytest.mark.parametrize("text", [*WRONG, "host:80", "9564", "", "x/y"])
def test_a_place_that_others_could_reach_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is neither the path of a socket, nor 127\.0\.0\.1:PORT or"
    ):
        v.parse_metrics(text)


def test_a_client_that_drips_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "SCRAPE_S", 0.2)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(tmp_path / "m"))
    listening.listen()
    server = child._Server(listening)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(tmp_path / "m"))
        with pytest.raises(BrokenPipeError):
            while True:
                client.sendall(b"x")
                time.sleep(0.01)
    server.shutdown()
    server.server_close()
    thread.join()
