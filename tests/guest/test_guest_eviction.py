"""A guest that keeps more files in its caches than the daemon may have open."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.mounted import mounted

pytestmark = [pytest.mark.native, pytest.mark.guest]

LIMIT = 256
FOLDERS, FILES = 10, 100
MODEL = ("--security-model", "passthrough" if os.geteuid() == 0 else "none")


def fill(export: Path) -> None:
    for d in range(FOLDERS):
        folder = export / f"d{d:02}"
        folder.mkdir()
        for f in range(FILES):
            (folder / f"f{f:02}").write_text(f"{d} {f}\n")


def md5(command: list[str], folder: Path) -> str:
    """Of what a command of the host writes."""
    output = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    return hashlib.md5(output).hexdigest()


def test_a_guest_caches_more_files_than_there_are_descriptors(boot: Boot) -> None:
    """The client of cache=loose keeps a fid for each name that it has seen."""
    wrapper = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    with mounted(boot, *MODEL, wrapper=wrapper) as share:
        fill(share.export)
        share.remount(cache="loose")
        total = FOLDERS * FILES
        assert share.sh("find . -type f | wc -l") == f"{total}"
        assert share.sh("find . -type f -exec cat {} + | wc -l") == f"{total}"
        # 500 files are open at once.
        names = [f"d{d:02}/f{f:02}" for d in range(5) for f in range(FILES)]
        assert share.sh("paste d0[0-4]/* | md5sum").split()[0] == md5(
            ["paste", *names], share.export
        )
        # Names change under what is evicted; one file is open and has none any more.
        share.sh(
            """mkdir sub; for d in d0[0-4]; do mv $d sub/$d; done; mv sub new; mv new/d00/f00 first
            exec 5<d05/f50; rm d05/f50; find . -type f -exec cat {} + > /dev/null
            test "$(cat <&5)" = "5 50"; test "$(cat first)" = "0 0" """
        )
        assert share.sh("find . -type f -exec cat {} + | wc -l") == f"{total - 1}"
        assert share.sh("cat new/*/* | md5sum").split()[0] == md5(
            ["sh", "-c", "cat new/*/*"], share.export
        )
        for f in range(FILES):  # the guest cannot know, and gets no other file
            (share.export / "d09" / f"f{f:02}").unlink()
            (share.export / "d09" / f"f{f:02}").write_text("impostor\n")
        reported = share.sh("cat d09/* 2>&1 || :").splitlines()
        assert len(reported) == FILES
        for f, line in enumerate(reported):
            assert line == f"9 {f}" or line.endswith(f"d09/f{f:02}: Stale file handle"), line
        assert share.daemon.fd_count() < LIMIT
        share.daemon.check_output()
