"""The local driver: owners and modes under both security models, and races with the host."""

import errno
import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fs.changes import File, chmod, chown, link, touch, truncate, unlink
from vhost9p.fs.driver import OWN_ID, Driver, Owner
from vhost9p.fs.local import LocalDriver
from vhost9p.native.export import Export
from vhost9p.policy.multidevs import make_policy

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
EXCL = os.O_RDWR | os.O_CREAT | os.O_EXCL
NOBODY = 65534
KINDS = ["create", "mkdir", "fifo", "symlink"]


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that every user can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="v9-local-"))
    path.chmod(0o755)
    yield path
    for entry in path.iterdir():
        if not entry.is_symlink():
            entry.chmod(0o700)
    shutil.rmtree(path)


@contextmanager
def driver_of(
    path: Path, security_model: str = "passthrough", *, readonly: bool = False
) -> Iterator[tuple[LocalDriver, int]]:
    """A driver, and a descriptor of its root."""
    root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    matter = security_model == "passthrough"
    export = Export(root_fd, readonly=readonly, stat_entries=False, owners_matter=matter)
    export.policy = make_policy("warn", export.qidmap, os.stat(path).st_dev, export.probe, None)
    driver = LocalDriver(export, root_fd)
    old = os.umask(0)
    yield driver, root_fd
    os.umask(old)
    export.close()
    os.close(root_fd)


def make(driver: Driver, fd: int, kind: str, owner: Owner, mode: int = 0o750) -> None:
    """Creates the entry "n"."""
    if kind == "create":
        made = driver.create(fd, b"n", EXCL, mode, owner)
        os.close(made.path_fd)
        os.close(made.io_fd)
    elif kind == "mkdir":
        driver.mkdir(fd, b"n", mode, owner)
    elif kind == "fifo":
        driver.mknod(fd, b"n", stat.S_IFIFO | mode, (0, 0), owner)
    else:
        driver.symlink(fd, b"n", b"target", owner)


def in_child(work: Callable[[], None], uid: int = NOBODY, gid: int = NOBODY) -> None:
    """Runs something as another user; what it asserts has to hold."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([gid, gid + 1])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def ids(path: Path) -> tuple[int, int]:
    """Owner and group."""
    status = os.lstat(path)
    return status.st_uid, status.st_gid


@needs_root
@pytest.mark.parametrize("model", ["passthrough", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_root_creates_for_everyone(place: Path, model: str, kind: str) -> None:
    with driver_of(place, model) as (driver, fd):
        for owner in (Owner(1234, 5678), Owner(0, 77), Owner(OWN_ID, 5)):
            make(driver, fd, kind, owner)
            expected = 0 if owner.uid == OWN_ID else owner.uid
            assert ids(place / "n") == (expected, owner.gid)
            unlink(driver.export, fd, b"n", directory=kind == "mkdir")


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_a_setgid_directory_get_its_group(place: Path, kind: str) -> None:
    """As on the host's own file system: the directory's group wins, directories inherit the bit."""
    os.chown(place, 0, 4321)
    place.chmod(0o2777)
    with driver_of(place) as (driver, fd):
        make(driver, fd, kind, Owner(1234, 4321))
        assert ids(place / "n") == (1234, 4321)
        status = os.lstat(place / "n")
        assert bool(status.st_mode & stat.S_ISGID) == (kind == "mkdir")


@pytest.mark.parametrize("mode", [0o6755, 0o2755, 0o4711, 0o2644, 0o1777, 0o000, 0o7777])
@pytest.mark.parametrize("kind", ["create", "mkdir", "fifo"])
@pytest.mark.parametrize("model", ["passthrough", "none"])
def test_modes_come_out_as_asked(place: Path, mode: int, kind: str, model: str) -> None:
    uid = 1234 if IS_ROOT else OWN_ID
    gid = 5678 if IS_ROOT else os.getegid()
    with driver_of(place, model) as (driver, fd):
        make(driver, fd, kind, Owner(uid, gid), mode)
        assert stat.S_IMODE(os.lstat(place / "n").st_mode) == mode


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_without_privilege_passthrough_creates_for_itself(place: Path, kind: str) -> None:
    os.chown(place, NOBODY, NOBODY)

    def work() -> None:
        with driver_of(place) as (driver, fd):
            for owner in (Owner(0, NOBODY), Owner(1234, NOBODY), Owner(NOBODY, 1234)):
                with pytest.raises(PermissionError):
                    make(driver, fd, kind, owner)
                assert not os.path.lexists(place / "n")
            for owner in (Owner(NOBODY, NOBODY), Owner(OWN_ID, NOBODY + 1)):
                make(driver, fd, kind, owner, 0o6750)
                assert ids(place / "n") == (NOBODY, owner.gid)
                if kind != "symlink":
                    assert stat.S_IMODE(os.lstat(place / "n").st_mode) == 0o6750
                unlink(driver.export, fd, b"n", directory=kind == "mkdir")

    in_child(work)


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_without_privilege_none_creates_as_itself(place: Path, kind: str) -> None:
    os.chown(place, NOBODY, NOBODY)

    def work() -> None:
        with driver_of(place, "none") as (driver, fd):
            make(driver, fd, kind, Owner(1234, 5678))
            assert ids(place / "n") == (NOBODY, NOBODY)
            made = os.open("n", os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
            chown(driver.export, File(made), 1234, 5678)
            assert ids(place / "n") == (NOBODY, NOBODY)

    in_child(work)


@needs_root
def test_without_privilege_chown_is_refused_where_owners_matter(place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)

    def work() -> None:
        with driver_of(place) as (driver, fd):
            make(driver, fd, "create", Owner(NOBODY, NOBODY))
            made = os.open("n", os.O_PATH, dir_fd=fd)
            with pytest.raises(PermissionError):
                chown(driver.export, File(made), 1234, -1)
            chown(driver.export, File(made), NOBODY, NOBODY + 1)
            assert ids(place / "n") == (NOBODY, NOBODY + 1)

    in_child(work)


@needs_root
def test_without_privilege_a_foreign_file_is_cut(place: Path) -> None:
    """Write permission is enough, as for truncate(2)."""
    (place / "n").write_bytes(b"data")
    (place / "n").chmod(0o666)

    def work() -> None:
        with driver_of(place) as (driver, fd):
            made = os.open("n", os.O_PATH, dir_fd=fd)
            truncate(driver.export, made, -1, 1)
            touch(driver.export, made)

    in_child(work)
    assert (place / "n").read_bytes() == b"d"


@pytest.mark.parametrize("target", ["file", "dir", "link", "fifo"])
def test_a_path_through_proc_is_the_file_itself(place: Path, target: str) -> None:
    """Also of a symlink: neither its attributes nor its links are its target's."""
    (place / "file").touch()
    (place / "dir").mkdir()
    (place / "link").symlink_to("file")
    os.mkfifo(place / "fifo")
    with driver_of(place) as (driver, fd):
        opened = os.open(target, os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
        before = os.stat(place / "file")
        gid = 5678 if IS_ROOT else os.getegid()
        chown(driver.export, File(opened), -1, gid)
        assert ids(place / target)[1] == gid
        if target != "file":
            assert os.stat(place / "file") == before
        if target != "dir":
            link(driver.export, File(opened), fd, b"again")
            assert os.lstat(place / "again").st_ino == os.lstat(place / target).st_ino
        if target == "link":
            with pytest.raises(OSError) as refused:
                chmod(driver.export, File(opened), 0o600)
            assert refused.value.errno in (errno.EOPNOTSUPP, errno.EPERM)
        os.close(opened)
