"""Directories that the host replaces, moves and removes above the fids of a guest."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.system.host_edits.edits import GONE, Edits, covered, mount_point
from tests.system.share import SECURITY, fails, mounted, needs_root


def test_a_directory_created_again_is_the_new_one(edits: Edits) -> None:
    """A shell that stands in `build`, which the host removes and makes anew."""
    client = edits.client
    edits.mkdir("build")
    edits.put("build/old", "old")
    fid = edits.walk("build")
    below = client.walk_to(fid, b"old")
    edits.rm("build")
    edits.is_gone(fid)
    edits.is_gone(below)
    edits.mkdir("build")
    edits.put("build/new", "new")
    assert edits.number(fid) == edits.ino("build")
    assert edits.cat(client.walk_to(fid, b"new")) == "new"
    edits.is_gone(below)
    with fails(*GONE):
        client.walk_to(fid, b"old")
    if isinstance(client, DialectUClient):
        client.clunk(client.make(fid, b"made"))
    else:
        client.clunk(client.create(fid, b"made"))
        client.mkdir(fid, b"d")
        client.renameat(fid, b"d", fid, b"e")
        client.unlinkat(fid, b"e", AT_REMOVEDIR)
    assert {b"made", b"new"} <= set(os.listdir(edits.share.path("build")))


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
@pytest.mark.parametrize("at_once", [False, True], ids=["steps", "at-once"])
def test_a_replaced_tree_is_the_new_one_at_any_depth(
    edits: Edits, depth: int, at_once: bool
) -> None:
    """By renaming a directory anywhere above a file; and back."""
    client = edits.client

    def grow(top: str, text: str) -> None:
        edits.mkdir(top)
        for level in range(depth):
            edits.mkdir(top + "/d" * (level + 1))
        edits.put(top + "/d" * depth + "/f", text)

    grow("tree", "one")
    grow("other", "two")
    path = "tree" + "/d" * depth + "/f"
    names = [name.encode() for name in path.split("/")]
    if at_once and len(names) <= 16:
        fid = client.walk_to(edits.share.top, *names)
    else:
        fid = edits.walk(path)
    middle = edits.walk("tree/d")
    for turn in range(4):
        edits.mv("tree", "away")
        edits.is_gone(fid)
        edits.mv("other", "tree")
        edits.mv("away", "other")
        expected = "two" if turn % 2 == 0 else "one"
        if turn % 3 != 1:
            assert edits.cat(fid) == expected
        assert edits.number(fid) == edits.ino(path)
        assert edits.number(middle) == edits.ino("tree/d")
        below = client.walk_to(middle, *names[2:][:16])
        if depth <= 15:
            assert edits.cat(below) == expected
        client.clunk(below)
    edits.mv("tree/d", "tree/e")
    edits.is_gone(fid)
    edits.is_gone(middle)
    edits.mkdir("tree/d")
    assert edits.number(middle) == edits.ino("tree/d")
    edits.is_gone(fid)


def test_a_directory_becomes_a_file(edits: Edits) -> None:
    edits.mkdir("d")
    edits.put("d/f", "one")
    above, fid = edits.walk("d"), edits.walk("d/f")
    edits.mv("d", "e")
    edits.put("d", "a file")
    edits.is_gone(fid)
    assert edits.cat(above) == "a file"
    with fails(errno.ENOTDIR):
        edits.client.walk_to(above, b"f")
    edits.rm("d")
    edits.mv("e", "d")
    assert edits.cat(fid) == "one"


def test_a_symlink_above_is_not_followed(edits: Edits, tmp_path: Path) -> None:
    """Neither out of the export nor within: the guest's own kernel resolves symlinks."""
    (tmp_path / "f").write_text("secret")
    edits.mkdir("d")
    edits.put("d/f", "one")
    fid = edits.walk("d/f")
    edits.mv("d", "e")
    for target in (str(tmp_path), "e"):
        os.symlink(target, edits.share.path("d"))
        edits.is_gone(fid)
        edits.rm("d")
    edits.mv("e", "d")
    assert edits.cat(fid) == "one"


