"""Metrics of a daemon, as Prometheus gets them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser

from tests.frontend import PATIENCE
from tests.frontend.client import P9Errno
from tests.frontend.daemon import Daemon, children, run_cli
from tests.frontend.deaths import kill
from tests.system.share import IS_ROOT, mounted, serve
from tests.system.test_upgrade import upgraded

parse: Any = parser.text_string_to_metric_families


class Connection(http.client.HTTPConnection):
    """To a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        """Connects."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


def scrape(connection: http.client.HTTPConnection) -> dict[str, float]:
    """The series: "name" or "name{type}" or "name{errno}", each summed up."""
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found: dict[str, float] = {}
    for family in parse(text):
        for sample in family.samples:
            kind = sample.labels.get("type") or sample.labels.get("errno")
            name = f"{sample.name}{{{kind}}}" if kind else sample.name
            if "le" not in sample.labels:
                found[name] = found.get(name, 0) + sample.value
    return found


def place_of(daemon: Daemon) -> str:
    return str(daemon.directory / "metrics")


def series(place: str) -> dict[str, float]:
    return scrape(Connection(place))


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    daemon = serve(export)
    daemon.args += ["--metrics", place_of(daemon)]
    with daemon:
        yield daemon


def child_of(daemon: Daemon) -> int:
    (found,) = children(daemon.pid, "vhost9p-metrics")
    return found


def test_what_a_guest_does_is_counted(daemon: Daemon, export: Path) -> None:
    (export / "file").write_bytes(b"x" * 1000)
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        before = series(place_of(daemon))
        for _ in range(3):
            share.client.read(fid, 0, 1000)
        share.client.write(fid, 0, b"y" * 100)
        for _ in range(2):
            with pytest.raises(P9Errno):
                share.client.walk_to(share.top, b"none")
        after = series(place_of(daemon))
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["vhost9p_requests_total{Tread}"] == 3
    assert grown["vhost9p_requests_total{Twrite}"] == 1
    assert grown["vhost9p_request_duration_seconds_count{Tread}"] == 3
    assert 0 < grown["vhost9p_request_duration_seconds_sum{Tread}"] < PATIENCE
    assert grown["vhost9p_read_bytes_total"] == 3000
    assert grown["vhost9p_written_bytes_total"] == 100
    assert grown["vhost9p_request_errors_total{ENOENT}"] == 2
    assert (after["vhost9p_mounted"], after["vhost9p_msize_bytes"]) == (1, 512000)
    assert after["vhost9p_fids"] >= 3


def test_how_many_groups_of_inodes_are_numbered(export: Path) -> None:
    daemon = serve(export, "--multidevs", "remap")
    daemon.args += ["--metrics", place_of(daemon)]
    with daemon, mounted(daemon, export) as share:
        share.client.getattr(share.top)
        found = series(place_of(daemon))
        assert found["vhost9p_qid_groups"] >= 1
        assert found["vhost9p_qid_groups_limit"] == 65535
        assert found["vhost9p_qid_single_files"] == 0


def test_counts_go_on_after_deaths_and_an_upgrade(daemon: Daemon, export: Path) -> None:
    name = "vhost9p_requests_total{Tgetattr}"
    with mounted(daemon, export) as share:
        for end in ("death", "upgrade", ""):
            before = series(place_of(daemon)).get(name, 0)
            if end == "death":
                kill(daemon.worker)
            elif end:
                upgraded(daemon)
            share.client.getattr(share.top)
            daemon.wait_until(lambda: bool(children(daemon.pid, "vhost9p-metrics")), "no metrics")
            assert series(place_of(daemon))[name] == before + 1
        assert series(place_of(daemon))["vhost9p_worker_deaths_total"] == 1


def test_waits_for_a_rate_limit_are_counted(export: Path) -> None:
    (export / "file").write_bytes(b"x" * 8192)
    daemon = serve(export, "--throttling", "iops-total=20")
    daemon.args += ["--metrics", place_of(daemon)]
    with daemon, mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDONLY)
        for _ in range(5):
            share.client.read(fid, 0, 100)
        found = series(place_of(daemon))
    assert found["vhost9p_throttled_requests_total"] > 0
    assert found["vhost9p_throttle_wait_seconds_total"] > 0


def test_the_process_has_no_rights_and_is_replaced_if_it_dies(daemon: Daemon) -> None:
    pid = child_of(daemon)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    if IS_ROOT:
        assert status["Uid"].split() == ["65534"] * 4
    os.kill(pid, signal.SIGKILL)
    daemon.wait_until(lambda: children(daemon.pid, "vhost9p-metrics") not in ([], [pid]), "none")
    assert series(place_of(daemon))["vhost9p_serving"] == 1


def test_it_has_no_descriptor_of_the_daemon(daemon: Daemon) -> None:
    folder = f"/proc/{child_of(daemon)}/fd"
    found = [os.readlink(f"{folder}/{each}") for each in os.listdir(folder) if int(each) > 2]
    assert not [each for each in found if "vhost9p" in each or each.startswith("/")]


def test_clients_that_say_nothing_hold_up_no_scrape_for_long(daemon: Daemon) -> None:
    idle = []
    for _ in range(10):
        each = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        each.connect(place_of(daemon))
        each.sendall(b"GET /me")
        idle.append(each)
    daemon.wait_until(lambda: can_scrape(daemon), "no scrape comes through")
    for each in idle:
        each.close()


def can_scrape(daemon: Daemon) -> bool:
    try:
        return series(place_of(daemon))["vhost9p_serving"] == 1
    except (http.client.HTTPException, OSError):
        time.sleep(0.1)
        return False


def test_a_port_of_the_loopback_interface(export: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(export, "--metrics", f"127.0.0.1:{port}") as daemon:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        assert scrape(connection)["vhost9p_serving"] == 1
        done = run_cli(
            *("--socket", f"{daemon.directory}/other", "--path", str(export), "--force"),
            *("--metrics", f"127.0.0.1:{port}"),
            env={"XDG_RUNTIME_DIR": str(daemon.directory)},
        )
        assert done.returncode == 1
        assert f"127.0.0.1:{port}: cannot listen: Address already in use" in done.stderr


def test_metrics_need_a_control_socket(export: Path, tmp_path: Path) -> None:
    done = run_cli(
        *("--socket", f"{tmp_path}/s", "--path", str(export)),
        *("--metrics", f"{tmp_path}/m", "--control-socket", "off"),
    )
    assert done.returncode == 1
    assert "metrics need a control socket, and there is none: name one" in done.stderr


def test_they_are_off_by_default(export: Path) -> None:
    with serve(export) as daemon:
        assert children(daemon.pid, "vhost9p-metrics") == []
