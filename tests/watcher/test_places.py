"""Where a directory is that an event names: real handles, in real file systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.share import needs_root
from vhost9p.changes import records
from vhost9p.changes.records import Event
from vhost9p.changes.report import View
from vhost9p.native import fanotify
from vhost9p.watcher import places as module
from vhost9p.watcher.places import DIRECTORY, Gone, Mount, Place, Places

pytestmark = needs_root
FSID = b"whatever"
EVENTS = records.CREATE | records.ONDIR


class Site:
    """Two exports, one in the other, and the group of their file system."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.covers: dict[int, list[bytes]] = {}
        (base / "a/b/c").mkdir(parents=True)
        (base / "elsewhere").mkdir()
        self.group = fanotify.open_group()
        roots = [os.open(base / name, DIRECTORY) for name in ("a", "a/b")]
        fanotify.mark_file_system(self.group, EVENTS, roots[0])
        self.places = Places([Place(0, View(), root, True) for root in roots], lambda: self.covers)
        self.places.add(FSID, Mount(roots[0], 1, b"", 0, (0, 1)))

    def directory(self, path: str) -> bytes:
        """How an event names a directory."""
        (self.base / path / "new").mkdir()
        found = [event for event in self._events() if event.entry and event.entry.name == b"new"]
        (self.base / path / "new").rmdir()
        assert found[-1].entry
        return FSID + found[-1].entry.handle

    def _events(self) -> Iterator[Event]:
        while True:
            try:
                yield from records.parse(os.read(self.group, 65536))
            except BlockingIOError:
                return

    def close(self) -> None:
        for fd in (self.group, *(place.root for place in self.places.all)):
            os.close(fd)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_directory_is_in_each_export_that_shows_it(site: Site) -> None:
    assert site.places.find(site.directory("a")) == {0: [b""]}
    assert site.places.find(site.directory("a/b")) == {0: [b"b/"], 1: [b""]}
    assert site.places.find(site.directory("a/b/c")) == {0: [b"b/c/"], 1: [b"c/"]}
    assert site.places.find(site.directory("elsewhere")) == {}
    assert site.places.find(site.directory(".")) == {}


def test_it_is_where_it_is_now(site: Site) -> None:
    known = site.directory("a/b/c")
    assert site.places.find(known) == {0: [b"b/c/"], 1: [b"c/"]}
    (site.base / "a/b/c").rename(site.base / "a/d")
    site.places.forget()
    assert site.places.find(known) == {0: [b"d/"]}
    (site.base / "a").rename(site.base / "renamed")
    site.places.forget()
    assert site.places.find(known) == {0: [b"d/"]}
    (site.base / "renamed/d").rename(site.base / "elsewhere/d")
    site.places.forget()
    assert site.places.find(known) == {}


def test_a_rename_above_both_while_their_paths_are_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = site.directory("a/b/c")
    below = os.open(site.base / "a/b/c", DIRECTORY)
    inode, read = os.fstat(below).st_ino, module.path_of

    def path_of(fd: int) -> bytes:
        path = read(fd)
        if os.fstat(fd).st_ino == inode and (site.base / "a").exists():
            (site.base / "a").rename(site.base / "renamed")
        return path

    monkeypatch.setattr(module, "path_of", path_of)
    assert site.places.find(known) == {0: [b"b/c/"], 1: [b"c/"]}
    os.close(below)


def test_what_something_is_mounted_over(site: Site) -> None:
    """On this mount, and not over the export itself: the guest has what was there before."""
    known = site.directory("a/b/c")
    below = os.fsencode(site.base) + b"/a/b/"
    site.covers = {2: [below]}
    assert site.places.find(known) == {0: [b"b/c/"], 1: [b"c/"]}
    site.covers = {1: [below]}
    site.places.forget_mounts()
    assert site.places.find(known) == {1: [b"c/"]}
    site.covers = {1: [below + b"d/"]}
    site.places.forget()
    assert site.places.find(known) == {0: [b"b/c/"], 1: [b"c/"]}


def test_names_that_look_like_the_kernels_notes(site: Site) -> None:
    (site.base / "a/x (deleted)").mkdir()
    known = site.directory("a/x (deleted)")
    assert site.places.find(known) == {0: [b"x (deleted)/"]}
    (site.base / "a/y").mkdir()
    removed = site.directory("a/y")
    fd = os.open(site.base / "a/y", DIRECTORY)
    (site.base / "a/y").rmdir()
    assert site.places.find(removed) in ({}, {0: [b"y/"]})
    os.close(fd)


def test_what_is_remembered_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_MAX", 3)
    for number in range(10):
        (site.base / f"a/{number}").mkdir()
        assert site.places.find(site.directory(f"a/{number}")) == {0: [b"%d/" % number]}
        assert len(site.places._known) <= 3


def test_a_mount_that_is_gone(site: Site) -> None:
    known = site.directory("a")
    path, st_dev = os.fsencode(site.base / "elsewhere"), (site.base / "a").stat().st_dev
    found = Places(site.places.all, dict)
    found.add(FSID, Mount(-1, 1, path, st_dev, (0,)))
    assert found.find(known) == {0: [b""]}
    for wrong in (Mount(-1, 1, path + b"-", st_dev, (0,)), Mount(-1, 1, path, st_dev + 1, (0,))):
        found = Places(site.places.all, dict)
        found.add(FSID, wrong)
        with pytest.raises(Gone):
            found.find(known)
