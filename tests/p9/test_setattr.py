"""Changes of attributes: every bit of `valid`, and what must not change with it."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.p9.guest import Guest, Refused
from vhost9p.native.fids import SetAttr
from vhost9p.p9 import constants as c

IS_ROOT = os.geteuid() == 0


def setattr_of(
    guest: Guest, fid: int, valid: int, *, mode: int = 0, uid: int = 0, gid: int = 0, size: int = 0,
    atime: tuple[int, int] = (0, 0), mtime: tuple[int, int] = (0, 0),
) -> None:  # fmt: skip
    """What C makes of one Tsetattr."""
    guest.setattr(fid, SetAttr(valid, mode, uid, gid, size, *atime, *mtime))


def age(path: Path) -> None:
    """Gives a file times of long ago."""
    os.utime(path, (1000, 2000))


def test_mode_keeps_the_type(guest: Guest, root: Path) -> None:
    for name in ("file", "dir"):
        (root / name).mkdir() if name == "dir" else (root / name).touch()
        before = stat.S_IFMT(os.stat(root / name).st_mode)
        setattr_of(guest, guest.walk(name), c.SETATTR_MODE, mode=0xFFFF)
        assert os.stat(root / name).st_mode == before | 0o7777


def test_the_owner_is_set_before_the_mode(guest: Guest, root: Path) -> None:
    """chown(2) clears the set-id bits that come in the same request."""
    (root / "file").touch()
    valid = c.SETATTR_MODE | c.SETATTR_UID | c.SETATTR_GID
    ids = (1234, 5678) if IS_ROOT else (os.geteuid(), os.getegid())
    setattr_of(guest, guest.walk("file"), valid, mode=0o6755, uid=ids[0], gid=ids[1])
    status = os.stat(root / "file")
    assert (status.st_uid, status.st_gid) == ids
    assert stat.S_IMODE(status.st_mode) == 0o6755


@pytest.mark.skipif(not IS_ROOT, reason="needs root")
def test_one_of_owner_and_group(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.walk("file")
    setattr_of(guest, fid, c.SETATTR_UID, uid=7, gid=8)
    setattr_of(guest, fid, c.SETATTR_UID | c.SETATTR_GID, uid=0xFFFFFFFF, gid=9)
    status = os.stat(root / "file")
    assert (status.st_uid, status.st_gid) == (7, 9)


def test_times_are_set_to_values_and_to_now(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.walk("file")
    valid = c.SETATTR_ATIME | c.SETATTR_ATIME_SET | c.SETATTR_MTIME | c.SETATTR_MTIME_SET
    setattr_of(guest, fid, valid, atime=(5, 6), mtime=(2**64 - 7, 8))
    status = os.stat(root / "file")
    assert status.st_atime_ns == 5_000_000_006
    assert status.st_mtime_ns == -7_000_000_000 + 8  # before 1970
    setattr_of(guest, fid, c.SETATTR_ATIME | c.SETATTR_MTIME | c.SETATTR_MTIME_SET, mtime=(9, 0))
    status = os.stat(root / "file")
    assert status.st_atime > 1_000_000
    assert status.st_mtime_ns == 9_000_000_000
    setattr_of(guest, fid, c.SETATTR_ATIME | c.SETATTR_ATIME_SET, atime=(4, 0))
    status = os.stat(root / "file")
    assert (status.st_atime_ns, status.st_mtime_ns) == (4_000_000_000, 9_000_000_000)


def test_times_of_a_symlink_are_its_own(guest: Guest, root: Path) -> None:
    (root / "target").touch()
    age(root / "target")
    (root / "link").symlink_to("target")
    valid = c.SETATTR_MTIME | c.SETATTR_MTIME_SET
    setattr_of(guest, guest.walk("link"), valid, mtime=(5, 0))
    assert os.lstat(root / "link").st_mtime == 5
    assert os.stat(root / "target").st_mtime == 2000


@pytest.mark.parametrize("valid", [c.SETATTR_CTIME, c.SETATTR_CTIME | c.SETATTR_UID])
@pytest.mark.parametrize("name", ["file", "dir", "link"])
def test_ctime_alone_changes_nothing_else(guest: Guest, root: Path, valid: int, name: str) -> None:
    (root / "file").touch()
    (root / "file").chmod(0o6755)
    (root / "dir").mkdir()
    (root / "link").symlink_to("nowhere")
    os.utime(root / name, (1000, 2000), follow_symlinks=False)
    before = os.lstat(root / name)
    setattr_of(guest, guest.walk(name), valid, uid=0xFFFFFFFF)
    after = os.lstat(root / name)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert (after.st_mode, after.st_mtime_ns, after.st_atime_ns, after.st_uid) == (
        before.st_mode, before.st_mtime_ns, before.st_atime_ns, before.st_uid,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["open", "walk"])
@pytest.mark.parametrize("size", [0, 3, 10, 1 << 33])
def test_a_new_size_sets_mtime(guest: Guest, root: Path, how: str, size: int) -> None:
    (root / "file").write_bytes(b"abc")
    age(root / "file")
    fid = guest.open("file") if how == "open" else guest.walk("file")
    setattr_of(guest, fid, c.SETATTR_SIZE | c.SETATTR_MTIME | c.SETATTR_CTIME, size=size)
    status = os.stat(root / "file")
    assert status.st_size == size
    assert status.st_mtime > 1_000_000
    assert status.st_atime == 1000


def test_size_with_a_time_of_its_own(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    valid = c.SETATTR_SIZE | c.SETATTR_MTIME | c.SETATTR_MTIME_SET
    setattr_of(guest, guest.walk("file"), valid, size=5, mtime=(77, 0))
    status = os.stat(root / "file")
    assert (status.st_size, status.st_mtime) == (5, 77)


def test_size_through_a_fid_that_may_write(guest: Guest, root: Path) -> None:
    """ftruncate(2) works where the file's mode would no longer let it be opened."""
    (root / "file").write_bytes(b"abc")
    fid = guest.open("file")
    (root / "file").chmod(0)
    (root / "file").unlink()
    setattr_of(guest, fid, c.SETATTR_SIZE, size=1)
    assert os.fstat(guest.fids.look(fid).io_fd).st_size == 1


