"""Cached inodes: files that were walked to before are found without being opened, never the wrong
ones, and never in the way of whoever deletes or unmounts on the host."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from tests.frontend.client import AT_REMOVEDIR, P9Errno
from tests.frontend.daemon import Daemon
from tests.system.share import (
    SECURITY,
    UNSHARE,
    Share,
    entering,
    fails,
    mounted,
    needs_root,
    seen_by_main,
)

PATIENCE = 10.0
"""Seconds; what the host deleted is free after about one."""


def stat_of(share: Share, *names: bytes) -> tuple[int, int, int]:
    """Walks, reads attributes, clunks: inode number by the qid, size and mode."""
    fid = share.client.walk_to(share.root, *names)
    attr = share.client.getattr(fid)
    share.client.clunk(fid)
    return attr.qid.path, attr.size, attr.mode


def serve(export: Path, *more: str) -> Daemon:
    return Daemon("--path", str(export), *SECURITY, *more)


def open_paths(daemon: Daemon, below: Path) -> list[str]:
    """What below a directory, with its name now, the daemon has open."""
    return [path for path in daemon.fds().values() if path.startswith(f"{below}/")]


def wait_until_closed(share: Share, name: str = "") -> None:
    deadline = time.monotonic() + PATIENCE
    while left := [path for path in open_paths(share.daemon, share.export) if name in path]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_repeated_walk_opens_nothing_new(export: Path) -> None:
    (export / "d").mkdir()
    (export / "d" / "f").write_bytes(b"1")
    with serve(export) as daemon, mounted(daemon, export) as share:
        stat_of(share, b"d", b"f")
        before = sorted(open_paths(daemon, export))
        assert before == [f"{export}/d", f"{export}/d/f"]
        for _ in range(20):
            stat_of(share, b"d", b"f")
        assert len(open_paths(daemon, export)) <= 2
        wait_until_closed(share)
        stat_of(share, b"d", b"f")


def test_a_replaced_file_is_found_at_once(export: Path) -> None:
    """Replaced, and deleted and made anew, on the host, in quick succession."""
    with serve(export) as daemon, mounted(daemon, export) as share:
        for turn in range(300):
            if turn % 3 == 0:
                (export / "new").write_bytes(b"x" * turn)
                os.rename(export / "new", export / "f")
            else:
                (export / "f").unlink(missing_ok=True)
                with fails(errno.ENOENT):
                    share.client.walk_to(share.root, b"f")
                (export / "f").write_bytes(b"x" * turn)
            for _ in range(2):
                path, size, _ = stat_of(share, b"f")
                assert (path, size) == ((export / "f").stat().st_ino, turn)


def test_a_name_of_another_kind_is_found_at_once(export: Path) -> None:
    with serve(export) as daemon, mounted(daemon, export) as share:
        for turn in range(100):
            path = export / "f"
            if turn % 3 == 0:
                path.symlink_to("nowhere")
            elif turn % 3 == 1:
                path.mkdir()
            else:
                path.touch()
            for _ in range(2):
                assert stat_of(share, b"f")[2] == path.lstat().st_mode
            path.rmdir() if turn % 3 == 1 else path.unlink()


def test_a_replaced_directory_in_the_middle_is_found_at_once(export: Path) -> None:
    for name in ("one", "two"):
        (export / name).mkdir()
        (export / name / "f").write_bytes(b"x" * len(name) * (1 + (name == "two")))
    with serve(export) as daemon, mounted(daemon, export) as share:
        for turn in range(50):
            os.rename(export / ("one", "two")[turn % 2], export / "d")
            for _ in range(2):
                assert stat_of(share, b"d", b"f")[1] == (3, 6)[turn % 2]
            os.rename(export / "d", export / ("one", "two")[turn % 2])


def test_attributes_are_those_of_now(export: Path) -> None:
    path = export / "f"
    path.touch()
    with serve(export) as daemon, mounted(daemon, export) as share:
        for turn in range(200):
            os.chmod(path, 0o600 | turn % 0o100)
            os.truncate(path, turn)
            assert stat_of(share, b"f")[1:] == (turn, 0o100600 | turn % 0o100)


def test_what_the_host_renames_or_removes_is_not_found(export: Path) -> None:
    (export / "d").mkdir()
    (export / "d" / "f").touch()
    with serve(export) as daemon, mounted(daemon, export) as share:
        for _ in range(3):
            stat_of(share, b"d", b"f")
        os.rename(export / "d" / "f", export / "d" / "g")
        with fails(errno.ENOENT):
            share.client.walk_to(share.root, b"d", b"f")
        (export / "d" / "g").unlink()
        os.rmdir(export / "d")
        with fails(errno.ENOENT):
            share.client.walk_to(share.root, b"d", b"g")


def test_the_space_of_what_the_host_deletes_is_free_soon(export: Path) -> None:
    with serve(export) as daemon, mounted(daemon, export) as share:
        (export / "big").write_bytes(b"x" * (8 << 20))
        stat_of(share, b"big")
        assert any("big" in path for path in open_paths(daemon, export))
        (export / "big").unlink()
        wait_until_closed(share, "big")


def test_an_idle_file_is_closed_while_others_are_in_use(export: Path) -> None:
    with serve(export) as daemon, mounted(daemon, export) as share:
        for name in (b"used", b"idle"):
            share.put(name)
            stat_of(share, name)
        deadline = time.monotonic() + PATIENCE
        while any(path.endswith("/idle") for path in open_paths(daemon, export)):
            stat_of(share, b"used")
            assert time.monotonic() < deadline


@pytest.mark.parametrize("held", [False, True])
def test_the_space_of_what_the_guest_deletes_is_free_at_once(export: Path, held: bool) -> None:
    """Whether a fid was left when it lost its name, or none."""
    with serve(export) as daemon, mounted(daemon, export) as share:
        client = share.client
        for turn in range(30):
            share.put("f", b"1")
            share.put("over", b"2")
            stat_of(share, b"f")
            stat_of(share, b"over")
            fids = [client.walk_to(share.root, name) for name in (b"f", b"over")] if held else []
            client.renameat(share.root, b"f", share.root, b"over")
            stat_of(share, b"over")
            client.unlinkat(share.root, b"over")
            for fid in fids:
                client.clunk(fid)
            assert not open_paths(daemon, export), turn


def test_the_space_of_a_file_removed_by_its_fid_is_free_at_once(export: Path) -> None:
    with serve(export) as daemon, mounted(daemon, export) as share:
        share.put("f", b"1")
        stat_of(share, b"f")
        share.client.remove(share.client.walk_to(share.root, b"f"))
        assert not open_paths(daemon, export)


@pytest.mark.parametrize("how", ["remove", "rename"])
def test_a_fid_removes_or_renames_the_name_that_was_walked_to(export: Path, how: str) -> None:
    """It is the name that was walked to, whatever the file was reached by before."""
    with serve(export) as daemon, mounted(daemon, export) as share:
        client = share.client
        for turn in range(20):
            share.put("a", b"1")
            if turn % 2:
                stat_of(share, b"a")
            os.link(export / "a", export / "b")
            for _ in range(2):
                stat_of(share, b"a")
            fid = client.walk_to(share.root, b"b")
            if how == "remove":
                client.remove(fid)
                assert os.listdir(export) == ["a"]
            else:
                client.rename(fid, share.root, b"c")
                client.clunk(fid)
                assert sorted(os.listdir(export)) == ["a", "c"]
                (export / "c").unlink()
            (export / "a").unlink()


@needs_root
def test_a_file_that_becomes_a_symlink_within_one_tick_is_seen(export: Path) -> None:
    """A file gets the metadata of a symlink within one tick of the host's clock for changes, which
    here is a second."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    image, disk = export / "image", export / "disk"
    disk.mkdir()
    subprocess.run(["truncate", "-s", "8M", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=False).returncode:
        pytest.skip("there are no loop devices")
    try:
        with (
            Daemon("--path", str(disk), "--security-model", "mapped-xattr") as daemon,
            mounted(daemon, disk) as share,
        ):
            for turn in range(20):
                path = share.put(f"f{turn}", b"target")
                name = os.path.basename(path)
                stat_of(share, name)
                os.setxattr(path, "user.virtfs.mode", (stat.S_IFLNK | 0o777).to_bytes(4, "little"))
                for _ in range(2):
                    fid = share.client.walk_to(share.root, name)
                    assert share.client.readlink(fid) == b"target", turn
                    share.client.clunk(fid)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_new_session_begins_with_nothing(export: Path) -> None:
    with serve(export) as daemon, mounted(daemon, export) as share:
        share.put("f")
        stat_of(share, b"f")
        assert open_paths(daemon, export)
        share.client.version()
        assert not open_paths(daemon, export)


@needs_root
def test_mounts_are_never_busy(export: Path) -> None:
    """One below the export can be unmounted as soon as the guest has left it."""
    (export / "m").mkdir()
    unshared = Daemon("--path", str(export), *SECURITY, wrapper=UNSHARE)
    with unshared as daemon, mounted(daemon, export) as share:
        for turn in range(5):
            assert stat_of(share, b"m")[0] != 0
            host = entering(daemon)
            subprocess.run([*host, "mount", "-t", "tmpfs", "none", str(export / "m")], check=True)
            (seen_by_main(daemon, export) / "m" / "f").write_bytes(b"x" * turn)
            for _ in range(3):
                assert stat_of(share, b"m", b"f")[1] == turn
            subprocess.run([*host, "umount", str(export / "m")], check=True)
            with fails(errno.ENOENT):
                share.client.walk_to(share.root, b"m", b"f")


def test_nothing_fails_where_few_descriptors_are_left(export: Path) -> None:
    """However few there are, cached inodes make room."""
    count = 400
    for number in range(count):
        (export / f"f{number}").write_bytes(b"x" * number)
    limited = Daemon(
        "--path", str(export), *SECURITY, wrapper=["prlimit", "--nofile=200:200", "--"]
    )
    with limited as daemon, mounted(daemon, export) as share:
        kept = [share.client.walk_to(share.root, b"f%d" % number) for number in range(count // 2)]
        for number in range(count):
            assert stat_of(share, b"f%d" % number)[1] == number
            assert len(os.listdir(f"/proc/{daemon.worker}/fd")) <= 200
        for number, fid in enumerate(kept):
            assert share.client.getattr(fid).size == number


@dataclass
class Held:
    """What a fid that is kept stands for: what has the name, as long as the guest itself has not
    taken that from the file; then the file. `dead`: the guest has removed a directory above."""

    name: tuple[bytes, ...] | None
    ino: int
    dead: bool = False


@dataclass
class Crowd:
    """Whoever changes names on the host and in the guest, at random, and what they ought to find.

    Every file contains a number of its own, so that one that is taken for another shows."""

    share: Share
    random: Random
    made: int = 0
    held: dict[int, Held] = field(default_factory=dict)
    """Fids that are kept."""

    def name(self) -> tuple[bytes, ...]:
        """Components of a path, whether there is such a file or not."""
        return tuple(
            self.random.choice((b"a", b"b", b"c")) for _ in range(self.random.randint(1, 3))
        )

    def path(self, name: tuple[bytes, ...]) -> bytes:
        return os.path.join(os.fsencode(self.share.export), *name)

    def contents(self) -> bytes:
        self.made += 1
        return b"%d" % self.made

    def change_on_host(self) -> None:
        path, other = self.path(self.name()), self.path(self.name())
        match self.random.randrange(6):
            case 0:
                os.mkdir(path)
            case 1:
                with open(path, "xb") as file:
                    file.write(self.contents())
            case 2:
                os.rename(path, other)
            case 3:
                os.link(path, other)
            case 4:
                os.unlink(path)
            case 5:
                os.rmdir(path)

    def change_in_guest(self) -> None:
        client, (*above, last), (*there, new) = self.share.client, self.name(), self.name()
        directory = client.walk_to(self.share.root, *above)
        try:
            match self.random.randrange(5):
                case 0:
                    client.mkdir(directory, last)
                case 1:
                    made = client.create(directory, last, os.O_RDWR | os.O_EXCL)
                    client.write(made, 0, self.contents())
                    client.clunk(made)
                case 2:
                    other = client.walk_to(self.share.root, *there)
                    old_path, new_path = self.path((*above, last)), self.path((*there, new))
                    exist = os.path.exists(old_path) and os.path.exists(new_path)
                    is_none = exist and os.path.samefile(old_path, new_path)
                    try:
                        client.renameat(directory, last, other, new)
                        if not is_none:
                            self.lost((*there, new))
                            self.renamed((*above, last), (*there, new))
                    finally:
                        client.clunk(other)
                case 3:
                    client.unlinkat(directory, last)
                    self.lost((*above, last))
                case 4:
                    client.unlinkat(directory, last, AT_REMOVEDIR)
                    self.lost((*above, last))
        finally:
            client.clunk(directory)

    def lost(self, name: tuple[bytes, ...]) -> None:
        """The guest has taken a name away."""
        for held in self.held.values():
            if held.name == name:
                held.name = None
            elif held.name and held.name[: len(name)] == name:
                held.dead = True
                held.name = None

    def renamed(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        """The guest has given another name, to all that is below, too."""
        for held in self.held.values():
            if held.name and held.name[: len(old)] == old:
                held.name = (*new, *held.name[len(old) :])

    def look(self) -> None:
        """A walk finds what the host finds; sometimes its fid is kept."""
        name = self.name()
        try:
            seen = os.lstat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            with fails(errno.ENOENT, errno.ENOTDIR):
                self.share.client.walk_to(self.share.root, *name)
            return
        fid = self.share.client.walk_to(self.share.root, *name)
        attr = self.share.client.getattr(fid)
        reported = (attr.qid.path, attr.mode, attr.nlink, attr.size)
        assert reported == (seen.st_ino, seen.st_mode, seen.st_nlink, seen.st_size), name
        self.held[fid] = Held(name, seen.st_ino)
        self.check(fid)

    def check(self, fid: int) -> None:
        """A fid stands for what it ought to; most are given up then."""
        held, client = self.held[fid], self.share.client
        path = Path(os.fsdecode(self.path(held.name))) if held.name else None
        if path:
            try:
                held.ino = path.lstat().st_ino
            except (FileNotFoundError, NotADirectoryError):
                with fails(errno.ENOENT, errno.ENOTDIR):
                    client.getattr(fid)
                path = None
        if held.dead:
            with fails(errno.ENOENT, errno.ENOTDIR):
                client.getattr(fid)
        elif path or not held.name:
            assert client.getattr(fid).qid.path == held.ino
        if path and path.is_file():
            opened = client.walk_to(fid)
            client.lopen(opened, os.O_RDONLY)
            assert client.read(opened, 0, 100) == path.read_bytes()
            client.clunk(opened)
        if self.random.random() < 0.9:
            client.clunk(fid)
            del self.held[fid]


@pytest.mark.parametrize("seed", range(4))
def test_random_walks_find_what_the_host_has(export: Path, seed: int) -> None:
    with serve(export) as daemon, mounted(daemon, export) as share:
        crowd = Crowd(share, Random(seed))
        for _ in range(4000):
            action = crowd.random.random()
            if action < 0.2:
                with contextlib.suppress(OSError):
                    crowd.change_on_host()
            elif action < 0.4:
                with contextlib.suppress(P9Errno):
                    crowd.change_in_guest()
            elif action < 0.95 or not crowd.held:
                crowd.look()
            else:
                crowd.check(crowd.random.choice(list(crowd.held)))
