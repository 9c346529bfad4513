"""What a guest has synced survives a power cut: contents, modes, owners and names.

The export is a file system in an image file. Once the guest's Tfsync is answered, a copy of the
image is what a power cut would leave: whatever the host has not written yet is missing there. The
copy is mounted and served by another daemon, whose guest must find everything. Without a journal a
file system writes nothing but what it is asked for; with one, a lot more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, SET_GID, SET_MODE, SET_UID
from tests.frontend.daemon import Daemon
from tests.system.faults.disk import make_disk, mounted_disk
from tests.system.share import Share, mounted, needs_root

pytestmark = needs_root

MODELS = ["passthrough", "mapped-xattr", "mapped-file", "none"]
JOURNAL, NO_JOURNAL = "has_journal", "^has_journal"
MODE, UID, GID = 0o4751, 1234, 5678


class Host:
    """A host whose power can be cut."""

    def __init__(self, folder: Path, model: str, journal: str) -> None:
        self.model = model
        # Nothing is to be written before it has to be.
        self._options = "commit=3600" if journal == JOURNAL else "defaults"
        self._image = folder / "disk"
        self._copies = 0
        make_disk(self._image, journal)

    @contextlib.contextmanager
    def guest(self, image: Path | None = None) -> Iterator[Share]:
        """A guest of a daemon that serves the image."""
        with mounted_disk(image or self._image, "loop", self._options) as top:
            daemon = Daemon("--path", str(top), "--security-model", self.model)
            with daemon, mounted(daemon, top, n_uname=0) as share:
                yield share

    @contextlib.contextmanager
    def after_power_cut(self) -> Iterator[Share]:
        """A guest of the same host, after the power was cut now and came again."""
        self._copies += 1
        copy = self._image.with_suffix(f".{self._copies}")
        shutil.copyfile(self._image, copy)
        # 0: all is well, 1: something was repaired
        code = subprocess.run(["e2fsck", "-fy", copy], capture_output=True, check=False).returncode
        assert code in (0, 1)
        with self.guest(copy) as share:
            yield share


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(tmp_path: Path, model: str) -> Host:
    return Host(tmp_path, model, JOURNAL)


@pytest.fixture
def sparing_host(tmp_path: Path, model: str) -> Host:
    """Without a journal."""
    return Host(tmp_path, model, NO_JOURNAL)


def names(share: Share, *path: bytes) -> set[bytes]:
    return set(share.client.listing(share.top, *path))


def make(share: Share) -> None:
    """Creates files and changes them, each with the Tfsync that makes it durable."""
    client, top = share.client, share.top
    parent = client.open(top, (), os.O_RDONLY | os.O_DIRECTORY)
    for name in (b"file", b"changed", b"removed", b"renamed"):
        fid = client.create(top, name, os.O_RDWR, 0o640)
        client.write(fid, 0, b"content" * 1000)
        client.fsync(fid)
        client.clunk(fid)
    client.fsync(parent)
    changed = client.open(top, b"changed", os.O_RDWR)
    client.setattr(changed, SET_MODE | SET_UID | SET_GID, mode=MODE, uid=UID, gid=GID)
    client.fsync(changed)
    client.unlinkat(top, b"removed")
    client.renameat(top, b"renamed", top, b"new")
    client.link(top, client.walk_to(top, b"file"), b"linked")
    client.fsync(parent)


def check(share: Share) -> None:
    """All of that is there."""
    client, top = share.client, share.top
    assert names(share) - {b"lost+found"} == {b"file", b"changed", b"new", b"linked"}
    for name in (b"file", b"new", b"linked"):
        assert client.getattr(client.walk_to(top, name)).mode & 0o7777 == 0o640
        assert client.read_all(client.open(top, name)) == b"content" * 1000
    attr = client.getattr(client.walk_to(top, b"changed"))
    assert attr.mode & 0o7777 == MODE and (attr.uid, attr.gid) == (UID, GID)


def test_what_was_synced_survives(host: Host) -> None:
    """And a new file has its mode and owner once its directory was synced."""
    with host.guest() as share:
        make(share)
        client, top = share.client, share.top
        client.mkdir(top, b"dir", 0o711)
        client.create(top, b"created", os.O_RDWR, 0o604)
        client.fsync(client.open(top, (), os.O_RDONLY | os.O_DIRECTORY))
        with host.after_power_cut() as later:
            for name, mode in ((b"dir", 0o711), (b"created", 0o604)):
                attr = later.client.getattr(later.client.walk_to(later.top, name))
                assert attr.mode & 0o7777 == mode
            later.client.unlinkat(later.top, b"dir", AT_REMOVEDIR)
            later.client.unlinkat(later.top, b"created")
            check(later)


@pytest.mark.full
def test_what_was_synced_survives_without_a_journal(sparing_host: Host) -> None:
    with sparing_host.guest() as share:
        make(share)
        with sparing_host.after_power_cut() as later:
            check(later)


@pytest.mark.parametrize("model", ["mapped-file"])
def test_what_was_not_synced_does_not_survive(host: Host) -> None:
    """So the tests above would notice what is missing."""
    with host.guest() as share:
        client = share.client
        client.write(client.create(share.top, b"file", os.O_RDWR), 0, b"content")
        with host.after_power_cut() as later:
            assert b"file" not in names(later)
