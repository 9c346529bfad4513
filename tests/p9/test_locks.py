"""Tlock and Tgetlock: what is asked on the wire, and requests that wait."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.p9.guest import FakeRequest, Guest, Refused, serving
from vhost9p.fs.locks import RDLCK, UNLCK, WRLCK, LockTable
from vhost9p.native import sys
from vhost9p.p9 import constants as c
from vhost9p.p9 import lock_waits
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message

RD, WR, UN = RDLCK, WRLCK, UNLCK


@pytest.fixture
def file(root: Path) -> Path:
    """A file of the export."""
    path = root / "file"
    path.write_bytes(bytes(100))
    return path


@pytest.fixture
def host(file: Path) -> Iterator[int]:
    """A descriptor of the host with a flock on the file."""
    fd = os.open(file, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


@pytest.fixture
def locked(host: int, root: Path) -> Iterator[Guest]:
    """A guest whose file is locked by the host; up to 3 requests may wait."""
    with serving(root, ring=12) as guest:
        yield guest


def lock(
    fid: int, kind: int, start: int = 0, length: int = 0, *, pid: int = 1, flags: int = 0
) -> m.Tlock:
    """A request."""
    return m.Tlock(fid, kind, flags, start, length, pid, b"guest")


def wait(fid: int, pid: int = 1) -> m.Tlock:
    """One that waits for the whole file."""
    return lock(fid, WR, pid=pid, flags=c.LOCK_FLAGS_BLOCK)


def status(guest: Guest, message: m.Tlock) -> int:
    """What a request is answered with."""
    return guest.call(message, m.Rlock).status


def code(guest: Guest, message: Message) -> int | None:
    """The errno that a request is refused with."""
    with pytest.raises(Refused) as refused:
        guest.do(message)
    return refused.value.errno


def test_locks_of_two_processes_exclude_each_other(guest: Guest, file: Path) -> None:
    fid, other = guest.open("file"), guest.open("file")
    assert status(guest, lock(fid, WR, 0, 10)) == c.LOCK_SUCCESS
    assert status(guest, lock(other, WR, 5, 10)) == c.LOCK_SUCCESS
    assert status(guest, lock(other, WR, 5, 1, pid=2)) == c.LOCK_BLOCKED
    assert status(guest, lock(other, UN, 0, 0)) == c.LOCK_SUCCESS
    assert status(guest, lock(other, WR, 5, 1, pid=2)) == c.LOCK_SUCCESS
    reclaim = lock(other, WR, 5, 1, pid=2, flags=c.LOCK_FLAGS_RECLAIM)
    assert status(guest, reclaim) == c.LOCK_SUCCESS


def test_getlock_reports_the_lock_in_the_way(guest: Guest, file: Path) -> None:
    fid = guest.open("file")
    free = guest.call(m.Tgetlock(fid, WR, 3, 4, 1, b"guest"), m.Rgetlock)
    assert free == m.Rgetlock(UN, 3, 4, 1, b"guest")
    status(guest, lock(fid, RD, 0, 10, pid=2))
    held = guest.call(m.Tgetlock(fid, WR, 3, 4, 1, b"else"), m.Rgetlock)
    assert held == m.Rgetlock(RD, 0, 10, 2, b"guest")
    own = guest.call(m.Tgetlock(fid, WR, 3, 4, 2, b"guest"), m.Rgetlock)
    assert own.type == UN


def test_getlock_as_linux_asks_finds_only_what_is_in_the_way(guest: Guest, file: Path) -> None:
    """The type is lost on the way: what cannot be in the way is not told."""
    fid = guest.open("file")
    asked = m.Tgetlock(fid, UN, 3, 4, 1, b"guest")
    assert guest.call(asked, m.Rgetlock).type == UN
    status(guest, lock(fid, RD, 0, 10, pid=2))
    assert guest.call(asked, m.Rgetlock).type == UN  # the client would have seen it itself
    status(guest, lock(fid, UN, 0, 10, pid=2))
    with file.open("r+b") as host:
        for kind in (RD, WR):
            sys.ofd_lock(host.fileno(), kind, 0, 10)
            assert guest.call(asked, m.Rgetlock).type == kind


def test_locks_go_with_their_fids(guest: Guest, file: Path) -> None:
    fid, other = guest.open("file"), guest.open("file")
    status(guest, lock(fid, WR))
    assert guest.fids.look(fid).flags
    assert not guest.fids.look(other).flags
    guest.do(m.Tclunk(fid))
    assert status(guest, lock(other, WR, pid=2)) == c.LOCK_SUCCESS
    guest.do(m.Tversion(8192, b"9P2000.L"))
    assert status(guest, lock(guest.open("file"), WR, pid=3)) == c.LOCK_SUCCESS


def test_what_is_not_open_is_not_looked_at(guest: Guest, file: Path) -> None:
    """A FIFO never is."""
    os.mkfifo(file.parent / "fifo")
    unopened = guest.walk("file")
    for number in (unopened, guest.walk("fifo"), 701):
        assert code(guest, m.Tgetlock(number, WR, 0, 0, 1, b"g")) == errno.EBADF


def test_directories_are_locked_too(guest: Guest, root: Path) -> None:
    (root / "d").mkdir()
    fid, other = guest.open("d", os.O_RDONLY), guest.open("d", os.O_RDONLY)
    assert status(guest, lock(fid, WR)) == c.LOCK_SUCCESS
    assert status(guest, lock(other, RD, pid=2)) == c.LOCK_BLOCKED


# ---- waiting


def test_a_wait_ends_with_the_lock(locked: Guest, host: int) -> None:
    request = locked.send(wait(locked.open("file")))
    assert request.waits
    fcntl.flock(host, fcntl.LOCK_UN)
    assert request.result(m.Rlock).status == c.LOCK_SUCCESS
    with pytest.raises(BlockingIOError):
        fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_the_flag_nothing_waits(locked: Guest) -> None:
    assert status(locked, lock(locked.open("file"), WR)) == c.LOCK_BLOCKED


def test_a_quarter_of_the_ring_waits(locked: Guest, host: int) -> None:
    fid = locked.open("file")
    requests = [locked.send(wait(fid, pid)) for pid in range(3)]
    assert all(request.waits for request in requests)
    assert status(locked, wait(fid, 4)) == c.LOCK_BLOCKED
    locked.server.flush(requests[1].key)
    with pytest.raises(Refused) as refused:
        requests[1].result(m.Rlock)
    assert refused.value.errno == errno.EINTR
    again = locked.send(wait(fid, 4))
    assert again.waits
    locked.server.cancel_waits()
    for request in (requests[0], requests[2], again):
        assert request.result(m.Rlock).status == c.LOCK_BLOCKED


def test_flush_of_what_does_not_wait(locked: Guest) -> None:
    request = locked.send(wait(locked.open("file")))
    locked.server.flush((-1, -1))
    assert request.waits
    locked.server.flush(request.key)
    locked.server.flush(request.key)
    with pytest.raises(Refused):
        request.result(m.Rlock)


def test_cancelled_waits_are_answered_before_the_call_returns(locked: Guest) -> None:
    requests = [locked.send(wait(locked.open("file"), pid)) for pid in range(3)]
    locked.server.cancel_waits()
    assert not any(request.waits for request in requests)
    assert status(locked, wait(locked.open("file"))) == c.LOCK_BLOCKED
    locked.server.resume_waits()
    request = locked.send(wait(locked.open("file")))
    assert request.waits
    locked.server.reset()
    assert request.result(m.Rlock).status == c.LOCK_BLOCKED
    assert not locked.count()


def test_clunk_of_a_fid_that_a_wait_came_through(locked: Guest, host: int) -> None:
    fid = locked.open("file")
    request = locked.send(wait(fid))
    locked.do(m.Tclunk(fid))
    fcntl.flock(host, fcntl.LOCK_UN)
    with pytest.raises(Refused) as refused:
        request.result(m.Rlock)
    assert refused.value.errno == errno.EBADF
    fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_waits_called_off_as_they_begin(locked: Guest) -> None:
    """A signal may come before the system call that it is to end, and after."""
    fid = locked.open("file")
    for pid in range(100):
        request = locked.send(wait(fid, pid))
        locked.server.flush(request.key)
        with pytest.raises(Refused):
            request.result(m.Rlock)


def test_waits_while_the_host_keeps_taking_turns(locked: Guest, host: int, file: Path) -> None:
    """Every wait ends, one way or the other, and the locks are consistent at the end."""
    stop = threading.Event()

    def turns() -> None:
        while not stop.is_set():
            fcntl.flock(host, fcntl.LOCK_UN)
            fcntl.flock(host, fcntl.LOCK_EX)

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        fid = locked.open("file")
        for i in range(100):
            request = locked.send(wait(fid))
            if i % 2:
                locked.server.flush(request.key)
            try:
                assert request.result(m.Rlock).status == c.LOCK_SUCCESS
            except Refused as refused:
                assert refused.errno == errno.EINTR
            assert status(locked, lock(fid, UN)) == c.LOCK_SUCCESS
    finally:
        stop.set()
        locked.server.cancel_waits()
        thread.join()
    fcntl.flock(host, fcntl.LOCK_UN)
    fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_wait_that_no_signal_ends(locked: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system whose server is gone: nothing else may hang on it."""
    monkeypatch.setattr(lock_waits, "PATIENCE", 0)
    hung = threading.Event()

    def take(self: LockTable, *args: object) -> None:
        if args[-1] is None:
            raise BlockingIOError(errno.EAGAIN, "held")
        hung.wait()
        raise InterruptedError(errno.EINTR, "at last")

    monkeypatch.setattr(LockTable, "take", take)
    requests = [locked.send(wait(locked.open("file"), pid)) for pid in range(2)]
    locked.server.flush(requests[0].key)
    locked.server.cancel_waits()
    assert requests[0].waits
    assert requests[1].waits
    hung.set()
    with pytest.raises(Refused) as refused:
        requests[0].result(m.Rlock)
    assert refused.value.errno == errno.EINTR
    assert requests[1].result(m.Rlock).status == c.LOCK_BLOCKED
    no_threads_left()


