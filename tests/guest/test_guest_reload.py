"""A guest at work while exports come and go below its mount."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, Mounted, scratch_export

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]


def write(base: Path, file: Path, *names: str) -> None:
    """Writes the configuration."""
    exports = "".join(f"  - {{name: {each}, path: {base}/{each}}}\n" for each in names)
    file.write_text(f"socket: {base.parent}/{base.name}.sock\ntag: host0\nexports:\n{exports}")


@pytest.fixture
def share(boot: Boot, tmp_path: Path) -> Iterator[Mounted]:
    """a and b below one mount, and c that is not exported."""
    with scratch_export() as base:
        for name in "abc":
            (base / name).mkdir()
            (base / name / "file").write_text(f"from {name}\n")
        write(base, tmp_path / "vm.yaml", "a", "b")
        with Daemon("--config", str(tmp_path / "vm.yaml"), socket=False) as daemon:
            vm = boot("full", [base.parent / f"{base.name}.sock"])
            vm.mount("host0", MOUNT)
            yield Mounted(daemon, base, vm)
            vm.kill()


def reload(share: Mounted, tmp_path: Path, *names: str) -> None:
    before = share.daemon.output.count(": reloaded: ")
    write(share.export, tmp_path / "vm.yaml", *names)
    share.daemon.process.send_signal(signal.SIGHUP)
    share.daemon.wait_until(
        lambda: share.daemon.output.count(": reloaded: ") > before, "the reload is not over"
    )


def test_exports_come_and_go_below_a_mount(share: Mounted, tmp_path: Path) -> None:
    wait = "while [ ! -e ../b/{} ]; do sleep 0.1; done"
    kept = share.vm.popen(
        f"cd {MOUNT}/b; exec 3<>file; flock -x 3; touch kept;"
        f"{wait.format('end')}; cat <&3; echo more >&3; pwd -P"
    )
    gone = share.vm.popen(
        f"cd {MOUNT}/a; exec 3<>file; flock -x 3; touch ../b/gone; cd {MOUNT}/b;"
        f"{wait.format('close')}; cat <&3 2>&1; exec 3<&-; touch closed"
    )
    share.vm.run(f"cd {MOUNT}/b; {wait.format('kept')}; {wait.format('gone')}", timeout=60)
    reload(share, tmp_path, "c", "b")
    assert share.sh("ls; cat c/file").split("\n") == ["b", "c", "from c"]
    share.sh("echo new > c/new; mkdir -p c/x/y; mv c/new c/x/y; cp -r c/x b/copied")
    assert (share.export / "c/x/y/new").read_text() == "new\n"
    # As long as a process has a file open there, the guest does not ask for the name again.
    assert "Stale file handle" in share.sh("cat a/file 2>&1", check=False)
    share.sh(f"touch b/close; cd b; {wait.format('closed')}")
    assert "Stale file handle" in gone.wait(timeout=60).text
    assert "No such file" in share.sh("cat a/file 2>&1", check=False)
    assert share.result("flock -n b/file true", check=False).returncode
    reload(share, tmp_path, "b", "a")
    assert share.sh("ls; cat a/file; flock -n a/file echo free").split("\n") == [
        "a", "b", "from a", "free",
    ]  # fmt: skip
    assert "No such file" in share.sh("ls c 2>&1", check=False)
    share.sh("touch b/end")
    assert kept.wait(timeout=60).text.splitlines() == ["from b", f"{MOUNT}/b"]
    assert (share.export / "b/file").read_text() == "from b\nmore\n"
