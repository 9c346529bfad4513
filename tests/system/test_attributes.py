"""Tgetattr, Tsetattr, Tstatfs."""

from __future__ import annotations

import errno
import os
import subprocess
import time

import pytest

from tests.frontend.client import (
    GETATTR_BASIC,
    SET_ATIME,
    SET_ATIME_VALUE,
    SET_CTIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_VALUE,
    SET_SIZE,
    SET_UID,
    WRLCK,
    P9Errno,
)
from tests.system.share import Share, fails, needs_root
from vhost9p.host import SELINUX

BTIME = 0x800
GEN = 0x1000


def ns(pair: tuple[int, int]) -> int:
    return pair[0] * 10**9 + pair[1]


@pytest.mark.parametrize("name", ["dir", "file", "link", "fifo"])
def test_attributes_are_the_hosts(share: Share, name: str) -> None:
    os.mkdir(share.path("dir"))
    share.put("file", b"x" * 5000)
    os.link(share.path("file"), share.path("other"))
    os.symlink("file", share.path("link"))
    os.mkfifo(share.path("fifo"), 0o631)
    attr = share.client.getattr(share.client.walk_to(share.top, name.encode()))
    host = os.lstat(share.path(name))
    assert attr.valid & GETATTR_BASIC == GETATTR_BASIC
    assert (attr.mode, attr.uid, attr.gid) == (host.st_mode, host.st_uid, host.st_gid)
    assert (attr.nlink, attr.rdev, attr.size) == (host.st_nlink, host.st_rdev, host.st_size)
    assert (attr.blksize, attr.blocks) == (host.st_blksize, host.st_blocks)
    assert attr.atime_sec * 10**9 + attr.atime_nsec == host.st_atime_ns
    assert attr.mtime_sec * 10**9 + attr.mtime_nsec == host.st_mtime_ns
    assert attr.ctime_sec * 10**9 + attr.ctime_nsec == host.st_ctime_ns


def test_birth_time_where_the_host_has_it(share: Share) -> None:
    path = share.put("file")
    btime = subprocess.run(
        ["stat", "--format=%W", path], capture_output=True, check=True, text=True
    ).stdout
    attr = share.client.getattr(share.client.walk_to(share.top, b"file"))
    if int(btime) > 0:
        assert attr.valid & BTIME
        assert attr.btime_sec == int(btime)
    else:
        assert not attr.valid & BTIME


def test_new_file_of_the_same_name_has_another_generation(share: Share) -> None:
    """A file system may give the inode number away again at once."""
    client = share.client
    share.put("file")
    first = client.getattr(client.walk_to(share.top, b"file"))
    os.unlink(share.path("file"))
    share.put("file")
    second = client.getattr(client.walk_to(share.top, b"file"))
    if first.valid & GEN:
        assert (first.qid.path, first.gen) != (second.qid.path, second.gen)


def test_version_changes_with_the_contents(share: Share) -> None:
    client = share.client
    share.put("file", b"one")
    fid = client.walk_to(share.top, b"file")
    first = client.getattr(fid).qid
    assert first.version != 0  # 0 would switch the guest's page cache off
    os.utime(share.path("file"), (1, 1))
    second = client.getattr(fid).qid
    assert second.path == first.path
    assert second.version not in (0, first.version)


def test_chmod_sets_the_mode(share: Share) -> None:
    client = share.client
    share.put("file")
    os.mkdir(share.path("d"))
    for name, mode in ((b"file", 0o4711), (b"file", 0), (b"d", 0o1777), (b"d", 0o700)):
        fid = client.walk_to(share.top, name)
        client.setattr(fid, SET_MODE, mode=mode)
        assert os.stat(share.path(name)).st_mode & 0o7777 == mode
        assert client.getattr(fid).mode & 0o7777 == mode


