"""QEMU stops its guest, resets it, or takes the device out while no worker lives: it waits for the
next one, neither for ever nor in vain, and the guest goes on or comes up anew."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.frontend.deaths import no_worker
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, MountedInQemu, mounted_in_qemu

pytestmark = pytest.mark.guest

LOAD = f"cd {MOUNT}; while :; do seq 2000 > load; cat load > /dev/null; ln load l2; rm l2; done"
DRIVER = "/sys/bus/virtio/drivers/9pnet_virtio"
MODEL = ("--security-model", "passthrough" if os.geteuid() == 0 else "none")


@pytest.fixture(scope="module")
def share(boot_shared: Boot) -> Iterator[MountedInQemu]:
    with mounted_in_qemu(boot_shared, *MODEL) as share:
        share.sh("echo kept > kept")
        yield share


def is_served(share: MountedInQemu) -> None:
    assert share.sh("cat kept; echo new > new; cat new; rm new").split() == ["kept", "new"]
    assert share.vm.process.poll() is None


def mount_anew(share: MountedInQemu) -> None:
    share.vm.mount("host0", MOUNT)
    is_served(share)


def wait_reset(share: MountedInQemu, began: float) -> None:
    """Until QEMU has reset all devices. The firmware resets the machine once more."""
    while share.vm.qmp.wait_event("RESET")["timestamp"]["seconds"] < int(began):
        pass


def test_a_paused_guest_goes_on(share: MountedInQemu) -> None:
    load = share.vm.popen(LOAD)
    share.sh("while ! test -s load; do :; done")
    with no_worker(share.daemon) as may:
        share.vm.pause()
        assert may.is_set()
    share.vm.resume()
    with no_worker(share.daemon):
        share.vm.pause()
        share.vm.resume()
    is_served(share)
    assert load.poll() is None
    load.kill()
    load.wait(check=False)


def test_a_device_is_taken_out(share: MountedInQemu) -> None:
    share.vm.umount(MOUNT)
    with no_worker(share.daemon) as may:
        share.vm.unplug(0)
        assert may.is_set()
    with no_worker(share.daemon) as may:
        share.vm.plug(0)
        assert may.is_set()
    share.vm.run(f"until grep -q host0 {DRIVER}/virtio*/mount_tag; do sleep 0.1; done")
    mount_anew(share)


def test_a_guest_that_is_reset_comes_up(share: MountedInQemu) -> None:
    share.vm.popen(LOAD)
    share.sh("while ! test -s load; do :; done")
    boots = share.vm.channel.boots
    with no_worker(share.daemon) as may:
        began = time.time()
        share.vm.qmp.execute("system_reset")
        wait_reset(share, began)
        assert may.is_set()
    share.vm.wait_boot(boots)
    mount_anew(share)


def test_a_guest_that_reboots_comes_up(share: MountedInQemu) -> None:
    boots = share.vm.channel.boots
    with no_worker(share.daemon) as may:
        began = time.time()
        share.vm.popen("reboot -f")
        wait_reset(share, began)
        assert may.is_set()
    share.vm.wait_boot(boots)
    mount_anew(share)
