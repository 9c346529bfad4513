"""POSIX conformance of a mount, as a guest's root sees it under security_model passthrough.

Nothing may fail. What Linux's 9p client cannot do whatever the server is a group of its own in the
program (client-limits/), which is not run here; the README names it.
"""

import re
import tempfile
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.posix.build import build_posix


@pytest.mark.guest
@pytest.mark.newest
def test_nothing_fails_that_a_client_can_do(boot: Boot, tmp_path: Path) -> None:
    program = build_posix(tmp_path)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-posix-") as export,
        Daemon("--path", export, "--multidevs", "remap") as daemon,
    ):
        vm = boot("full", [Path(daemon.socket)], extra={"/opt/posix": program})
        vm.mount("host0", "/mnt")
        lines = vm.run("/opt/posix /mnt", check=False, timeout=900).text.splitlines()
    bad = [line for line in lines if line.startswith("not ok ")]
    assert not bad
    summary = re.fullmatch(r"(\d+) passed, 0 failed, \d+ skipped", lines[-1])
    assert summary, lines[-1]
    assert int(summary[1]) > 4000, "most cases must have run"
