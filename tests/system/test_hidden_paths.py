"""Paths that patterns hide: no request of either dialect reaches, shows, makes or renames one,
under every security model, whatever the guest or the host renames."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR
from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.frontend.dialect_u import DMDIR, DMLINK, DMNAMEDPIPE, DMSYMLINK, OREAD, DialectUClient
from tests.system.share import IS_ROOT, SECURITY, Share, fails, mounted

PATTERNS = (".env", "*.key", ".git/config", "a/**/deep", "secrets", "./top")
HIDE = [word for pattern in PATTERNS for word in ("--hide", pattern)]
FILES = {
    ".env": "secret",
    ".git/config": "secret",
    ".git/HEAD": "shown",
    "a/b/c/deep/file": "secret",
    "a/shown": "shown",
    "f": "shown",
    "repo/.env": "secret",
    "repo/.git/config": "shown",
    "repo/top": "shown",
    "repo/file": "shown",
    "repo/a.key": "secret",
    "repo/secrets/x": "secret",
    "only/.env": "secret",
    "top": "secret",
    os.fsdecode(b"repo/\xff.key"): "secret",
    os.fsdecode(b"repo/\xff"): "shown",
}
MODELS = ("passthrough", "none", "mapped-xattr", "mapped-file") if IS_ROOT else ("none",)

# A directory and a name in it: hidden ones that exist, and that do not.
EXISTING = [
    ((), b".env"),
    ((b".git",), b"config"),
    ((b"a", b"b", b"c"), b"deep"),
    ((b"repo",), b"a.key"),
    ((b"repo",), b"secrets"),
    ((), b"top"),
]
MISSING = [((b"repo", b".git"), b".env"), ((b"a",), b"deep"), ((b"repo",), b"\xfe.key")]


def plant(export: Path) -> None:
    for name, text in FILES.items():
        path = export / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(export: Path) -> list[str]:
    """All files, without metadata of mapped-file."""
    return sorted(str(path) for path in export.rglob("*") if ".virtfs_metadata" not in str(path))


@pytest.fixture(scope="module", params=MODELS)
def daemon(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Daemon]:
    export = scratch / f"hidden-{request.param}"
    plant(export)
    with Daemon("--path", str(export), "--security-model", request.param, *HIDE) as running:
        yield running


@pytest.fixture
def share(daemon: Daemon) -> Iterator[Share]:
    export = Path(daemon.args[daemon.args.index("--path") + 1])
    with mounted(daemon, export, n_uname=0) as share:
        before = names(export)
        yield share
        assert names(export) == before
    daemon.check_output()


@pytest.fixture
def own(export: Path) -> Iterator[Share]:
    """An export of the test's own."""
    shutil.rmtree(export)
    plant(export)
    with Daemon("--path", str(export), *SECURITY, *HIDE) as daemon:
        with mounted(daemon, export, n_uname=0) as share:
            yield share
        daemon.check_output()


# ---- 9P2000.L ------------------------------------------------------------------------------------

Use = Callable[[Share, int, int, bytes], object]
"""A request: the fids of a file and of a directory, and a name in that."""

REACHING: dict[str, Use] = {
    "walk": lambda s, f, d, n: s.client.walk(d, 90, n),
    "walk and clone": lambda s, f, d, n: s.client.walk(d, 90, n, b"..", n),
    "renameat from": lambda s, f, d, n: s.client.renameat(d, n, s.root, b"x"),
    "unlink": lambda s, f, d, n: s.client.unlinkat(d, n),
    "rmdir": lambda s, f, d, n: s.client.unlinkat(d, n, AT_REMOVEDIR),
}
MAKING: dict[str, Use] = {
    "create": lambda s, f, d, n: s.client.create(d, n, os.O_RDWR | os.O_CREAT),
    "create new": lambda s, f, d, n: s.client.create(d, n, os.O_RDWR | os.O_EXCL),
    "truncate": lambda s, f, d, n: s.client.create(d, n, os.O_WRONLY | os.O_TRUNC),
    "mkdir": lambda s, f, d, n: s.client.mkdir(d, n),
    "mknod": lambda s, f, d, n: s.client.mknod(d, n, stat.S_IFIFO | 0o600),
    "symlink": lambda s, f, d, n: s.client.symlink(d, n, b"f"),
    "link": lambda s, f, d, n: s.client.link(d, f, n),
    "rename": lambda s, f, d, n: s.client.rename(f, d, n),
    "renameat to": lambda s, f, d, n: s.client.renameat(s.root, b"f", d, n),
}


