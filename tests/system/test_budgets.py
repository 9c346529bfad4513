"""Two guests of one daemon under a low limit of open files: one takes all the descriptors it can,
of each class in turn. It gets EMFILE or ENOLCK itself, the other one does not notice, and it can go
on once it has given back."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, UNLCK, WRLCK, Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.vhost_user import REGION, U64, Request
from tests.system.share import (
    AS_USER,
    IS_ROOT,
    SECURITY,
    UNSHARE,
    USER,
    USER_GROUP,
    Share,
    mounted,
    skip_without_namespaces,
)

LIMIT = 512
MANY = LIMIT + 100
"""More of anything than the daemon may have."""
FULL = (errno.EMFILE, errno.ENOLCK, errno.ENOSPC)


@contextlib.contextmanager
def neighbours(
    *, privileged: bool, model: str = "", limit: int = LIMIT, before: Sequence[str] = ()
) -> Iterator[list[Share]]:
    """Two guests of one daemon that may have `limit` files open, and may not run out of them.
    `before` is a command that goes before the daemon's, and gets the folder of the exports."""
    folder = Path(tempfile.mkdtemp(prefix="v9-budget-"))
    exports = [folder / name for name in ("a", "b")]
    model = model or (SECURITY[1] if privileged else "none")
    lines = ["devices:"]
    for export in exports:
        export.mkdir()
        lines.append(
            f"  - {{socket: {folder}/{export.name}.sock, tag: {export.name}, path: {export}, "
            f"security_model: {model}}}"
        )
    (folder / "config.yaml").write_text("\n".join(lines))
    wrapper = [*before, str(folder)] if before else []
    wrapper += ["prlimit", f"--nofile={limit}:{limit}"]
    if not privileged and IS_ROOT:
        wrapper += AS_USER
    daemon = Daemon("--config", str(folder / "config.yaml"), socket=False, wrapper=wrapper)
    if not privileged:
        for path in (folder, *exports, daemon.directory):
            os.chown(path, USER, USER_GROUP)
    try:
        with daemon, contextlib.ExitStack() as stack:
            guests = []
            for export in exports:
                daemon.socket = f"{folder}/{export.name}.sock"
                guests.append(stack.enter_context(mounted(daemon, export, n_uname=0)))
            yield guests
            assert daemon.fd_count() < limit
            daemon.check_output()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- what takes descriptors ---------------------------------------------------------------------
# Each takes the i-th one; the fids that it leaves are clunked at the end.

Take = Callable[[Client, int, int], None]


def list_once(client: Client, top: int, i: int) -> None:
    name = b"dir%d" % i
    client.mkdir(top, name)
    fid = client.open(top, name)
    assert client.readdir(fid)


def list_again(client: Client, top: int, i: int) -> None:
    fid = client.open(top, ())
    assert client.readdir(fid, 0, 100)


def lock(client: Client, top: int, i: int) -> None:
    if i == 0:
        client.clunk(client.create(top, b"locked"))
    fid = client.open(top, b"locked", os.O_RDWR)
    assert client.lock(fid, WRLCK, i, 1, proc_id=i) == LOCK_SUCCESS


def lock_through_one_fid(client: Client, top: int, i: int) -> None:
    if i == 0:
        fid = client.create(top, b"one", os.O_RDWR)
        client.one = fid  # type: ignore[attr-defined]
    assert client.lock(client.one, WRLCK, i, 1, proc_id=i) == LOCK_SUCCESS  # type: ignore[attr-defined]


def write_attribute(client: Client, top: int, i: int) -> None:
    fid = client.create(top, b"x%d" % i)
    client.clunk(fid)
    client.xattrcreate(client.walk_to(top, b"x%d" % i), b"user.a", 10)


def write(client: Client, top: int, i: int) -> None:
    client.write(client.create(top, b"w%d" % i, os.O_RDWR), 0, b"data")


