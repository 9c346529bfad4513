"""A fid stands for whatever file has its name on the host; once it is open it stays."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.frontend.client import SET_MODE, SET_SIZE, UNLCK, WRLCK
from tests.frontend.dialect_u import ORDWR, DialectUClient
from tests.system.host_edits.edits import Edits, in_9p2000_l
from tests.system.share import fails


def test_a_fid_stands_for_what_replaced_its_file(edits: Edits) -> None:
    edits.put("f", "one")
    fid = edits.walk("f")
    opened = edits.open(fid)
    for turn in range(20):
        edits.put("f", f"turn {turn}")
        if turn % 2:
            assert edits.number(fid) == edits.ino("f")
        assert edits.cat(fid) == f"turn {turn}"
        assert edits.number(fid) == edits.ino("f")
    assert edits.client.read(opened, 0, 100) == b"one"
    assert edits.number(opened) != edits.ino("f")


def test_a_fid_that_is_opened_stays_with_its_file(edits: Edits) -> None:
    """A fid that was walked to and is opened itself, as from create."""
    edits.put("f", "one")
    fid = edits.walk("f")
    edits.put("f", "two")
    if isinstance(edits.client, DialectUClient):
        edits.client.open_fid(fid)
    else:
        edits.client.lopen(fid, os.O_RDONLY)
    edits.put("f", "three")
    assert edits.client.read(fid, 0, 100) == b"two"
    assert edits.number(fid) != edits.ino("f")


def test_a_removed_name_fails_until_it_is_created_again(edits: Edits) -> None:
    edits.put("f", "one")
    fid = edits.walk("f")
    edits.rm("f")
    edits.is_gone(fid)
    edits.put("f", "two")
    assert edits.cat(fid) == "two"
    edits.mv("f", "g")
    edits.is_gone(fid)
    edits.mv("g", "f")
    assert edits.cat(fid) == "two"


def test_a_name_may_come_to_be_of_another_kind(edits: Edits) -> None:
    """A file's name has a directory, a symlink, a FIFO, a socket and a file again."""
    client = edits.client
    edits.put("f", "one")
    fid = edits.walk("f")
    edits.rm("f")
    edits.mkdir("f")
    edits.put("f/g", "below")
    assert edits.cat(client.walk_to(fid, b"g")) == "below"
    edits.rm("f")
    os.symlink("/target", edits.share.path("f"))
    if isinstance(client, DialectUClient):
        assert client.stat(fid).extension == b"/target"
    else:
        assert client.readlink(fid) == b"/target"
        with fails(errno.ELOOP):
            client.lopen(client.walk_to(fid), os.O_RDONLY)
    edits.rm("f")
    os.mkfifo(edits.share.path("f"))
    with fails(errno.ENXIO):
        edits.open(fid)
    edits.rm("f")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(edits.share.path("f"))
    assert edits.number(fid) == edits.ino("f")
    edits.rm("f")
    edits.put("f", "two")
    assert edits.cat(fid) == "two"


def test_a_replaced_symlink_leads_elsewhere(edits: Edits) -> None:
    """A release's `current` that is pointed elsewhere."""
    client = edits.client
    os.symlink("one", edits.share.path("current"))
    fid = edits.walk("current")
    os.symlink("two", edits.share.path("next"))
    edits.mv("next", "current")
    if isinstance(client, DialectUClient):
        assert client.stat(fid).extension == b"two"
    else:
        assert client.readlink(fid) == b"two"


def test_each_fid_of_a_file_with_several_names_stands_for_its_own(edits: Edits) -> None:
    """Each fid stands for the name by which it was reached; the file has others still."""
    edits.put("a", "one")
    os.link(edits.share.path("a"), edits.share.path("b"))
    a, b = edits.walk("a"), edits.walk("b")
    old = edits.ino("a")
    edits.put("a", "two")
    assert (edits.cat(a), edits.cat(b)) == ("two", "one")
    assert (edits.number(a), edits.number(b)) == (edits.ino("a"), old)
    edits.mv("b", "c")
    edits.is_gone(b)
    os.link(edits.share.path("a"), edits.share.path("b"))
    assert edits.cat(b) == "two"
    edits.rm("a")
    edits.is_gone(a)
    assert edits.cat(b) == "two"


def test_names_that_change_places_change_files(edits: Edits) -> None:
    edits.put("a", "one")
    edits.put("b", "two")
    a, b = edits.walk("a"), edits.walk("b")
    for turn in range(5):
        edits.mv("a", "c")
        edits.mv("b", "a")
        edits.mv("c", "b")
        expected = ("two", "one") if turn % 2 == 0 else ("one", "two")
        assert (edits.cat(a), edits.cat(b)) == expected


