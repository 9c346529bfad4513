"""What kind of file a descriptor is, and closing without waiting."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.hostile import slow_to_close
from vhost9p.vhost_user.descriptors import Closer, adopt_channel, check_event, check_memory
from vhost9p.vhost_user.messages import VhostUserError


@contextlib.contextmanager
def closing(*fds: int) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def test_event_descriptors_are_distinguished_from_others() -> None:
    event, (reader, writer) = os.eventfd(0), os.pipe()
    with closing(event, reader, writer):
        for fd in (event, reader, writer):
            check_event(fd)


@pytest.mark.parametrize("name", ["anon_inode:[eventfd]", "pipe:[12]", "plain"])
def test_no_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever a file is called."""
    monkeypatch.chdir(tmp_path)
    file, memory = os.open(name, os.O_CREAT | os.O_RDWR), os.memfd_create(name)
    os.mkfifo("fifo")
    fifo = os.open("fifo", os.O_RDWR)
    with closing(file, memory, fifo):
        for fd in (file, memory, fifo):
            with pytest.raises(VhostUserError, match="an eventfd or a pipe would be valid"):
                check_event(fd)


def test_memory_descriptors_are_distinguished_from_others() -> None:
    """A memfd, with a name of any kind, and a file on tmpfs."""
    memory = os.memfd_create("pipe:[1]")
    shared = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    with closing(memory, shared):
        check_memory(memory)
        check_memory(shared)


def test_no_memory(tmp_path: Path) -> None:
    if os.statvfs(tmp_path).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("the tests' own directory is on tmpfs")
    disk, zero = os.open(tmp_path / "memfd:x", os.O_CREAT | os.O_RDWR), os.open("/dev/zero", 2)
    with closing(disk, zero):
        for fd in (disk, zero):
            with pytest.raises(VhostUserError, match="memfd, or a file on tmpfs or hugetlbfs"):
                check_memory(fd)


def test_an_adopted_channel_holds_nothing() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, theirs:
        socket.send_fds(ours, [b"x" * 1000], [writer])
        os.close(writer)
        adopt_channel(theirs.fileno())
        assert os.read(reader, 1) == b""  # nobody can write any more
        with pytest.raises(BrokenPipeError):
            ours.send(b"x")
        theirs.send(b"a request")
        assert ours.recv(100) == b"a request"
    os.close(reader)


def test_no_channels() -> None:
    datagram, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening, tcp, event = socket.socket(socket.AF_UNIX), socket.socket(), os.eventfd(0)
    with datagram, other, listening, tcp, closing(event):
        for fd in (datagram.fileno(), listening.fileno(), tcp.fileno(), event):
            with pytest.raises(VhostUserError, match="a connected unix stream socket"):
                adopt_channel(fd)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def test_one_that_hangs_holds_up_no_other() -> None:
    closer = Closer()
    with slow_to_close() as first:
        closer.close(first)
        event, plain = os.eventfd(0), os.open("/dev/null", os.O_RDONLY)
        closer.close(event)
        assert not is_open(event)
        closer.close(plain)
        assert not closer.settle(0.2)  # the first one
        assert not is_open(plain)
        assert closer.has_room
    assert closer.settle(20)