def test_what_is_moved_out_of_the_export_is_gone(edits: Edits, tmp_path: Path) -> None:
    edits.mkdir("d")
    edits.put("d/f", "one")
    above, fid = edits.walk("d"), edits.walk("d/f")
    away = edits.share.export.parent / f"{edits.share.export.name}-away"
    os.rename(edits.share.path("d"), away)
    try:
        edits.is_gone(above)
        edits.is_gone(fid)
        with fails(*GONE):
            edits.client.walk_to(above, b"..", b"..")
    finally:
        os.rename(away, edits.share.path("d"))
    assert edits.cat(fid) == "one"


def test_a_fid_reached_through_dotdot_stands_for_where_it_is(edits: Edits) -> None:
    """A fid that was reached through `..` has the name of where it is."""
    client = edits.client
    edits.mkdir("d")
    edits.mkdir("d/e")
    edits.put("d/f", "one")
    fids = [
        client.walk_to(edits.share.top, b"d", b"e", b"..", b"f"),
        client.walk_to(edits.walk("d/e"), b"..", b"f"),
        client.walk_to(edits.walk("d/e"), b"..", b"..", b"d", b"f"),
        client.walk_to(client.walk_to(edits.share.top, b"d", b"e"), b"..", b"f"),
    ]
    edits.mv("d", "old")
    edits.mkdir("d")
    edits.put("d/f", "two")
    for fid in fids:
        assert edits.cat(fid) == "two"


def test_the_root_of_a_mount_by_aname_stands_for_its_name(daemon: Daemon) -> None:
    """A mount's root that was named by aname is by name too."""
    export: Path = daemon.export  # type: ignore[attr-defined]
    (export / "m" / "n").mkdir(parents=True)
    with mounted(daemon, export) as share:
        client = share.client
        client.attach(50, aname=b"m/n")
        (export / "m" / "n" / "f").write_bytes(b"one")
        fid = client.walk_to(50, b"f")
        os.rename(export / "m", export / "old")
        with fails(*GONE):
            client.getattr(50)
        (export / "m" / "n").mkdir(parents=True)
        (export / "m" / "n" / "f").write_bytes(b"two!")
        assert client.getattr(fid).size == 4
        assert client.getattr(50).qid.path == (export / "m" / "n").stat().st_ino
    shutil.rmtree(export / "m")
    shutil.rmtree(export / "old")


def test_names_in_joined_exports_stand_for_the_new_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name in ("one", "two"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d" / "f").write_text(f"old {name}")
    args = [f"--export=name={name},path={tmp_path / name}" for name in ("one", "two")]
    with Daemon(*args, *SECURITY) as daemon, mounted(daemon, tmp_path) as share:
        client = share.client
        fids = {
            name: [
                client.walk_to(share.root, name, b"d", b"f"),
                client.walk_to(client.walk_to(client.walk_to(share.root, name), b"d"), b"f"),
                client.walk_to(share.root, b"one", b"..", name, b"d", b"f"),
            ]
            for name in (b"one", b"two")
        }
        for name in ("one", "two"):
            os.rename(tmp_path / name / "d", tmp_path / name / "old")
            (tmp_path / name / "d").mkdir()
            (tmp_path / name / "d" / "f").write_text(f"new {name}")
        for each, several in fids.items():
            for fid in several:
                clone = client.walk_to(fid)
                client.lopen(clone, os.O_RDONLY)
                assert client.read(clone, 0, 100) == b"new " + each


@needs_root
@pytest.mark.parametrize("multidevs", ["remap", "warn"])
def test_a_file_system_that_the_host_mounts_and_unmounts_is_followed(
    export: Path, multidevs: str
) -> None:
    """A file system that the host mounts, and unmounts again, while the guest is there."""
    with mount_point(export, multidevs) as share:
        client, daemon = share.client, share.daemon
        above = client.walk_to(share.root, b"m")
        fid = client.walk_to(above, b"f")
        for turn in range(3):
            with covered(daemon, export / "m") as directory:
                with fails(*GONE):
                    client.getattr(fid)
                (directory / "f").write_bytes(b"x" * (turn + 2))
                assert client.getattr(fid).size == turn + 2
                client.clunk(client.walk_to(above, b"f"))
            assert client.getattr(fid).size == 1
            assert (
                client.getattr(above).qid.path
                == client.getattr(client.walk_to(share.root, b"m")).qid.path
            )
