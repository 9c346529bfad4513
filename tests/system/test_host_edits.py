"""What a fid stands for when the host changes names: until it is opened, for whatever has the name
by which the guest reached it. Linux's client keeps the fid of a directory entry that is in use, and
clones it, walks on from it and asks for its attributes without a look at the name.

Both dialects, all security models, files whose descriptors were given up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, SET_MODE, SET_SIZE, UNLCK, WRLCK, Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.unix import ORDWR, UnixClient
from tests.frontend.wire import T
from tests.system.share import IS_ROOT, SECURITY, Share, fails, mounted, needs_root
from tests.system.test_parking import LIMIT, Place, age, park, serving, user_can_run

MODELS = (SECURITY[1], "mapped-xattr", "mapped-file")
GONE = (errno.ENOENT, errno.ENOTDIR)


@dataclass
class Edits:
    """A guest, and the host's changes; `wait` is called before each use of a fid."""

    share: Share

    @property
    def client(self) -> Client:
        return self.share.client

    def put(self, name: str, text: str) -> None:
        """Writes a new file, as editors do."""
        new = self.share.put("new~", text.encode())
        if not IS_ROOT or os.stat(self.share.host).st_uid:
            status = os.stat(self.share.host)
            os.chown(new, status.st_uid, status.st_gid)
        os.rename(new, self.share.path(name))

    def mkdir(self, name: str) -> None:
        os.mkdir(self.share.path(name))
        status = os.stat(self.share.host)
        os.chown(self.share.path(name), status.st_uid, status.st_gid)

    def mv(self, old: str, new: str) -> None:
        os.rename(self.share.path(old), self.share.path(new))

    def rm(self, name: str) -> None:
        path = os.fsdecode(self.share.path(name))
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    def walk(self, name: str) -> int:
        """One step after the other, as the client of one user walks."""
        at = self.share.top
        for component in name.split("/"):
            at = self.client.walk_to(at, component.encode())
        return at

    def ino(self, name: str) -> int:
        return os.lstat(self.share.path(name)).st_ino

    def number(self, fid: int) -> int:
        """The inode number, by Tgetattr or Tstat; the qid's path where there is no remap."""
        if isinstance(self.client, UnixClient):
            return self.client.stat(fid).qid.path
        return self.client.getattr(fid).qid.path

    def open(self, fid: int, *, write: bool = False) -> int:
        """As open(2) of an entry that is in use: a clone, opened."""
        clone = self.client.walk_to(fid)
        if isinstance(self.client, UnixClient):
            self.client.open_fid(clone, ORDWR if write else 0)
        else:
            self.client.lopen(clone, os.O_RDWR if write else os.O_RDONLY)
        return clone

    def cat(self, fid: int) -> str:
        clone = self.open(fid)
        data = self.client.read(clone, 0, 1000)
        self.client.clunk(clone)
        return data.decode()

    def is_gone(self, fid: int) -> None:
        """Every request by name fails as one by path would."""
        client = self.client
        requests: list[Callable[[], object]] = [
            lambda: client.walk_to(fid),
            lambda: client.walk_to(fid, b"x"),
            lambda: self.number(fid),
        ]
        if not isinstance(client, UnixClient):
            requests += [
                lambda: client.lopen(fid, os.O_RDONLY),
                lambda: client.setattr(fid, SET_MODE, mode=0o600),
                lambda: client.statfs(fid),
                lambda: client.getxattr(fid),
                lambda: client.readlink(fid),
                lambda: client.mkdir(fid, b"x"),
                lambda: client.unlinkat(fid, b"x"),
                lambda: client.lcreate(fid, b"x"),
                lambda: client.renameat(fid, b"x", fid, b"y"),
                lambda: client.link(self.share.top, fid, b"y"),
                lambda: client.xattrcreate(fid, b"user.x", 1),
            ]
        for request in requests:
            with fails(*GONE):
                request()


@pytest.fixture(scope="module", params=MODELS)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    with Daemon(
        "--path", str(folder), "--security-model", request.param, "--multidevs", "warn"
    ) as daemon:
        daemon.export = folder  # type: ignore[attr-defined]
        yield daemon
    shutil.rmtree(folder)


