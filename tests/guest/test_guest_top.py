"""`vhost9p top` beside a real guest."""

import json
import os
import subprocess
import sys

import pytest

from tests.frontend.daemon import Daemon, environment
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, scratch_export

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]


def test_a_file_that_a_guest_reads_is_at_the_top(boot: Boot) -> None:
    with scratch_export() as base:
        (base / "busy").write_bytes(bytes(4096))
        socket = base.parent / f"{base.name}.sock"
        with Daemon("--socket", str(socket), "--path", str(base), socket=False) as daemon:
            vm = boot("full", [socket])
            vm.mount("host0", MOUNT)
            reads = f"while cat {MOUNT}/busy; do :; done >/dev/null 2>&1 &"
            vm.run(["sh", "-c", reads])
            done = subprocess.run(
                [sys.executable, "-m", "vhost9p", "top", str(socket), "--once", "--json"],
                capture_output=True, check=True, timeout=120, env=environment({}),
            )  # fmt: skip
            vm.kill()
            assert daemon.alive
    found = json.loads(done.stdout)
    assert found["files"][0]["path"] == "/busy"
    assert found["devices"][0]["types"]["Tread"]["requests"] > 0
