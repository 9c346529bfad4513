"""POSIX conformance of a mount, as a guest sees it.

Nothing may fail. What Linux's 9p client cannot do whatever the server is a group of its own in the
program (client-limits/), which is not run here; the README names it.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.posix.build import build_posix
from tests.guest.vm import VM

USER = 12345
# As another user, who may still read Python itself wherever root has installed it.
CAPABILITY = "-all,+dac_read_search"
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
AS_USER += [f"--inh-caps={CAPABILITY}", f"--ambient-caps={CAPABILITY}"]


@pytest.fixture
def export() -> Iterator[Path]:
    """A directory on a real file system, which anybody may reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-posix-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def conform(vm: VM, least: int, uid: int = 0) -> None:
    """Runs the program in a directory of the mount, as root or as a user; all must pass."""
    vm.mount("host0", "/mnt")
    result = vm.run("/opt/posix /mnt/here", uid=uid, gid=uid, check=False, timeout=900)
    lines = result.text.splitlines()
    assert [line for line in lines if line.startswith("not ok ")] == []
    summary = re.fullmatch(r"(\d+) passed, 0 failed, \d+ skipped", lines[-1])
    assert summary, lines[-1]
    assert int(summary[1]) >= least, "most cases must have run"


@pytest.mark.guest
@pytest.mark.newest
@pytest.mark.parametrize("model", ["passthrough", pytest.param("none", marks=pytest.mark.full)])
def test_root(boot: Boot, export: Path, tmp_path: Path, model: str) -> None:
    """Guest root, and the users that it turns into; the daemon is root."""
    if os.geteuid() != 0:
        pytest.skip("serving files of several users needs root")
    (export / "here").mkdir()
    program = build_posix(tmp_path)
    args = ("--path", str(export), "--multidevs", "remap", "--security-model", model)
    with Daemon(*args) as daemon:
        vm = boot("full", [Path(daemon.socket)], extra={"/opt/posix": program})
        conform(vm, 4000)


@pytest.mark.guest
@(pytest.mark.full if os.geteuid() == 0 else pytest.mark.newest)
def test_user(boot: Boot, export: Path, tmp_path: Path) -> None:
    """A guest's user whose files a daemon of the same user serves, without any privilege."""
    root = os.geteuid() == 0
    uid = USER if root else os.geteuid()
    (export / "here").mkdir()
    program = build_posix(tmp_path)
    daemon = Daemon("--path", str(export), "--multidevs", "remap", wrapper=AS_USER if root else ())
    if root:
        os.chown(export / "here", uid, uid)
        os.chown(daemon.directory, uid, uid)
    with daemon:
        vm = boot("full", [Path(daemon.socket)], extra={"/opt/posix": program})
        conform(vm, 1500, uid)
