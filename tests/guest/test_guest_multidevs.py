"""Several file systems in one export, as a guest's tools see them.

The daemon runs in a mount namespace of its own, in which two tmpfs with equal inode numbers and a
bind mount lie below the export; the files there are made through the guest.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import Mounted, scratch_export
from tests.system.share import IS_ROOT, UNSHARE, entering

pytestmark = [pytest.mark.native, pytest.mark.guest]

MOUNTS = """
set -e; cd "$1"; shift
mount -t tmpfs one one; mount -t tmpfs two two; mkdir one/sub two/sub; mount --bind one/sub bound
exec "$@"
"""
FILL = """
for d in one two; do
    for i in 1 2 3; do echo $d $i > $d/file$i; done; ln $d/file1 $d/hard
    dd if=/dev/zero of=$d/big bs=64k count=4 status=none
done
echo bound > bound/inner; ln one/file2 one/sub/second
"""


@contextmanager
def share_of_three(boot: Boot, policy: str) -> Iterator[Mounted]:
    """A guest that has the export mounted, under one of the policies."""
    with ExitStack() as stack:
        export = stack.enter_context(scratch_export())
        for name in ("one", "two", "bound"):
            (export / name).mkdir()
        probe = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip(f"no mount namespace: {probe.stderr.decode()}")
        model = "passthrough" if IS_ROOT else "none"
        wrapper = [*UNSHARE, "sh", "-c", MOUNTS, "sh", str(export)]
        args = ("--path", str(export), "--security-model", model, "--multidevs", policy)
        daemon = stack.enter_context(Daemon(*args, wrapper=wrapper))
        vm = boot("full", [Path(daemon.socket)])
        stack.callback(vm.kill)
        vm.mount("host0", "/mnt")
        yield Mounted(daemon, export, vm)


def inside(share: Mounted, path: str) -> Path:
    """A path below the export with the mounts that the daemon sees, which the host does not."""
    return Path(f"/proc/{share.daemon.pid}/root{share.export}") / path


def contents(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_that_numbers_collide(share: Mounted) -> None:
    """The premise: equal inode numbers on different devices."""
    pairs = [(inside(share, f"one/file{i}"), inside(share, f"two/file{i}")) for i in (1, 2, 3)]
    for one, two in pairs:
        assert one.stat().st_ino == two.stat().st_ino
        assert one.stat().st_dev != two.stat().st_dev


LISTED = """python3 -c '
import os, sys
for top in (".", "one", "two", "bound", "one/sub"):
    for entry in os.scandir(top):
        told, own = entry.inode(), os.lstat(entry.path).st_ino
        if told != own:
            sys.exit(f"{entry.path}: {told} was listed, {own} it is")
'"""


def check_listings(share: Mounted) -> None:
    """What a listing tells (d_ino) is what stat(2) tells, for mount points too."""
    share.sh(LISTED)


def test_remap_keeps_files_of_several_devices_apart(boot: Boot) -> None:
    with share_of_three(boot, "remap") as share:
        share.sh(FILL)
        check_that_numbers_collide(share)
        inodes = share.sh("stat -c %i one/file? two/file? one two bound .").split()
        assert len(set(inodes)) == len(inodes)
        assert share.sh("ls -i one/file1 | cut -d' ' -f1") == share.sh("stat -c %i one/hard")
        assert share.sh("find . -samefile one/file1 | sort") == "./one/file1\n./one/hard"
        same = share.sh("find . -samefile bound/inner | sort")
        assert same == "./bound/inner\n./one/sub/inner"
        assert share.sh("stat -c %i bound one/sub | uniq | wc -l") == "1"
        share.sh(
            """mkdir /tmp/t; tar cf /tmp/t.tar one two; tar xf /tmp/t.tar -C /tmp/t
            cp -a one two /tmp/t/..; diff -r one /tmp/one; diff -r two /tmp/two
            rsync -aH one two /tmp/r/; diff -r one /tmp/r/one; diff -r two /tmp/r/two
            diff -r one /tmp/t/one; diff -r two /tmp/t/two; rm -r /tmp/one /tmp/two /tmp/r /tmp/t"""
        )
        one, two = (int(share.sh(f"du -sb {name}").split()[0]) for name in ("one", "two"))
        total = int(share.sh("du -cb one two | tail -1").split()[0])
        assert total == one + two > 2 * 4 * 65536
        # Copied below the export in one go, where each tool keeps a table of links for the whole.
        share.sh(
            """mkdir -p copy/tar copy/rsync copy/cp; tar cf - one two | tar xf - -C copy/tar
            rsync -aH one two copy/rsync/; cp -a one two copy/cp/"""
        )
        for name in ("one", "two"):
            there = contents(inside(share, name))
            assert there["file1"] == f"{name} 1\n".encode()
            for tool in ("tar", "rsync", "cp"):
                copy = share.export / "copy" / tool / name
                assert contents(copy) == there
                assert os.path.samefile(copy / "file1", copy / "hard")
                assert (copy / "file3").stat().st_nlink == 1
        check_listings(share)
        inside(share, "late").mkdir()
        check_listings(share)
        late = ["mount", "-t", "tmpfs", "late", str(share.export / "late")]
        subprocess.run([*entering(share.daemon), *late], check=True)
        check_listings(share)
        share.remount(cache="loose")
        for _ in range(2):  # from the server, from the cache
            check_listings(share)
            assert share.sh("stat -c %i one/file1 one/hard | uniq | wc -l") == "1"
            assert share.sh("find . -samefile two/file1 | sort") == "./two/file1\n./two/hard"
        assert not [line for line in share.daemon.lines if "WARNING" in line]


def test_warn_says_so_once(boot: Boot) -> None:
    with share_of_three(boot, "warn") as share:
        share.sh(FILL)
        check_that_numbers_collide(share)
        numbers = share.sh("stat -c %i one/file1 two/file1").split()
        assert numbers[0] == numbers[1], "warn leaves the numbers as they are"
        share.sh("ls -laR . > /dev/null; find . -samefile one/file1")
        warnings = [line for line in share.daemon.lines if "WARNING" in line]
        assert len(warnings) == 1
        assert "remap" in warnings[0] and "export of its own" in warnings[0]


def test_forbid_denies_and_lists(boot: Boot) -> None:
    with share_of_three(boot, "forbid") as share:
        assert set(share.sh("ls").split()) == {"one", "two", "bound"}
        for command in ("ls one", "cat two/x", "touch one/x", "stat bound"):
            refused = share.result(command, check=False)
            assert refused.returncode != 0
            assert b"No such device" in refused.stderr
        share.sh("echo fine > here; cat here")
        assert os.listdir(share.export / "one") == []
