"""A guest at work while the workers of its file server die: it notices nothing but a pause."""

import os
from collections.abc import Iterator

import pytest

from tests.frontend.deaths import deaths
from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, mounted

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

DEATHS = 16
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
    with mounted(boot_shared, "--multidevs", "remap", cpus=2) as share:
        yield share


def test_a_guest_works_on_while_workers_die(share: Mounted) -> None:
    with deaths(share.daemon, DEATHS, longest=0.6) as killer:
        done = 0
        while killer.is_alive() or not done:
            assert share.sh(f"mkdir w{done}; cd w{done}; {WORK}").splitlines()[-2:] == ["10", "ok"]
            done += 1
    assert f"death {DEATHS // 2}: " in share.daemon.output


def test_what_is_open_and_locked_stays_so(share: Mounted) -> None:
    """A file that was removed, a lock, a directory that is being listed, inode numbers."""
    share.sh("seq 1000 > f; echo kept > gone; mkdir d; cd d; touch $(seq 600); cd ..; stat -c %i f")
    before = share.sh("stat -c %i f gone d")
    holder = share.vm.popen(
        "cd /mnt; exec 3<>gone 4<>f; flock -x 4; rm gone; echo held > there;"
        "while [ ! -e end ]; do sleep 0.1; done; read line <&3; echo more >&3; cat /proc/self/fd/3"
    )
    share.vm.run("cd /mnt; while [ ! -e there ]; do sleep 0.1; done", timeout=60)
    with deaths(share.daemon, DEATHS // 2, longest=0.4) as killer:
        while killer.is_alive():
            assert share.sh("ls d | wc -l") == "600"
            assert share.result("flock -n f true", check=False).returncode
            assert share.sh("tail -1 f") == "1000"
    assert share.sh("stat -c %i f d").split() == [before.split()[0], before.split()[2]]
    share.sh("touch end")
    assert holder.wait(timeout=60).text.split() == ["kept", "more"]
    assert share.sh("flock -n f echo free") == "free"