def unlink_open(client: Client, top: int, i: int) -> None:
    fid = client.create(top, b"u%d" % i, os.O_RDWR)
    client.write(fid, 0, b"data")
    client.unlinkat(top, b"u%d" % i)


def unlink_walked(client: Client, top: int, i: int) -> None:
    client.clunk(client.create(top, b"n%d" % i))
    client.walk_to(top, b"n%d" % i)
    client.unlinkat(top, b"n%d" % i)


def open_and_unlink_later(client: Client, top: int, i: int) -> None:
    """What could be evicted when it was opened cannot any more."""
    if i < MANY // 2:
        client.clunk(client.create(top, b"later%d" % i))
        client.open(top, b"later%d" % i)
    else:
        client.unlinkat(top, b"later%d" % (i - MANY // 2))


TAKES = [
    list_once,
    list_again,
    lock,
    lock_through_one_fid,
    write_attribute,
    write,
    unlink_open,
    unlink_walked,
    open_and_unlink_later,
]


def take_all(guest: Share, take: Take) -> int | None:
    """Takes until the daemon refuses; the errno, or None where it never does."""
    refused = None
    for i in range(MANY):
        try:
            take(guest.client, guest.top, i)
        except P9Errno as error:
            assert error.errno in FULL, error
            refused = error.errno
    return refused


def do_everything(guest: Share, name: bytes) -> None:
    """An ordinary guest's work, with some files and locks at a time."""
    client, top = guest.client, guest.top
    client.mkdir(top, name)
    above = client.walk_to(top, name)
    fids = []
    for i in range(20):
        fid = client.create(above, b"f%d" % i, os.O_RDWR)
        assert client.write(fid, 0, b"data") == 4
        assert client.lock(fid, WRLCK, 0, 0, proc_id=i) == LOCK_SUCCESS
        fids.append(fid)
    listed = client.listing(top, name)
    assert len(listed) == 20
    for i, fid in enumerate(fids):
        assert client.read(fid, 0, 10) == b"data"
        client.fsync(fid)
        walked = client.walk_to(above, b"f%d" % i)
        client.setxattr(walked, b"user.a", b"value")
        assert client.getxattr(walked, b"user.a") == b"value"
        client.clunk(walked)
        client.unlinkat(above, b"f%d" % i)
        assert client.lock(fid, UNLCK, 0, 0, proc_id=i) == LOCK_SUCCESS
        client.clunk(fid)
    client.unlinkat(top, name, 0x200)
    client.clunk(above)


@pytest.mark.parametrize("take", TAKES, ids=lambda take: take.__name__)
@pytest.mark.parametrize(
    "privileged",
    [pytest.param(True, marks=pytest.mark.skipif(not IS_ROOT, reason="needs root")), False],
    ids=["root", "user"],
)
def test_the_neighbour_does_not_notice(privileged: bool, take: Take) -> None:
    with neighbours(privileged=privileged) as (greedy, other):
        do_everything(other, b"before")
        refused = take_all(greedy, take)
        do_everything(other, b"beside")
        if take is lock_through_one_fid:
            assert refused == errno.ENOLCK
        if take is lock:  # it opens the file, too
            assert refused in (errno.EMFILE, errno.ENOLCK)
        if take in (unlink_open, unlink_walked):
            assert refused == errno.EMFILE
        if take in (list_once, list_again):
            assert refused is None  # they can be evicted
        for fid in range(3, greedy.client.new_fid()):
            with contextlib.suppress(P9Errno):
                greedy.client.clunk(fid)
        do_everything(greedy, b"after")
        do_everything(other, b"after")


def test_what_it_has_stays_right_when_nothing_is_left() -> None:
    """Lacking a descriptor is never taken for lacking a file: metadata of mapped-file are not
    ignored, and a file that was evicted does not lose its name where it cannot be had back."""
    with neighbours(privileged=IS_ROOT, model="mapped-file") as (greedy, other):
        client, top = greedy.client, greedy.top
        client.symlink(top, b"link", b"target")
        client.clunk(client.create(top, b"secret", mode=0o600, gid=77))
        client.clunk(client.create(top, b"kept", mode=0o4711, gid=77))
        above = client.open(top, ())
        fids = [client.walk_to(top, name) for name in (b"secret", b"kept")]
        assert take_all(greedy, unlink_open) == errno.EMFILE
        with contextlib.suppress(P9Errno):
            entries = client.listing(top)
            assert entries[b"link"].type == 10  # DT_LNK
        with contextlib.suppress(P9Errno):
            types = {entry.name: entry.type for entry in client.readdir(above)}
            assert types[b"link"] == 10
        for fid, mode in zip(fids, (0o600, 0o4711), strict=True):
            try:
                attr = client.getattr(fid)
            except P9Errno as error:
                assert error.errno == errno.EMFILE
            else:
                assert (attr.mode & 0o7777, attr.gid) == (mode, 77)
        with contextlib.suppress(P9Errno):
            client.unlinkat(top, b"kept")
        with contextlib.suppress(P9Errno):
            client.renameat(top, b"link", top, b"secret")
        do_everything(other, b"beside")
        for fid in range(max(fids) + 1, client.new_fid()):
            with contextlib.suppress(P9Errno):
                client.clunk(fid)
        for fid, mode in zip(fids, (0o600, 0o4711), strict=True):
            attr = client.getattr(fid)
            assert (attr.mode & 0o7777, attr.gid) == (mode, 77)


RAMFS = 'mkdir "$1/a/ram"; mount -t ramfs ram "$1/a/ram"; shift; exec "$@"'
"""Positions in its directories belong to the descriptor that reads them."""


def test_directories_whose_positions_do_not_last() -> None:
    """They keep their descriptors once they have been read, and their places."""
    skip_without_namespaces()
    before = [*UNSHARE, "sh", "-c", RAMFS, "sh"]
    with neighbours(privileged=True, before=before) as (greedy, other):
        client = greedy.client
        ram = client.walk_to(greedy.top, b"ram")
        client.mkdir(ram, b"full")
        full = client.walk_to(ram, b"full")
        for i in range(50):
            client.mkdir(full, b"%d" % i)
        reading = client.open(full, ())
        entries = client.readdir(reading, 0, 500)
        greedy.top = ram
        assert take_all(greedy, list_once) == errno.EMFILE
        assert any(path.endswith("/full") for path in greedy.daemon.fds().values())
        do_everything(other, b"beside")
        for fid in range(reading + 1, client.new_fid()):
            with contextlib.suppress(P9Errno):
                client.clunk(fid)
        names = [entry.name for entry in entries]
        while entries := client.readdir(reading, entries[-1].offset, 500):
            names += [entry.name for entry in entries]
        assert sorted(names) == sorted([b".", b"..", *(b"%d" % i for i in range(50))])


def test_guest_memory_of_very_many_pieces() -> None:
    """A frontend's memory costs descriptors too."""
    with neighbours(privileged=IS_ROOT) as (greedy, other):
        frontend = greedy.machine.frontend
        memfd = os.memfd_create("pieces")
        os.ftruncate(memfd, 4096)
        added = 0
        while added < LIMIT:
            gpa = (1 << 40) + 8192 * added
            payload = U64.pack(0) + REGION.pack(gpa, 4096, gpa, 0)
            if frontend.ack(Request.ADD_MEM_REG, payload, [memfd]):
                break
            added += 1
        os.close(memfd)
        assert added < LIMIT // 8
        greedy.daemon.wait_line("ADD_MEM_REG refused")
        do_everything(other, b"beside")
        do_everything(greedy, b"beside")


def test_limit_that_is_too_low_is_reported() -> None:
    with neighbours(privileged=IS_ROOT, limit=128) as guests:
        guests[0].daemon.wait_line(r"WARNING: .* too low for 2 devices.* \d+ at least")
