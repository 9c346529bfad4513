"""Host edits under load: what a guest reads by name is what the host has, while its processes hold
files, run programs and stand in directories.

Right in full is cache=none. The other modes keep the pages of a file as long as a process holds it,
so there nothing is held but directories; cache=loose never asks again, and is not tried.
"""

import os
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.edits import Holder, Workplace, differences
from tests.guest.mounted import MOUNT, Mounted, mounted

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

SHORT, LONG = 8, 1000
MODES = {"none": (), "readahead": ("--no-files",), "mmap": ("--no-files",)}


def work(guest: Mounted, cache: str, rounds: int, version: str = "9p2000.L") -> None:
    """So many edits; after each the guest sees what there is."""
    folder = Path(guest.export / f"{cache}-{version}")
    folder.mkdir()
    place = Workplace(folder)
    guest.vm.umount(MOUNT)
    guest.vm.mount("host0", MOUNT, cache=cache, version=version)
    holder = Holder(guest.vm, f"{MOUNT}/{folder.name}", *MODES[cache])
    for _ in range(rounds):
        edit = place.edit()
        wrong = differences(holder.see(place.names), place.see())
        assert not wrong, f"{cache}, turn {place.turn}, {edit}: {wrong}"
    holder.process.close_stdin()
    holder.process.wait()


def test_what_has_the_name(boot: Boot) -> None:
    """One edit of each kind, in the mode that is right in full."""
    with mounted(boot, "--multidevs", "remap") as guest:
        work(guest, "none", SHORT)


@pytest.mark.full
@pytest.mark.parametrize("cache", MODES)
def test_a_guest_follows_a_day_of_host_edits(boot: Boot, cache: str) -> None:
    with mounted(boot, "--multidevs", "remap") as guest:
        if cache == "readahead" and boot.kernel.name == "6.1":
            pytest.skip("Linux 6.1 does not know cache=readahead")
        work(guest, cache, LONG)


@pytest.mark.full
def test_a_9p2000u_guest_follows_host_edits(boot: Boot) -> None:
    with mounted(boot, "--multidevs", "remap") as guest:
        work(guest, "none", LONG // 10, "9p2000.u")