@pytest.fixture(params=["L", "u"])
def edits(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Edits]:
    export: Path = daemon.export  # type: ignore[attr-defined]
    folder = export / "t"
    folder.mkdir()
    speaks = UnixClient if request.param == "u" else Client
    try:
        with mounted(daemon, export, "t", speaks=speaks) as share:
            yield Edits(share)
    finally:
        shutil.rmtree(folder)
    daemon.check_output()


# ---- files ------------------------------------------------------------------------------------


def test_replaced_file(edits: Edits) -> None:
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


def test_opened_itself(edits: Edits) -> None:
    """A fid that was walked to and is opened itself, as from create."""
    edits.put("f", "one")
    fid = edits.walk("f")
    edits.put("f", "two")
    if isinstance(edits.client, UnixClient):
        edits.client.open_fid(fid)
    else:
        edits.client.lopen(fid, os.O_RDONLY)
    edits.put("f", "three")
    assert edits.client.read(fid, 0, 100) == b"two"
    assert edits.number(fid) != edits.ino("f")


def test_removed_and_made_anew(edits: Edits) -> None:
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


def test_another_kind(edits: Edits) -> None:
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
    if isinstance(client, UnixClient):
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


def test_symlink(edits: Edits) -> None:
    """A release's `current` that is pointed elsewhere."""
    client = edits.client
    os.symlink("one", edits.share.path("current"))
    fid = edits.walk("current")
    os.symlink("two", edits.share.path("next"))
    edits.mv("next", "current")
    if isinstance(client, UnixClient):
        assert client.stat(fid).extension == b"two"
    else:
        assert client.readlink(fid) == b"two"


def test_hard_links(edits: Edits) -> None:
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


def test_names_that_change_places(edits: Edits) -> None:
    edits.put("a", "one")
    edits.put("b", "two")
    a, b = edits.walk("a"), edits.walk("b")
    for turn in range(5):
        edits.mv("a", "c")
        edits.mv("b", "a")
        edits.mv("c", "b")
        expected = ("two", "one") if turn % 2 == 0 else ("one", "two")
        assert (edits.cat(a), edits.cat(b)) == expected


# ---- directories -------------------------------------------------------------------------------


def test_directory_made_anew(edits: Edits) -> None:
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
    if isinstance(client, UnixClient):
        client.clunk(client.make(fid, b"made"))
    else:
        client.clunk(client.create(fid, b"made"))
        client.mkdir(fid, b"d")
        client.renameat(fid, b"d", fid, b"e")
        client.unlinkat(fid, b"e", AT_REMOVEDIR)
    assert {b"made", b"new"} <= set(os.listdir(edits.share.path("build")))


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
@pytest.mark.parametrize("at_once", [False, True], ids=["steps", "at-once"])
def test_a_tree_is_replaced(edits: Edits, depth: int, at_once: bool) -> None:
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


def test_moved_out_of_the_export(edits: Edits, tmp_path: Path) -> None:
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


def test_up_again(edits: Edits) -> None:
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


# ---- what the guest does itself ----------------------------------------------------------------


def guest_renames(edits: Edits, directory: int, old: bytes, new: bytes) -> None:
    client = edits.client
    if isinstance(client, UnixClient):
        fid = client.walk_to(directory, old)
        client.wstat(fid, name=new)
        client.clunk(fid)
    else:
        client.renameat(directory, old, directory, new)


def guest_removes(edits: Edits, directory: int, name: bytes) -> None:
    client = edits.client
    if isinstance(client, UnixClient):
        client.remove(client.walk_to(directory, name))
    else:
        path = client.walk_to(directory, name)
        is_directory = stat.S_ISDIR(client.getattr(path).mode)
        client.clunk(path)
        client.unlinkat(directory, name, AT_REMOVEDIR if is_directory else 0)


def test_guest_unlinks(edits: Edits) -> None:
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


