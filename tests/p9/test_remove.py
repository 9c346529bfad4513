"""Tremove, which removes a file and frees its fid with all that Python stores for it."""

import errno
import os
from pathlib import Path

import pytest

from tests.p9.guest import Guest, Refused
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message


def codes(guest: Guest, message: Message) -> int:
    """The errno that a request is refused with."""
    with pytest.raises(Refused) as refused:
        guest.do(message)
    assert refused.value.errno is not None
    return refused.value.errno


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


def test_remove_after_a_host_rename(guest: Guest, root: Path) -> None:
    """What is below the directory is found in it; the directory itself has lost its name."""
    (root / "d").mkdir()
    (root / "d/file").touch()
    fid, moved = guest.walk("d/file"), guest.walk("d")
    os.rename(root / "d", root / "e")
    guest.call(m.Tremove(fid), m.Rremove)
    assert codes(guest, m.Tremove(moved)) == errno.ENOENT
    assert os.listdir(root) == ["e"]
    assert os.listdir(root / "e") == []


def test_the_root_has_no_name(guest: Guest, root: Path) -> None:
    assert codes(guest, m.Tremove(guest.walk())) == errno.EBUSY
    assert root.is_dir()


def test_nothing_outside_is_removed(guest: Guest, root: Path) -> None:
    """A file that a host process moved out of the export has no name in it."""
    (root / "file").touch()
    fid = guest.walk("file")
    os.rename(root / "file", root.parent / "file")
    assert codes(guest, m.Tremove(fid)) == errno.ENOENT
    assert (root.parent / "file").exists()
