"""Tlcreate, Tmkdir, Tmknod, Tsymlink, Tunlinkat, where they end early or are answered late."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frontend import wire
from tests.frontend.client import AT_REMOVEDIR, Client
from tests.frontend.daemon import Daemon
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, fails, mounted

EXCL = os.O_RDWR | os.O_CREAT | os.O_EXCL
GID = os.getegid()
MODELS = [SECURITY[1], "mapped-xattr", "mapped-file"]


@contextlib.contextmanager
def serving(export: Path, model: str, *options: str, wrapper: list[str] | None = None,
) -> Iterator[Share]:  # fmt: skip
    daemon = Daemon(
        "--path", str(export), "--security-model", model, *options, wrapper=wrapper or []
    )
    with daemon, mounted(daemon, export) as share:
        yield share


MAKERS: dict[str, Callable[[Client, int, bytes], Any]] = {
    "create": lambda c, fid, name: c.lcreate(fid, name, EXCL, 0o640, GID),
    "mkdir": lambda c, fid, name: c.mkdir(fid, name, 0o750, GID),
    "mknod": lambda c, fid, name: c.mknod(fid, name, stat.S_IFIFO | 0o600, gid=GID),
    "symlink": lambda c, fid, name: c.symlink(fid, name, b"target", GID),
    "unlink": lambda c, fid, name: c.unlinkat(fid, name),
    "rmdir": lambda c, fid, name: c.unlinkat(fid, name, AT_REMOVEDIR),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_no_name(share: Share, maker: str) -> None:
    dots = errno.EINVAL if maker in ("unlink", "rmdir") else errno.EEXIST
    codes = {
        b"": errno.ENOENT, b"a/b": errno.EINVAL, b"/": errno.EINVAL, b"a\0": errno.EINVAL,
        b".": dots, b"..": dots, b"n" * 256: errno.ENAMETOOLONG,
    }  # fmt: skip
    for name, code in codes.items():
        with fails(code):
            MAKERS[maker](share.client, share.top, name)
        with fails(code):
            MAKERS[maker](share.client, 99999, name)  # whatever the fid is
    with fails(errno.EBADF):
        MAKERS[maker](share.client, 99999, b"n")
    assert os.listdir(share.host) == []


def test_messages_that_are_too_short_or_too_long(share: Share) -> None:
    client = share.client
    for kind, fields in (
        (T.LCREATE, (share.top, b"n", EXCL, 0o644, GID)),
        (T.MKDIR, (share.top, b"n", 0o755, GID)),
        (T.MKNOD, (share.top, b"n", stat.S_IFIFO | 0o600, 0, 0, GID)),
        (T.SYMLINK, (share.top, b"n", b"t", GID)),
        (T.UNLINKAT, (share.top, b"n", 0)),
    ):
        whole = wire.encode(kind, 0, *fields)
        for wrong in (whole[:-1], whole + b"\0", whole[:13], whole[:7]):
            data = len(wrong).to_bytes(4, "little") + wrong[4:]
            reply = client.wait_raw(client.submit_raw(data, 64))
            assert (reply[4], reply[7:11]) == (7, errno.EINVAL.to_bytes(4, "little"))
    assert os.listdir(share.host) == []


def test_flags_of_unlinkat(share: Share) -> None:
    share.put("file")
    os.mkdir(share.path("dir"))
    for flags in (1, 0x201, 0xFFFFFFFF):
        with fails(errno.EINVAL):
            share.client.unlinkat(share.top, b"file", flags)
    with fails(errno.ENOTDIR):
        share.client.unlinkat(share.top, b"file", AT_REMOVEDIR)
    with fails(errno.EISDIR):
        share.client.unlinkat(share.top, b"dir")
    share.client.unlinkat(share.top, b"file")
    share.client.unlinkat(share.top, b"dir", AT_REMOVEDIR)
    assert os.listdir(share.host) == []


def test_create_through_a_fid_that_is_something_else(share: Share) -> None:
    client = share.client
    writing, listing = client.walk_to(share.top), client.new_fid()
    client.xattrcreate(writing, b"user.a", 1)
    client.xattrwalk(share.top, listing)
    opened, made = client.open(share.top, ()), client.create(share.top, b"made", EXCL, gid=GID)
    for fid in (writing, listing, opened, made):
        with fails(errno.EBADF):
            client.lcreate(fid, b"new", EXCL, 0o600, GID)
    with fails(errno.EBADF):
        client.mkdir(listing, b"new")
    with fails(errno.EBADF):
        client.unlinkat(listing, b"made")
    assert os.listdir(share.host) == ["made"]


def test_create_opens_only_files_that_are_there(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    os.mkfifo(share.path("fifo"))
    os.mkdir(share.path("dir"))
    os.symlink("target", share.path("link"))
    fid = client.create(share.top, b"file", os.O_RDWR | os.O_CREAT, gid=GID)
    assert client.read(fid, 0, 9) == b"data"
    client.create(share.top, b"file", os.O_RDWR | os.O_CREAT | os.O_TRUNC, gid=GID)
    assert share.get("file") == b""
    expected = {b"fifo": errno.ENXIO, b"dir": errno.EISDIR, b"link": errno.ELOOP}
    for name, code in expected.items():
        with fails(code):
            client.create(share.top, name, os.O_RDWR | os.O_CREAT, gid=GID)
        with fails(errno.EEXIST):
            client.create(share.top, name, EXCL, gid=GID)
    assert not os.path.lexists(share.path("target"))


@pytest.mark.parametrize("model", MODELS)
def test_a_full_table_leaves_no_descriptor(model: str, scratch: Path, tmp_path: Path) -> None:
    export = scratch / f"full-{tmp_path.name}"
    export.mkdir()
    with serving(export, model, "--max-fids", "16") as share:
        client = share.client
        with contextlib.suppress(OSError):
            while True:
                client.walk_to(share.top)
        before = share.daemon.fd_count()
        with fails(errno.EMFILE):
            client.lcreate(share.top, b"n", EXCL, 0o600, GID)
        share.daemon.wait_until(lambda: share.daemon.fd_count() == before, "descriptors to close")


# ---- answered late -------------------------------------------------------------------------------


@contextlib.contextmanager
def asking(export: Path, model: str, gate: Path, *options: str) -> Iterator[Share]:
    wrapper = [sys.executable, "-m", "tests.system.single_files", str(gate)]
    # Unconfined: the worker looks for the gate outside its exports.
    more = ("--multidevs", "remap", "--sandbox", "none", *options)
    with serving(export, model, *more, wrapper=wrapper) as share:
        yield share


@pytest.fixture(params=MODELS)
def asked(request: pytest.FixtureRequest, scratch: Path, tmp_path: Path) -> Iterator[Share]:
    """An export where each new file is a question to Python; it waits while share.gate exists."""
    export = scratch / f"asked-{tmp_path.name}"
    export.mkdir()
    with asking(export, request.param, tmp_path / "gate") as share:
        yield share


KINDS = {"create": T.LCREATE, "mkdir": T.MKDIR, "mknod": T.MKNOD, "symlink": T.SYMLINK}
FIELDS: dict[str, tuple[object, ...]] = {
    "create": (EXCL, 0o640, GID),
    "mkdir": (0o750, GID),
    "mknod": (stat.S_IFIFO | 0o600, 0, 0, GID),
    "symlink": (b"target", GID),
}


@pytest.mark.parametrize("maker", KINDS)
def test_a_file_that_python_is_asked_about_is_made_once(asked: Share, maker: str) -> None:
    client = asked.client
    for number in range(20):
        name = b"%d" % number
        fid = client.walk_to(asked.top)
        made = MAKERS[maker](client, fid, name)
        qid = made[0] if maker == "create" else made
        assert client.getattr(client.walk_to(asked.top, name)).qid.path == qid.path
        if maker == "create":
            assert client.write(fid, 0, b"data") == 4
            assert asked.get(name) == b"data"
    assert len({entry.qid.path for entry in client.listing(asked.top).values()}) >= 20


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)


@pytest.mark.parametrize("maker", KINDS)
def test_flushed_while_python_is_asked(asked: Share, maker: str, tmp_path: Path) -> None:
    """The file is there, the answer comes before Rflush, and no descriptor stays."""
    client, gate = asked.client, tmp_path / "gate"
    fid = client.walk_to(asked.top)
    before = asked.daemon.fd_count()
    gate.touch()
    ticket = client.submit(KINDS[maker], fid, b"late", *FIELDS[maker])
    wait_for(tmp_path / "gate.asked")
    flush = client.submit(T.FLUSH, ticket.tag)
    gate.unlink()
    client.wait(ticket)
    client.wait(flush)
    assert os.path.lexists(asked.path(b"late"))
    client.clunk(fid)
    asked.daemon.wait_until(lambda: asked.daemon.fd_count() <= before, "descriptors to close")


@pytest.mark.parametrize("maker", KINDS)
def test_the_fid_is_gone_before_python_has_answered(
    asked: Share, maker: str, tmp_path: Path
) -> None:
    client, gate = asked.client, tmp_path / "gate"
    fid = client.walk_to(asked.top)
    before = asked.daemon.fd_count()
    gate.touch()
    ticket = client.submit(KINDS[maker], fid, b"late", *FIELDS[maker])
    wait_for(tmp_path / "gate.asked")
    client.clunk(fid)
    gate.unlink()
    with fails(errno.EBADF) if maker == "create" else contextlib.nullcontext():
        client.wait(ticket)
    assert os.path.lexists(asked.path(b"late"))
    asked.daemon.wait_until(lambda: asked.daemon.fd_count() <= before, "descriptors to close")


def test_removed_while_python_is_asked(scratch: Path, tmp_path: Path) -> None:
    """What a file takes that has lost its name before its fid came to stand for it is the guest's
    until the fid goes, and is not given back twice."""
    export, gate = scratch / f"removed-{tmp_path.name}", tmp_path / "gate"
    export.mkdir()
    with asking(export, SECURITY[1], gate, "--quota-inodes", "2") as share:
        client = share.client
        client.clunk(client.create(share.top, b"stays"))
        fid = client.walk_to(share.top)
        gate.touch()
        ticket = client.submit(T.LCREATE, fid, b"late", *FIELDS["create"])
        wait_for(tmp_path / "gate.asked")
        client.unlinkat(share.top, b"late")
        gate.unlink()
        client.wait(ticket)
        assert client.write(fid, 0, bytes(8192)) == 8192
        with fails(errno.ENOSPC):
            client.mkdir(share.top, b"third")
        client.clunk(fid)
        client.mkdir(share.top, b"second")
        with fails(errno.ENOSPC):
            client.mkdir(share.top, b"third")
