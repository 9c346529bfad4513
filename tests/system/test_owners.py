"""Whose files are: what a fid creates belongs to the user of its attach and the request's gid."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import SET_GID, SET_MODE, SET_UID
from tests.frontend.daemon import Daemon
from tests.frontend.wire import NOFID
from tests.ordinary_user import as_ordinary_user
from tests.system.share import IS_ROOT, Share, mounted, needs_root

ANN, BOB = 1000, 2000
TEAM = 3000
NOBODY = 12345
AS_NOBODY = as_ordinary_user(NOBODY, NOBODY)


def attach(share: Share, uid: int) -> int:
    """A fid of the test's directory for one user of the guest."""
    root = share.client.new_fid()
    share.client.attach(root, uid, uname=b"")
    return share.client.walk_to(root, share.name)


def owner(share: Share, name: str) -> tuple[int, int]:
    status = os.lstat(share.path(name))
    return status.st_uid, status.st_gid


def make_all(share: Share, top: int, prefix: bytes, gid: int) -> list[str]:
    """One entry of each kind; returns their names."""
    client = share.client
    client.clunk(client.create(top, prefix + b"file", gid=gid))
    client.mkdir(top, prefix + b"dir", gid=gid)
    client.mknod(top, prefix + b"fifo", stat.S_IFIFO | 0o600, gid=gid)
    client.symlink(top, prefix + b"link", b"target", gid=gid)
    return [prefix.decode() + name for name in ("file", "dir", "fifo", "link")]


@needs_root
def test_two_users_of_one_guest(share: Share) -> None:
    os.chmod(share.host, 0o777)
    ann, bob = attach(share, ANN), attach(share, BOB)
    for name in make_all(share, ann, b"ann-", ANN):
        assert owner(share, name) == (ANN, ANN)
    for name in make_all(share, bob, b"bob-", BOB):
        assert owner(share, name) == (BOB, BOB)
    for name in make_all(share, ann, b"again-", BOB):
        assert owner(share, name) == (ANN, BOB)
    for name in make_all(share, attach(share, 0), b"root-", 0):
        assert owner(share, name) == (0, 0)


@needs_root
def test_the_mounts_own_attach_is_the_daemon(share: Share) -> None:
    for name in make_all(share, attach(share, NOFID), b"mount-", 77):
        assert owner(share, name) == (os.geteuid(), 77)


@needs_root
def test_clones_and_walks_inherit_the_user(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    os.chmod(share.path("d"), 0o777)
    deep = client.walk_to(client.walk_to(attach(share, ANN)), b"d")
    for name in make_all(share, client.walk_to(deep), b"", ANN):
        assert owner(share, f"d/{name}") == (ANN, ANN)
    up = client.walk_to(deep, b"..", b"d")
    client.mkdir(up, b"up", gid=ANN)
    assert owner(share, "d/up") == (ANN, ANN)


@needs_root
def test_supplementary_groups_were_checked_by_the_guest(share: Share) -> None:
    """Ann may write to the team's directory, which the wire does not tell."""
    os.chown(share.host, 0, TEAM)
    os.chmod(share.host, 0o770)
    for name in make_all(share, attach(share, ANN), b"", ANN):
        assert owner(share, name) == (ANN, ANN)


@needs_root
def test_entries_of_a_setgid_directory_get_its_group(share: Share) -> None:
    """Linux's client sends the directory's group then, and the new directory is setgid too."""
    os.chown(share.host, 0, TEAM)
    os.chmod(share.host, 0o2777)
    for name in make_all(share, attach(share, ANN), b"", TEAM):
        assert owner(share, name) == (ANN, TEAM)
    assert os.stat(share.path("dir")).st_mode & stat.S_ISGID
    assert not os.stat(share.path("file")).st_mode & stat.S_ISGID


@needs_root
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1777])
def test_special_mode_bits_of_an_ordinary_users_files(share: Share, mode: int) -> None:
    os.chmod(share.host, 0o777)
    ann = attach(share, ANN)
    share.client.create(ann, b"file", mode=mode, gid=ANN)
    assert os.stat(share.path("file")).st_mode & 0o7777 == mode
    assert owner(share, "file") == (ANN, ANN)