def test_guest_renames_over(edits: Edits) -> None:
    edits.put("f", "one")
    edits.put("g", "two")
    f, g = edits.walk("f"), edits.walk("g")
    guest_renames(edits, edits.share.top, b"g", b"f")
    assert (edits.cat(f), edits.cat(g)) == ("one", "two")
    edits.put("f", "three")  # which is g's name now
    assert (edits.cat(f), edits.cat(g)) == ("one", "three")
    edits.put("g", "four")
    assert edits.cat(g) == "three"


def test_guest_renames_above(edits: Edits) -> None:
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


def test_guest_moves_between_directories(edits: Edits) -> None:
    if isinstance(edits.client, UnixClient):
        pytest.skip("9P2000.u has no such request")
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


def test_guest_renames_between_links_of_one_file(edits: Edits) -> None:
    """rename(2) leaves both names then."""
    edits.put("a", "one")
    os.link(edits.share.path("a"), edits.share.path("b"))
    a, b = edits.walk("a"), edits.walk("b")
    guest_renames(edits, edits.share.top, b"a", b"b")
    edits.put("a", "two")
    edits.put("b", "three")
    assert (edits.cat(a), edits.cat(b)) == ("two", "three")


def test_guest_removes_a_directory(edits: Edits) -> None:
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


def test_requests_by_fid_hit_no_other_file(edits: Edits) -> None:
    """Tremove, Trename and a rename by Twstat concern the file of the fid alone."""
    client = edits.client
    edits.put("f", "one")
    fids = [edits.walk("f") for _ in range(2)]
    edits.put("f", "two")
    with fails(errno.ENOENT, errno.ESTALE):
        if isinstance(client, UnixClient):
            client.wstat(fids[0], name=b"g")
        else:
            client.rename(fids[0], edits.share.top, b"g")
    with fails(errno.ENOENT, errno.ESTALE):
        client.remove(fids[1])
    assert edits.share.get("f") == b"two"
    assert edits.cat(fids[0]) == "two"  # by name it is that file


def rename_by_fid(edits: Edits, fid: int, name: bytes) -> None:
    """In its directory, which is the top."""
    if isinstance(edits.client, UnixClient):
        edits.client.wstat(fid, name=name)
    else:
        edits.client.rename(fid, edits.share.top, name)


def test_requests_by_fid_hit_the_name_of_the_fid(edits: Edits) -> None:
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


def test_requests_by_fid_leave_what_the_host_moved(edits: Edits) -> None:
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


# ---- what changes the file by its name ----------------------------------------------------------


def test_changes_hit_what_has_the_name(edits: Edits) -> None:
    client = edits.client
    edits.put("f", "one")
    fid = edits.walk("f")
    kept = edits.share.path("kept")
    os.link(edits.share.path("f"), kept)
    for turn in range(3):
        edits.put("f", "12345678")
        if isinstance(client, UnixClient):
            client.wstat(fid, length=turn, mode=0o640)
            mode = client.stat(fid).mode
        else:
            client.setattr(fid, SET_SIZE | SET_MODE, size=turn, mode=0o640)
            mode = client.getattr(fid).mode
        assert (os.stat(edits.share.path("f")).st_size, mode & 0o777) == (turn, 0o640)
    assert os.stat(kept).st_size == 3


def test_links_attributes_and_renames_by_name(edits: Edits) -> None:
    client = edits.client
    if isinstance(client, UnixClient):
        pytest.skip("9P2000.u has no such requests")
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


# ---- what is open ------------------------------------------------------------------------------


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


def test_an_open_directory_stays(edits: Edits) -> None:
    client = edits.client
    edits.mkdir("d")
    edits.put("d/f", "one")
    opened = edits.open(edits.walk("d"))
    edits.mv("d", "e")
    edits.mkdir("d")
    assert edits.number(opened) == edits.ino("e")
    assert edits.cat(client.walk_to(opened, b"f")) == "one"


