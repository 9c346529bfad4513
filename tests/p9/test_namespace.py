"""Requests that make, name and remove files: what is the server's own, beside the driver's."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.p9.guest import Guest, Refused
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message

GID = os.getegid()
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL


def codes(guest: Guest, message: Message) -> int:
    """The errno that a request is refused with."""
    with pytest.raises(Refused) as refused:
        guest.do(message)
    assert refused.value.errno is not None
    return refused.value.errno


def test_create_turns_the_fid(guest: Guest, root: Path) -> None:
    fid = guest.walk()
    reply = guest.call(m.Tlcreate(fid, b"new", CREATE, 0o4751, GID), m.Rlcreate)
    entry = guest.fids.entries[fid]
    status = os.stat(root / "new")
    assert reply.qid.path == status.st_ino == os.fstat(entry.io_fd).st_ino == entry.st_ino
    assert stat.S_IMODE(status.st_mode) == 0o4751
    assert os.write(entry.io_fd, b"x") == 1
    assert codes(guest, m.Tlcreate(fid, b"more", CREATE, 0o644, GID)) == errno.EBADF
    assert os.listdir(root) == ["new"]


def test_create_for_a_full_table_keeps_no_descriptor(guest: Guest) -> None:
    fid = guest.walk()
    guest.fids.full = True
    assert codes(guest, m.Tlcreate(fid, b"new", CREATE, 0o644, GID)) == errno.EMFILE


def test_create_through_a_fid_that_is_something_else(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    writing = guest.walk()
    guest.do(m.Txattrcreate(writing, b"user.a", 1, 0))
    listing = guest.walk()
    guest.do(m.Txattrwalk(listing, 500, b""))
    for fid in (guest.open("", os.O_RDONLY), writing, 500):
        assert codes(guest, m.Tlcreate(fid, b"new", CREATE, 0o644, GID)) == errno.EBADF
    assert os.listdir(root) == ["file"]


def test_create_without_excl_opens_what_is_there(guest: Guest, root: Path) -> None:
    (root / "file").write_bytes(b"data")
    flags = CREATE & ~os.O_EXCL
    fid = guest.walk()
    guest.do(m.Tlcreate(fid, b"file", flags, 0o600, GID))
    assert os.read(guest.fids.entries[fid].io_fd, 9) == b"data"
    guest.do(m.Tlcreate(guest.walk(), b"file", flags | os.O_TRUNC, 0o600, GID))
    assert (root / "file").read_bytes() == b""
    assert codes(guest, m.Tlcreate(guest.walk(), b"file", CREATE, 0o600, GID)) == errno.EEXIST


def test_create_never_opens_anything_but_files(guest: Guest, root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "dir").mkdir()
    (root / "link").symlink_to("target")
    expected = {b"fifo": errno.ENXIO, b"dir": errno.EISDIR, b"link": errno.ELOOP}
    for name, code in expected.items():
        assert codes(guest, m.Tlcreate(guest.walk(), name, os.O_RDWR, 0o600, GID)) == code
    assert not (root / "target").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [(b"", errno.ENOENT), (b"a/b", errno.EINVAL), (b"/", errno.EINVAL), (b"a\0", errno.EINVAL),
     (b"n" * 256, errno.ENAMETOOLONG), (b".", None), (b"..", None)],
)  # fmt: skip
def test_what_is_no_name(guest: Guest, root: Path, name: bytes, code: int | None) -> None:
    (root / "d").mkdir()
    (root / "d/old").touch()
    d, old = guest.walk("d"), guest.walk("d/old")
    makers = [
        m.Tlcreate(d, name, CREATE, 0o644, GID), m.Tmkdir(d, name, 0o755, GID),
        m.Tmknod(d, name, stat.S_IFIFO, 0, 0, GID), m.Tsymlink(d, name, b"t", GID),
        m.Tlink(d, old, name),
    ]  # fmt: skip
    for message in makers:
        assert codes(guest, message) == (code or errno.EEXIST)
    for flags in (0, 0x200):
        assert codes(guest, m.Tunlinkat(d, name, flags)) == (code or errno.EINVAL)
    for message in (
        m.Trename(old, d, name),
        m.Trenameat(d, name, d, b"n"),
        m.Trenameat(d, b"old", d, name),
    ):
        assert codes(guest, message) == (code or errno.EBUSY)
    assert [path.name for path in root.rglob("*")] == ["d", "old"]


def test_symlink_targets(guest: Guest, root: Path) -> None:
    guest.call(m.Tsymlink(guest.walk(), b"link", b"../\xff", GID), m.Rsymlink)
    assert os.readlink(os.fsencode(root / "link")) == b"../\xff"
    assert codes(guest, m.Tsymlink(guest.walk(), b"no", b"a\0b", GID)) == errno.EINVAL


def test_unlink_flags(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    for flags in (1, 0x201, 0xFFFFFFFF):
        assert codes(guest, m.Tunlinkat(guest.walk(), b"file", flags)) == errno.EINVAL
    guest.call(m.Tunlinkat(guest.walk(), b"file", 0), m.Runlinkat)
    assert os.listdir(root) == []


def test_remove_frees_what_hangs_on_the_fid(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.open("file")
    guest.call(m.Tlock(fid, 1, 0, 0, 0, 1, b"guest"), m.Rlock)
    again = guest.open("file")
    guest.call(m.Tremove(fid), m.Rremove)
    reply = guest.call(m.Tlock(again, 1, 0, 0, 0, 2, b"guest"), m.Rlock)
    assert reply.status == 0


def test_remove_through_an_attribute_removes_nothing(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.walk("file")
    guest.do(m.Txattrcreate(fid, b"user.a", 1, 0))
    guest.do(m.Twrite(fid, 0, b"x"))
    assert codes(guest, m.Tremove(fid)) == errno.EBADF
    assert os.listdir(root) == ["file"]
    assert os.listxattr(root / "file") == []
    assert fid not in guest.fids.entries


def test_remove_by_a_name_that_is_another_files_now(guest: Guest, root: Path) -> None:
    (root / "file").write_text("old")
    fid = guest.walk("file")
    (root / "other").write_text("new")
    os.rename(root / "other", root / "file")
    assert codes(guest, m.Tremove(fid)) == errno.ENOENT
    assert (root / "file").read_text() == "new"


def test_remove_and_rename_follow_a_host_rename(guest: Guest, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d/file").touch()
    fid, moved = guest.walk("d/file"), guest.walk("d")
    os.rename(root / "d", root / "e")
    guest.call(m.Trename(fid, guest.walk(), b"here"), m.Rrename)
    assert sorted(os.listdir(root)) == ["e", "here"]
    guest.call(m.Tremove(fid), m.Rremove)
    guest.call(m.Tremove(moved), m.Rremove)
    assert os.listdir(root) == []


def test_changes_of_names_are_announced(
    guest: Guest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a name changes the fid table knows which, and afterwards none."""
    for name in ("unlinked", "removed", "moved", "renamed"):
        (root / name).touch()
    seen: list[object] = []

    def watch(method: str) -> None:
        do = getattr(guest.driver, method)

        def watched(*args: object, **options: object) -> None:
            seen.append(guest.fids.changing)
            do(*args, **options)

        monkeypatch.setattr(guest.driver, method, watched)

    for method in ("unlink", "remove", "rename", "rename_file"):
        watch(method)
    top = guest.walk()
    removed, moved = guest.walk("removed"), guest.walk("moved")
    guest.call(m.Tunlinkat(top, b"unlinked", 0), m.Runlinkat)
    guest.call(m.Trenameat(top, b"renamed", top, b"there"), m.Rrenameat)
    guest.call(m.Trename(moved, top, b"away"), m.Rrename)
    guest.call(m.Tremove(removed), m.Rremove)
    assert (top, b"unlinked") in seen
    assert (top, b"renamed", top, b"there") in seen
    assert (moved, b"", top, b"away") in seen
    assert (removed, b"") in seen
    assert guest.fids.changing is None


@pytest.mark.parametrize("message", [m.Tremove, lambda fid: m.Trename(fid, fid, b"n")])
def test_the_root_has_no_name(guest: Guest, root: Path, message: type[m.Tremove]) -> None:
    assert codes(guest, message(guest.walk())) == errno.EBUSY
    assert root.is_dir()


def test_nothing_outside_is_removed(guest: Guest, root: Path) -> None:
    """A file that a host process moved out of the export has no name in it."""
    (root / "file").touch()
    fid = guest.walk("file")
    os.rename(root / "file", root.parent / "file")
    assert codes(guest, m.Trename(fid, guest.walk(), b"back")) == errno.EBUSY
    assert codes(guest, m.Tremove(fid)) == errno.EBUSY
    assert (root.parent / "file").exists()