def test_chmod_takes_a_whole_mode(share: Share) -> None:
    """Linux's client sends the type bits too."""
    share.put("file")
    fid = share.client.walk_to(share.top, b"file")
    share.client.setattr(fid, SET_MODE, mode=0o100640)
    assert os.stat(share.path("file")).st_mode == 0o100640


@needs_root
def test_chown_sets_owner_and_group(share: Share) -> None:
    client = share.client
    share.put("file")
    os.symlink("file", share.path("link"))
    for name in (b"file", b"link"):
        fid = client.walk_to(share.top, name)
        client.setattr(fid, SET_UID | SET_GID, uid=1234, gid=5678)
        client.setattr(fid, SET_GID, uid=1, gid=777)
        status = os.lstat(share.path(name))
        assert (status.st_uid, status.st_gid) == (1234, 777)
    assert os.stat(share.path("file")).st_uid == 1234


@needs_root
def test_chown_clears_setuid_as_the_kernel_does(share: Share) -> None:
    path = share.put("file")
    os.chmod(path, 0o6755)
    fid = share.client.walk_to(share.top, b"file")
    share.client.setattr(fid, SET_UID, uid=1000)
    assert os.stat(path).st_mode & 0o7777 == 0o755


def test_chmod_of_a_symlink_leaves_its_target(share: Share) -> None:
    path = share.put("file")
    os.chmod(path, 0o600)
    os.symlink("file", share.path("link"))
    with fails(errno.EOPNOTSUPP, errno.ELOOP, errno.EINVAL):
        share.client.setattr(share.client.walk_to(share.top, b"link"), SET_MODE, mode=0o777)
    assert os.stat(path).st_mode & 0o7777 == 0o600


def test_truncate_sets_the_size(share: Share) -> None:
    client = share.client
    share.put("file", b"0123456789")
    fid = client.walk_to(share.top, b"file")
    client.setattr(fid, SET_SIZE, size=3)
    assert share.get("file") == b"012"
    client.setattr(fid, SET_SIZE, size=5)
    assert share.get("file") == b"012\0\0"