@pytest.mark.parametrize("use", [*REACHING, *MAKING])
def test_no_request_reaches_or_makes_a_hidden_path(share: Share, use: str) -> None:
    """The answer is the same whether there is such a file or not."""
    client = share.client
    file = client.walk_to(share.root, b"f")
    for path, name in (*EXISTING, *MISSING):
        directory = client.walk_to(share.root, *path)
        with fails(errno.ENOENT if use in REACHING else errno.EACCES):
            {**REACHING, **MAKING}[use](share, file, directory, name)


def test_a_hidden_path_is_not_there(share: Share) -> None:
    """Neither from an open directory, through "..", by an attach, nor in a listing."""
    for path, name in EXISTING:
        is_not_there(share, path, name)


def is_not_there(share: Share, path: tuple[bytes, ...], name: bytes) -> None:
    client = share.client
    assert os.path.lexists(os.path.join(os.fsencode(share.export), *path, name))
    opened = client.open(share.root, path, os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.ENOENT):
        client.walk(opened, 90, name)
    assert len(client.walk(share.root, 90, b"repo", b"..", *path, name)) == 2 + len(path)
    assert name not in client.listing(share.root, *path)
    there = (*path, name)
    for way in (there, (b"repo", b"..", *there), (*there, b".."), (*there, b"x")):
        with fails(errno.ENOENT):
            client.attach(91, 0, aname=b"/".join(way))


def test_what_is_not_hidden_is_there(share: Share) -> None:
    client = share.client
    for name, text in FILES.items():
        if text == "shown":
            fid = client.open(share.root, os.fsencode(name).split(b"/"))
            assert client.read(fid, 0, 10) == b"shown"
    assert set(client.listing(share.root)) == {b".git", b"a", b"f", b"repo", b"only"}
    assert set(client.listing(share.root, b"repo")) == {b".git", b"file", b"top", b"\xff"}
    assert not client.listing(share.root, b"only")


def test_a_directory_that_holds_only_hidden_files_stays(share: Share) -> None:
    with fails(errno.ENOTEMPTY):
        share.client.unlinkat(share.root, b"only", AT_REMOVEDIR)


REVEALING = (
    (b".git", b"git"),
    (b"a", b"z"),
    (b"a/b", b"b"),
    (b"a/b/c", b"repo/c"),
)
FILLING = ((b"repo", b".git"), (b"repo", b"a/repo"))


@pytest.mark.parametrize("by", ["rename", "renameat"])
def test_no_rename_of_a_directory_changes_what_is_hidden(share: Share, by: str) -> None:
    """It would reveal what is below, or fill a place where nothing may be."""
    client = share.client
    for old, new in (*REVEALING, *FILLING):
        (*old_dir, old_name), (*new_dir, new_name) = old.split(b"/"), new.split(b"/")
        source, target = client.walk_to(share.root, *old_dir), client.walk_to(share.root, *new_dir)
        with fails(errno.EACCES):
            if by == "rename":
                client.rename(client.walk_to(source, old_name), target, new_name)
            else:
                client.renameat(source, old_name, target, new_name)


def test_other_renames_work(share: Share) -> None:
    """Of a directory where the same is hidden below, of a file to where a directory would not
    be."""
    client = share.client
    for old, new in ((b"repo", b"other"), (b"only", b"repo/only"), (b"a/b", b"a/shown2")):
        (*old_dir, old_name), (*new_dir, new_name) = old.split(b"/"), new.split(b"/")
        source, target = client.walk_to(share.root, *old_dir), client.walk_to(share.root, *new_dir)
        client.renameat(source, old_name, target, new_name)
        client.renameat(target, new_name, source, old_name)
    repo = client.walk_to(share.root, b"repo")
    client.renameat(share.root, b"f", repo, b".gitfile")
    client.renameat(repo, b".gitfile", share.root, b"f")
    a = client.walk_to(share.root, b"a")
    client.renameat(share.root, b"f", a, b"f")
    client.rename(client.walk_to(a, b"f"), share.root, b"f")


def test_listings_go_on_after_hidden_names(own: Share) -> None:
    """However small the replies are."""
    crowd = own.export / "crowd"
    crowd.mkdir()
    for i in range(2000):
        (crowd / f"{i}.key").touch()
        if i % 400 == 0:
            (crowd / f"shown{i}").touch()
    for count in (100, 300, 8192):
        fid = own.client.open(own.root, b"crowd", os.O_RDONLY | os.O_DIRECTORY)
        listed = [entry.name for entry in own.client.entries(fid, count)]
        shown = [f"shown{i}".encode() for i in range(0, 2000, 400)]
        assert sorted(listed) == sorted([b".", b"..", *shown])