def test_setting_attributes_changes_the_file_that_has_the_name(edits: Edits) -> None:
    client = edits.client
    edits.put("f", "one")
    fid = edits.walk("f")
    kept = edits.share.path("kept")
    os.link(edits.share.path("f"), kept)
    for turn in range(3):
        edits.put("f", "12345678")
        if isinstance(client, DialectUClient):
            client.wstat(fid, length=turn, mode=0o640)
            mode = client.stat(fid).mode
        else:
            client.setattr(fid, SET_SIZE | SET_MODE, size=turn, mode=0o640)
            mode = client.getattr(fid).mode
        assert (os.stat(edits.share.path("f")).st_size, mode & 0o777) == (turn, 0o640)
    assert os.stat(kept).st_size == 3


@in_9p2000_l
def test_links_xattrs_and_renames_reach_the_file_that_has_the_name(edits: Edits) -> None:
    client = edits.client
    edits.mkdir("d")
    edits.put("d/f", "one")
    above, fid = edits.walk("d"), edits.walk("d/f")
    edits.mv("d", "e")
    edits.mkdir("d")
    edits.put("d/f", "two")
    client.link(edits.share.top, fid, b"linked")
    assert edits.share.get("linked") == b"two"
    client.renameat(above, b"f", above, b"g")
    assert edits.share.get("d/g") == b"two"
    assert edits.cat(fid) == "two"
    try:
        os.setxattr(edits.share.path("d/g"), "user.probe", b"1")
    except OSError as error:
        pytest.skip(f"no user xattrs: {error}")
    assert client.getxattr(fid, b"user.probe") == b"1"
    edits.put("d/g", "three")
    client.setxattr(fid, b"user.name", b"value")
    assert os.getxattr(edits.share.path("d/g"), "user.name") == b"value"
    assert client.statfs(fid).bsize


def test_a_clone_of_an_open_fid_is_its_file(edits: Edits) -> None:
    """As long as the name leads to the file, it is by name; if not, it is the open file."""
    edits.put("f", "one")
    opened = edits.open(edits.walk("f"), write=True)
    early = edits.client.walk_to(opened)
    edits.put("f", "two")
    assert edits.cat(edits.client.walk_to(opened)) == "one"
    assert edits.cat(early) == "two"
    edits.rm("f")
    late = edits.client.walk_to(opened)
    assert edits.cat(late) == "one"
    edits.put("f", "three")
    assert edits.cat(late) == "one"


def test_an_open_directory_stays_the_one_it_was(edits: Edits) -> None:
    client = edits.client
    edits.mkdir("d")
    edits.put("d/f", "one")
    opened = edits.open(edits.walk("d"))
    edits.mv("d", "e")
    edits.mkdir("d")
    assert edits.number(opened) == edits.ino("e")
    assert edits.cat(client.walk_to(opened, b"f")) == "one"


def test_a_created_file_stays_and_its_clone_follows_the_name(edits: Edits) -> None:
    """What the guest has just created stands for the file, then its name does for what has it."""
    client = edits.client
    made = (
        client.make(edits.share.top, b"f", mode=ORDWR)
        if isinstance(client, DialectUClient)
        else client.create(edits.share.top, b"f")
    )
    client.write(made, 0, b"one")
    named = client.walk_to(made)
    edits.put("f", "two")
    assert client.read(made, 0, 100) == b"one"
    assert edits.cat(named) == "two"


@in_9p2000_l
def test_a_lock_stays_with_the_open_file(edits: Edits) -> None:
    client = edits.client
    edits.put("f", "one")
    opened = edits.open(edits.walk("f"), write=True)
    assert client.lock(opened, WRLCK, proc_id=7) == 0
    edits.put("f", "two")
    assert client.read(opened, 0, 100) == b"one"
    assert client.lock(opened, UNLCK, proc_id=7) == 0
    other = edits.open(edits.walk("f"), write=True)
    assert client.lock(other, WRLCK, proc_id=8) == 0


def test_an_open_log_goes_on_and_its_name_leads_to_the_new_one(edits: Edits) -> None:
    """`tail -F`: the open file goes on, the name is looked at, and leads to the new one."""
    client = edits.client
    edits.put("log", "a")
    fid = edits.walk("log")
    for turn in range(10):
        opened = edits.open(fid)
        number = edits.number(opened)
        edits.mv("log", f"log.{turn}")
        edits.is_gone(fid)
        edits.put("log", f"begun {turn}")
        assert edits.number(opened) == number
        assert edits.number(fid) == edits.ino("log") != number
        with open(edits.share.path(f"log.{turn}"), "ab") as old:
            old.write(b"late")
        assert client.read(opened, 0, 100).endswith(b"late")
        client.clunk(opened)
