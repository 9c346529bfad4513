"""What the guest itself renames and removes, while the host changes names as well."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.frontend.dialect_u import DialectUClient
from tests.system.host_edits.edits import (
    GONE,
    Edits,
    covered,
    guest_removes,
    guest_renames,
    in_9p2000_l,
    mount_point,
)
from tests.system.share import fails, needs_root


def test_what_the_guest_unlinked_stays_what_it_is(edits: Edits) -> None:
    """What it has unlinked stays what it is, whoever makes the name anew."""
    edits.put("f", "one")
    fid, other = edits.walk("f"), edits.walk("f")
    number = edits.number(fid)
    guest_removes(edits, edits.share.top, b"f")
    edits.put("f", "two")
    for each in (fid, edits.client.walk_to(other)):
        assert edits.number(each) == number
        assert edits.cat(each) == "one"
    assert edits.cat(edits.walk("f")) == "two"


def test_a_fid_follows_the_guests_rename_over_another_file(edits: Edits) -> None:
    edits.put("f", "one")
    edits.put("g", "two")
    f, g = edits.walk("f"), edits.walk("g")
    guest_renames(edits, edits.share.top, b"g", b"f")
    assert (edits.cat(f), edits.cat(g)) == ("one", "two")
    edits.put("f", "three")  # which is g's name now
    assert (edits.cat(f), edits.cat(g)) == ("one", "three")
    edits.put("g", "four")
    assert edits.cat(g) == "three"


def test_a_fid_follows_the_guests_renames_of_directories_above(edits: Edits) -> None:
    """Names are carried along with a directory above, through several renames; longer ones too."""
    client = edits.client
    for name in ("a", "a/b", "a/b/c"):
        edits.mkdir(name)
    edits.put("a/b/c/f", "one")
    fids = [edits.walk("a/b/c/f"), client.walk_to(edits.share.top, b"a", b"b", b"c", b"f")]
    guest_renames(edits, edits.walk("a"), b"b", b"longer-" * 20)
    guest_renames(edits, edits.share.top, b"a", b"z")
    guest_renames(edits, edits.share.top, b"z", b"zz" * 50)
    for fid in fids:
        assert edits.cat(fid) == "one"
    place = "zz" * 50 + "/" + "longer-" * 20 + "/c"
    edits.put(f"{place}/f", "two")
    for fid in fids:
        assert edits.cat(fid) == "two"
    edits.mv(place, "away")
    for fid in fids:
        edits.is_gone(fid)
    edits.mkdir("a")  # where it was once
    edits.mkdir("a/b")
    edits.mv("away", "a/b/c")
    for fid in fids:
        edits.is_gone(fid)


@in_9p2000_l
def test_a_fid_follows_the_guests_move_to_another_directory(edits: Edits) -> None:
    client = edits.client
    edits.mkdir("a")
    edits.mkdir("b")
    edits.put("a/f", "one")
    fid, by_fid = edits.walk("a/f"), edits.walk("a/f")
    client.renameat(edits.walk("a"), b"f", edits.walk("b"), b"g")
    edits.put("a/f", "impostor")
    assert edits.cat(fid) == "one"
    edits.put("b/g", "two")
    assert edits.cat(fid) == "two"
    client.walk_to(fid)
    assert edits.number(by_fid) == edits.ino("b/g")
    client.rename(by_fid, edits.share.top, b"h")
    assert edits.cat(fid) == "two"
    edits.put("h", "three")
    assert (edits.cat(fid), edits.cat(by_fid)) == ("three", "three")


def test_renaming_between_links_of_one_file_keeps_both_names(edits: Edits) -> None:
    """rename(2) leaves both names then."""
    edits.put("a", "one")
    os.link(edits.share.path("a"), edits.share.path("b"))
    a, b = edits.walk("a"), edits.walk("b")
    guest_renames(edits, edits.share.top, b"a", b"b")
    edits.put("a", "two")
    edits.put("b", "three")
    assert (edits.cat(a), edits.cat(b)) == ("two", "three")


def test_a_directory_that_the_guest_removed_is_not_the_new_one(edits: Edits) -> None:
    client = edits.client
    edits.mkdir("d")
    fid = edits.walk("d")
    number = edits.number(fid)
    guest_removes(edits, edits.share.top, b"d")
    assert edits.number(fid) == number
    edits.mkdir("d")
    edits.put("d/f", "two")
    assert edits.number(fid) == number
    with fails(*GONE):
        client.walk_to(fid, b"f")


def test_removing_and_renaming_by_fid_spares_other_files(edits: Edits) -> None:
    """Tremove, Trename and a rename by Twstat concern the file of the fid alone."""
    client = edits.client
    edits.put("f", "one")
    fids = [edits.walk("f") for _ in range(2)]
    edits.put("f", "two")
    with fails(errno.ENOENT, errno.ESTALE):
        if isinstance(client, DialectUClient):
            client.wstat(fids[0], name=b"g")
        else:
            client.rename(fids[0], edits.share.top, b"g")
    with fails(errno.ENOENT, errno.ESTALE):
        client.remove(fids[1])
    assert edits.share.get("f") == b"two"
    assert edits.cat(fids[0]) == "two"  # by name it is that file


def rename_by_fid(edits: Edits, fid: int, name: bytes) -> None:
    """In its directory, which is the top."""
    if isinstance(edits.client, DialectUClient):
        edits.client.wstat(fid, name=name)
    else:
        edits.client.rename(fid, edits.share.top, name)


def test_removing_and_renaming_by_fid_affects_the_name_that_was_walked(edits: Edits) -> None:
    """A file of several names loses or changes the one by which the guest reached the fid."""
    edits.put("a", "one")
    for name in ("b", "c", "d"):
        os.link(edits.share.path("a"), edits.share.path(name))
    a, b, c, d = (edits.walk(name) for name in "abcd")
    rename_by_fid(edits, c, b"e")
    edits.client.remove(edits.client.walk_to(b))
    guest_removes(edits, edits.share.top, b"d")
    with fails(errno.ENOENT):
        edits.client.remove(d)  # it has lost its own one
    left = {name for name in os.listdir(edits.share.host) if name != ".virtfs_metadata"}
    assert left == {"a", "e"}
    assert (edits.cat(a), edits.cat(c)) == ("one", "one")
    edits.client.remove(a)
    assert edits.cat(c) == "one"


def test_removing_and_renaming_by_fid_spares_what_the_host_moved(edits: Edits) -> None:
    """What the host has set aside under another name is not removed by the old one."""
    edits.mkdir("d")
    for name in ("f", "g", "d/f"):
        edits.put(name, name)
    f, g, below = (edits.walk(name) for name in ("f", "g", "d/f"))
    for name in ("f", "g", "d"):
        edits.mv(name, f"{name}.bak")
    edits.mkdir("d")
    edits.put("d/f", "new")
    with fails(errno.ENOENT):
        rename_by_fid(edits, g, b"h")
    for fid in (f, below):
        with fails(errno.ENOENT):
            edits.client.remove(fid)
    for name, text in (("f.bak", "f"), ("g.bak", "g"), ("d.bak/f", "d/f"), ("d/f", "new")):
        assert edits.share.get(name) == text.encode()


@needs_root
@pytest.mark.parametrize("multidevs", ["remap", "forbid"])
def test_removing_and_renaming_by_fid_spares_what_a_mount_covers(
    export: Path, multidevs: str
) -> None:
    with mount_point(export, multidevs) as share:
        client, daemon = share.client, share.daemon
        above = client.walk_to(share.root, b"m")
        one, two = (client.walk_to(above, b"f") for _ in range(2))
        with covered(daemon, export / "m"):
            with fails(*GONE, errno.ENODEV):
                client.rename(two, share.root, b"g")
            with fails(*GONE, errno.ENODEV):
                client.remove(one)
        assert (export / "m" / "f").read_bytes() == b"1"
