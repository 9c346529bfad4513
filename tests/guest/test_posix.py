"""POSIX conformance of a mount, as a guest sees it.

Nothing may fail, but under the mapped models what is in their formats: QEMU's own server, in the
same guest, must then fail the same case. (Metadata count for the blocks of a file or for the
directories in a directory.) What Linux's 9p client cannot do whatever the server is a group of its
own in the program (client-limits/), which is not run here; docs/guests.md names it.
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
from tests.guest.vm import VM, Virtfs

pytestmark = pytest.mark.long

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


def conform(vm: VM, least: int, uid: int = 0) -> list[str]:
    """Runs the program in a directory of the mount, as root or as a user; the lines of what has
    failed."""
    vm.mount("host0", "/mnt")
    result = vm.run("/opt/posix /mnt/here", uid=uid, gid=uid, check=False, timeout=900)
    lines = result.text.splitlines()
    failed = [line for line in lines if line.startswith("not ok ")]
    summary = re.fullmatch(r"(\d+) passed, (\d+) failed, \d+ skipped", lines[-1])
    assert summary, lines[-1]
    assert int(summary[1]) >= least, "most cases must have run"
    assert int(summary[2]) == len(failed)
    return failed


@pytest.mark.guest
@pytest.mark.parametrize("model", ["passthrough", pytest.param("none", marks=pytest.mark.full)])
def test_posix_holds_for_guest_root(boot: Boot, export: Path, model: str) -> None:
    """Guest root, and the users that it turns into; the daemon is root."""
    if os.geteuid() != 0:
        pytest.skip("serving files of several users needs root")
    (export / "here").mkdir()
    program = build_posix()
    args = ("--path", str(export), "--multidevs", "remap", "--security-model", model)
    with Daemon(*args) as daemon:
        vm = boot("full", [Path(daemon.socket)], extra={"/opt/posix": program})
        assert conform(vm, 4000) == []


@pytest.mark.guest
@(pytest.mark.full if os.geteuid() == 0 else pytest.mark.newest)
def test_posix_holds_for_an_ordinary_user(boot: Boot, export: Path) -> None:
    """A guest's user whose files a daemon of the same user serves, without any privilege."""
    root = os.geteuid() == 0
    uid = USER if root else os.geteuid()
    (export / "here").mkdir()
    program = build_posix()
    daemon = Daemon("--path", str(export), "--multidevs", "remap", wrapper=AS_USER if root else ())
    if root:
        for path in (export, export / "here", daemon.directory):
            os.chown(path, uid, uid)
    with daemon:
        vm = boot("full", [Path(daemon.socket)], extra={"/opt/posix": program})
        assert conform(vm, 1500, uid) == []


OF_THE_FORMATS = 20
"""Cases that may fail at most: see above."""


@pytest.mark.guest
@pytest.mark.parametrize("user", ["other", pytest.param("root", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "model", ["mapped-file", pytest.param("mapped-xattr", marks=pytest.mark.full)]
)
def test_posix_holds_with_mapped_metadata(boot: Boot, export: Path, model: str, user: str) -> None:
    """Guest root, and all users that it turns into, whoever the daemon is."""
    root = os.geteuid() == 0
    if user == "other" and not root:
        pytest.skip("that is the daemon's user already")
    ours, qemus = export / "ours", export / "qemus"
    for folder in (ours, qemus):
        (folder / "here").mkdir(parents=True)
    args = ("--path", str(ours), "--multidevs", "remap", "--security-model", model)
    daemon = Daemon(*args, wrapper=AS_USER if user == "other" else ())
    if user == "other":
        for path in (ours, ours / "here", daemon.directory):
            os.chown(path, USER, USER)
    with daemon:
        extra = {"/opt/posix": build_posix()}
        peer = Virtfs(qemus, "peer", model)
        vm = boot("full", [Path(daemon.socket)], [peer], extra=extra)
        failed = {line.split()[2]: line for line in conform(vm, 4300)}
        assert len(failed) <= OF_THE_FORMATS, failed
        vm.mount("peer", "/peer")
        for case, line in failed.items():
            theirs = vm.run(("/opt/posix", "/peer/here", "--only", case), check=False).text
            assert f"not ok {case} " in theirs, line
