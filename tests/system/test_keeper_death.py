"""The death of a keeper, and of its worker with it: the guest goes on, and what is lost is said."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, WRLCK, Client, P9Errno
from tests.frontend.copied import wait_for_copies
from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.system.mixed_load import Crowd, fill
from tests.system.replaced import check_an_inherited_connection, check_confinement
from tests.system.share import IS_ROOT, mounted, needs_root, serve
from tests.system.test_worker_restart import is_empty, is_served

OLD_S = 1.3
"""Seconds after which a file's birth time proves that it is the same (csrc/fid/lost.c)."""
GOES_ON = "ERROR: the keeper of .* died of SIGKILL: files are reopened, and locks are lost"
MODELS = [
    *(["passthrough"] if IS_ROOT else []),
    *("mapped-xattr", "mapped-file", "none"),
]


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    with serve(export, "--multidevs", "remap") as daemon:
        yield daemon


def lose_keeper(daemon: Daemon) -> None:
    """Kills the keeper, and waits for the next one."""
    wait_for_copies(daemon)
    (keeper,) = daemon.keepers
    kill(keeper)
    daemon.wait_until(lambda: daemon.keepers not in ([], [keeper]), "there is no other keeper")


def fails(number: int, work: Callable[[], object]) -> None:
    with pytest.raises(P9Errno) as error:
        work()
    assert error.value.errno == number


# ---- what the guest notices ----------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_guest_at_rest_goes_on(model: str, scratch: Path) -> None:
    """Open files, directories, fids of every kind; again when the next keeper dies."""
    export = scratch / f"rest-{model}"
    export.mkdir()
    with Daemon("--path", str(export), "--security-model", model) as daemon:
        with mounted(daemon, export) as share:
            client = share.client
            client.mkdir(share.top, b"dir")
            below = client.walk_to(share.top, b"dir")
            fid = client.create(below, b"file", os.O_RDWR)
            client.write(fid, 0, b"data")
            qid = client.getattr(fid).qid
            walked = client.walk_to(share.top, b"dir", b"file")
            time.sleep(OLD_S)
            for _ in range(3):
                lose_keeper(daemon)
                assert client.read(fid, 0, 10) == b"data"
                assert client.getattr(walked).qid.path == client.getattr(fid).qid.path == qid.path
                assert client.write(fid, 0, b"DATA") == 4
                client.write(fid, 0, b"data")
                share.machine.frontend.get_features()
                assert {*client.listing(share.top, b"dir")} == {b"file"}
                made = client.create(below, b"other")
                client.clunk(made)
                client.unlinkat(below, b"other")
            share.machine.reboot()
            Client(share.machine).version()
        daemon.wait_line(GOES_ON)


def test_all_fids_come_back_or_are_lost_cleanly(daemon: Daemon, export: Path) -> None:
    for name in ("gone", "moved", "replaced", "renamed"):
        (export / name).write_text(name)
    with mounted(daemon, export) as share, open(export / "file", "r+b") as file:
        client, top = share.client, share.top
        fids = {name: client.open(top, name.encode(), os.O_RDWR)
                for name in ("file", "gone", "moved", "replaced", "renamed")}  # fmt: skip
        client.unlinkat(top, b"gone")
        client.renameat(top, b"renamed", top, b"new name")
        os.rename(export / "moved", export / "elsewhere")
        time.sleep(OLD_S)
        os.unlink(export / "replaced")
        (export / "replaced").write_text("another file")
        assert client.lock(fids["file"], WRLCK) == LOCK_SUCCESS
        value = client.walk_to(top, b"file")
        client.call(T.XATTRCREATE, value, b"user.a", 6, 0)
        client.write(value, 0, b"abc")
        young = client.create(top, b"young", os.O_RDWR)
        lose_keeper(daemon)
        assert client.read(fids["renamed"], 0, 100) == b"renamed"
        assert client.read(fids["file"], 0, 100) == b"data"
        for name in ("gone", "moved", "replaced"):
            fails(errno.ESTALE, lambda name=name: client.read(fids[name], 0, 100))  # type: ignore[misc]
        fails(errno.ESTALE, lambda: client.read(young, 0, 100))
        client.clunk(young)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else has it
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert client.lock(fids["file"], WRLCK) == LOCK_SUCCESS
        client.write(value, 3, b"def")
        client.clunk(value)
        assert os.getxattr(export / "file", "user.a") == b"abcdef"
        for fid in fids.values():
            client.clunk(fid)
    daemon.wait_line("WARNING: .*: 1 locks of the guest are lost")
    daemon.wait_line("WARNING: .*: 2 fids are lost, whose files have no name or are too young")


def test_a_listing_goes_on(daemon: Daemon, export: Path) -> None:
    names = {b"%d" % i for i in range(300)}
    (export / "many").mkdir()
    for name in names:
        (export / "many" / os.fsdecode(name)).touch()
    time.sleep(OLD_S)
    with mounted(daemon, export) as share:
        client = share.client
        many = client.open(share.top, b"many", os.O_RDONLY)
        first = client.readdir(many, 0, 2000)
        fids = [client.walk_to(share.top, b"many", name) for name in sorted(names)]
        lose_keeper(daemon)
        rest, last = [*first], first
        while last := client.readdir(many, last[-1].offset, 2000):
            rest += last
        assert {entry.name for entry in rest} >= names and len(rest) == len(names) + 2
        for fid in fids:
            assert client.getattr(fid).nlink == 1


