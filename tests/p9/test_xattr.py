"""Extended attributes over fids: reading, writing, removing, and their bounds."""

import errno
import os
from pathlib import Path

import pytest

from tests.p9.guest import Guest, Refused
from vhost9p.native.fids import SetAttr
from vhost9p.p9 import constants as c
from vhost9p.p9 import messages as m
from vhost9p.p9 import xattr
from vhost9p.p9.codec import Message

NEW = 5000


@pytest.fixture
def file(root: Path) -> Path:
    """A file of the export, on a file system that keeps attributes."""
    path = root / "file"
    path.touch()
    try:
        os.setxattr(path, b"user.probe", b"")
    except OSError as error:
        pytest.skip(f"no user attributes in {root}: {error.strerror}")
    os.removexattr(path, b"user.probe")
    return path


def code(guest: Guest, message: Message) -> int | None:
    """The errno that a request is refused with."""
    with pytest.raises(Refused) as refused:
        guest.do(message)
    return refused.value.errno


def put(guest: Guest, name: bytes, value: bytes, flags: int = 0, path: str = "file") -> None:
    """setxattr(2), as Linux's client sends it."""
    fid = guest.walk(path)
    guest.call(m.Txattrcreate(fid, name, len(value), flags), m.Rxattrcreate)
    for at in range(0, len(value), 4000):
        piece = value[at : at + 4000]
        reply = guest.send(m.Twrite(fid, at, piece), held_back=len(piece)).result(m.Rwrite)
        assert reply.count == len(piece)
    try:
        guest.call(m.Tclunk(fid), m.Rclunk)
    finally:
        assert fid not in guest.fids


def get(guest: Guest, name: bytes, path: str = "file") -> bytes:
    """getxattr(2), and listxattr(2) for the empty name."""
    size = guest.call(m.Txattrwalk(guest.walk(path), NEW, name), m.Rxattrwalk).size
    value = b""
    while piece := guest.call(m.Tread(NEW, len(value), 1000), m.Rread).data:
        value += piece
    guest.call(m.Tclunk(NEW), m.Rclunk)
    assert len(value) == size
    return value


@pytest.mark.parametrize("value", [b"", b"v", bytes(range(256)) * 12], ids=len)
def test_a_value_is_written_and_read_back(guest: Guest, file: Path, value: bytes) -> None:
    put(guest, b"user.\xff", value)
    assert os.getxattr(os.fsencode(file), b"user.\xff") == value
    assert get(guest, b"user.\xff") == value


def test_an_empty_name_lists_the_attributes(guest: Guest, file: Path) -> None:
    assert get(guest, b"") == b""
    names = [b"user.%d" % i for i in range(20)]
    for name in names:
        os.setxattr(file, name, b"v")
    assert sorted(get(guest, b"").split(b"\0")) == sorted([*names, b""])


def test_an_empty_value_is_not_removal(guest: Guest, file: Path) -> None:
    """Linux's client removes by size 0 with XATTR_REPLACE, and by nothing else."""
    for flags in (0, c.XATTR_CREATE):
        put(guest, b"user.a", b"", flags)
        assert os.getxattr(file, b"user.a") == b""
        put(guest, b"user.a", b"", c.XATTR_REPLACE)
        assert os.listxattr(file) == []


def test_create_and_replace_flags_are_obeyed(guest: Guest, file: Path) -> None:
    put(guest, b"user.a", b"1", c.XATTR_CREATE)
    with pytest.raises(Refused) as refused:
        put(guest, b"user.a", b"2", c.XATTR_CREATE)
    assert refused.value.errno == errno.EEXIST
    put(guest, b"user.a", b"3", c.XATTR_REPLACE)
    assert os.getxattr(file, b"user.a") == b"3"
    for value in (b"", b"4"):
        with pytest.raises(Refused) as refused:
            put(guest, b"user.b", value, c.XATTR_REPLACE)
        assert refused.value.errno == errno.ENODATA


def test_an_unlinked_files_attributes_are_its_own(guest: Guest, file: Path) -> None:
    fid = guest.walk("file")
    file.unlink()
    file.touch()
    guest.do(m.Txattrcreate(fid, b"user.a", 0, 0))
    path_fd = os.dup(guest.fids.look(fid).path_fd)
    guest.call(m.Tclunk(fid), m.Rclunk)
    assert os.listxattr(f"/proc/self/fd/{path_fd}") == ["user.a"]
    os.close(path_fd)
    assert os.listxattr(file) == []