# ---- 9P2000.u ------------------------------------------------------------------------------------


@pytest.fixture
def u_share(daemon: Daemon) -> Iterator[tuple[DialectUClient, Path]]:
    export = Path(daemon.args[daemon.args.index("--path") + 1])
    with mounted(daemon, export, n_uname=0, speaks=DialectUClient) as share:
        before = names(export)
        assert isinstance(share.client, DialectUClient)
        yield share.client, export
        assert names(export) == before
    daemon.check_output()


def test_no_request_of_the_other_dialect_reaches_or_makes_a_hidden_path(
    u_share: tuple[DialectUClient, Path],
) -> None:
    for path, name in (*EXISTING, *MISSING):
        neither_reached_nor_made(u_share[0], path, name)


def neither_reached_nor_made(client: DialectUClient, path: tuple[bytes, ...], name: bytes) -> None:
    directory, file = client.walk_to(1, *path), client.walk_to(1, b"f")
    link = b"%d\n" % file
    kinds = ((0, b""), (DMDIR, b""), (DMSYMLINK, b"f"), (DMNAMEDPIPE, b""), (DMLINK, link))
    for kind, extension in kinds:
        with fails(errno.EACCES):
            client.make(directory, name, kind | 0o600, extension=extension)
    beside = client.make(directory, b"beside")
    client.clunk(beside)
    with fails(errno.EACCES):
        client.wstat(client.walk_to(directory, b"beside"), name=name)
    client.remove(client.walk_to(directory, b"beside"))
    with fails(errno.ENOENT):
        client.walk_to(directory, name)
    listed = {each.name for each in client.stats(client.walk_open(1, *path, mode=OREAD))}
    assert name not in listed and {b".", b".."} <= listed


def test_no_rename_of_a_directory_in_the_other_dialect(
    u_share: tuple[DialectUClient, Path],
) -> None:
    client, _ = u_share
    for name in (b".git", b"a"):
        with fails(errno.EACCES):
            client.wstat(client.walk_to(1, name), name=b"z")


def test_listings_of_the_other_dialect_go_on_after_hidden_names(own: Share) -> None:
    crowd = own.export / "crowd"
    crowd.mkdir()
    for i in range(2000):
        (crowd / f"{i}.key").touch()
    (crowd / "shown").touch()
    client = DialectUClient(own.machine)
    client.version()
    client.attach(1)
    for count in (200, 8192):
        opened = client.walk_open(1, b"crowd", mode=OREAD)
        assert {each.name for each in client.stats(opened, count)} == {b".", b"..", b"shown"}


# ---- fids, host and worker -----------------------------------------------------------------------


def test_a_visible_name_of_a_hidden_file_is_visible(own: Share) -> None:
    """The name by which a file is reached decides; also where the file is known by another."""
    client = own.client
    os.link(own.export / ".env", own.export / "public")
    for _ in range(20):  # until it is worth caching
        fid = client.open(own.root, b"public")
        assert client.read(fid, 0, 10) == b"secret"
        client.clunk(fid)
        with fails(errno.ENOENT):
            client.walk(own.root, 90, b".env")
    with fails(errno.EACCES):
        client.link(own.root, client.walk_to(own.root, b"public"), b"other.key")


def reaches(share: Share, fid: int, *names: bytes) -> bool:
    """Whether a walk from a fid arrives."""
    new = share.client.new_fid()
    try:
        arrived = len(share.client.walk(fid, new, *names)) == len(names)
    except OSError as error:
        assert error.errno == errno.ENOENT
        return False
    if arrived:
        share.client.clunk(new)
    return arrived


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(
    ("place", "name"),
    [("secrets", b"file"), (".git", b"config")],
    ids=["hidden directory", "hidden entry"],
)
def test_what_the_host_moves_to_a_hidden_path_is_hidden(
    own: Share, place: str, name: bytes, opened: bool
) -> None:
    """Also for a directory that the guest has open; a file that it has open stays readable."""
    client = own.client
    (own.export / "d").mkdir()
    (own.export / "d" / name.decode()).write_text("data")
    flags = os.O_RDONLY | os.O_DIRECTORY
    fid = client.open(own.root, b"d", flags) if opened else client.walk_to(own.root, b"d")
    file = client.open(own.root, (b"d", name))
    assert reaches(own, fid, name)
    (own.export / ".git").rename(own.export / "git")
    (own.export / "d").rename(own.export / place)
    assert not reaches(own, own.root, place.encode(), name)
    assert not reaches(own, fid, name)
    if opened and place == "secrets":
        with fails(errno.ENOENT):
            client.readdir(fid)
        with fails(errno.EACCES, errno.ENOENT):
            client.mkdir(fid, b"new")
    elif opened:
        assert name not in {entry.name for entry in client.entries(fid)}
    assert client.read(file, 0, 10) == b"data"
    (own.export / place).rename(own.export / "d")
    assert reaches(own, own.root, b"d", name)