def test_created_files(edits: Edits) -> None:
    """What the guest has just created stands for the file, then its name does for what has it."""
    client = edits.client
    made = (
        client.make(edits.share.top, b"f", mode=ORDWR)
        if isinstance(client, UnixClient)
        else client.create(edits.share.top, b"f")
    )
    client.write(made, 0, b"one")
    named = client.walk_to(made)
    edits.put("f", "two")
    assert client.read(made, 0, 100) == b"one"
    assert edits.cat(named) == "two"


def test_locked_file(edits: Edits) -> None:
    if isinstance(edits.client, UnixClient):
        pytest.skip("9P2000.u has no locks")
    client = edits.client
    edits.put("f", "one")
    opened = edits.open(edits.walk("f"), write=True)
    assert client.lock(opened, WRLCK, proc_id=7) == 0
    edits.put("f", "two")
    assert client.read(opened, 0, 100) == b"one"
    assert client.lock(opened, UNLCK, proc_id=7) == 0
    other = edits.open(edits.walk("f"), write=True)
    assert client.lock(other, WRLCK, proc_id=8) == 0


def test_log_rotation(edits: Edits) -> None:
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


# ---- exports, mounts, descriptors --------------------------------------------------------------


def test_attached_below(daemon: Daemon) -> None:
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


def test_joined_exports(tmp_path: Path) -> None:
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
def test_mounted_over(export: Path, multidevs: str) -> None:
    """A file system that the host mounts, and unmounts again, while the guest is there."""
    (export / "m").mkdir(exist_ok=True)
    (export / "m" / "f").write_bytes(b"1")
    with (
        Daemon("--path", str(export), *SECURITY, "--multidevs", multidevs) as daemon,
        mounted(daemon, export) as share,
    ):
        client = share.client
        above = client.walk_to(share.root, b"m")
        fid = client.walk_to(above, b"f")
        for turn in range(3):
            subprocess.run(["mount", "-t", "tmpfs", "none", str(export / "m")], check=True)
            try:
                with fails(*GONE):
                    client.getattr(fid)
                (export / "m" / "f").write_bytes(b"x" * (turn + 2))
                assert client.getattr(fid).size == turn + 2
                client.clunk(client.walk_to(above, b"f"))
            finally:
                subprocess.run(["umount", "--lazy", str(export / "m")], check=True)
            assert client.getattr(fid).size == 1
            assert (
                client.getattr(above).qid.path
                == client.getattr(client.walk_to(share.root, b"m")).qid.path
            )


@needs_root
@pytest.mark.parametrize("multidevs", ["remap", "forbid"])
def test_requests_by_fid_reach_nothing_below_a_mount(export: Path, multidevs: str) -> None:
    (export / "m").mkdir(exist_ok=True)
    (export / "m" / "f").write_bytes(b"1")
    with (
        Daemon("--path", str(export), *SECURITY, "--multidevs", multidevs) as daemon,
        mounted(daemon, export) as share,
    ):
        client = share.client
        above = client.walk_to(share.root, b"m")
        one, two = (client.walk_to(above, b"f") for _ in range(2))
        subprocess.run(["mount", "-t", "tmpfs", "none", str(export / "m")], check=True)
        try:
            with fails(*GONE, errno.ENODEV):
                client.rename(two, share.root, b"g")
            with fails(*GONE, errno.ENODEV):
                client.remove(one)
        finally:
            subprocess.run(["umount", "--lazy", str(export / "m")], check=True)
        assert (export / "m" / "f").read_bytes() == b"1"


