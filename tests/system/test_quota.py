"""Quotas: what is refused, what df tells, and that the usage is what a fresh scan finds."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.frontend.client import AT_REMOVEDIR, SET_MODE, SET_SIZE, Client, P9Errno, Statfs
from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.dialect_u import DMDIR, DMSYMLINK, ORDWR, OTRUNC, DialectUClient
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, fails, mounted
from vhost9p.native.quota import USAGE_OFFSET
from vhost9p.policy.usage import scan

BLOCK = 4096
MIB = 1 << 20


@dataclass(frozen=True)
class Counts:
    """Usage in bytes and inodes, and the changes that are under way."""

    bytes: int
    inodes: int
    changing: int


@dataclass
class Place:
    """An export with a quota, on some file system, and the state of its daemons."""

    export: Path
    state: Path

    def daemon(self, *args: str) -> Daemon:
        return Daemon("--path", str(self.export), "--state-dir", str(self.state), *args)

    @contextmanager
    def guest(self, *args: str) -> Iterator[Share]:
        """A daemon and its guest, for the length of a `with` block."""
        options = args if "--security-model" in args else (*SECURITY, *args)
        with self.daemon(*options) as daemon, mounted(daemon, self.export) as share:
            yield share

    def counts(self) -> Counts:
        """The usage as it is kept."""
        (path,) = self.state.glob("*.usage")
        return Counts(*struct.unpack_from("<qqQ", path.read_bytes(), USAGE_OFFSET))

    def found(self, *hidden: bytes) -> Counts:
        """The usage as a scan finds it."""
        root_fd = os.open(self.export, os.O_PATH)
        try:
            usage = scan(root_fd, hidden)
        finally:
            os.close(root_fd)
        return Counts(usage.bytes, usage.inodes, 0)


@pytest.fixture(params=["/tmp", "/dev/shm"], ids=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty export."""
    folder = Path(tempfile.mkdtemp(prefix="v9-quota-", dir=request.param))
    folder.chmod(0o755)
    (folder / "export").mkdir()
    (folder / "state").mkdir(mode=0o700)
    yield Place(folder / "export", folder / "state")
    shutil.rmtree(folder)


def fill(client: Client, fid: int, offset: int = 0) -> int:
    """Writes to a file until the quota ends that; the file's size then."""
    with suppress(P9Errno):
        while wrote := client.write(fid, offset, bytes(100_000)):
            offset += wrote
    return offset


def test_writes_end_at_the_limit(place: Place) -> None:
    with place.guest("--quota-bytes", "1MiB") as share:
        client = share.client
        fid = client.create(share.top, b"file")
        size = fill(client, fid)
        assert MIB - BLOCK <= size <= MIB and size % BLOCK == 0
        with fails(errno.ENOSPC):
            client.write(fid, size, b"x")
        with fails(errno.ENOSPC):
            client.write(fid, 10 * MIB, b"x")
        assert client.write(fid, 5, b"x" * 100_000) == 100_000  # it is there already
        client.setattr(fid, SET_SIZE, size=1 << 40)  # holes take nothing
        client.setattr(fid, SET_SIZE, size=size - 10 * BLOCK)
        assert fill(client, fid, size - 10 * BLOCK) == size
        client.setattr(fid, SET_SIZE, size=0)
        assert fill(client, fid) == size
        assert place.counts() == place.found()
        client.clunk(fid)
        client.clunk(client.open(share.top, b"file", os.O_WRONLY | os.O_TRUNC))
        client.clunk(client.create(share.top, b"other", os.O_RDWR))
        fid = client.open(share.top, b"other", os.O_WRONLY | os.O_APPEND)
        assert fill(client, fid) == size
        assert place.counts() == place.found()


def test_names_end_at_the_limit(place: Place) -> None:
    with place.guest("--quota-inodes", "5", "--quota-error", "EDQUOT") as share:
        client, top = share.client, share.top
        fid = client.create(top, b"file")
        client.mkdir(top, b"dir")
        client.symlink(top, b"symlink", b"x" * 100)
        client.mknod(top, b"fifo", 0o10644)
        client.clunk(client.create(top, b"last"))
        attempts: list[Callable[[], object]] = [
            lambda: client.create(top, b"one more"),
            lambda: client.mkdir(top, b"one more"),
            lambda: client.symlink(top, b"one more", b"x"),
            lambda: client.mknod(top, b"one more", 0o10644),
        ]
        for attempt in attempts:
            with fails(errno.EDQUOT):
                attempt()
        with fails(errno.EEXIST):
            client.mkdir(top, b"dir")
        client.link(top, fid, b"same file")
        client.clunk(client.create(top, b"file"))  # opens it
        client.renameat(top, b"last", top, b"fifo")
        client.clunk(client.create(top, b"room"))
        with fails(errno.EDQUOT):
            client.create(top, b"one more")
        client.unlinkat(top, b"file")
        with fails(errno.EDQUOT):
            client.create(top, b"one more")
        client.unlinkat(top, b"same file")
        with fails(errno.EDQUOT):  # somebody has it open
            client.create(top, b"one more")
        client.clunk(fid)
        client.clunk(client.create(top, b"one more"))
        inside = client.walk_to(top, b"dir")
        client.unlinkat(top, b"dir", AT_REMOVEDIR)
        client.clunk(inside)
        client.mkdir(top, b"dir")
        with fails(errno.EDQUOT):
            client.create(top, b"yet another")
        assert place.counts() == place.found()
        assert place.counts().inodes == 5


