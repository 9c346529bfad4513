"""Tstat and Tread of a directory in 9P2000.u: what is listed, and where a read begins."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import pytest

from tests.frontend.dialect_u import Stat, decode_stats
from tests.p9.guest import Guest, Refused, WatchedFids
from vhost9p.fs.driver import Attr
from vhost9p.native.fids import Entry, Fid
from vhost9p.p9 import dialect_u_messages as u
from vhost9p.p9 import dialect_u_reading
from vhost9p.p9 import messages as m

ALL = [b".", b"..", b"a", b"b", b"c", b"d", b"e", b"link"]
"""What the directory of `dialect_u` lists, in the order of names; the host has its own order."""


@pytest.fixture
def dialect_u(root: Path, guest: Guest) -> Guest:
    """A guest in a session of 9P2000.u, with some files."""
    guest.call(m.Tversion(65536, b"9P2000.u"), m.Rversion)
    for name in "abcde":
        (root / name).write_text(name)
    os.symlink("target", root / "link")
    return guest


class Reads:
    """Reads a directory as a client does, of which the table lists three entries at a time."""

    def __init__(self, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guest = guest
        self.fid = guest.open("", os.O_RDONLY)
        self.positions: list[int] = []
        """Those that the table was asked for."""
        self.behind: dict[bytes, int] = {}
        """The host's position behind each entry."""
        below = guest.fids.read_dir

        def read_dir(fid: Fid, position: int, size: int) -> list[Entry]:
            self.positions.append(position)
            entries = below(fid, position, size)[:3]
            self.behind.update((entry.name, entry.position) for entry in entries)
            return entries

        monkeypatch.setattr(guest.fids, "read_dir", read_dir)

    def at(self, offset: int, count: int) -> tuple[list[Stat], int]:
        """The structures at an offset, and the offset behind them."""
        self.positions.clear()
        data = self.guest.call(m.Tread(self.fid, offset, count), m.Rread).data
        return [stat for _, stat in decode_stats(data)], offset + len(data)


@pytest.fixture
def reads(dialect_u: Guest, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(dialect_u, monkeypatch)


def names(stats: list[Stat]) -> list[bytes]:
    return [stat.name for stat in stats]


def test_a_read_continues_where_the_last_one_ended(reads: Reads) -> None:
    first, end = reads.at(0, 200)
    assert len(first) == 2
    assert reads.positions[0] == 0
    second, _ = reads.at(end, 1000)
    assert sorted(names(first + second)) == ALL
    assert reads.positions[0] == reads.behind[first[-1].name]


def test_other_offsets_are_counted_from_the_start(reads: Reads) -> None:
    first, end = reads.at(0, 200)
    second, _ = reads.at(end, 1000)
    again, _ = reads.at(end, 1000)
    assert names(again) == names(second)
    assert reads.positions[0] == 0
    assert names(reads.at(0, 200)[0]) == names(first)


def test_places_are_forgotten_where_there_are_too_many(
    reads: Reads, dialect_u: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect_u_reading, "PLACES_MAX", 2)
    first, end = reads.at(0, 200)
    for _ in range(2):
        dialect_u.call(m.Tread(dialect_u.open("", os.O_RDONLY), 0, 200), m.Rread)
    second, _ = reads.at(end, 1000)
    assert sorted(names(first + second)) == ALL
    assert reads.positions[0] == 0


def give_handle(fids: WatchedFids, monkeypatch: pytest.MonkeyPatch, handle: int) -> None:
    """The server sees this handle in every fid; the table goes on with its own ones."""
    get, below = fids.get, fids.read_dir

    @contextmanager
    def get_with_handle(number: int) -> Iterator[Fid]:
        with get(number) as fid:
            seen = copy(fid)
            seen.handle = handle
            yield seen

    def read_dir(seen: Fid, position: int, size: int) -> list[Entry]:
        with get(seen.number) as fid:
            return below(fid, position, size)

    monkeypatch.setattr(fids, "get", get_with_handle)
    monkeypatch.setattr(fids, "read_dir", read_dir)


def test_a_new_session_has_no_places(
    reads: Reads, dialect_u: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, end = reads.at(0, 200)
    handle = dialect_u.fids.find(reads.fid)
    dialect_u.call(m.Tversion(65536, b"9P2000.u"), m.Rversion)
    reads.fid = dialect_u.open("", os.O_RDONLY)
    give_handle(dialect_u.fids, monkeypatch, handle)
    second, _ = reads.at(end, 1000)
    assert sorted(names(first + second)) == ALL
    assert reads.positions[0] == 0


def fail_for(dialect_u: Guest, monkeypatch: pytest.MonkeyPatch, ino: int, code: int) -> None:
    """Attributes of this file cannot be read."""
    below = dialect_u.driver.attr

    def attr(fd: int, name: bytes = b"", meta_fd: int = -1, shown_as: int | None = None) -> Attr:
        found = below(fd, name, meta_fd, shown_as)
        if found.st_ino == ino:
            raise OSError(code, os.strerror(code))
        return found

    monkeypatch.setattr(dialect_u.driver, "attr", attr)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT])
def test_what_cannot_be_looked_at_is_left_out(
    reads: Reads, dialect_u: Guest, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_for(dialect_u, monkeypatch, (root / "b").stat().st_ino, code)
    found, _ = reads.at(0, 1000)
    assert sorted(names(found)) == [name for name in ALL if name != b"b"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO])
def test_a_failing_host_fails_a_listing(
    reads: Reads, dialect_u: Guest, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_for(dialect_u, monkeypatch, (root / "b").stat().st_ino, code)
    with pytest.raises(Refused) as refused:
        reads.at(0, 1000)
    assert refused.value.errno == code


def test_a_symlink_that_is_replaced_meanwhile(
    reads: Reads, dialect_u: Guest, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attributes and target are those of one file."""
    below = dialect_u.driver.read_link

    def read_link(fd: int) -> bytes:
        os.unlink(root / "link")
        os.symlink("other target", root / "link")
        return below(fd)

    monkeypatch.setattr(dialect_u.driver, "read_link", read_link)
    found = {stat.name: stat for stat in reads.at(0, 2000)[0]}[b"link"]
    assert (found.extension, found.length) == (b"target", len("target"))


def test_a_file_is_no_directory(dialect_u: Guest) -> None:
    with pytest.raises(Refused) as refused:
        dialect_u.do(m.Tread(dialect_u.open("a", os.O_RDONLY), 0, 1000))
    assert refused.value.errno == errno.ENOTDIR
    with pytest.raises(Refused) as refused:
        dialect_u.do(m.Tread(dialect_u.walk("a"), 0, 1000))
    assert refused.value.errno == errno.EBADF


def test_a_stat_tells_the_name(dialect_u: Guest, root: Path) -> None:
    os.rename(root / "a", root / "z")
    fid = dialect_u.walk("z")
    os.unlink(root / "z")
    found = dialect_u.call(u.Tstat(fid), u.Rstat).stat
    assert (found.name, found.extension) == (b"z", b"HARDLINKCOUNT 0")
    assert dialect_u.call(u.Tstat(dialect_u.walk()), u.Rstat).stat.name == b"/"