def test_nothing_is_left_behind(daemon: Daemon, export: Path) -> None:
    """Neither descriptors nor mounts."""
    time.sleep(OLD_S)
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file")
        counts = []
        for _ in range(4):
            lose_keeper(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            wait_for_copies(daemon)
            mounts = Path(f"/proc/{daemon.worker}/mountinfo").read_text().count("\n")
            counts.append((mounts, daemon.fd_count()))
            if len(counts) == 1:
                main = len(os.listdir(f"/proc/{daemon.pid}/fd"))
            daemon.wait_until(  # a child closes what main had before
                lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= main + 2,  # noqa: B023
                "main has more and more descriptors",
            )
        assert counts[1][0] == counts[3][0]
        assert counts[3][1] <= counts[1][1] + 2  # of threads that are at work
    is_served(daemon, export)


# ---- requests in flight --------------------------------------------------------------------------


def keep_losing(daemon: Daemon, ends: threading.Event, count: int) -> None:
    for _ in range(count):
        (keeper,) = daemon.keepers or [0]
        with suppress(Exception):
            wait_for_copies(daemon)
            kill(keeper)
            daemon.wait_until(lambda keeper=keeper: daemon.keepers not in ([], [keeper]), "none")  # type: ignore[misc]
            time.sleep(0.2)
    ends.set()


@pytest.mark.parametrize("model", MODELS)
def test_requests_are_done_once(model: str, scratch: Path) -> None:
    """Each of them fails, or does something else, when it is done twice. What is too young is
    ESTALE: then the next round begins."""
    export = scratch / f"once-{model}"
    export.mkdir()
    with Daemon("--path", str(export), "--security-model", model) as daemon:
        with mounted(daemon, export) as share:
            client, ends = share.client, threading.Event()
            time.sleep(OLD_S)
            thread = threading.Thread(target=keep_losing, args=(daemon, ends, 4))
            thread.start()
            rounds = 0
            while not ends.is_set():
                name = b"%d" % rounds
                client.mkdir(share.top, name)
                client.renameat(share.top, name, share.top, b"moved")
                client.symlink(share.top, b"link", b"target")
                client.unlinkat(share.top, b"link")
                client.unlinkat(share.top, b"moved", 0x200)
                rounds += 1
            thread.join()
        assert rounds > 4 and daemon.output.count("files are reopened") == 4
        is_empty(export)


def test_appends_are_made_once(daemon: Daemon, export: Path) -> None:
    time.sleep(OLD_S)
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_WRONLY | os.O_APPEND)
        ends, written = threading.Event(), b"data"
        thread = threading.Thread(target=keep_losing, args=(daemon, ends, 4))
        thread.start()
        while not ends.is_set():
            line = b"%08d\n" % len(written)
            assert share.client.write(fid, 0, line) == len(line)
            written += line
        thread.join()
    assert (export / "file").read_bytes() == written
    assert daemon.output.count("files are reopened") == 4


def test_a_load_of_everything_survives(export: Path) -> None:
    fill(str(export))
    with serve(export) as daemon:
        with Machine(daemon.socket) as machine:
            machine.boot()
            Client(machine).version()
            lose_keeper(daemon)
        crowd = Crowd(daemon.socket, 1, dialect_u=False, packed=True)
        crowd.run(1)
        assert crowd.answered > 100


# ---- the daemon ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "user"),
    [
        pytest.param("chroot", False, marks=needs_root),
        ("none", False),
        pytest.param("auto", True, marks=needs_root),
        pytest.param("none", True, marks=needs_root),
    ],
)
def test_the_confinement_is_the_same(level: str, user: bool, scratch: Path) -> None:
    def replace(daemon: Daemon) -> None:
        time.sleep(OLD_S)
        lose_keeper(daemon)

    check_confinement(scratch / f"orphaned-{level}-{user}", level, user, replace)


def test_an_inherited_connection_goes_on(export: Path) -> None:
    check_an_inherited_connection(export, lose_keeper)


def test_a_worker_dies_next(daemon: Daemon, export: Path) -> None:
    time.sleep(OLD_S)
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        for _ in range(2):
            lose_keeper(daemon)
            kill(daemon.worker)
            assert share.client.read(fid, 0, 10) == b"data"
            kill(daemon.worker)
            assert share.client.write(fid, 0, b"data") == 4


def test_an_upgrade_goes_on_with_the_copies(daemon: Daemon, export: Path) -> None:
    from tests.system.test_upgrade import upgraded

    time.sleep(OLD_S)
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        for _ in range(2):
            upgraded(daemon)
            lose_keeper(daemon)
            assert share.client.read(fid, 0, 10) == b"data"


def test_without_a_frontend_the_next_keeper_begins_anew(daemon: Daemon, export: Path) -> None:
    (keeper,) = daemon.keepers
    kill(keeper)
    daemon.wait_until(lambda: daemon.keepers not in ([], [keeper]), "there is no other keeper")
    is_served(daemon, export)