def test_a_symlinks_attributes_are_its_own(guest: Guest, root: Path, file: Path) -> None:
    (root / "link").symlink_to("file")
    with pytest.raises(Refused) as refused:
        put(guest, b"user.a", b"v", path="link")
    assert refused.value.errno == errno.EPERM
    assert os.listxattr(file) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"trusted.a", b"v"),
        (b"security.capability", bytes.fromhex("0000000200040000000000000000000000000000")),
        (
            b"system.posix_acl_access",
            bytes.fromhex(
                "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000600ffffffff"
                "20000000ffffffff"
            ),
        ),
    ],
)
def test_privileged_attributes(guest: Guest, file: Path, name: bytes, value: bytes) -> None:
    put(guest, name, value)
    assert os.getxattr(file, name) == value
    assert get(guest, name) == value
    put(guest, name, b"", c.XATTR_REPLACE)
    assert os.listxattr(file) == []


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "expected"), [(b"user.\0", errno.EINVAL), (b"n" * 256, errno.ERANGE)]
)
def test_what_is_no_attribute_name_is_refused(
    guest: Guest, file: Path, name: bytes, expected: int
) -> None:
    assert code(guest, m.Txattrwalk(guest.walk("file"), NEW, name)) == expected
    assert code(guest, m.Txattrcreate(guest.walk("file"), name, 1, 0)) == expected
    assert code(guest, m.Txattrcreate(guest.walk("file"), b"", 1, 0)) == errno.EINVAL
    assert NEW not in guest.fids


def test_missing_attribute_makes_no_fid(guest: Guest, file: Path) -> None:
    assert code(guest, m.Txattrwalk(guest.walk("file"), NEW, b"user.a")) == errno.ENODATA
    assert NEW not in guest.fids


def test_walk_to_a_used_fid(guest: Guest, file: Path) -> None:
    fid = guest.walk("file")
    for newfid in (fid, guest.walk()):
        assert code(guest, m.Txattrwalk(fid, newfid, b"")) == errno.EBADF
    guest.setattr(fid, SetAttr(0))


def test_values_are_written_from_front_to_back(guest: Guest, file: Path) -> None:
    fid = guest.walk("file")
    guest.do(m.Txattrcreate(fid, b"user.a", 5, 0))
    assert code(guest, m.Twrite(fid, 1, b"x")) == errno.EINVAL
    guest.do(m.Twrite(fid, 0, b"abc"))
    assert code(guest, m.Twrite(fid, 0, b"abc")) == errno.EINVAL
    assert code(guest, m.Twrite(fid, 3, b"def")) == errno.ENOSPC
    assert code(guest, m.Twrite(fid, 1 << 63, b"")) == errno.EINVAL
    assert code(guest, m.Tread(fid, 0, 5)) == errno.EBADF
    assert code(guest, m.Tclunk(fid)) == errno.EINVAL  # 3 of 5 bytes
    assert os.listxattr(file) == []
    assert fid not in guest.fids


def test_reading_fids_are_not_written(guest: Guest, file: Path) -> None:
    guest.do(m.Txattrwalk(guest.walk("file"), NEW, b""))
    assert code(guest, m.Twrite(NEW, 0, b"x")) == errno.EBADF
    assert code(guest, m.Txattrcreate(NEW, b"user.a", 1, 0)) == errno.EBADF
    assert code(guest, m.Txattrwalk(NEW, NEW + 1, b"")) == errno.EBADF
    assert guest.call(m.Tread(NEW, 1 << 63, 0xFFFFFFFF), m.Rread).data == b""


def test_impossible_values_are_refused(guest: Guest, file: Path) -> None:
    fid = guest.walk("file")
    for size in (65537, 1 << 32, 1 << 63):
        assert code(guest, m.Txattrcreate(fid, b"user.a", size, 0)) == errno.E2BIG
    for flags in (4, 0xFFFFFFFF):
        assert code(guest, m.Txattrcreate(fid, b"user.a", 1, flags)) == errno.EINVAL
    guest.do(m.Txattrcreate(fid, b"user.a", 65536, 0))
    assert code(guest, m.Txattrcreate(fid, b"user.b", 1, 0)) == errno.EBADF
    assert code(guest, m.Txattrcreate(guest.open("file"), b"user.b", 1, 0)) == errno.EBADF


def test_all_values_together_are_bounded(
    guest: Guest, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xattr, "BYTES_MAX", 1000)
    os.setxattr(file, b"user.a", bytes(600))
    first = guest.walk("file")
    guest.do(m.Txattrcreate(first, b"user.b", 500, 0))
    assert code(guest, m.Txattrwalk(guest.walk("file"), NEW, b"user.a")) == errno.ENOSPC
    assert NEW not in guest.fids
    assert code(guest, m.Txattrcreate(guest.walk("file"), b"user.c", 501, 0)) == errno.ENOSPC
    with pytest.raises(Refused):  # unfinished, and yet its share is given back
        guest.do(m.Tclunk(first))
    for _ in range(5):
        assert get(guest, b"user.a") == bytes(600)
    guest.do(m.Txattrcreate(guest.walk("file"), b"user.b", 1000, 0))
    guest.do(m.Tversion(8192, b"9P2000.L"))
    guest.do(m.Txattrcreate(guest.walk("file"), b"user.b", 1000, 0))


def test_reads_fit_msize(guest: Guest, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest.do(m.Tversion(4096, b"9P2000.L"))
    monkeypatch.setattr(guest.driver, "get_xattr", lambda fd, name: bytes(9000))
    size = guest.call(m.Txattrwalk(guest.walk("file"), NEW, b"user.a"), m.Rxattrwalk).size
    assert size == 9000
    assert len(guest.call(m.Tread(NEW, 0, 0xFFFFFFFF), m.Rread).data) == 4096 - 11
