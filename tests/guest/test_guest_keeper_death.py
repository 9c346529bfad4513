"""A guest whose file server loses its keeper, and then its main process: its mount goes on."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from tests.frontend.systemd import Systemd
from tests.guest.conftest import Boot
from tests.guest.mounted import mounted_in_qemu
from tests.system.test_fd_store import lose_main
from tests.system.test_keeper_death import OLD_S, lose_keeper

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

WORK = (
    "rm -rf w; mkdir w; cd w; seq 20000 > f; tar cf t.tar f; mkdir o; tar xf t.tar -C o; cmp f o/f"
)


def test_the_mount_goes_on(boot: Boot, tmp_path: Path) -> None:
    """Files are written and read with verification; a process keeps one open throughout."""
    with (
        Systemd(tmp_path) as systemd,
        mounted_in_qemu(boot, "--multidevs", "remap", env=systemd.environment) as share,
    ):
        vm = share.vm
        share.sh("seq 100000 > data; echo first > log")
        checksum = hashlib.sha256((share.export / "data").read_bytes()).hexdigest()
        holder = vm.popen(
            "cd /mnt; exec 3<data 4>>log; touch ready;"
            "while [ ! -e end ]; do sleep 0.1; done; sha256sum <&3; echo last >&4"
        )
        vm.run("cd /mnt; while [ ! -e ready ]; do sleep 0.1; done", timeout=60)
        time.sleep(OLD_S)
        for dies in ("keeper", "main", "keeper"):
            if dies == "main":
                lose_main(share.daemon, systemd)
            else:
                lose_keeper(share.daemon)
            share.sh(WORK)
            assert share.sh("sha256sum data").split()[0] == checksum
        share.sh("touch end")
        assert holder.wait(timeout=60).text.split()[0] == checksum
        assert (share.export / "log").read_text() == "first\nlast\n"
        assert vm.qmp.execute("query-status")["status"] == "running"
        assert share.daemon.output.count("files are reopened, and locks are lost") == 2
