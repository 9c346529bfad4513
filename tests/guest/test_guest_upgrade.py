"""A guest at work while its file server is upgraded: it notices nothing but a pause."""

import os
from collections.abc import Iterator

import pytest

from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, mounted
from tests.system.test_upgrade import upgrades

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

WORK = """
mkdir tree; for i in $(seq 40); do seq $i 400 > tree/f$i; done; ln tree/f1 tree/hard
tar cf all.tar tree; mkdir out; tar xf all.tar -C out; diff -r tree out/tree
git init -q r; cd r; git config user.email a@b; git config user.name n
for i in 1 2 3; do seq $i 200 > f$i; git add f$i; git commit -qm $i; done; git fsck --strict; cd ..
sqlite3 db 'create table t(n);'
for i in $(seq 10); do sqlite3 db "insert into t values ($i);"; done
sqlite3 db 'select count(*) from t; pragma integrity_check;'
rm -r tree out
"""
"""Every command has to succeed; it prints what git and sqlite3 say."""


@pytest.fixture(scope="module")
def share(boot_shared: Boot) -> Iterator[Mounted]:
    with mounted(boot_shared, "--multidevs", "remap") as share:
        yield share


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.full)])
def test_a_guest_works_on(count: int, share: Mounted) -> None:
    """Open files that were removed, and locks, are there at the end; numbers of inodes stay."""
    share.sh("seq 1000 > f; echo kept > gone")
    inode = share.sh("stat -c %i f")
    holder = share.vm.popen(
        "cd /mnt; rm -f end there; exec 3<>gone 4<>f; flock -x 4; rm gone; echo held > there;"
        "while [ ! -e end ]; do sleep 0.1; done; read line <&3; echo more >&3; cat /proc/self/fd/3"
    )
    share.vm.run("cd /mnt; while [ ! -e there ]; do sleep 0.1; done", timeout=60)
    with upgrades(share.daemon, count) as thread:
        done = 0
        while thread.is_alive() or not done:
            name = f"{count}-{done}"
            assert share.sh(f"mkdir w{name}; cd w{name}; {WORK}").splitlines()[-2:] == ["10", "ok"]
            assert share.result("flock -n f true", check=False).returncode
            done += 1
    assert share.sh("stat -c %i f") == inode
    share.sh("touch end")
    assert holder.wait(timeout=60).text.split() == ["kept", "more"]
    assert share.sh("flock -n f echo free") == "free"
    assert share.daemon.output.count("INFO: upgraded from version") >= count
