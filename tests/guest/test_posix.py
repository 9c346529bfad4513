"""POSIX conformance of a mount, as a guest sees it.

The whole program runs in User Mode Linux, where nothing is emulated, in each setup; under QEMU the
first and then every thirteenth case of each of the program's functions, in a few setups with each
kernel, and with `make test-all` the whole program once with each kernel. Where there is no User
Mode Linux, QEMU's guests run every third case, in each setup.

Nothing may fail, but under the mapped models what is in their formats: QEMU's own server must then
fail the same case. (Metadata count for the blocks of a file or for the directories in a directory.)
What Linux's 9p client cannot do whatever the server is a group of its own in the program
(client-limits/), which is not run here; docs/guests.md names it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest import fetch, uml_kernel
from tests.guest.conftest import Boot, Loud
from tests.guest.fetch import Program
from tests.guest.guest import Guest
from tests.guest.image import Image
from tests.guest.posix.build import build_posix
from tests.guest.uml import NINEP, Device, Uml
from tests.guest.vm import VM, Virtfs
from tests.marks import needs_uml

pytestmark = [pytest.mark.long, pytest.mark.guest]

USER = 12345
# As another user, who may still read Python itself wherever root has installed it.
CAPABILITY = "-all,+dac_read_search"
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
AS_USER += [f"--inh-caps={CAPABILITY}", f"--ambient-caps={CAPABILITY}"]

EVERY = 13 if uml_kernel.is_built() else 3
OF_THE_FORMATS = 20
"""Cases that may fail at most: see above."""


@dataclass(frozen=True)
class Setup:
    """Who serves what in which way, and to whom."""

    model: str
    as_user: bool = False
    """Whether a daemon of root becomes USER."""
    uid: int = 0
    """The guest's user who runs the program."""

    @property
    def share(self) -> float:
        """How much of the program must pass: the rest needs root, or large xattrs."""
        return 0.98 if self.uid == 0 else 0.4


ROOT = Setup("passthrough")
MAPPED = Setup("mapped-file", as_user=True)
ORDINARY = Setup("none", uid=os.geteuid()) if os.geteuid() else Setup("none", True, USER)
USUAL = (ORDINARY,) if os.geteuid() else (ROOT, MAPPED)
"""In `make test`: whoever is not root serves files of his own."""
IN_QEMU = USUAL[-1:] if uml_kernel.is_built() else USUAL
"""The same in QEMU: not what runs natively as a whole, if anything else."""
SETUPS = {
    "passthrough": ROOT,
    "none": Setup("none"),
    "ordinary user": ORDINARY,
    "mapped-file by a user": MAPPED,
    "mapped-file": Setup("mapped-file"),
    "mapped-xattr by a user": Setup("mapped-xattr", as_user=True),
    "mapped-xattr": Setup("mapped-xattr"),
}


def setups(*usual: Setup, all_of: Sequence[Setup] = ()) -> pytest.MarkDecorator:
    """A test in each setup, or in each of `all_of`; in `make test` in these."""
    return pytest.mark.parametrize(
        "setup",
        [
            pytest.param(setup, id=name, marks=[] if setup in usual else [pytest.mark.full])
            for name, setup in SETUPS.items()
            if setup in (all_of or SETUPS.values())
        ],
    )


