"""What happens to guests: reboots, pauses, unbound drivers, unplugged devices, killed QEMUs."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import MountedInQemu, mounted_in_qemu, scratch_export
from vhost9p.qemu.options import chardev_id

pytestmark = pytest.mark.guest

LOAD = "cd /mnt; while :; do seq 2000 > load; cat load > /dev/null; ln load l2; rm l2; done"
DRIVER = "/sys/bus/virtio/drivers/9pnet_virtio"
MODEL = ("--security-model", "passthrough" if os.geteuid() == 0 else "none")


@pytest.fixture(scope="module")
def lasting_share(boot_shared: Boot) -> Iterator[MountedInQemu]:
    with mounted_in_qemu(boot_shared, *MODEL) as share:
        yield share


@pytest.fixture
def share(lasting_share: MountedInQemu) -> Iterator[MountedInQemu]:
    """A guest that the tests share, with an empty export."""
    yield lasting_share
    subprocess.run(["find", lasting_share.export, "-mindepth", "1", "-delete"], check=True)


GROWTH_KIB = 1024
"""Memory that the daemon's allocators may keep more of, however often a guest starts again."""


class Counts:
    """What guests that left must not leave behind: descriptors, threads, maps of their memory.

    Taken when the daemon has all that it keeps (a thread of its pool starts with the first guest).
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.before = self._now()
        self.memory = daemon.anonymous_kib()

    def _now(self) -> tuple[int, int, int]:
        daemon = self.daemon
        return daemon.fd_count(), daemon.threads(), daemon.map_count("memory-backend-memfd")

    def settle(self, when: str) -> None:
        """Waits until there is no more than before: some of it may go a moment later."""

        def settled() -> bool:
            return all(now <= then for now, then in zip(self._now(), self.before, strict=True))

        self.daemon.wait_until(settled, f"{when}: no return to {self.before}")
        assert self.daemon.anonymous_kib() <= self.memory + GROWTH_KIB


def wait_for_departures(daemon: Daemon, count: int) -> None:
    """Until so many VMMs have been seen to leave."""

    def seen() -> bool:
        return sum("disconnected" in line for line in daemon.lines) >= count

    daemon.wait_until(seen, "the daemon did not see QEMU leave")


@pytest.mark.parametrize("boots", [2, pytest.param(20, marks=pytest.mark.full)])
def test_reboots_leak_nothing(share: MountedInQemu, boots: int) -> None:
    counts = None
    for i in range(boots):
        share.sh(f"echo {i} >> boots; mkdir d{i}; exec 5<boots; sync")
        share.vm.popen(LOAD)
        share.sh("while ! test -s load; do :; done; rm -f load")
        share.vm.reboot()
        share.vm.mount("host0", "/mnt")
        share.sh("true")
        counts = counts or Counts(share.daemon)
        counts.settle(f"boot {i}")
    assert (share.export / "boots").read_text().split() == [str(i) for i in range(boots)]


def test_a_guest_pauses_and_goes_on_under_load(share: MountedInQemu) -> None:
    load = share.vm.popen(LOAD)
    share.sh("while ! test -s load; do :; done")
    for i in range(5):
        share.vm.pause()
        (share.export / "paused").write_text(str(i))
        share.vm.resume()
        assert load.poll() is None
        assert share.sh("cat paused") == str(i)
        assert share.sh(f"echo {i} > f{i}; cat f{i}") == str(i)
    load.kill()
    load.wait(check=False)
    assert sorted(path.name for path in share.export.glob("f?")) == [f"f{i}" for i in range(5)]


def test_the_driver_is_unbound_and_bound_again(share: MountedInQemu) -> None:
    share.sh("echo before > f")
    for i in range(3):
        share.vm.umount("/mnt")
        share.vm.run(
            f"""cd {DRIVER}; device=$(echo virtio*)
            echo $device > unbind; test ! -e $device; echo $device > bind; test -e $device"""
        )
        share.vm.mount("host0", "/mnt")
        assert share.sh(f"cat f; echo {i} > f") == ("before" if i == 0 else str(i - 1))


def test_the_device_is_unplugged_and_plugged_again(share: MountedInQemu) -> None:
    share.sh("echo before > f")
    for i in range(2):
        share.vm.umount("/mnt")
        share.vm.unplug(0)
        share.vm.plug(0)
        share.vm.run(f"until grep -q host0 {DRIVER}/virtio*/mount_tag; do sleep 0.1; done")
        share.vm.mount("host0", "/mnt")
        assert share.sh(f"cat f; echo {i} > f") == ("before" if i == 0 else str(i - 1))


def test_a_planned_restart_of_the_daemon(boot: Boot) -> None:
    """As docs/troubleshooting.md has it: the guest and its QEMU go on with another daemon."""
    backend = {"type": "socket", "data": {"addr": {"type": "unix", "data": {}}, "server": False}}
    with scratch_export() as export:
        with Daemon("--path", str(export), *MODEL) as first:
            vm = boot.qemu("full", [Path(first.socket)], hotplug=True)
            vm.mount("host0", "/mnt")
            vm.run("echo before > /mnt/f")
            vm.umount("/mnt")
            vm.unplug(0)
            vm.qmp.execute("chardev-remove", id=chardev_id(0))
            first.wait_line("disconnected")
            first.stop()
            assert "hangs from now on" not in first.output
        with Daemon("--path", str(export), *MODEL) as second:
            backend["data"]["addr"]["data"] = {"path": second.socket}  # type: ignore[index]
            vm.qmp.execute("chardev-add", id=chardev_id(0), backend=backend)
            vm.plug(0)
            vm.run(f"until grep -q host0 {DRIVER}/virtio*/mount_tag; do sleep 0.1; done")
            vm.mount("host0", "/mnt")
            assert vm.run("cat /mnt/f; echo after > /mnt/f").text == "before"
            assert (export / "f").read_text() == "after\n"
            vm.qmp.execute("system_reset")
            vm.qmp.wait_event("RESET")
            vm.kill()


@pytest.mark.parametrize("guests", [2, pytest.param(4, marks=pytest.mark.full)])
def test_a_killed_qemu_and_its_successors(boot: Boot, guests: int) -> None:
    with scratch_export() as export, Daemon("--path", str(export), *MODEL) as daemon:
        idle = daemon.fd_count()
        counts = None
        for i in range(guests):
            vm = boot.qemu("mini", [Path(daemon.socket)])
            vm.mount("host0", "/mnt")
            vm.popen(LOAD)
            vm.run(f"cd /mnt; echo {i} > f{i}; while ! test -s load; do :; done")
            vm.kill()
            wait_for_departures(daemon, i + 1)
            daemon.wait_until(lambda: daemon.fd_count() == idle, f"guest {i} left descriptors")
            daemon.wait_until(
                lambda: daemon.map_count("memory-backend-memfd") == 0, f"guest {i} stays mapped"
            )
            counts = counts or Counts(daemon)
            counts.settle(f"guest {i}")
            (export / "load").unlink()
        assert {path.name for path in export.glob("f?")} == {f"f{i}" for i in range(guests)}


def test_sigterm_under_load_ends_the_daemon(boot: Boot) -> None:
    with scratch_export() as export:
        daemon = Daemon("--path", str(export), *MODEL).start()
        try:
            vm = boot.qemu("mini", [Path(daemon.socket)])
            vm.mount("host0", "/mnt")
            vm.popen(LOAD)
            vm.run("while ! test -s /mnt/load; do :; done")
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.process.wait(timeout=10) == 0
            assert not os.path.exists(daemon.socket)
            vm.kill()
        finally:
            daemon.kill()
