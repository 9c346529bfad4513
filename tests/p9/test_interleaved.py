"""Requests that come in between: the fid goes, or becomes another one, while something is being
kept for it. What comes between is done just before the fid is marked, and while a host file is
opened; C's own Tclunk takes an unmarked fid's number away and tells nobody."""

import errno
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.p9.guest import Guest, Refused, serving
from vhost9p.fs.locks import WRLCK
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message

NEW = 5000


@pytest.fixture
def guest(root: Path) -> Iterator[Guest]:
    """A guest of an export with two files."""
    (root / "file").write_bytes(b"1")
    (root / "other").write_bytes(b"22")
    with serving(root) as guest:
        yield guest


def code(guest: Guest, message: Message) -> int | None:
    """The errno that a request is refused with."""
    with pytest.raises(Refused) as refused:
        guest.do(message)
    return refused.value.errno


def lock(fid: int, kind: int = WRLCK, pid: int = 1) -> m.Tlock:
    """Of the whole file."""
    return m.Tlock(fid, kind, 0, 0, 0, pid, b"guest")


def is_locked(path: Path) -> bool:
    """Whether the host finds a lock."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def between(guest: Guest, happens: Callable[[], object]) -> None:
    """Has something happen once, before the next fid is marked."""

    def once() -> None:
        guest.fids.before_mark = lambda: None
        happens()

    guest.fids.before_mark = once


def clunk_in_c(guest: Guest, number: int) -> None:
    """Tclunk of a fid that is not marked."""
    assert not guest.fids.look(number).flags
    guest.fids.clunk(guest.fids.find(number))


def reuse(guest: Guest, number: int) -> None:
    """The same, and the number comes to stand for the other file, open."""
    clunk_in_c(guest, number)
    guest.open("other", number=number)


@pytest.mark.parametrize("goes", [clunk_in_c, reuse])
def test_a_fid_goes_while_it_locks(
    guest: Guest, root: Path, goes: Callable[[Guest, int], None]
) -> None:
    fid = guest.open("file")
    between(guest, lambda: goes(guest, fid))
    assert code(guest, lock(fid)) == errno.EBADF
    assert not is_locked(root / "file")
    if goes is reuse:
        assert not guest.fids.look(fid).flags


def test_a_marked_fid_goes_while_it_locks_again(guest: Guest, root: Path) -> None:
    fid = guest.open("file")
    guest.do(lock(fid, pid=1))
    between(guest, lambda: guest.do(m.Tclunk(fid)))
    assert code(guest, m.Tlock(fid, WRLCK, 0, 5, 1, 2, b"guest")) == errno.EBADF
    assert not is_locked(root / "file")


def test_another_fid_of_the_process_keeps_its_lock(guest: Guest, root: Path) -> None:
    one, two = guest.open("file"), guest.open("file")
    guest.do(lock(one))
    between(guest, lambda: clunk_in_c(guest, two))
    assert code(guest, lock(two)) == errno.EBADF
    assert is_locked(root / "file")
    guest.do(m.Tclunk(one))
    assert not is_locked(root / "file")


@pytest.mark.parametrize("ends", ["the guest", "the session"])
def test_a_request_that_outlives_its_session_keeps_nothing(
    guest: Guest, root: Path, ends: str
) -> None:
    """It hung while the ring was stopped, and the guest given up."""
    fid = guest.open("file")

    def end() -> None:
        if ends == "the guest":
            guest.server.reset()
        else:
            guest.do(m.Tversion(8192, b"9P2000.L"))

    between(guest, end)
    assert code(guest, lock(fid)) == errno.EBADF
    assert not is_locked(root / "file")


def test_a_lock_file_that_two_threads_open_is_kept_once(guest: Guest, root: Path) -> None:
    """Two threads of one guest process lock at the same time: one descriptor is kept."""
    one, two = guest.open("file"), guest.open("file")

    def meanwhile() -> None:
        guest.fids.before_open = lambda: None
        guest.do(lock(two))

    guest.fids.before_open = meanwhile
    guest.do(lock(one))
    guest.do(m.Tclunk(two))
    assert is_locked(root / "file")
    guest.do(m.Tclunk(one))
    assert not is_locked(root / "file")