def test_no_thread_for_the_wait(locked: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert status(locked, wait(locked.open("file"))) == c.LOCK_BLOCKED


def threads() -> int:
    """How many threads wait for locks."""
    return sum(each.name.startswith("lock-wait") for each in threading.enumerate())


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads may wait, for all devices together."""
    monkeypatch.setattr(lock_waits, "THREADS", 2)


def test_more_waits_than_threads(few_threads: None, host: int, root: Path) -> None:
    """Each gets the lock after the one before, those without a thread too; no thread is left."""
    with serving(root, ring=400) as guest:
        requests = {pid: guest.send(wait(guest.open("file"), pid)) for pid in range(100)}
        assert threads() == 2
        assert all(request.waits for request in requests.values())
        fcntl.flock(host, fcntl.LOCK_UN)
        fids = {pid: guest.open("file") for pid in requests}
        while requests:
            pid = next((pid for pid, request in requests.items() if not request.waits), None)
            if pid is None:
                continue
            assert requests.pop(pid).result(m.Rlock).status == c.LOCK_SUCCESS
            assert sum(not request.waits for request in requests.values()) == 0
            assert status(guest, lock(fids[pid], UN, pid=pid)) == c.LOCK_SUCCESS
    no_threads_left()


def no_threads_left() -> None:
    while left := [each for each in threading.enumerate() if each.name.startswith("lock-")]:
        left[0].join()


def test_a_lock_is_handed_on_between_devices(
    few_threads: None, host: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a thread, and without asking the host again and again."""
    monkeypatch.setattr(lock_waits, "POLL", 1e6)
    (root / "other").write_bytes(bytes(100))
    with serving(root) as one, serving(root) as two:
        busy = two.send(wait(two.open("file")))
        held, wanted = one.open("other"), two.open("other")
        assert status(one, lock(held, WR)) == c.LOCK_SUCCESS
        request = two.send(wait(wanted))
        assert threads() == 1
        assert request.waits
        assert status(one, lock(held, RD)) == c.LOCK_SUCCESS
        assert request.waits
        reader = two.send(lock(wanted, RD, pid=2, flags=c.LOCK_FLAGS_BLOCK))
        assert reader.result(m.Rlock).status == c.LOCK_SUCCESS
        assert status(two, lock(wanted, UN, pid=2)) == c.LOCK_SUCCESS
        assert status(one, lock(held, UN)) == c.LOCK_SUCCESS
        assert request.result(m.Rlock).status == c.LOCK_SUCCESS
        other = one.send(wait(held))
        assert other.waits
        two.do(m.Tclunk(wanted))
        assert other.result(m.Rlock).status == c.LOCK_SUCCESS
        assert busy.waits
        one.server.reset()
    no_threads_left()


def test_threads_are_shared_fairly(few_threads: None, host: int, root: Path) -> None:
    """A device that waits for much leaves the other its part."""
    with serving(root) as one, serving(root) as two:
        first = [one.send(wait(one.open("file"), pid)) for pid in range(5)]
        assert threads() == 1
        second = two.send(wait(two.open("file")))
        assert threads() == 2
        for request in (first[3], second, first[0]):
            for guest in (one, two):
                guest.server.flush(request.key)
            with pytest.raises(Refused) as refused:
                request.result(m.Rlock)
            assert refused.value.errno == errno.EINTR
        one.server.cancel_waits()
        for pid in (1, 2, 4):
            assert first[pid].result(m.Rlock).status == c.LOCK_BLOCKED
        one.server.reset()
    no_threads_left()


def test_the_host_gives_up_what_many_wait_for(few_threads: None, host: int, root: Path) -> None:
    with serving(root, ring=400) as guest:
        sys.ofd_lock(host, WR, 0, 100)
        fid = guest.open("file")
        requests = [
            guest.send(lock(fid, WR, at, 1, pid=at, flags=c.LOCK_FLAGS_BLOCK)) for at in range(100)
        ]
        assert all(request.waits for request in requests)
        sys.ofd_lock(host, UN, 0, 100)
        for request in requests:
            assert request.result(m.Rlock).status == c.LOCK_SUCCESS


def test_a_wait_that_fails_as_none_should_is_answered(
    locked: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(self: LockTable, *args: object) -> None:
        if args[-1] is None:
            raise BlockingIOError(errno.EAGAIN, "held")
        raise ValueError("no such thing")

    monkeypatch.setattr(LockTable, "take", take)
    assert code(locked, wait(locked.open("file"))) == errno.EIO


def test_requests_are_distinguished(locked: Guest) -> None:
    """Two with one tag, as after a flush: their keys differ."""
    fid = locked.open("file")
    one, two = (FakeRequest(wait(fid, pid).encode(9), 9) for pid in (1, 2))
    for request in (one, two):
        locked.handle(request.data, request)
    locked.server.flush(two.key)
    with pytest.raises(Refused):
        two.result(m.Rlock)
    assert one.waits
    locked.server.cancel_waits()
