"""Listings under multidevs=remap where mounts come and go: every qid that Treaddir tells is the one
that a walk tells.

The daemon runs in a mount namespace of its own; a shell in the same namespace mounts. What it has
mounted before a Treaddir is sent has to be in that Treaddir's answer.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.frontend.daemon import Daemon
from tests.frontend.wire import DirEntry
from tests.system.share import (
    SECURITY,
    UNSHARE,
    Share,
    as_user,
    entering,
    mounted,
    skip_without_namespaces,
)

NUMBERS = itertools.count()
# What is below a shared mount cannot be moved (mount(8)).
MOVE = ["sh", "-c", 'mount --bind "$1" "$2" && umount "$1"', "sh"]
ODD = ["a b", "tab\there", "line\nbreak", "back\\slash", "\\040", "dots...", "ü", "-x", "#"]


class Inside:
    """A shell in the daemon's mount namespace, in the test's directory."""

    def __init__(self, share: Share) -> None:
        enter = [*entering(share.daemon), "sh"]
        self._shell = subprocess.Popen(
            enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.run("cd", str(share.host))

    def __enter__(self) -> Inside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shell.communicate()

    def tries(self, *words: str) -> bool:
        """Runs a command to its end; whether it succeeded."""
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write(f"{shlex.join(words)} > /dev/null; echo $?\n".encode())
        self._shell.stdin.flush()
        return int(self._shell.stdout.readline()) == 0

    def run(self, *words: str) -> None:
        """Runs a command that must succeed."""
        assert self.tries(*words), shlex.join(words)

    def mount(self, point: str, fs_type: str = "tmpfs") -> None:
        """Mounts a new file system."""
        self.run("mount", "-t", fs_type, fs_type, f"./{point}")

    def bind(self, source: str, point: str) -> None:
        """Shows a directory or a file in another place."""
        self.run("mount", "--bind", f"./{source}", f"./{point}")

    def umount(self, point: str) -> None:
        """Takes the topmost mount of this place away."""
        self.run("umount", f"./{point}")


@contextmanager
def serving(*args: str) -> Iterator[tuple[Share, Inside]]:
    """A guest of an export of its own, and a shell that mounts in it."""
    skip_without_namespaces()
    export = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="v9-mounts-"))
    daemon = Daemon(
        "--path", str(export), *SECURITY, "--multidevs", "remap", *args, wrapper=UNSHARE
    )
    try:
        with daemon, mounted(daemon, export) as share, Inside(share) as inside:
            yield share, inside
    finally:
        shutil.rmtree(export)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Share, Inside]]:
    with serving() as both:
        yield both


@pytest.fixture
def place(served: tuple[Share, Inside]) -> Iterator[Place]:
    with new_place(*served) as made:
        yield made


@contextmanager
def new_place(share: Share, inside: Inside) -> Iterator[Place]:
    """An empty directory, on a mount of its own: with that one all others in it go."""
    name = f"place{next(NUMBERS)}"
    inside.run("mkdir", name)
    inside.run("mount", "--bind", name, name)
    inside.run("cd", name)
    top = share.client.walk_to(share.top, name.encode())
    yield Place(replace(share, top=top, host=share.host / name), inside)
    share.client.clunk(top)
    inside.run("cd", "..")
    inside.run("umount", "--lazy", name)
    shutil.rmtree(share.host / name)


class Place:
    """A part of the export for one test."""

    def __init__(self, share: Share, inside: Inside) -> None:
        self.share = share
        self.inside = inside

    def make(self, *names: str) -> None:
        """Directories for names that end in a slash, files for others; as the shell sees it."""
        for name in names:
            parent = name.rstrip("/").rpartition("/")[0]
            self.inside.run("mkdir", "-p", f"./{parent}")
            self.inside.run("mkdir" if name.endswith("/") else "touch", f"./{name}")

    def listing(self, *names: bytes) -> dict[bytes, DirEntry]:
        return self.share.client.listing(self.share.top, *names)

    def walked(self, *names: bytes) -> int:
        """The qid.path of a file, by a walk."""
        client = self.share.client
        fid = client.walk_to(self.share.top, *names)
        path = client.getattr(fid).qid.path
        client.clunk(fid)
        return path

    def check(self, *names: bytes, depth: int = 5) -> int:
        """Compares what listings and walks tell, all the way down; how many entries there are."""
        client = self.share.client
        count = 0
        for name, entry in self.listing(*names).items():
            fid = client.walk_to(self.share.top, *names, name)
            attr = client.getattr(fid)
            client.clunk(fid)
            assert (entry.qid.path, entry.qid.type) == (attr.qid.path, attr.qid.type), (names, name)
            assert entry.type == attr.mode >> 12, (names, name)
            count += 1
            if entry.type == 4 and depth:
                count += self.check(*names, name, depth=depth - 1)
        return count


def test_mounted_directories_and_files_are_listed_as_themselves(place: Place) -> None:
    inside = place.inside
    place.make("plain/", "file", "dir/", "dir/sub/", "dir/x", "on-dir/", "on-file", "tmp/")
    os.mkfifo(place.share.path("fifo"))
    os.symlink("nowhere", place.share.path("link"))
    before = place.check()
    inside.mount("tmp")
    place.make("tmp/a", "tmp/b/", "tmp/b/c")
    inside.bind("dir", "on-dir")
    inside.bind("tmp/a", "on-file")
    assert place.check() == before + 3 + 2  # of tmp; of dir once more
    assert place.listing()[b"on-file"].qid.path == place.walked(b"tmp", b"a")
    assert place.listing()[b"on-dir"].qid.path == place.walked(b"dir")


@pytest.mark.parametrize("name", ODD)
def test_mounts_with_odd_names_are_listed(place: Place, name: str) -> None:
    place.make(f"{name}/", f"{name}2/", f"deep/{name}/", f"deep/{name}.")
    place.inside.mount(name)
    place.inside.bind(f"deep/{name}.", f"deep/{name}.")
    place.check()
    covered = os.stat(place.share.path(name)).st_ino
    place.inside.umount(name)
    place.check()
    assert os.stat(place.share.path(name)).st_ino == covered


def test_a_name_that_is_a_mount_point_elsewhere(place: Place) -> None:
    """One name in several directories, of one mount and of several."""
    inside = place.inside
    place.make("x/", "a/x/", "b/x", "m/")
    inside.mount("m")
    place.make("m/x/", "m/a/x/")
    for point in ("a/x", "m/x"):
        inside.mount(point)
        place.make(f"{point}/x/")
        place.check()
    inside.mount("m/x/x")
    place.check()


def test_the_topmost_mount_is_listed(place: Place) -> None:
    inside = place.inside
    place.make("x/")
    seen = {place.walked(b"x")}
    for level in range(3):
        inside.mount("x")
        place.make(f"x/level{level}", "x/x/")
        place.check()
        seen.add(place.listing()[b"x"].qid.path)
    assert len(seen) == 4
    for _ in range(3):
        inside.umount("x")
        place.check()
        seen.remove(place.listing()[b"x"].qid.path)
    assert len(seen) == 1


def test_what_is_renamed_above_a_mount(place: Place) -> None:
    """The mount table's path of a mount is another one then, without a change of mounts."""
    place.make("old/dir/point/", "old/dir/other/")
    place.inside.mount("old/dir/point")
    place.check()
    os.rename(place.share.path("old"), place.share.path("new"))
    place.check()
    place.inside.run(*MOVE, "./new/dir/point", "./new/dir/other")
    place.check()


