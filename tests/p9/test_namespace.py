"""Requests that make, name and remove files: what is the server's own, beside the driver's."""

import errno
import os
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


@pytest.mark.parametrize(
    ("name", "code"),
    [(b"", errno.ENOENT), (b"a/b", errno.EINVAL), (b"/", errno.EINVAL), (b"a\0", errno.EINVAL),
     (b"n" * 256, errno.ENAMETOOLONG), (b".", None), (b"..", None)],
)  # fmt: skip
def test_what_is_no_name(guest: Guest, root: Path, name: bytes, code: int | None) -> None:
    (root / "d").mkdir()
    (root / "d/old").touch()
    d, old = guest.walk("d"), guest.walk("d/old")
    assert codes(guest, m.Tlink(d, old, name)) == (code or errno.EEXIST)
    for message in (
        m.Trename(old, d, name),
        m.Trenameat(d, name, d, b"n"),
        m.Trenameat(d, b"old", d, name),
    ):
        assert codes(guest, message) == (code or errno.EBUSY)
    assert [path.name for path in root.rglob("*")] == ["d", "old"]


def test_remove_frees_what_hangs_on_the_fid(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.open("file")
    guest.call(m.Tlock(fid, 1, 0, 0, 0, 1, b"guest"), m.Rlock)
    again = guest.open("file")
    guest.call(m.Tremove(fid), m.Rremove)
    reply = guest.call(m.Tlock(again, 1, 0, 0, 0, 2, b"guest"), m.Rlock)
    assert reply.status == 0


def test_remove_by_a_name_that_is_another_files_now(guest: Guest, root: Path) -> None:
    (root / "file").write_text("old")
    fid = guest.walk("file")
    (root / "other").write_text("new")
    os.rename(root / "other", root / "file")
    assert codes(guest, m.Tremove(fid)) == errno.ENOENT
    assert (root / "file").read_text() == "new"


def test_remove_and_rename_by_fid_after_a_host_rename(guest: Guest, root: Path) -> None:
    """What is below the directory is found in it; the directory itself has lost its name."""
    (root / "d").mkdir()
    (root / "d/file").touch()
    fid, moved = guest.walk("d/file"), guest.walk("d")
    os.rename(root / "d", root / "e")
    guest.call(m.Trename(fid, guest.walk(), b"here"), m.Rrename)
    assert sorted(os.listdir(root)) == ["e", "here"]
    guest.call(m.Tremove(fid), m.Rremove)
    assert codes(guest, m.Tremove(moved)) == errno.ENOENT
    assert os.listdir(root) == ["e"]


def test_changes_of_names_are_announced(
    guest: Guest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a name changes the fid table knows which, and afterwards none."""
    for name in ("removed", "moved", "renamed"):
        (root / name).touch()
    seen: list[object] = []

    def watch(method: str) -> None:
        do = getattr(guest.driver, method)

        def watched(*args: object, **options: object) -> None:
            seen.append(guest.fids.changing)
            do(*args, **options)

        monkeypatch.setattr(guest.driver, method, watched)

    for method in ("unlink", "rename"):
        watch(method)
    top = guest.walk()
    removed, moved = guest.walk("removed"), guest.walk("moved")
    guest.call(m.Trenameat(top, b"renamed", top, b"there"), m.Rrenameat)
    guest.call(m.Trename(moved, top, b"away"), m.Rrename)
    guest.call(m.Tremove(removed), m.Rremove)
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
    assert codes(guest, m.Trename(fid, guest.walk(), b"back")) == errno.ENOENT
    assert codes(guest, m.Tremove(fid)) == errno.ENOENT
    assert (root.parent / "file").exists()