def test_files_without_names_keep_their_blocks(place: Place) -> None:
    with place.guest("--quota-bytes", "1MiB") as share:
        client, top = share.client, share.top
        following = client.create(top, b"next")
        fid = client.create(top, b"file")
        size = fill(client, fid)
        reader = client.open(top, b"file")
        client.unlinkat(top, b"file")
        client.clunk(fid)
        with fails(errno.ENOSPC):
            client.write(following, 0, bytes(BLOCK))
        with fails(errno.ENOSPC):  # the directory may need a block for the name
            client.create(top, b"small")
        assert place.counts().bytes >= size
        assert client.read(reader, 0, 10) == bytes(10)
        client.clunk(reader)
        assert place.counts() == place.found()
        client.clunk(client.create(top, b"small"))
        full = fill(client, following)
        assert full >= size - BLOCK
        kept = client.walk_to(top, b"next")
        client.renameat(top, b"small", top, b"next")
        client.clunk(following)
        assert place.counts().bytes >= full
        client.clunk(kept)
        assert place.counts() == place.found()
        # Without a guest nobody holds anything.
        fid = client.create(top, b"last")
        fill(client, fid)
        client.unlinkat(top, b"last")
        assert place.counts().changing == 1
        share.machine.__exit__(None, None, None)
        share.daemon.wait_until(lambda: place.counts() == place.found(), "everything given back")


def test_attributes_count_where_they_take_blocks(place: Place) -> None:
    """As the file system has it: ext4 takes a block of its own for large ones."""
    with place.guest("--quota-bytes", "1MiB", "--security-model", "none") as share:
        client, top = share.client, share.top
        fid = client.create(top, b"file")
        try:
            client.setxattr(client.walk_to(top, b"file"), b"user.large", bytes(3000))
        except P9Errno as error:
            pytest.skip(f"no attributes here: {error.strerror}")
        assert place.counts() == place.found()
        fill(client, fid)
        with fails(errno.ENOSPC):
            client.setxattr(client.walk_to(top, b"file"), b"user.more", bytes(3000))
        client.removexattr(client.walk_to(top, b"file"), b"user.large")
        client.setattr(fid, SET_MODE, mode=0o600)
        assert place.counts() == place.found()


def test_df_shows_the_quota(place: Place) -> None:
    (place.export / "before").write_bytes(bytes(50 * BLOCK))
    root = os.stat(place.export).st_blocks // 8

    def df(share: Share) -> tuple[int, int, int]:
        reported: Statfs = share.client.statfs(share.top)
        assert reported.bsize == BLOCK
        assert reported.bavail == reported.bfree and reported.files == 10
        return reported.blocks, reported.bfree, reported.ffree

    with place.guest("--quota-bytes", "400KiB", "--quota-inodes", "10") as share:
        assert df(share) == (100, 50 - root, 9)
        fid = share.client.create(share.top, b"file")
        share.client.write(fid, 0, bytes(3 * BLOCK))
        assert df(share) == (100, 47 - root, 8)
        share.client.unlinkat(share.top, b"file")
        assert df(share) == (100, 47 - root, 8)
        share.client.clunk(fid)
        assert df(share) == (100, 50 - root, 9)
    with place.guest("--quota-bytes", "40KiB") as share:  # more is there already
        assert share.client.statfs(share.top)[2:4] == (50 + root, 0)
        host = os.statvfs(place.export)
        assert share.client.statfs(share.top).files == host.f_files
        assert "more than its quota of 40960" in share.daemon.output
        with fails(errno.ENOSPC):
            share.client.create(share.top, b"file")
        share.client.unlinkat(share.top, b"before")
        fid = share.client.create(share.top, b"file")
        assert share.client.write(fid, 0, bytes(BLOCK)) == BLOCK


