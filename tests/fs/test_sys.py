"""System calls that run as a guest user, and what they leave behind in the thread."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vhost9p.native import sys
from vhost9p.native.export import Export

EXCL = os.O_RDWR | 0o200
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A directory that no other user may write."""
    tmp_path.chmod(0o700)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    old = os.umask(0)
    yield fd
    os.umask(old)
    os.close(fd)


@pytest.fixture
def export(directory: int) -> Iterator[Export]:
    """Makes things there."""
    export = Export(directory, readonly=False, stat_entries=False)
    yield export
    export.close()


def identity() -> list[str]:
    """The thread's ids and capabilities, from the kernel."""
    lines = Path("/proc/thread-self/status").read_text(encoding="ascii").splitlines()
    return [line for line in lines if line.split(":")[0] in ("Uid", "Gid", "CapEff", "CapPrm")]


def create(export: Export, fd: int, name: bytes, flags: int, mode: int, *ids: int) -> int:
    path_fd, io_fd, *_ = export.create(fd, name, flags, mode, *ids)
    os.close(path_fd)
    return io_fd


MAKERS: dict[str, Callable[[Export, int, int, int], object]] = {
    "create": lambda ex, fd, *ids: os.close(create(ex, fd, b"n", EXCL, 0o640, *ids)),
    "mkdir": lambda ex, fd, *ids: ex.mkdir(fd, b"n", 0o750, *ids),
    "mknod": lambda ex, fd, *ids: ex.mknod(fd, b"n", stat.S_IFIFO | 0o600, (0, 0), *ids),
    "symlink": lambda ex, fd, *ids: ex.symlink(fd, b"n", b"target", *ids),
}


@needs_root
@pytest.mark.parametrize("uid", [0, 1234])
@pytest.mark.parametrize("maker", MAKERS)
def test_entries_are_created_as_another_user(
    directory: int, export: Export, maker: str, uid: int
) -> None:
    """In a directory that the user cannot write: the guest's kernel has checked access."""
    before = identity()
    MAKERS[maker](export, directory, uid, 5678)
    status = os.stat("n", dir_fd=directory, follow_symlinks=False)
    assert (status.st_uid, status.st_gid) == (uid, 5678)
    with pytest.raises(FileExistsError):
        MAKERS[maker](export, directory, uid, 5678)
    assert identity() == before


@needs_root
def test_devices_are_created_for_another_user(directory: int, export: Export) -> None:
    export.mknod(directory, b"n", stat.S_IFCHR | 0o600, (259, 70_000), 1234, 5678)
    status = os.stat("n", dir_fd=directory)
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (259, 70_000)
    assert (status.st_uid, status.st_gid) == (1234, 5678)


@needs_root
def test_other_threads_keep_their_identity(tmp_path: Path, directory: int, export: Export) -> None:
    stop = threading.Event()
    wrong = []

    def watch() -> None:
        before = identity()
        while not stop.is_set():
            wrong.extend([now for now in [identity()] if now != before])

    thread = threading.Thread(target=watch)
    thread.start()
    for i in range(500):
        export.mkdir(directory, b"%d" % i, 0o755, 1234, 5678)
    stop.set()
    thread.join()
    assert wrong == []
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {1234}


def test_created_files_are_new(tmp_path: Path, directory: int, export: Export) -> None:
    (tmp_path / "there").write_text("data")
    (tmp_path / "link").symlink_to("nowhere")
    own = (os.geteuid(), os.getegid())
    for name in (b"there", b"link"):
        with pytest.raises(FileExistsError):
            create(export, directory, name, EXCL | 0o1000, 0o600, *own)
    assert (tmp_path / "there").read_text() == "data"
    fd = create(export, directory, b"new", EXCL, 0o6751, *own)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o6751
    assert not os.get_inheritable(fd)
    os.close(fd)


P9_APPEND, P9_DIRECT, P9_DSYNC, P9_SYNC = 0o2000, 0o40000, 0o10000, 0o4000000


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, os.O_RDONLY),
        (1, os.O_WRONLY),
        (2, os.O_RDWR),
        (3, os.O_RDWR),
        (1 | P9_APPEND, os.O_WRONLY | os.O_APPEND),
        (2 | P9_APPEND, os.O_RDWR),
        (P9_APPEND, os.O_RDONLY),
        (2 | P9_DIRECT, os.O_RDWR),
        (1 | 0o100 | 0o200, os.O_WRONLY),
        (1 | 0o1000, os.O_WRONLY | os.O_TRUNC),
        (0o200000, os.O_DIRECTORY),
        (1 | P9_DSYNC, os.O_WRONLY | os.O_DSYNC),
        (1 | P9_SYNC, os.O_WRONLY | os.O_SYNC),
        (1 | P9_SYNC | P9_DSYNC, os.O_WRONLY | os.O_SYNC),
        (0xFFFFFFFF & ~0o1003, os.O_RDONLY | os.O_DIRECTORY | os.O_SYNC),
    ],
)
def test_open_flags_of_the_wire_become_the_hosts(flags: int, expected: int) -> None:
    always = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    assert sys.open_flags(flags) & ~os.O_NOATIME == expected | always


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 0),  # to execute is to read
        (0x10 | 2, 0o1002),
        (0x80 | 1, 0o2001),
        (0x20, 0),  # close on exec: the client's own affair
        (0x0C | 0x10 | 0x80, 0o3000),
    ],
)
def test_open_modes_of_the_wire_become_flags(mode: int, expected: int) -> None:
    assert sys.open_mode(mode) == expected


@pytest.mark.parametrize("mode", [0x40, 0x41, 0xFF])
def test_remove_on_close_is_refused(mode: int) -> None:
    with pytest.raises(OSError) as refused:
        sys.open_mode(mode)
    assert refused.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("kind", "start", "length"),
    [(3, 0, 0), (-1, 0, 0), (sys.WRLCK, 1 << 63, 0), (sys.WRLCK, 0, 1 << 63)],
)
def test_locks_that_are_none(tmp_path: Path, kind: int, start: int, length: int) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for call in (sys.ofd_lock, sys.ofd_test):
        with pytest.raises(OSError) as refused:
            call(fd, kind, start, length)
        assert refused.value.errno == errno.EINVAL
    if start == length == 0:
        with pytest.raises(OSError):
            sys.flock(fd, kind)
    os.close(fd)


def test_a_wait_that_was_cancelled_before_it_began(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    cancel = sys.Cancel()
    cancel.set()
    assert cancel.is_set()
    with pytest.raises(InterruptedError):
        sys.ofd_lock(fd, sys.WRLCK, 0, 0, cancel)
    with pytest.raises(InterruptedError):
        sys.flock(fd, sys.WRLCK, cancel)
    os.close(fd)


@given(st.binary(max_size=300))
@example(b"")
@example(b".")
@example(b"..")
@example(b"...")
@example(b"n" * 255)
@example(b"n" * 256)
@example(b"a/b")
@example(b"a\0")
@example(b"a/" + b"n" * 254)
def test_names_of_directory_entries(name: bytes) -> None:
    """As the kernel has it: at most NAME_MAX bytes, none of them a slash or NUL."""
    if not name:
        expected = errno.ENOENT
    elif len(name) > 255:
        expected = errno.ENAMETOOLONG
    elif {0, ord("/")} & set(name):
        expected = errno.EINVAL
    else:
        expected = errno.EBUSY if name in (b".", b"..") else 0
    assert sys.name_error(name, errno.EBUSY) == expected