@pytest.fixture
def export() -> Iterator[Path]:
    """A directory on a real file system, which anybody may reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="v9-posix-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def serving(setup: Setup, export: Path) -> Daemon:
    """A daemon for a folder that has a directory for the program, `here`; skips the test where that
    takes root."""
    own = setup.uid == os.geteuid() or setup.model.startswith("mapped")
    if os.geteuid() != 0 and (setup.as_user or not own):
        pytest.skip("serving files of several users needs root")
    here = export / "here"
    here.mkdir()
    args = ("--path", str(export), "--multidevs", "remap", "--security-model", setup.model)
    daemon = Daemon(*args, wrapper=AS_USER if setup.as_user else ())
    if setup.as_user:
        for path in (export, here, daemon.directory):
            os.chown(path, USER, USER)
    return daemon


def conform(guest: Guest, program: str, here: str, setup: Setup, every: int = 1) -> set[str]:
    """Runs the program in a directory of the mount; the names of the cases that have failed."""
    words = (program, here, "--every", str(every))
    result = guest.run(words, uid=setup.uid, check=False, timeout=1800)
    lines = result.text.splitlines()
    failed = {line.split()[2]: line for line in lines if line.startswith("not ok ")}
    summary = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", lines[-1])
    assert summary, lines[-1]
    passed, failures, skipped = map(int, summary.groups())
    assert passed + failures + skipped == cases(every)
    assert passed >= setup.share * cases(every)
    assert failures == len(failed)
    assert len(failed) <= (OF_THE_FORMATS if setup.model.startswith("mapped") else 0), failed
    return {*failed}


def cases(every: int) -> int:
    """How many cases the program has."""
    words = (build_posix(), "--list", "--every", str(every))
    return subprocess.run(words, capture_output=True, check=True).stdout.count(b"\n")


def qemu_fails(vm: VM, case: str) -> bool:
    """Whether a case fails at a guest's mount of what QEMU serves."""
    theirs = vm.run(("/opt/posix", "/peer/here", "--only", case), check=False).text
    return f"not ok {case} " in theirs


@needs_uml
@setups(USUAL[0])
def test_posix_holds(setup: Setup, qemu: Program, loud: Loud, export: Path, tmp_path: Path) -> None:
    """The whole program, for guest root and the users that it turns into, or for a user whose files
    a daemon of the same user serves, without any privilege."""
    ours, qemus = export / "ours", export / "qemus"
    (qemus / "here").mkdir(parents=True)
    ours.mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(build_posix(), shared / "posix")
    with serving(setup, ours) as daemon, Uml([Device(Path(daemon.socket), NINEP)], shared) as guest:
        options = "trans=virtio,version=9p2000.L,msize=512000,cache=none"
        guest.run(f"mkdir /tmp/9p && mount -t 9p -o {options} host0 /tmp/9p")
        failed = conform(guest, "/mnt/posix", "/tmp/9p/here", setup)
    if failed:
        kernel = loud(lambda: fetch.kernel("newest"))  # of which User Mode Linux is
        image = loud(lambda: Image.build(kernel, extra={"/opt/posix": build_posix()}))
        with VM(image, virtfs=[Virtfs(qemus, "peer", setup.model)]) as vm:
            vm.mount("peer", "/peer")
            assert [case for case in failed if not qemu_fails(vm, case)] == []


def held(boot: Boot, export: Path, setup: Setup, every: int) -> None:
    """The same in a guest of QEMU, whose own server is asked there."""
    ours, qemus = export / "ours", export / "qemus"
    (qemus / "here").mkdir(parents=True)
    ours.mkdir()
    with serving(setup, ours) as daemon:
        peer = Virtfs(qemus, "peer", "none" if setup.model == "passthrough" else setup.model)
        vm = boot.qemu("mini", [Path(daemon.socket)], [peer], extra={"/opt/posix": build_posix()})
        vm.mount("host0", "/mnt")
        failed = conform(vm, "/opt/posix", "/mnt/here", setup, every)
        if failed:
            vm.mount("peer", "/peer")
            assert [case for case in failed if not qemu_fails(vm, case)] == []


@setups(*IN_QEMU, all_of=(ROOT, MAPPED, ORDINARY) if uml_kernel.is_built() else ())
def test_a_share_of_posix_holds_in_qemu(boot: Boot, export: Path, setup: Setup) -> None:
    held(boot, export, setup, EVERY)


@pytest.mark.full
def test_all_of_posix_holds_in_qemu(boot: Boot, export: Path) -> None:
    held(boot, export, ROOT, 1)