def test_the_usage_outlives_a_restart(place: Place) -> None:
    limit = ("--quota-bytes", "1MiB")
    with place.guest(*limit) as share:
        fid = share.client.create(share.top, b"file")
        fill(share.client, fid)
        share.daemon.wait_line("0 inodes, counted in")
    (place.export / "by the host").write_bytes(bytes(BLOCK))
    with place.guest(*limit) as share:
        share.daemon.wait_line("1 inodes, from the state file")
        with fails(errno.ENOSPC):
            share.client.create(share.top, b"other")
        assert place.counts().inodes == place.found().inodes - 1
        refused = run_cli(
            "--path", str(place.export), "--socket", str(place.state / "s"), *SECURITY,
            "--state-dir", str(place.state), *limit,
        )  # fmt: skip
        assert refused.returncode and f"another daemon serves '{place.export}'" in refused.stderr
    with place.guest(*limit, "--quota-rescan") as share:
        share.daemon.wait_line("2 inodes, counted in")
        assert place.counts() == place.found()
    shutil.rmtree(place.export)  # another directory of the same name
    place.export.mkdir()
    with place.guest(*limit) as share:
        share.daemon.wait_line("0 inodes, counted in")


def load(client: Client, top: int, fids: list[int]) -> None:
    """Writes to one file by several requests at a time, and names that come and go."""
    fids.append(client.create(top, b"busy%d" % len(fids)))
    for i in range(20):
        client.submit(T.WRITE, fids[-1], i * 10_000, bytes(30_000), kick=False)
        client.submit(T.WRITE, fids[0], i * 50_000, bytes(30_000), kick=False)
        client.submit(T.MKDIR, top, b"d%d-%d" % (len(fids), i), 0o755, 0, kick=False)
        client.submit(T.UNLINKAT, top, b"d%d-%d" % (len(fids), i // 2), AT_REMOVEDIR, kick=False)
    client.ring.kick()


@pytest.mark.parametrize("idle", [True, False])
def test_a_daemon_that_is_killed(place: Place, idle: bool) -> None:
    """Numbers that are good are kept, else it counts again."""
    limit = (*SECURITY, "--quota-bytes", "4MiB", "--threads", "4")
    for _ in range(3):
        with ExitStack() as stack:
            daemon = place.daemon(*limit)
            stack.callback(daemon.kill)
            share = stack.enter_context(mounted(daemon.start(), place.export))
            assert place.counts() == place.found()
            fids: list[int] = []
            for _ in range(3):
                load(share.client, share.top, fids)
                while idle and share.client.in_flight:
                    share.client.reap()
            if idle:
                kept = place.counts()
                assert kept == place.found()
            daemon.die()
        with place.guest(*limit) as again:
            if idle:
                again.daemon.wait_line(f"{kept.inodes} inodes, from the state file")
            assert place.counts() == place.found()
            for name in os.listdir(place.export):
                directory = (place.export / name).is_dir()
                again.client.unlinkat(again.top, name.encode(), AT_REMOVEDIR * directory)
            assert place.counts() == place.found()
            assert place.counts().inodes == 0


def test_a_file_without_names_is_not_counted_after_a_crash(place: Place) -> None:
    daemon = place.daemon(*SECURITY, "--quota-bytes", "1MiB")
    with mounted(daemon.start(), place.export) as share:
        fid = share.client.create(share.top, b"file")
        fill(share.client, fid)
        share.client.unlinkat(share.top, b"file")
        daemon.die()
    daemon.kill()
    with place.guest("--quota-bytes", "1MiB"):
        assert place.counts() == place.found()


def test_a_quota_holds_in_9p2000u(place: Place) -> None:
    """There fids of one file do not share what C knows of it, and files are removed by fid."""
    limits = ("--quota-bytes", "1MiB", "--quota-inodes", "4")
    with (
        place.daemon(*SECURITY, *limits) as daemon,
        mounted(daemon, place.export, speaks=DialectUClient) as share,
    ):
        client, top = cast(DialectUClient, share.client), share.top
        first = client.make(top, b"file", mode=ORDWR)
        second = client.walk_open(top, b"file", mode=ORDWR)
        for i in range(20):
            client.write(first, i * 10_000, bytes(20_000))
            client.write(second, i * 10_000 + 5000, bytes(20_000))
        assert place.counts() == place.found()
        inside = client.make(top, b"dir", DMDIR | 0o755)
        client.clunk(inside)
        client.clunk(client.make(top, b"link", DMSYMLINK | 0o777, extension=b"x" * 200))
        client.clunk(client.make(top, b"other"))
        with fails(errno.ENOSPC):
            client.make(top, b"more")
        client.wstat(client.walk_to(top, b"other"), name=b"file")
        assert place.counts().bytes > place.found().bytes  # two fids hold it
        client.clunk(first)
        assert place.counts().inodes == 4
        client.clunk(second)
        assert place.counts() == place.found()
        client.clunk(client.walk_open(top, b"file", mode=ORDWR | OTRUNC))
        client.remove(client.walk_to(top, b"dir"))
        client.remove(client.walk_to(top, b"link"))
        assert place.counts() == place.found() and place.counts().inodes == 1


# ---- any sequence of operations


NAMES = [b"a", b"b", b"c", b"n" * 255, b"m" * 250]
Step = tuple[int, int, int]
STEPS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9), st.integers(0, 9)), max_size=60)