def test_a_mount_that_is_no_longer_in_the_table(place: Place) -> None:
    """A guest still lists what was unmounted lazily, and what is mounted there is gone."""
    client = place.share.client
    place.make("m/")
    place.inside.mount("m")
    place.make("m/x/", "m/y")
    fid = client.open(place.share.top, (b"m",), os.O_RDONLY | os.O_DIRECTORY)
    place.inside.mount("m/x")
    place.inside.run("umount", "--lazy", "./m")
    found = {entry.name: entry.qid.path for entry in client.entries(fid)}
    for name in (b"x", b"y"):
        assert found[name] == client.walk(fid, client.new_fid(), name)[0].path
    client.clunk(fid)


@pytest.mark.parametrize("fs_type", ["ramfs", "overlay", "ext4"])
def test_mounts_of_other_file_systems_are_listed(place: Place, fs_type: str) -> None:
    inside = place.inside
    place.make("m/", "layers/", "disk")
    command = ["mount", "-t", fs_type]
    if fs_type == "overlay":  # of two file systems, whose files keep their own devices
        for layer in ("lower", "upper"):
            place.make(f"layers/{layer}/")
            inside.mount(f"layers/{layer}")
        place.make("layers/lower/tree/dir/file", "layers/upper/tree/", "layers/upper/work/")
        layers = [f"{name}dir=layers/{name}/tree" for name in ("lower", "upper")]
        command += ["-o", ",".join([*layers, "workdir=layers/upper/work", "xino=off"])]
    if fs_type == "ext4":
        os.truncate(place.share.path("disk"), 8 << 20)
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("there is no mkfs.ext4")
        inside.run("mkfs.ext4", "-q", "./disk")
        command += ["-o", "loop"]
    if not inside.tries(*command, "./disk" if fs_type == "ext4" else fs_type, "./m"):
        pytest.skip(f"{fs_type} cannot be mounted here")
    place.make("m/dir/x/", "m/dir/y", "m/file", "m/x/")
    place.check()
    inside.mount("m/x")
    inside.bind("m/file", "m/dir/y")
    assert place.check() >= 7


