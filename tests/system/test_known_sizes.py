"""Tgetattr leaves the size of an open file out of its valid mask where the client knows it.

A client that caches writes takes every size that it is told for its inode's, also when it has
extended the file since it asked (csrc/fid/known_size.h). What the host has changed is always told.
"""

from __future__ import annotations

import os

import pytest

from tests.frontend.client import GETATTR_ALL, GETATTR_BASIC, SET_SIZE, Attr
from tests.frontend.wire import T
from tests.system.share import Share

SIZE = 0x200
LOOKUP = GETATTR_BASIC | 0x1000  # what Linux asks for to make an inode


@pytest.fixture
def name(share: Share) -> int:
    """The fid of a name, by which the file was looked up."""
    share.put("file", bytes(1000))
    fid = share.client.walk_to(share.top, b"file")
    assert reported(share, fid, LOOKUP) == 1000
    return fid


def reported(share: Share, fid: int, mask: int = GETATTR_ALL) -> int | None:
    """The size that a reply tells; None where it tells none. It is always in its place."""
    attr = share.client.getattr(fid, mask)
    assert attr.valid & GETATTR_BASIC | SIZE == GETATTR_BASIC
    assert attr.size == os.stat(share.path("file")).st_size
    return attr.size if attr.valid & SIZE else None


def opened(share: Share, fid: int) -> int:
    """A fid that is open, as open(2) makes it from a name's."""
    clone = share.client.walk_to(fid)
    share.client.lopen(clone, os.O_RDWR)
    return clone


def test_what_is_known_is_not_reported(share: Share, name: int) -> None:
    assert reported(share, name) == 1000  # nobody has it open
    io = opened(share, name)
    for fid in (name, io):
        assert reported(share, fid) is None
    assert reported(share, name, GETATTR_BASIC) == 1000
    assert reported(share, name, LOOKUP) == 1000
    share.client.clunk(io)
    assert reported(share, name) == 1000


def test_what_the_guest_does_is_known(share: Share, name: int) -> None:
    io = opened(share, name)
    share.client.write(io, 900, bytes(200))
    assert reported(share, name) is None
    share.client.setattr(name, SET_SIZE, size=3)
    assert reported(share, name) is None
    share.client.write(io, 4095, b"x")
    share.client.write(io, 0, b"y")
    assert reported(share, io) is None


def test_what_the_host_does_is_reported(share: Share, name: int) -> None:
    io = opened(share, name)
    for size in (2000, 500):
        os.truncate(share.path("file"), size)
        assert reported(share, name) == size
        assert reported(share, name) is None
    os.truncate(share.path("file"), 3000)
    share.client.write(io, 500, bytes(100))
    assert reported(share, io) == 3000


def test_several_names_are_each_reported(share: Share, name: int) -> None:
    """They may be inodes of their own in the client."""
    io = opened(share, name)
    assert reported(share, name) is None
    os.link(share.path("file"), share.path("again"))
    other = share.client.walk_to(share.top, b"again")
    share.client.write(io, 0, bytes(1500))
    for _ in range(2):
        assert reported(share, other) == 1500
        assert reported(share, name) == 1500
    os.truncate(share.path("file"), 5000)
    assert reported(share, other) == 5000
    share.client.clunk(other)
    assert reported(share, name) == 5000
    assert reported(share, name) is None


def test_a_file_that_the_guest_makes(share: Share) -> None:
    client = share.client
    io = client.walk_to(share.top)
    client.lcreate(io, b"file", os.O_RDWR)
    name = client.walk_to(share.top, b"file")
    assert reported(share, name, LOOKUP) == 0
    client.write(io, 0, bytes(10))
    assert reported(share, name) is None
    os.unlink(share.path("file"))
    attr = client.getattr(io)
    assert (attr.size, attr.valid & SIZE) == (10, 0)


def test_a_truncation_that_fails_is_none(share: Share, name: int) -> None:
    io = opened(share, name)
    with pytest.raises(OSError):
        share.client.setattr(name, SET_SIZE, size=1 << 63)
    assert reported(share, io) is None
    os.truncate(share.path("file"), 10)
    assert reported(share, io) == 10


def test_sizes_of_a_file_that_grows_meanwhile(share: Share, name: int) -> None:
    """None of them is told, whatever has come first."""
    client = share.client
    io = opened(share, name)
    for round_ in range(30):
        tickets = []
        for i in range(16):
            client.submit(T.WRITE, io, 1000 + round_ * 16 + i, b"x", kick=False)
            tickets.append(client.submit(T.GETATTR, name, GETATTR_ALL, kick=i == 15))
        for ticket in tickets:
            assert not Attr(*client.wait(ticket).fields).valid & SIZE
    while client.in_flight:
        client.reap()
    assert reported(share, name) is None


def test_a_name_that_has_led_to_two_files_is_reported(share: Share, name: int) -> None:
    """The client has one inode for both, and writes to the first are none to the second."""
    io = opened(share, name)
    assert reported(share, name) is None
    share.put("new", bytes(500))
    os.rename(share.path("new"), share.path("file"))
    assert reported(share, name) == 500
    again = opened(share, name)
    share.client.write(io, 0, bytes(2000))
    for fid in (name, again):
        assert reported(share, fid) == 500
    share.client.clunk(name)
    for _ in range(2):
        name = share.client.walk_to(share.top, b"file")
        assert reported(share, name) == 500
        assert reported(share, name) is None
        share.client.clunk(name)