class Player:
    """A guest that does anything; what fails has no effect."""

    def __init__(self, share: Share) -> None:
        self.client = share.client
        self.top = share.top
        self.dirs = [share.top]
        self.files: list[int] = []

    def play(self, step: Step) -> None:
        kind, one, two = step
        client = self.client
        name, other = NAMES[one % 5], NAMES[two % 5]
        here, there = self.dirs[one % len(self.dirs)], self.dirs[two % len(self.dirs)]
        if kind == 0:
            client.mkdir(here, other)
        elif kind == 1:
            self.dirs.append(client.walk_to(here, other))
        elif kind == 2:
            client.symlink(here, other, b"t" * (one * 100 + 1))
        elif kind == 3:
            client.mknod(here, other, 0o10600)
        elif kind == 4:
            client.unlinkat(here, other)
        elif kind == 5:
            client.unlinkat(here, other, AT_REMOVEDIR)
        elif kind == 6 and one % 2:
            client.renameat(here, name, there, other)
        elif kind == 6:
            client.rename(client.walk_to(here, name), there, other)
        elif kind == 7:
            client.clunk(self.files.pop(one % len(self.files)))
        elif kind == 8:
            fid = client.walk_to(there, name)
            client.link(here, fid, other)
        elif kind == 9:
            client.setxattr(client.walk_to(here, other), b"user.x", bytes(one * 400))
        elif kind == 10:
            client.remove(client.walk_to(here, other))
        elif kind == 11:
            flags = os.O_RDWR | (os.O_TRUNC if one % 2 else 0)
            self.files.append(client.open(here, other, flags))
        elif kind in (12, 13):
            self.files.append(client.create(here, other, os.O_RDWR))
        self.change(kind, one, two)

    def change(self, kind: int, one: int, two: int) -> None:
        """Of an open file. No more pieces than an ext4 inode has room for: what is beside the data
        comes when that is written back, at some time."""
        if not self.files:
            return
        fid = self.files[one % len(self.files)]
        if kind == 14:
            self.client.setattr(fid, SET_SIZE, size=two * 30_000)
        elif kind in (13, 15):
            self.client.write(fid, (0, 100_000, MIB)[two % 3] + one, bytes(one * 7000 + 1))


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
@pytest.mark.parametrize("model", ["none", "mapped-xattr", "mapped-file"])
def test_any_sequence_of_changes_is_counted_right(folder: str, model: str) -> None:
    hidden = (b".virtfs_metadata", b".virtfs_metadata_root") if model == "mapped-file" else ()

    @given(steps=STEPS)
    @settings(
        deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    def play(steps: list[Step]) -> None:
        path = Path(tempfile.mkdtemp(dir=place.export))
        top = share.client.walk_to(share.root, path.name.encode())
        # Made by the host: a directory, and its own blocks, that only this test knows of.
        counts, found = place.counts(), place.found(*hidden)
        unseen = (found.bytes - counts.bytes, found.inodes - counts.inodes)
        player = Player(share)
        player.dirs = [top]
        for step in steps:
            with suppress(P9Errno, IndexError, ZeroDivisionError):
                player.play(step)
        for fid in {*player.dirs, *player.files}:
            share.client.clunk(fid)
        share.client.version()
        share.client.attach(share.root)
        counts, found = place.counts(), place.found(*hidden)
        assert (found.bytes - counts.bytes, found.inodes - counts.inodes) == unseen
        assert counts.changing == 0

    root = Path(tempfile.mkdtemp(prefix="v9-quota-", dir=folder))
    try:
        place = Place(root / "export", root / "state")
        place.export.mkdir()
        place.state.mkdir(mode=0o700)
        options = ("--security-model", model, "--quota-bytes", "3MiB", "--quota-inodes", "60")
        with place.guest(*options) as share:
            try:
                os.setxattr(place.export, "user.probe", b"")
            except OSError as error:
                if model == "mapped-xattr":
                    pytest.skip(f"no attributes in {folder}: {error.strerror}")
            play()
    finally:
        shutil.rmtree(root)