def parts(place: Place, count: int) -> Iterator[list[DirEntry]]:
    """A listing of the export, Treaddir by Treaddir."""
    client = place.share.client
    fid = client.open(place.share.top, (), os.O_RDONLY | os.O_DIRECTORY)
    offset = 0
    while part := client.readdir(fid, offset, count):
        yield [entry for entry in part if entry.name not in (b".", b"..")]
        offset = part[-1].offset
    client.clunk(fid)


def test_mounts_that_come_and_go_amid_a_listing(place: Place) -> None:
    """Each Treaddir tells of the mounts that there are when it is sent."""
    names = [f"d{i:03}" for i in range(120)]
    place.make(*(f"{name}/" for name in names))
    mounted_now: list[str] = []
    reported = []
    for i, part in enumerate(parts(place, 400)):
        for entry in part:
            assert entry.qid.path == place.walked(entry.name), entry.name
            reported.append(entry.name.decode())
        left = [name for name in names if name not in reported]
        if left and i % 3 < 2:
            for name in (left[0], left[-1]):
                place.inside.mount(name)
                mounted_now.append(name)
        elif mounted_now:
            place.inside.umount(mounted_now.pop())
    assert sorted(reported) == names
    place.check()


def test_a_listing_right_after_each_change(place: Place) -> None:
    place.make("d/", "other/")
    for _ in range(40):
        covered = place.listing()[b"d"].qid.path
        place.inside.mount("d")
        assert covered != place.listing()[b"d"].qid.path == place.walked(b"d")
        place.inside.umount("d")
        assert place.listing()[b"d"].qid.path == covered


def test_mounts_that_never_rest(place: Place) -> None:
    """Whatever comes between, an entry is the covered directory or the mounted one, and a listing
    ends."""
    names = [b"d%03d" % i for i in range(200)]
    for name in names:
        os.mkdir(place.share.path(name))
    covered = {name: entry.qid.path for name, entry in place.listing().items()}
    done = threading.Event()

    def churn() -> None:
        script = (
            "i=0; while [ $i -lt 150 ]; do mount -t tmpfs t d100; umount d100; i=$((i+1)); done"
        )
        place.inside.run("sh", "-c", script)
        done.set()

    thread = threading.Thread(target=churn)
    thread.start()
    listings = 0
    while not done.is_set():
        found = place.listing()
        assert found.keys() == covered.keys()
        del found[b"d100"]
        assert all(entry.qid.path == covered[name] for name, entry in found.items())
        listings += 1
    thread.join()
    assert listings
    assert place.check() == len(names)


def test_a_directory_that_may_be_read_but_not_searched(tmp_path: Path) -> None:
    """As on the host: the names are there, though no attributes can be had."""
    with as_user("--security-model", "none", "--multidevs", "remap") as share:
        os.mkdir(share.path("d"))
        for name in ("d/file", "d/dir/"):
            share.put(name) if name[-1] != "/" else os.mkdir(share.path(name))
        client = share.client
        before = {name: entry.qid.path for name, entry in client.listing(share.top, b"d").items()}
        os.chmod(share.path("d"), 0o444)
        fid = client.open(share.top, (b"d",), os.O_RDONLY | os.O_DIRECTORY)
        after = {entry.name: entry.qid.path for entry in client.entries(fid)}
        os.chmod(share.path("d"), 0o755)
        assert before.items() <= after.items()


PLACES = [f"{top}{name}" for top in ("", "a/", "a/b/", "c/") for name in ("a", "b", "c", "x y")]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["mkdir", "touch", "tmpfs", "bind", "move", "umount", "list"]),
        st.sampled_from(PLACES),
        st.sampled_from(PLACES),
    ),
    max_size=25,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=CHANGES)
def test_whatever_is_mounted_where(
    served: tuple[Share, Inside], changes: list[tuple[str, str, str]]
) -> None:
    """Any tree, with any mounts in it; what the host refuses is left out."""
    commands = {
        "mkdir": ["mkdir"],
        "touch": ["touch"],
        "tmpfs": ["mount", "-t", "tmpfs", "tmpfs"],
        "bind": ["mount", "--bind"],
        "move": MOVE,
        "umount": ["umount", "--lazy"],
    }
    with new_place(*served) as place:
        place.inside.run("mkdir", "-p", *PLACES)
        for change, one, other in changes:
            if change == "list":
                place.check()
                continue
            two = [f"./{other}"] if change in ("bind", "move") else []
            place.inside.tries(*commands[change], *two, f"./{one}")
        place.check()
