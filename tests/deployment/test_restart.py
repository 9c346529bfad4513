"""`systemctl restart` of the delivered units, on each release's systemd: guests notice a pause."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deployment import debian
from tests.deployment.installed import CONFIG, EXPORT, SOCKET, UNIT, WHY_NOT, host
from tests.deployment.systemd_container import Container
from tests.frontend.client import LOCK_SUCCESS, WRLCK, Client
from tests.frontend.machine import Machine

JOURNAL = f"journalctl --no-pager -o cat -u {UNIT}"
GOES_ON = "the daemon was restarted under vm1: it goes on with its open files and locks"
VERBS = ("restart", "try-restart", "restart")
EXPOSURE = 3.4

pytestmark = [
    pytest.mark.full,
    pytest.mark.long,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


@pytest.fixture(scope="module", params=debian.RELEASES)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    with host(request.param, tmp_path_factory.mktemp("host")) as container:
        yield container


@pytest.fixture
def running(service: Container) -> Iterator[Container]:
    """A service that serves, and whose guest is gone at the end."""
    service.run(f"systemctl start {UNIT}")
    yield service
    service.run(f"systemctl stop {UNIT}")
    assert service.show(UNIT, "Result") == "success"
    assert service.show(UNIT, "NFileDescriptorStore") == "0"
    assert [*service.path("/run/vhost9p/vm1").iterdir()] == []


def wait_for_guest(service: Container) -> None:
    service.wait_for(f"systemctl show -P StatusText {UNIT}", "serving 1 VM, 1 guest connected")


def test_a_guest_goes_on(running: Container) -> None:
    """With a lock and a file without a name; and a stop is one, though the daemon was restarted."""
    export = running.path(EXPORT)
    (export / "locked").write_bytes(b"data")
    (export / "gone").write_bytes(b"nameless")
    with Machine(str(running.path(SOCKET))) as machine:
        client = Client(machine.boot())
        client.version()
        client.attach(1)
        locked, gone = (client.open(1, name, os.O_RDWR) for name in (b"locked", b"gone"))
        assert client.lock(locked, WRLCK) == LOCK_SUCCESS
        client.unlinkat(1, b"gone")
        wait_for_guest(running)
        for verb in VERBS:
            before = running.show(UNIT, "MainPID")
            running.run(f"systemctl {verb} {UNIT}")
            assert running.show(UNIT, "MainPID") != before
            assert client.read(gone, 0, 100) == b"nameless"
            assert client.write(locked, 0, b"data") == 4
            assert "EAGAIN" in running.run(
                f'python3 -c \'import fcntl; fcntl.lockf(open("{EXPORT}/locked", "r+"), 6)\' '
                "2>&1 | sed s/BlockingIOError/EAGAIN/"
            )
            wait_for_guest(running)
        assert running.run(JOURNAL).count(GOES_ON) == len(VERBS)
        assert "Killing process" not in running.run(JOURNAL)


def test_a_configuration_that_has_changed_is_taken_up(running: Container) -> None:
    file = running.path(CONFIG)
    before = file.read_text()
    with Machine(str(running.path(SOCKET))) as machine:
        client = Client(machine.boot())
        client.version()
        client.attach(1)
        wait_for_guest(running)
        file.write_text(before + "readonly: true\n")
        running.run(f"systemctl restart {UNIT}")
        assert client.getattr(1).nlink
        running.wait_for(JOURNAL, "vm1: reloaded: readonly from false to true")
        file.write_text(before)
        running.run(f"systemctl reload {UNIT}")
        running.wait_for(JOURNAL, "vm1: reloaded: readonly from true to false")


def test_what_systemd_says_of_the_units(running: Container) -> None:
    """Of the release's version, and of the service that runs."""
    units = "vhost9p@vm1.service vhost9p@vm1.socket"
    assert running.run(f"systemd-analyze verify --man=no {units} 2>&1") == ""
    said = running.run(f"systemd-analyze --no-pager security {UNIT} | tail -n 1")
    assert float(said.partition(":")[2].split()[0]) <= EXPOSURE, said
