"""Whose the files are that a guest's users create: under passthrough the same on both sides."""

import os
from collections.abc import Iterator

import pytest

from tests.frontend.vhost_user import RING_PACKED_BIT
from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, mounted

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="files of several users need a daemon of root"),
]

ALICE, BOB, TEAM = 1000, 1001, 5000
MAKE = "set -e; cd /mnt/{0}; echo x > f{1}; mkdir d{1}; ln -s f l{1}; mkfifo p{1}; touch g{1}"


@pytest.fixture(scope="module")
def share(boot_shared: Boot) -> Iterator[Mounted]:
    with mounted(boot_shared, "--multidevs", "remap", "--ring", "split") as share:
        yield share


def owners(share: Mounted, folder: str, user: int) -> set[tuple[int, int]]:
    """Owner and group of what a user made, on the host; the guest must see the same."""
    found = set()
    for kind in "fdlpg":
        path = f"{folder}/{kind}{user}"
        status = os.lstat(share.export / path)
        assert share.sh(f"stat -c '%u %g' {path}") == f"{status.st_uid} {status.st_gid}"
        found.add((status.st_uid, status.st_gid))
    return found


def test_files_belong_to_the_users_and_groups_of_the_guest(share: Mounted) -> None:
    share.sh("mkdir -m 1777 open; mkdir team; chown 0:5000 team; chmod 2770 team")
    for user in (ALICE, BOB, 0):
        share.vm.run(MAKE.format("open", user), uid=user, gid=user)
        assert owners(share, "open", user) == {(user, user)}
    # Through a supplementary group, which the wire does not carry, into a set-gid directory.
    share.vm.run(MAKE.format("team", ALICE), uid=ALICE, gid=ALICE, groups=(TEAM,))
    assert owners(share, "team", ALICE) == {(ALICE, TEAM)}
    assert os.stat(share.export / "team" / f"d{ALICE}").st_mode & 0o7777 == 0o2755
    shut_out = share.vm.run(MAKE.format("team", BOB), uid=BOB, gid=BOB, check=False)
    assert shut_out.returncode != 0
    assert not os.path.lexists(share.export / "team" / f"f{BOB}")


def test_the_ring_is_split_where_no_other_is_offered(share: Mounted) -> None:
    """So these tests are of both layouts, as others' guests have packed ones."""
    assert RING_PACKED_BIT not in share.features()


def test_one_user_cannot_read_anothers_file(share: Mounted) -> None:
    share.sh("mkdir -m 1777 private")
    share.vm.run("cd /mnt/private; umask 077; echo secret > f", uid=ALICE, gid=ALICE)
    for command in ("cat /mnt/private/f", "rm -f /mnt/private/f", "echo x > /mnt/private/f"):
        refused = share.vm.run(command, uid=BOB, gid=BOB, check=False)
        assert refused.returncode != 0
    assert (share.export / "private" / "f").read_text() == "secret\n"