def test_a_file_without_a_name_is_not_taken_from_a_hidden_directory(own: Share) -> None:
    """The guest has reached it from an open directory that the host had moved before."""
    client = own.client
    (own.export / "d").mkdir()
    (own.export / "d" / "file").touch()
    opened = client.open(own.root, b"d", os.O_RDONLY | os.O_DIRECTORY)
    (own.export / "d").rename(own.export / "e")
    file = client.walk_to(opened, b"file")
    (own.export / "e").rename(own.export / "secrets")
    with fails(errno.ENOENT):
        client.rename(file, own.root, b"mine")
    with fails(errno.ENOENT):
        client.remove(file)
    assert (own.export / "secrets" / "file").exists()


def test_an_open_directory_in_a_hidden_one_of_the_other_dialect(own: Share) -> None:
    client = DialectUClient(own.machine)
    client.version()
    client.attach(1)
    (own.export / "d").mkdir()
    (own.export / "d" / "file").touch()
    opened = client.walk_open(1, b"d", mode=OREAD)
    (own.export / "d").rename(own.export / "secrets")
    with fails(errno.ENOENT):
        list(client.stats(opened))


def test_nothing_is_reached_below_a_directory_that_has_left_the_export(
    own: Share, scratch: Path
) -> None:
    """Its path below the root, which decides, is not known any more."""
    outside = scratch / "left"
    (own.export / "d").mkdir()
    (own.export / "d" / "config").touch()
    fid = own.client.open(own.root, b"d", os.O_RDONLY | os.O_DIRECTORY)
    (own.export / "d").rename(outside)
    assert not reaches(own, fid, b"config")


def test_a_new_worker_hides_the_same(own: Share) -> None:
    """Fids from before the death, open or not, reach nothing hidden."""
    client = own.client
    directory = client.walk_to(own.root, b".git")
    opened = client.open(own.root, b"repo", os.O_RDONLY | os.O_DIRECTORY)
    kill(own.daemon.worker)
    for fid, name in ((directory, b"config"), (opened, b".env"), (own.root, b"top")):
        with fails(errno.ENOENT):
            client.walk(fid, 90, name)
        with fails(errno.EACCES):
            client.mkdir(fid, name)
    assert reaches(own, directory, b"HEAD")
    with fails(errno.EACCES):
        client.renameat(own.root, b".git", own.root, b"git")


def test_evicted_directories_hide_the_same(export: Path) -> None:
    """Their descriptors are closed, and opened again by path or file handle."""
    plant(export)
    for i in range(400):
        (export / f"d{i}").mkdir()
        (export / f"d{i}" / ".env").touch()
        (export / f"d{i}" / "config").touch()
    limit = ("prlimit", "--nofile=256:256")
    with Daemon("--path", str(export), *SECURITY, *HIDE, wrapper=limit) as daemon:
        with mounted(daemon, export, n_uname=0) as share:
            git = share.client.walk_to(share.root, b".git")
            fids = [share.client.walk_to(share.root, b"d%d" % i) for i in range(400)]
            for fid in fids:
                assert not reaches(share, fid, b".env") and reaches(share, fid, b"config")
            assert not reaches(share, git, b"config") and reaches(share, git, b"HEAD")
        daemon.check_output()


def test_each_export_has_its_own_paths(export: Path) -> None:
    """Relative to its root; the device's patterns are for those without their own."""
    first, second = export / "first", export / "second"
    for each in (first, second):
        plant(each)
    exports = (
        f"name=one,path={first},hide=.git/HEAD,hide=./f",
        f"name=two,path={second}",
    )
    words = [word for each in exports for word in ("--export", each)]
    with Daemon(*words, *SECURITY, *HIDE) as daemon, mounted(daemon, first, n_uname=0) as share:
        for path in ((b"one", b".git", b"HEAD"), (b"one", b"f"), (b"two", b".git", b"config")):
            assert not reaches(share, share.root, *path)
            assert not reaches(share, share.root, b"two", b"..", *path)
        for path in ((b"one", b".git", b"config"), (b"two", b".git", b"HEAD"), (b"two", b"f")):
            assert reaches(share, share.root, *path)
        assert b"f" not in share.client.listing(share.root, b"one")
