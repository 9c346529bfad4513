"""`vhost9p status` and metrics of a real guest."""

import json
import os

import pytest

from tests.frontend.daemon import run_cli
from tests.guest.conftest import Boot
from tests.guest.mounted import mounted
from tests.system.test_control import place_of
from tests.system.test_metrics import series

pytestmark = [pytest.mark.native, pytest.mark.guest]


def test_what_a_guest_does_is_seen(boot: Boot) -> None:
    place = f"/tmp/v9-metrics-{os.getpid()}"
    with mounted(boot, "--metrics", place) as share:
        (share.export / "file").write_bytes(b"x" * 100_000)
        assert share.sh("cat file | wc -c").strip() == "100000"
        done = run_cli("status", "--json", "--control-socket", place_of(share.daemon).path)
        (daemon,) = json.loads(done.stdout)
        (device,) = daemon["vms"][0]["devices"]
        assert (device["mounted"], device["dialect"]) == (True, "9P2000.L")
        assert device["msize"] >= 4096 and device["guest_memory"] > 2**20
        found = series(place)
        assert found["vhost9p_read_bytes_total"] >= 100_000
        assert found["vhost9p_request_duration_seconds_count{Twalk}"] > 0