@pytest.mark.parametrize("privileged", [pytest.param(True, marks=needs_root), False])
@pytest.mark.parametrize("speaks", [Client, UnixClient])
def test_parked(privileged: bool, speaks: type[Client]) -> None:
    """Files, and directories above, whose descriptors were given up."""
    place = Place("/dev/shm", privileged)
    if IS_ROOT and not privileged and not user_can_run():
        pytest.skip("an ordinary user may not read this installation of Python")
    with serving(place, LIMIT, speaks=speaks) as share:
        edits = Edits(share)
        for name in ("tree", "tree/e", "other", "other/e"):
            edits.mkdir(name)
        edits.put("tree/e/f", "one")
        edits.put("other/e/f", "two")
        edits.put("gone", "gone")
        edits.put("plain", "old")
        edits.put("unlinked", "unlinked")
        age()
        fid, gone, plain = edits.walk("tree/e/f"), edits.walk("gone"), edits.walk("plain")
        unlinked = edits.walk("unlinked")
        park(share, "tree", "gone", "plain", "unlinked")
        edits.mv("tree", "away")
        edits.mv("other", "tree")
        edits.rm("gone")
        edits.put("plain", "new")
        guest_removes(edits, share.top, b"unlinked")
        edits.put("unlinked", "impostor")
        assert edits.cat(fid) == "two"
        assert edits.cat(plain) == "new"
        edits.is_gone(gone)
        age()
        park(share, "tree", "plain")
        edits.mv("tree", "other")
        edits.mv("away", "tree")
        assert edits.cat(unlinked) == "unlinked"
        assert edits.cat(fid) == "one"
        edits.put("gone", "back")
        assert edits.cat(gone) == "back"


def test_quotas_count_what_has_the_name(export: Path) -> None:
    """What a fid comes to stand for is held by its quota, and what it stood for is let go."""
    with (
        Daemon("--path", str(export), *SECURITY, "--quota-bytes", "10MiB") as daemon,
        mounted(daemon, export) as share,
    ):
        edits = Edits(share)
        edits.put("f", "one")
        fid = edits.walk("f")
        for turn in range(10):
            edits.put("f", str(turn))
            assert edits.cat(fid) == str(turn)
            opened = edits.open(fid, write=True)
            share.client.write(opened, 0, b"x" * 100000)
            share.client.clunk(opened)
        with fails(errno.ENOSPC):
            opened = edits.open(fid, write=True)
            for at in range(0, 11 << 20, 1 << 17):
                share.client.write(opened, at, b"x" * (1 << 17))


# ---- many at once -------------------------------------------------------------------------------


def test_many_requests_while_the_host_changes_names(export: Path) -> None:
    """Batches of requests on one fid: each is answered by one of the files that had the name."""
    with (
        Daemon("--path", str(export), *SECURITY, "--threads", "4") as daemon,
        mounted(daemon, export) as share,
    ):
        edits, client = Edits(share), share.client
        edits.mkdir("d")
        edits.put("d/f", "0")
        fid = edits.walk("d/f")
        for turn in range(200):
            before = edits.ino("d/f")
            tickets = [client.submit(T.GETATTR, fid, 0x3FFF, kick=False) for _ in range(20)]
            client.ring.kick()
            if turn % 2:
                edits.put("d/f", str(turn))
            else:
                edits.mv("d", "old")
                edits.mkdir("next")
                edits.put("next/f", str(turn))
                edits.mv("next", "d")
                shutil.rmtree(os.fsdecode(share.path("old")))
            after = edits.ino("d/f")
            for ticket in tickets:
                with contextlib.suppress(P9Errno):  # between two names
                    assert client.wait(ticket).fields[1].path in (before, after)
            assert edits.number(fid) == after


def test_guest_renames_while_it_looks(export: Path) -> None:
    """A name that the guest itself is moving is never found missing."""
    with (
        Daemon("--path", str(export), *SECURITY, "--threads", "4") as daemon,
        mounted(daemon, export) as share,
    ):
        edits, client = Edits(share), share.client
        edits.mkdir("a")
        edits.put("a/f", "text")
        fid = edits.walk("a/f")
        number = edits.number(fid)
        for turn in range(200):
            old, new = (b"a", b"b") if turn % 2 == 0 else (b"b", b"a")
            looks = [client.submit(T.GETATTR, fid, 0x3FFF, kick=False) for _ in range(10)]
            rename = client.submit(T.RENAMEAT, share.top, old, share.top, new, kick=False)
            looks += [client.submit(T.GETATTR, fid, 0x3FFF, kick=False) for _ in range(30)]
            client.ring.kick()
            for look in looks:
                assert client.wait(look).fields[1].path == number
            client.wait(rename)
