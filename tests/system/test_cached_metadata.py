"""mapped-xattr: cached metadata are never those that a file had before.

Whoever else serves the tree, or edits it, changes attributes without a word to this daemon.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import SET_UID
from tests.frontend.daemon import Daemon
from tests.system.share import mounted
from vhost9p.policy.rights import why_not_xattrs

MAPPED = ("--security-model", "mapped-xattr", "--multidevs", "remap")
OLD_ENOUGH = 0.08
"""Seconds after which what a file has is remembered."""


@pytest.fixture(params=["/dev/shm", "/var/tmp"])
def export(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory, of a file system that keeps owners and modes."""
    path = Path(tempfile.mkdtemp(prefix="v9-recalled-", dir=request.param))
    if why := why_not_xattrs(str(path), readonly=False):
        path.rmdir()
        pytest.skip(why)
    yield path
    shutil.rmtree(path)


def set_uid(path: Path, uid: int) -> None:
    os.setxattr(path, "user.virtfs.uid", struct.pack("<I", uid))


def test_changes_on_the_host_are_seen_at_once(export: Path) -> None:
    path = export / "f1"
    path.touch()
    with Daemon("--path", str(export), *MAPPED) as daemon, mounted(daemon, export) as share:
        fid = share.client.walk_to(share.root, b"f1")
        for uid in range(1000, 1400):
            set_uid(path, uid)
            assert share.client.getattr(fid).uid == uid
            if uid % 8 == 0:  # let it be remembered, so that the next change has to show
                time.sleep(OLD_ENOUGH)
                assert {share.client.getattr(fid).uid for _ in range(3)} == {uid}
        os.removexattr(path, "user.virtfs.uid")
        assert share.client.getattr(fid).uid == os.getuid()


def test_another_file_of_the_name_has_its_own(export: Path) -> None:
    with Daemon("--path", str(export), *MAPPED) as daemon, mounted(daemon, export) as share:
        for uid in range(1000, 1020):
            path = export / "f2"
            path.unlink(missing_ok=True)  # its inode number is free to be used again
            path.touch()
            if uid % 2:
                set_uid(path, uid)
            time.sleep(OLD_ENOUGH * (uid % 4 > 1))
            for _ in range(2):
                fid = share.client.walk_to(share.root, b"f2")
                assert share.client.getattr(fid).uid == (uid if uid % 2 else os.getuid())
                share.client.clunk(fid)


def test_what_another_daemon_changes_is_seen_at_once(export: Path) -> None:
    (export / "f3").touch()
    options = ("--path", str(export), *MAPPED)
    with (
        Daemon(*options) as one,
        Daemon(*options) as other,
        mounted(one, export) as here,
        mounted(other, export) as there,
    ):
        mine = here.client.walk_to(here.root, b"f3")
        theirs = there.client.walk_to(there.root, b"f3")
        for uid in range(2000, 2040):
            here.client.setattr(mine, SET_UID, uid=uid)
            assert there.client.getattr(theirs).uid == uid
            if uid % 4 == 0:
                time.sleep(OLD_ENOUGH)
                assert there.client.getattr(theirs).uid == uid
                assert here.client.getattr(mine).uid == uid