@needs_root
def test_file_without_permissions_is_written_by_its_creator(share: Share) -> None:
    os.chmod(share.host, 0o777)
    fid = share.client.create(attach(share, ANN), b"file", mode=0, gid=ANN)
    assert share.client.write(fid, 0, b"data") == 4


@needs_root
def test_the_largest_ids_are_kept(share: Share) -> None:
    os.chmod(share.host, 0o777)
    top = attach(share, 0xFFFFFFFE)
    share.client.mkdir(top, b"d", gid=0xFFFFFFFE)
    assert owner(share, "d") == (0xFFFFFFFE, 0xFFFFFFFE)


@needs_root
def test_credentials_do_not_leak_into_other_requests(share: Share) -> None:
    """Users take turns; the daemon is itself again after each."""
    os.chmod(share.host, 0o777)
    tops = {uid: attach(share, uid) for uid in (ANN, BOB, 0)}
    for i in range(60):
        uid = (ANN, BOB, 0)[i % 3]
        share.client.mkdir(tops[uid], b"d%d" % i, gid=uid)
    for i in range(60):
        assert owner(share, f"d{i}") == ((ANN, BOB, 0)[i % 3],) * 2
    secret = share.put("secret")
    os.chmod(secret, 0o600)
    assert share.client.open(tops[ANN], b"secret", os.O_RDWR)


# ---- security_model none


@pytest.fixture
def unprivileged() -> Iterator[Share]:
    """An ordinary user's daemon, that may give files to nobody."""
    export = Path(tempfile.mkdtemp(prefix="v9-none-"))
    try:
        daemon = Daemon(
            "--path", str(export), "--security-model", "none",
            wrapper=AS_NOBODY,
        )  # fmt: skip
        if IS_ROOT:
            os.chown(export, NOBODY, NOBODY)
            os.chown(daemon.directory, NOBODY, NOBODY)
        with daemon, mounted(daemon, export) as share:
            yield share
    finally:
        shutil.rmtree(export, ignore_errors=True)


def test_none_makes_files_of_the_daemons_user(unprivileged: Share) -> None:
    share = unprivileged
    uid = NOBODY if IS_ROOT else os.geteuid()
    root = share.client.new_fid()
    share.client.attach(root, ANN, uname=b"")
    for name in make_all(share, root, b"", ANN):
        assert owner(share, name)[0] == uid


def test_none_ignores_failing_chowns(unprivileged: Share) -> None:
    share = unprivileged
    client = share.client
    client.create(share.top, b"file", mode=0o600)
    fid = client.walk_to(share.top, b"file")
    before = owner(share, "file")
    client.setattr(fid, SET_UID | SET_GID | SET_MODE, uid=ANN, gid=ANN, mode=0o644)
    assert owner(share, "file") == before
    assert os.stat(share.path("file")).st_mode & 0o777 == 0o644


@needs_root
def test_a_users_write_drops_set_ids(share: Share) -> None:
    """As write(2) without CAP_FSETID; older clients leave it to the server."""
    os.chmod(share.host, 0o777)
    share.put("file", b"old")
    for uid, mode, left in (
        (ANN, 0o6777, 0o777),
        (ANN, 0o2767, 0o2767),  # not executable by the group: mandatory locking's old mark
        (0, 0o6777, 0o6777),
        (NOFID, 0o6777, 0o6777),
    ):
        os.chmod(share.path("file"), mode)
        top = attach(share, uid)
        fid = share.client.walk_to(top, b"file")
        share.client.lopen(fid, os.O_WRONLY)
        share.client.write(fid, 0, b"")
        assert stat.S_IMODE(os.stat(share.path("file")).st_mode) == mode
        share.client.write(fid, 0, b"new")
        assert stat.S_IMODE(os.stat(share.path("file")).st_mode) == left