def test_unlinked_files_change_too(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.walk("file")
    (root / "file").unlink()
    (root / "file").touch(mode=0o600)
    setattr_of(guest, fid, c.SETATTR_MODE | c.SETATTR_SIZE, mode=0o4711, size=9)
    status = os.stat(guest.fids.look(fid).path_fd)
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o4711, 9)
    assert stat.S_IMODE(os.stat(root / "file").st_mode) == 0o600


def test_what_has_no_size_is_never_opened(guest: Guest, root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "dir").mkdir()
    (root / "link").symlink_to("nowhere")
    expected = {"fifo": errno.EINVAL, "dir": errno.EISDIR, "link": errno.EINVAL}
    for name, code in expected.items():
        with pytest.raises(Refused) as refused:
            setattr_of(guest, guest.walk(name), c.SETATTR_SIZE)
        assert refused.value.errno == code


@pytest.mark.parametrize(
    ("valid", "size", "nsec"),
    [
        (1 << 9, 0, 0),
        (0xFFFFFFFF, 0, 0),
        (c.SETATTR_MODE | c.SETATTR_SIZE, 1 << 63, 0),
        (c.SETATTR_MODE | c.SETATTR_ATIME | c.SETATTR_ATIME_SET, 0, 1_000_000_000),
        (c.SETATTR_MODE | c.SETATTR_MTIME | c.SETATTR_MTIME_SET, 0, (1 << 30) - 1),  # UTIME_NOW
        (c.SETATTR_MODE | c.SETATTR_MTIME | c.SETATTR_MTIME_SET, 0, 1 << 63),
    ],
)
def test_bad_values_change_nothing(
    guest: Guest, root: Path, valid: int, size: int, nsec: int
) -> None:
    (root / "file").touch(mode=0o600)
    before = os.stat(root / "file")
    with pytest.raises(Refused) as refused:
        setattr_of(
            guest, guest.walk("file"), valid, mode=0o777, size=size, atime=(0, nsec),
            mtime=(0, nsec),
        )  # fmt: skip
    assert refused.value.errno == errno.EINVAL
    assert os.stat(root / "file") == before