def test_truncate_refuses_what_is_no_file(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    target = share.put("file", b"data")
    os.symlink("file", share.path("link"))
    os.mkfifo(share.path("fifo"))
    with fails(errno.EISDIR, errno.EINVAL):
        client.setattr(client.walk_to(share.top, b"d"), SET_SIZE, size=0)
    for name in (b"link", b"fifo"):
        with fails(errno.EINVAL, errno.ELOOP, errno.ENXIO):
            client.setattr(client.walk_to(share.top, name), SET_SIZE, size=0)
    with fails(errno.EFBIG, errno.EINVAL):
        client.setattr(client.walk_to(share.top, b"file"), SET_SIZE, size=1 << 63)
    with open(target, "rb") as file:
        assert file.read() == b"data"


def test_truncate_needs_no_write_permission_on_an_open_fid(share: Share) -> None:
    """ftruncate works on a descriptor that was opened before the mode was taken away."""
    client = share.client
    fid = client.create(share.top, b"file")
    client.write(fid, 0, b"data")
    client.setattr(fid, SET_MODE, mode=0o400)
    client.setattr(fid, SET_SIZE, size=1)
    assert os.stat(share.path("file")).st_size == 1


@pytest.mark.parametrize("name", ["file", "d", "link", "fifo"])
def test_times_to_the_nanosecond(share: Share, name: str) -> None:
    client = share.client
    share.put("file")
    os.mkdir(share.path("d"))
    os.symlink("file", share.path("link"))
    os.mkfifo(share.path("fifo"))
    fid = client.walk_to(share.top, name.encode())
    valid = SET_ATIME | SET_ATIME_VALUE | SET_MTIME | SET_MTIME_VALUE
    client.setattr(fid, valid, atime=(1_000_000_000, 1), mtime=(2_000_000_000, 999_999_999))
    status = os.lstat(share.path(name))
    assert status.st_atime_ns == ns((1_000_000_000, 1))
    assert status.st_mtime_ns == ns((2_000_000_000, 999_999_999))
    client.setattr(fid, SET_MTIME | SET_MTIME_VALUE, mtime=(5, 6))
    status = os.lstat(share.path(name))
    assert (status.st_atime_ns, status.st_mtime_ns) == (ns((1_000_000_000, 1)), ns((5, 6)))


def test_times_before_1970(share: Share) -> None:
    path = share.put("file")
    fid = share.client.walk_to(share.top, b"file")
    share.client.setattr(fid, SET_MTIME | SET_MTIME_VALUE, mtime=((1 << 64) - 5, 7))
    assert os.stat(path).st_mtime_ns == ns((-5, 7))
    assert share.client.getattr(fid).mtime_sec == (1 << 64) - 5


def test_times_of_now(share: Share) -> None:
    path = share.put("file")
    os.utime(path, (1, 1))
    before = time.time() - 2
    share.client.setattr(share.client.walk_to(share.top, b"file"), SET_MTIME)
    status = os.stat(path)
    assert status.st_atime == 1
    assert status.st_mtime > before


def test_bad_nanoseconds_are_refused(share: Share) -> None:
    path = share.put("file")
    os.utime(path, (1, 1))
    fid = share.client.walk_to(share.top, b"file")
    for nanoseconds in (10**9, (1 << 30) - 1, (1 << 30) - 2, 1 << 63):  # UTIME_NOW, UTIME_OMIT
        with fails(errno.EINVAL):
            share.client.setattr(fid, SET_MTIME | SET_MTIME_VALUE, mtime=(5, nanoseconds))
    assert os.stat(path).st_mtime == 1


def test_setattr_of_nothing_and_of_the_change_time(share: Share) -> None:
    """Linux sends ATTR_CTIME beside others and, for touch-like calls, alone."""
    share.put("file", b"data")
    fid = share.client.walk_to(share.top, b"file")
    before = share.client.getattr(fid)
    share.client.setattr(fid, 0, mode=0o777, size=1)
    assert share.client.getattr(fid)[:12] == before[:12]
    share.client.setattr(fid, SET_CTIME)
    after = share.client.getattr(fid)
    assert (after.mode, after.size, after.mtime_nsec) == (
        before.mode,
        before.size,
        before.mtime_nsec,
    )


def test_several_changes_at_once(share: Share) -> None:
    path = share.put("file", b"0123456789")
    fid = share.client.walk_to(share.top, b"file")
    valid = SET_MODE | SET_SIZE | SET_MTIME | SET_MTIME_VALUE
    share.client.setattr(fid, valid, mode=0o640, size=4, mtime=(100, 0))
    status = os.stat(path)
    assert (status.st_mode & 0o7777, status.st_size, status.st_mtime) == (0o640, 4, 100)


def test_statfs_is_the_hosts(share: Share) -> None:
    """The client knows one block size only: the unit that the counts are in."""
    got = share.client.statfs(share.top)
    host = os.statvfs(share.host)
    assert (got.bsize, got.blocks, got.namelen) == (host.f_frsize, host.f_blocks, host.f_namemax)
    assert got.files == host.f_files
    assert 0 < got.bavail <= got.bfree <= got.blocks
    assert got.type != 0


def test_statfs_works_through_a_symlink(share: Share) -> None:
    os.symlink("/proc", share.path("link"))
    fid = share.client.walk_to(share.top, b"link")
    assert share.client.statfs(fid).type == share.client.statfs(share.top).type


# ---- extended attributes


def xattrs(share: Share, name: str = "file") -> int:
    """A fid of a file whose file system has user.* attributes."""
    path = share.put(name)
    try:
        os.setxattr(path, "user.probe", b"1")
        os.removexattr(path, "user.probe")
    except OSError as error:
        pytest.skip(f"the scratch directory has no user xattrs: {error}")
    return share.client.walk_to(share.top, name.encode())


def test_xattrs_are_set_and_read_back(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    for value in (b"value", bytes(range(256)), b"x" * 3000):
        client.setxattr(fid, b"user.name", value)
        assert os.getxattr(share.path("file"), "user.name") == value
        assert client.getxattr(fid, b"user.name") == value
    client.removexattr(fid, b"user.name")
    assert "user.name" not in os.listxattr(share.path("file"))


def test_xattrs_are_listed(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    others = set(client.getxattr(fid).split(b"\0")) - {b""}
    for i in range(20):
        os.setxattr(share.path("file"), f"user.{i}", b"")
    names = client.getxattr(fid)
    assert names.endswith(b"\0")
    assert set(names[:-1].split(b"\0")) == others | {b"user.%d" % i for i in range(20)}


def test_xattr_of_a_directory_and_of_an_open_file(share: Share) -> None:
    client = share.client
    xattrs(share)
    client.setxattr(share.top, b"user.dir", b"1")
    assert os.getxattr(share.host, "user.dir") == b"1"
    opened = client.open(share.top, b"file", os.O_RDWR)
    client.setxattr(opened, b"user.open", b"2")
    assert client.getxattr(opened, b"user.open") == b"2"


def test_xattr_without_a_value(share: Share) -> None:
    """A host's empty value is a value: size 0, no ENODATA."""
    fid = xattrs(share)
    os.setxattr(share.path("file"), "user.empty", b"")
    assert share.client.getxattr(fid, b"user.empty") == b""
    for flags in (0, os.XATTR_CREATE):
        share.client.setxattr(fid, b"user.set%d" % flags, b"", flags)
        assert os.getxattr(share.path("file"), f"user.set{flags}") == b""


def test_a_missing_xattr_is_enodata(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    with fails(errno.ENODATA):
        client.getxattr(fid, b"user.none")
    with fails(errno.EBADF):
        client.clunk(client.new_fid() - 1)
    with fails(errno.ENODATA):
        client.removexattr(fid, b"user.none")


def test_a_missing_label_is_not_supported_where_the_host_has_no_selinux(share: Share) -> None:
    """So that `ls -l` does not ask for that of each file."""
    with fails(errno.ENODATA if os.path.exists(SELINUX) else errno.EOPNOTSUPP):
        share.client.getxattr(xattrs(share), b"security.selinux")


def test_xattr_create_and_replace_flags_are_obeyed(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    client.setxattr(fid, b"user.name", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        client.setxattr(fid, b"user.name", b"2", os.XATTR_CREATE)
    client.setxattr(fid, b"user.name", b"3", os.XATTR_REPLACE)
    assert os.getxattr(share.path("file"), "user.name") == b"3"
    with fails(errno.ENODATA):
        client.setxattr(fid, b"user.other", b"4", os.XATTR_REPLACE)


def test_xattr_value_in_pieces(share: Share) -> None:
    client = share.client
    fid = client.walk_to(xattrs(share))
    client.xattrcreate(fid, b"user.name", 10)
    assert client.write(fid, 0, b"01234") == 5
    assert client.write(fid, 5, b"56789") == 5
    with fails(errno.ENOSPC, errno.EINVAL, errno.ERANGE, errno.E2BIG):
        client.write(fid, 10, b"x")
    client.clunk(fid)
    assert os.getxattr(share.path("file"), "user.name") == b"0123456789"
    reader = client.new_fid()
    assert client.xattrwalk(share.client.walk_to(share.top, b"file"), reader, b"user.name") == 10
    assert client.read(reader, 3, 4) == b"3456"
    assert client.read(reader, 8, 100) == b"89"
    assert client.read(reader, 10, 100) == b""


def test_unfinished_xattr_is_not_set(share: Share) -> None:
    """Fewer bytes than were announced: the clunk fails, and nothing has changed."""
    client = share.client
    fid = client.walk_to(xattrs(share))
    client.xattrcreate(fid, b"user.name", 10)
    client.write(fid, 0, b"01234")
    with pytest.raises(P9Errno):
        client.clunk(fid)
    assert "user.name" not in os.listxattr(share.path("file"))
    with fails(errno.EBADF):  # a clunk frees its fid, whatever it answers
        client.clunk(fid)


def test_oversized_xattrs_are_refused(share: Share) -> None:
    fid = xattrs(share)
    for size in (65537, 1 << 31, 1 << 63, (1 << 64) - 1):
        with fails(errno.E2BIG, errno.ENOSPC, errno.ERANGE, errno.EINVAL):
            share.client.xattrcreate(share.client.walk_to(fid), b"user.big", size)


def test_names_that_are_no_xattrs(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    for name in (b"nonsense", b"user.", b"u" * 256, b"user.a\0b"):
        with pytest.raises(P9Errno):
            client.setxattr(fid, name, b"value")
        with pytest.raises(P9Errno):
            client.getxattr(fid, name)


def test_user_xattr_of_a_symlink_is_refused(share: Share) -> None:
    xattrs(share)
    os.symlink("file", share.path("link"))
    fid = share.client.walk_to(share.top, b"link")
    with fails(errno.EPERM):
        share.client.setxattr(fid, b"user.name", b"value")
    assert os.listxattr(share.path("file")) == []


def test_xattr_fids_are_no_files(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    os.setxattr(share.path("file"), "user.name", b"value")
    reader = client.new_fid()
    client.xattrwalk(fid, reader, b"user.name")
    for request in (
        lambda: client.write(reader, 0, b"x"),
        lambda: client.walk(reader, 9000, b"x"),
        lambda: client.lopen(reader, os.O_RDONLY),
        lambda: client.getattr(reader),
        lambda: client.readdir(reader),
        lambda: client.mkdir(reader, b"d"),
        lambda: client.xattrwalk(reader, 9000),
        lambda: client.fsync(reader),
        lambda: client.statfs(reader),
        lambda: client.readlink(reader),
    ):
        with pytest.raises(P9Errno):
            request()
    assert client.read(reader, 0, 100) == b"value"
    with fails(errno.EBADF, errno.EINVAL):
        client.xattrwalk(fid, share.top, b"user.name")


def test_nothing_else_is_done_through_xattr_fids(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    reader = client.new_fid()
    client.xattrwalk(fid, reader)
    for request in (
        lambda: client.setattr(reader, SET_MODE, mode=0),
        lambda: client.lock(reader, WRLCK),
        lambda: client.getlock(reader, WRLCK),
        lambda: client.link(share.top, reader, b"link"),
        lambda: client.rename(reader, share.top, b"new"),
        lambda: client.xattrcreate(reader, b"user.a", 1),
        lambda: client.remove(reader),
    ):
        with fails(errno.EBADF):
            request()
    with fails(errno.EBADF):  # Tremove frees the fid, whatever it answers
        client.clunk(reader)


def test_remove_through_an_unfinished_xattr_removes_and_sets_nothing(share: Share) -> None:
    client = share.client
    fid = xattrs(share)
    client.xattrcreate(fid, b"user.name", 1)
    client.write(fid, 0, b"x")
    with fails(errno.EBADF):
        client.remove(fid)
    assert os.listdir(share.host) == ["file"]
    assert os.listxattr(share.path("file")) == []
    with fails(errno.EBADF):
        client.clunk(fid)


@needs_root
def test_root_sets_a_file_capability(share: Share) -> None:
    """A file capability (setcap): the kernel checks its format."""
    fid = xattrs(share)
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    share.client.setxattr(fid, b"security.capability", value)
    assert os.getxattr(share.path("file"), "security.capability") == value
    assert share.client.getxattr(fid, b"security.capability") == value
