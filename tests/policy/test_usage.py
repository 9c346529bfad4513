"""Counting a tree, and the file that keeps what was counted."""

import errno
import logging
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.inotify import IN_OPEN, Watch
from tests.system.share import UNSHARE
from vhost9p.native.quota import FILE_SIZE, USAGE_OFFSET
from vhost9p.policy import usage
from vhost9p.policy.locked_file import StateError
from vhost9p.policy.usage import Usage, UsageFile, ensure_counted, scan

BOOT = bytes(16)
NUMBERS = Usage(1 << 40, 17)


def count(path: Path, *hidden: bytes) -> Usage:
    """Scans a directory, and leaves no descriptor open."""
    before = os.listdir("/proc/self/fd")
    root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return scan(root_fd, hidden)
    finally:
        os.close(root_fd)
        assert os.listdir("/proc/self/fd") == before


def disk_usage(path: Path) -> Usage:
    """What du(1) says; it counts the root's inode too."""

    def total(*options: str) -> int:
        out = subprocess.run(["du", "-s", *options, path], capture_output=True, check=True)
        return int(out.stdout.split()[0])

    return Usage(total("-B1"), total("--inodes") - 1)


def plant(root: Path) -> None:
    """A bit of everything."""
    root.mkdir(exist_ok=True)
    (root / "empty").touch()
    (root / "file").write_bytes(bytes(100_000))
    with open(root / "holes", "wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    (root / "sub" / "deep").mkdir(parents=True)
    os.link(root / "file", root / "sub" / "again")
    os.link(root / "file", root / "sub" / "deep" / "and again")
    os.symlink("/", root / "to the root")
    os.symlink("x" * 2000, root / "far")
    os.mkfifo(root / "fifo")
    os.mkdir(os.fsencode(root) + b"/\xff\xfe")


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_usage_is_what_du_counts(place: str, tmp_path: Path) -> None:
    root = Path(place) / f"v9-usage-{os.getpid()}"
    try:
        assert count(tmp_path).inodes == 0
        plant(root)
        assert count(root) == disk_usage(root)
        assert count(root).inodes == 9
    finally:
        shutil.rmtree(root)


def test_hidden_names_do_not_count(tmp_path: Path) -> None:
    plant(tmp_path / "a")
    plant(tmp_path / "b")
    (tmp_path / "b" / ".hidden").mkdir()
    plant(tmp_path / "b" / ".hidden" / "c")
    (tmp_path / "b" / "sub" / ".hidden").write_bytes(bytes(10_000))
    (tmp_path / "b" / "sub" / ".hiddenmore").write_bytes(b"")
    bare, dressed = count(tmp_path / "a"), count(tmp_path / "b", b".hidden")
    assert dressed == Usage(bare.bytes, bare.inodes + 1)


def test_trees_deeper_than_a_path_are_counted(tmp_path: Path) -> None:
    """Deeper than a path may be long, and than directories are held open."""
    depth, name = 5 * usage.OPEN_MAX, "d" * 100
    fd = os.open(tmp_path, os.O_RDONLY)
    for level in range(depth):
        os.mkdir(name, dir_fd=fd)
        if level % 50 == 0:
            os.mkdir("beside", dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert count(tmp_path).inodes == depth + (depth + 49) // 50
    subprocess.run(["rm", "-rf", tmp_path / name, tmp_path / "beside"], check=True)


@contextmanager
def disturbed(
    monkeypatch: pytest.MonkeyPatch, once: Callable[[str, int | None], None]
) -> Iterator[None]:
    """Runs something before a scan opens each directory."""
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        once(path, dir_fd)
        return real(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        yield


def test_what_vanishes_or_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "changed").mkdir()
    (tmp_path / "outside").mkdir()
    plant(tmp_path / "outside" / "much")
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "gone").rename(root / "gone")
    (tmp_path / "changed").rename(root / "changed")

    def interfere(path: str, dir_fd: int | None) -> None:
        if path == "gone":
            (root / "gone").rmdir()
        if path == "changed":
            (root / "changed").rmdir()
            (root / "changed").symlink_to(tmp_path / "outside")

    with disturbed(monkeypatch, interfere):
        assert count(root).inodes == 2  # both were there when it was listed


def test_a_directory_that_is_moved_away_under_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back up leads elsewhere: it begins again; at last it gives up."""
    monkeypatch.setattr(usage, "OPEN_MAX", 1)
    root, moves = tmp_path / "root", 0
    deep = root / "a" / "b" / "c"
    deep.mkdir(parents=True)

    def move(path: str, dir_fd: int | None) -> None:
        nonlocal moves
        if path == ".." and (root / "a" / "b" / "c").exists():
            moves += 1
            (root / "a" / "b" / "c").rename(root / "moved")

    with disturbed(monkeypatch, move):
        assert count(root).inodes == 3
    assert moves == 1

    def tease(path: str, dir_fd: int | None) -> None:
        now = next(root.rglob("moved"))
        if path == ".." and dir_fd is not None and os.path.samestat(os.fstat(dir_fd), now.stat()):
            now.rename(root / ("a/moved" if now.parent == root else "moved"))

    with disturbed(monkeypatch, tease), pytest.raises(OSError) as caught:
        count(root)
    assert caught.value.errno == errno.EAGAIN


def test_what_a_directory_is_moved_to_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "OPEN_MAX", 1)
    root, outside, watch = tmp_path / "root", tmp_path / "outside", Watch()
    (root / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    watch.add(outside, IN_OPEN)

    def move(path: str, dir_fd: int | None) -> None:
        if path == ".." and (root / "a" / "b").exists():
            (root / "a" / "b").rename(outside / "b")

    with disturbed(monkeypatch, move):
        assert count(root).inodes == 1
    assert (outside / "b").exists()
    assert not watch.seen()
    os.close(os.open(outside, os.O_RDONLY))
    assert watch.seen()
    watch.close()


def test_unreadable_directories_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()

    def refuse(path: str, dir_fd: int | None) -> None:
        if path == "closed":
            raise PermissionError(errno.EACCES, "closed")

    with disturbed(monkeypatch, refuse):
        counted = count(tmp_path)
    assert (counted.inodes, counted.unreadable) == (1, 1)


def test_mounts_below_an_export_count(tmp_path: Path) -> None:
    count_it = (
        "import os, sys; from vhost9p.policy.usage import scan; "
        "print(*scan(os.open(sys.argv[1], os.O_RDONLY)))"
    )
    script = (
        'mkdir "$1/m" && mount -t tmpfs none "$1/m" && head -c 12288 /dev/zero >"$1/m/f" && '
        'exec "$2" -c "$3" "$1"'
    )
    out = subprocess.run(
        [*UNSHARE, "sh", "-c", script, "sh", tmp_path, sys.executable, count_it],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert out.returncode == 0, out.stderr
    counted = [int(word) for word in out.stdout.split()]
    root = os.stat(tmp_path).st_blocks * 512
    assert counted == [root + 3 * 4096, 2, 0]


# ---- the file


@contextmanager
def usage_file(
    state: Path,
    root: Path,
    path: str = "/srv/a",
    *hidden: bytes,
    btime: int = 1,
    boot: bytes = BOOT,
) -> Iterator[UsageFile]:
    """The numbers of `root` in the directory `state`."""
    dir_fd, root_fd = os.open(state, os.O_RDONLY), os.open(root, os.O_PATH)
    try:
        file = UsageFile(dir_fd, path, root_fd=root_fd, btime=btime, hidden=hidden, boot=boot)
    finally:
        os.close(dir_fd)
        os.close(root_fd)
    yield file
    file.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with the numbers of `tmp_path`."""
    path = tmp_path / "state"
    path.mkdir()
    with usage_file(path, tmp_path) as file:
        assert file.read() is None
        file.write(NUMBERS)
        assert file.read() == NUMBERS
        with pytest.raises(StateError, match="in use: another daemon serves '/srv/a'"):
            UsageFile(os.open(path, os.O_RDONLY), "/srv/a", root_fd=0, btime=0)
    return path


def test_keeps_the_numbers_to_itself(state: Path, tmp_path: Path) -> None:
    (path,) = state.iterdir()
    assert path.suffix == ".usage" and path.stat().st_mode & 0o777 == 0o600
    with usage_file(state, tmp_path) as file:
        assert file.read() == NUMBERS
    with usage_file(state, tmp_path, "/srv/b") as file:
        assert file.read() is None
    assert len(list(state.iterdir())) == 2


@pytest.mark.parametrize(
    "other",
    [
        lambda state, root: usage_file(state, state),
        lambda state, root: usage_file(state, root, btime=2),
        lambda state, root: usage_file(state, root, boot=bytes(15) + b"\1"),
        lambda state, root: usage_file(state, root, "/srv/a", b".virtfs_metadata"),
    ],
    ids=["root", "birth", "boot", "hidden"],
)
def test_numbers_of_something_else_are_not_believed(
    state: Path,
    tmp_path: Path,
    other: Callable[[Path, Path], AbstractContextManager[UsageFile]],
) -> None:
    with other(state, tmp_path) as file:
        assert file.read() is None
        file.write(Usage(1, 2))
    with usage_file(state, tmp_path) as file:
        assert file.read() is None


def test_numbers_in_the_middle_of_a_change_are_not_believed(state: Path, tmp_path: Path) -> None:
    (path,) = state.iterdir()
    with open(path, "r+b") as raw:
        raw.seek(USAGE_OFFSET + 16)
        raw.write(struct.pack("<Q", 1))
    with usage_file(state, tmp_path) as file:
        assert file.read() is None


@pytest.mark.parametrize(
    "damage", [lambda fd: os.ftruncate(fd, 100), lambda fd: os.pwrite(fd, b"x", 3)]
)
def test_a_damaged_usage_file_is_counted_anew(
    state: Path, tmp_path: Path, damage: Callable[[int], object]
) -> None:
    (path,) = state.iterdir()
    with open(path, "r+b") as raw:
        damage(raw.fileno())
    with usage_file(state, tmp_path) as file:
        assert file.read() is None
        file.write(NUMBERS)
        assert path.stat().st_size == FILE_SIZE and file.read() == NUMBERS


def test_counts_only_where_it_has_to(
    state: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = Usage(4096, 1, 2)

    def ensure(rescan: bool) -> tuple[Usage, str]:
        caplog.clear()
        with usage_file(state, tmp_path) as file:
            return ensure_counted(file, "/srv/a", lambda: found, rescan=rescan), caplog.text

    counted, said = ensure(rescan=False)
    assert counted == NUMBERS and "from the state file" in said
    counted, said = ensure(rescan=True)
    assert counted == found and "4096 bytes in 1 inodes, counted in" in said
    assert "2 files or directories could not be read" in said
    counted, said = ensure(rescan=False)
    assert counted == Usage(4096, 1) and "from the state file" in said
