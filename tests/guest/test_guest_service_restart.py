"""A guest at work while `systemctl restart` replaces its file server, under the delivered units."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.deployment import debian
from tests.deployment.installed import EXPORT, SOCKET, UNIT, WHY_NOT, host
from tests.guest.channel import Process
from tests.guest.conftest import Boot
from tests.guest.killed_workers import COMMON, END, PROGRAMS, TIMEOUT
from tests.guest.mounted import MOUNT
from tests.system.host_locks import is_locked

RESTARTS = 5
LOG = f"journalctl --no-pager -o cat -u {UNIT}"

pytestmark = [
    *(pytest.mark.guest, pytest.mark.full, pytest.mark.long),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


def go_on(programs: list[Process]) -> None:
    for each in programs:
        assert each.poll() is None, each.wait(check=False)


def wait_for(file: Path, programs: list[Process]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not file.exists():
        assert time.monotonic() < deadline
        go_on(programs)
        time.sleep(0.1)


@pytest.mark.parametrize("release", debian.RELEASES)
def test_a_guest_works_on(release: str, boot: Boot, tmp_path: Path) -> None:
    """It holds locks, and verifies what it has written, listed, and removed from the names."""
    with host(release, tmp_path) as service:
        service.run(f"systemctl start {UNIT}")
        vm = boot.qemu("full", [service.path(SOCKET)], hotplug=True)
        vm.mount("host0", MOUNT)
        programs = [
            vm.popen(["python3", "-c", COMMON + text + END], cwd=MOUNT)
            for text in PROGRAMS.values()
        ]
        export = service.path(EXPORT)
        wait_for(export / "locked", programs)
        whole = os.open(export / "whole", os.O_RDWR)
        for _ in range(RESTARTS):
            service.run(f"systemctl restart {UNIT}")
            assert is_locked(whole, 0, 0), service.run(LOG)
            service.wait_for(f"systemctl show -P StatusText {UNIT}", "1 guest connected")
            go_on(programs)
        os.close(whole)
        (export / "end").touch()
        assert all(json.loads(each.wait(TIMEOUT).text)[0] for each in programs)
        said = service.run(LOG)
        assert said.count("it goes on with its open files and locks") == RESTARTS
        assert "are lost" not in said
        vm.kill()
