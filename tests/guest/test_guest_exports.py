"""Several directories under one tag, as a guest's tools see them."""

import os
from collections.abc import Iterator

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import MOUNT, Mounted, scratch_export

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

CONFIG = """
socket: {socket}
tag: host0
exports:
  - {{name: src, path: {base}/a, readonly: true}}
  - {{name: out, path: {base}/b}}
"""


@pytest.fixture(scope="module")
def share(boot_shared: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """src (with a small tree, read-only) and out below one mount."""
    with scratch_export() as base:
        (base / "a/deep/er").mkdir(parents=True)
        (base / "a/deep/er/file").write_text("source")
        (base / "b").mkdir()
        socket = base.parent / f"{base.name}.sock"
        config = tmp_path_factory.mktemp("config") / "vm.yaml"
        config.write_text(CONFIG.format(base=base, socket=socket))
        args = ("--config", str(config), "--log-failures")
        with Daemon(*args, socket=False) as daemon:
            vm = boot_shared("full", [socket])
            vm.mount("host0", MOUNT)
            yield Mounted(daemon, base, vm)
            vm.kill()


def test_two_directories_are_one_mount(share: Mounted) -> None:
    assert share.sh("ls -a").split() == [".", "..", "out", "src"]
    assert share.sh("cd src/deep/..; /bin/pwd; cd ../out/../src; cat deep/er/file").split() == [
        f"{MOUNT}/src",
        "source",
    ]
    # Nothing looks like one file to the guest, and numbers that a listing tells are the files' own.
    numbers = share.sh("find . -printf '%i %p\\n'; ls -ai1 . src | sed 's/^ *//'")
    lines = [line.split() for line in numbers.splitlines()]
    by_find = {words[1]: words[0] for words in lines if words[1:] and words[1].startswith("./")}
    assert len(set(by_find.values())) == len(by_find) == 5
    assert f"{by_find['./src']} src" in numbers.splitlines()
    share.sh("cp -a src/deep out/; diff -r src out; mv out/deep/er/file out/moved")
    assert (share.export / "b/moved").read_text() == "source"
    # A tool that moves a file between exports copies it, and cannot remove what is read-only.
    for change in ("mv src/deep/er/file out/", "mkdir new"):
        assert "Read-only file system" in share.sh(f"{change} 2>&1", check=False)
    share.daemon.wait_line(
        "host0: Tunlinkat '/src/deep/er/file' in export src, uid 0: EROFS: readonly export"
    )
    assert (share.export / "b/file").read_text() == "source"
    assert (share.export / "a/deep/er/file").exists()
    share.sh("rm -r out/*; rmdir out", check=False)
    assert os.listdir(share.export / "b") == []


def test_one_of_them_by_its_name(share: Mounted) -> None:
    share.remount(options="aname=out")
    share.sh("echo mine > file; test ! -e src; cd ..; ls -a mnt")
    assert (share.export / "b/file").read_text() == "mine\n"
    share.remount(cache="loose", options="aname=src/deep")
    assert share.sh("cat er/file") == "source"
