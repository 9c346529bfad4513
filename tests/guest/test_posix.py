"""POSIX conformance of a mount, as a guest's root sees it under security_model passthrough.

What fails must be what Linux's 9p client cannot do on any server; each is named here and in the
README.
"""

import re
import tempfile
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.posix.build import build_posix

CLIENT_LIMITS = {
    # The client keeps no fid for an O_PATH descriptor or a working directory and asks by name,
    # which is gone.
    "unlink/open/file",
    "unlink/open/fifo",
    "unlink/open/socket",
    "unlink/open/char",
    "unlink/open/block",
    "unlink/open/symlink",
    "directory/rmdir/working-directory",
    # setxattr with XATTR_REPLACE and an empty value is removexattr on the wire.
    "xattr/empty-value",
}


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
    failed = {line.split()[2] for line in bad}
    assert failed - CLIENT_LIMITS == set(), bad
    summary = re.fullmatch(r"(\d+) passed, \d+ failed, (\d+) skipped", lines[-1])
    assert summary, lines[-1]
    assert int(summary[1]) > 4000, "most cases must have run"
