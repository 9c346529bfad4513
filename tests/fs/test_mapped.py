"""The mapped driver: what it leaves on the host, whatever succeeds, fails or is killed half way."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fs.test_local import in_child, needs_root
from vhost9p.fs.driver import OWN_ID, Attr, File, Owner
from vhost9p.fs.mapped import MappedDriver
from vhost9p.native.export import MODEL_FILE, MODEL_XATTR, Export, Mapped
from vhost9p.policy.multidevs import make_policy

MODELS = {"mapped-xattr": MODEL_XATTR, "mapped-file": MODEL_FILE}
META = ".virtfs_metadata"
EXCL = os.O_RDWR | os.O_CREAT | os.O_EXCL
OWNER = Owner(1234, 5678)
PATH = os.O_PATH | os.O_NOFOLLOW


class Place(NamedTuple):
    """An export, served by a driver; `fd` is its root."""

    driver: MappedDriver
    fd: int
    path: Path
    model: str

    def attr(self, name: bytes) -> Attr:
        """What the guest sees of a name."""
        return self.driver.attr(self.fd, name)

    def make(self, name: bytes, mode: int = 0o640, owner: Owner = OWNER) -> None:
        """A regular file."""
        made = self.driver.create(self.fd, name, EXCL, mode, owner)
        os.close(made.path_fd)
        os.close(made.io_fd)

    @contextlib.contextmanager
    def opened(self, name: bytes) -> Iterator[File]:
        """A file as a node has it."""
        fd = self.driver.export.step(self.fd, name)
        meta = -1
        with contextlib.suppress(OSError):
            meta = self.driver.export.find_metadata(fd)
        try:
            yield File(fd, meta)
        finally:
            os.close(fd)
            if meta >= 0:
                os.close(meta)

    def metadata(self) -> set[str]:
        """Names of which there are metadata files in the root directory."""
        folder = self.path / META
        return set(os.listdir(folder)) if folder.exists() else set()

    def names(self) -> set[str]:
        """What a directory shows."""
        return set(os.listdir(self.path)) - {META, META + "_root"}


@contextlib.contextmanager
def serving(path: Path, model: str, *, fmode: int = 0o600, dmode: int = 0o700) -> Iterator[Place]:
    """Serves a directory."""
    root_fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    export = Export(
        root_fd,
        readonly=False,
        stat_entries=False,
        model=MODELS[model],
        fmode=fmode,
        dmode=dmode,
    )
    export.policy = make_policy("warn", export.qidmap, os.stat(path).st_dev, export.probe, None)
    driver = MappedDriver(export, root_fd, readonly=False)
    old = os.umask(0)
    try:
        yield Place(driver, root_fd, path, model)
    finally:
        os.umask(old)
        export.close()
        os.close(root_fd)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory on a real file system that everybody may change."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="v9-mapped-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=MODELS)
def place(folder: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with serving(folder, request.param) as it:
        yield it


@pytest.fixture
def files(folder: Path) -> Iterator[Place]:
    with serving(folder, "mapped-file") as it:
        yield it


# ---- creating ------------------------------------------------------------------------------------


def make_all(it: Place) -> None:
    """One of each kind."""
    it.make(b"reg", 0o4751)
    it.driver.mkdir(it.fd, b"dir", 0o1777, OWNER)
    it.driver.symlink(it.fd, b"link", b"/to/here", OWNER)
    it.driver.mknod(it.fd, b"chr", stat.S_IFCHR | 0o620, (511, 1048575), OWNER)
    it.driver.mknod(it.fd, b"blk", stat.S_IFBLK | 0o600, (8, 1), OWNER)
    it.driver.mknod(it.fd, b"fifo", stat.S_IFIFO | 0o644, (0, 0), OWNER)
    it.driver.mknod(it.fd, b"sock", stat.S_IFSOCK | 0o755, (0, 0), OWNER)


MADE = {
    b"reg": stat.S_IFREG | 0o4751,
    b"dir": stat.S_IFDIR | 0o1777,
    b"link": stat.S_IFLNK | 0o777,
    b"chr": stat.S_IFCHR | 0o620,
    b"blk": stat.S_IFBLK | 0o600,
    b"fifo": stat.S_IFIFO | 0o644,
    b"sock": stat.S_IFSOCK | 0o755,
}


def check_all(it: Place, fmode: int, dmode: int) -> None:
    for name, mode in MADE.items():
        attr = it.attr(name)
        assert (attr.mode, attr.uid, attr.gid) == (mode, *OWNER), name
        host = os.lstat(it.path / os.fsdecode(name))
        assert host.st_uid == os.geteuid()
        kind, bits = (stat.S_IFDIR, dmode) if name == b"dir" else (stat.S_IFREG, fmode)
        assert host.st_mode == kind | bits
    assert it.attr(b"chr").native.rdev == 0xFFF1FFFF, "511:1048575 as Linux encodes it"
    assert (it.path / "link").read_bytes() == b"/to/here"


def test_everything_is_a_plain_file_on_the_host(place: Place) -> None:
    make_all(place)
    check_all(place, 0o600, 0o700)


@needs_root
@pytest.mark.parametrize("model", MODELS)
def test_without_privilege(folder: Path, model: str) -> None:
    def work() -> None:
        with serving(folder, model) as it:
            make_all(it)
            check_all(it, 0o600, 0o700)
            with it.opened(b"reg") as file:
                it.driver.chown(file, 0, 0)
                it.driver.chmod(file, 0o2711)
            assert (it.attr(b"reg").uid, it.attr(b"reg").mode) == (0, stat.S_IFREG | 0o2711)
            for name in MADE:
                it.driver.unlink(it.fd, name, directory=name == b"dir")
            assert it.names() == it.metadata() == set()

    in_child(work)


@pytest.mark.parametrize("model", MODELS)
def test_fmode_and_dmode(folder: Path, model: str) -> None:
    with serving(folder, model, fmode=0o664, dmode=0o775) as it:
        make_all(it)
        check_all(it, 0o664, 0o775)


def test_owner_of_a_user_without_a_name_is_the_hosts(place: Place) -> None:
    place.make(b"f", owner=Owner(OWN_ID, 7))
    assert (place.attr(b"f").uid, place.attr(b"f").gid) == (os.geteuid(), 7)


def test_create_opens_as_asked(place: Place) -> None:
    for flags, writes in ((os.O_RDONLY, False), (os.O_RDWR, True), (os.O_WRONLY, True)):
        made = place.driver.create(place.fd, b"f%d" % flags, flags | os.O_EXCL, 0, OWNER)
        assert os.path.sameopenfile(made.path_fd, made.io_fd)
        assert os.readlink(f"/proc/self/fd/{made.path_fd}") == f"{place.path}/f{flags}"
        with contextlib.nullcontext() if writes else pytest.raises(OSError):
            os.write(made.io_fd, b"x")
        os.close(made.path_fd)
        os.close(made.io_fd)


def test_existing_names_stay(place: Place) -> None:
    make_all(place)
    for name in MADE:
        owner, driver = Owner(0, 0), place.driver
        changes: tuple[Callable[[], object], ...] = (
            partial(place.make, name, owner=owner),
            partial(driver.mkdir, place.fd, name, 0o755, owner),
            partial(driver.symlink, place.fd, name, b"x", owner),
            partial(driver.mknod, place.fd, name, 0o644, (0, 0), owner),
        )
        for change in changes:
            with pytest.raises(FileExistsError):
                change()
    with place.opened(b"reg") as file, pytest.raises(FileExistsError):
        place.driver.link(file, place.fd, b"chr")
    check_all(place, 0o600, 0o700)


def test_only_regular_files_are_opened_by_create(place: Place) -> None:
    make_all(place)
    for name, code in ((b"link", errno.ELOOP), (b"chr", errno.ENXIO), (b"fifo", errno.ENXIO)):
        with pytest.raises(OSError) as caught:
            place.driver.create(place.fd, name, os.O_RDWR, 0o600, OWNER)
        assert caught.value.errno == code
    with place.opened(b"chr") as file, pytest.raises(OSError):
        place.driver.truncate(file.fd, -1, 0)
    with place.opened(b"fifo") as file, pytest.raises(OSError):
        place.driver.open_for_locks(file.fd)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda it: it.driver.symlink(it.fd, b"n", b"", OWNER), errno.ENOENT),
        (lambda it: it.driver.symlink(it.fd, b"n", b"x" * 4096, OWNER), errno.ENAMETOOLONG),
        (lambda it: it.driver.mknod(it.fd, b"n", stat.S_IFDIR, (0, 0), OWNER), errno.EPERM),
        (lambda it: it.driver.mknod(it.fd, b"n", stat.S_IFLNK, (0, 0), OWNER), errno.EINVAL),
        (lambda it: it.driver.mknod(it.fd, b"n", 0o170000, (0, 0), OWNER), errno.EINVAL),
        (lambda it: it.make(b"n" * 256), errno.ENAMETOOLONG),
        (lambda it: it.driver.rename(it.fd, b"n", it.fd, b"m"), errno.ENOENT),
        (lambda it: it.driver.unlink(it.fd, b"n", directory=False), errno.ENOENT),
        (lambda it: it.driver.unlink(it.fd, b"n", directory=True), errno.ENOENT),
    ],
)
def test_what_fails_leaves_nothing(
    place: Place, make: Callable[[Place], object], code: int
) -> None:
    with pytest.raises(OSError) as caught:
        make(place)
    assert caught.value.errno == code
    assert place.names() == place.metadata() == set()


def test_a_removed_directory(place: Place) -> None:
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    fd = place.driver.export.step(place.fd, b"d")
    place.driver.unlink(place.fd, b"d", directory=True)
    for make in (
        lambda: place.driver.create(fd, b"n", EXCL, 0o600, OWNER),
        lambda: place.driver.mkdir(fd, b"n", 0o700, OWNER),
        lambda: place.driver.symlink(fd, b"n", b"x", OWNER),
    ):
        with pytest.raises(FileNotFoundError):
            make()
    os.close(fd)


# ---- names ---------------------------------------------------------------------------------------


def shown(it: Place, name: bytes) -> tuple[int, int]:
    attr = it.attr(name)
    return attr.mode & 0o7777, attr.uid


def test_rename_takes_the_metadata_along(place: Place) -> None:
    place.make(b"a", 0o601, Owner(1, 1))
    place.make(b"b", 0o602, Owner(2, 2))
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    with place.opened(b"a") as a, place.opened(b"b") as b, place.opened(b"d") as d:
        place.driver.rename(place.fd, b"a", d.fd, b"c")
        assert place.driver.attr(d.fd, b"c").uid == 1
        place.driver.rename(d.fd, b"c", place.fd, b"b")
        assert shown(place, b"b") == (0o601, 1)
        for file, uid in ((a, 1), (b, 2)):
            assert place.driver.export.attr(file.fd, meta_fd=file.meta_fd).uid == uid
        place.driver.rename(place.fd, b"d", place.fd, b"e")
        parent, name = place.driver.parent_of(a.fd)
        place.driver.rename(parent, name, d.fd, b"x")
        os.close(parent)
    assert place.names() == {"e"}
    assert place.metadata() in ({"e"}, set())
    assert shown(place, b"e") == (0o755, 1234)


def test_rename_that_fails_changes_nothing(place: Place) -> None:
    place.make(b"f", 0o601, Owner(1, 1))
    place.driver.mkdir(place.fd, b"d", 0o702, Owner(2, 2))
    with place.opened(b"d") as d:
        place.driver.mkdir(d.fd, b"below", 0o703, Owner(3, 3))
        for old, new, code in (
            (b"f", b"d", errno.EISDIR),
            (b"d", b"f", errno.ENOTDIR),
            (b"gone", b"f", errno.ENOENT),
        ):
            with pytest.raises(OSError) as caught:
                place.driver.rename(place.fd, old, place.fd, new)
            assert caught.value.errno == code
        with pytest.raises(OSError):
            place.driver.rename(place.fd, b"d", d.fd, b"below")
        assert place.driver.attr(d.fd, b"below").uid == 3
    assert (shown(place, b"f"), shown(place, b"d")) == ((0o601, 1), (0o702, 2))
    assert place.metadata() in ({"f", "d"}, set())


def test_a_full_directory_is_not_removed(place: Place) -> None:
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    for i in range(100):
        (place.path / "d" / str(i)).touch()
    with pytest.raises(OSError) as caught:
        place.driver.unlink(place.fd, b"d", directory=True)
    assert caught.value.errno == errno.ENOTEMPTY
    assert shown(place, b"d") == (0o755, 1234)


def test_rename_on_a_file_system_without_hard_links(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.make(b"a", 0o601, Owner(1, 1))
    place.make(b"b", 0o602, Owner(2, 2))
    place.driver.mkdir(place.fd, b"d", 0o703, Owner(3, 3))

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "as vfat says it")

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(IsADirectoryError):
        place.driver.rename(place.fd, b"a", place.fd, b"d")
    assert (shown(place, b"a"), shown(place, b"d")) == ((0o601, 1), (0o703, 3))
    place.driver.rename(place.fd, b"a", place.fd, b"b")
    assert shown(place, b"b") == (0o601, 1)
    with place.opened(b"d") as d:
        place.driver.rename(place.fd, b"b", d.fd, b"c")
        assert place.driver.attr(d.fd, b"c").uid == 1
    assert place.metadata() in ({"d"}, set())


def test_rename_of_a_file_without_metadata_leaves_none_of_the_others(place: Place) -> None:
    (place.path / "host").write_text("x")
    (place.path / "host").chmod(0o640)
    place.make(b"f", 0o601, Owner(1, 1))
    place.driver.rename(place.fd, b"host", place.fd, b"f")
    assert shown(place, b"f") == (0o640, os.geteuid())
    assert place.metadata() == set()


def test_rename_between_names_of_one_file_keeps_both(place: Place) -> None:
    place.make(b"a", 0o601, Owner(1, 1))
    with place.opened(b"a") as file:
        place.driver.link(file, place.fd, b"b")
    place.driver.rename(place.fd, b"a", place.fd, b"b")
    assert place.names() == {"a", "b"}
    assert shown(place, b"a") == shown(place, b"b") == (0o601, 1)


def test_rename_between_names_of_one_file_while_one_goes(place: Place, monkeypatch: Any) -> None:
    """Of the two names the one that is left has the metadata, whichever call comes first."""
    place.make(b"a", 0o601, Owner(1, 1))
    with place.opened(b"a") as file:
        place.driver.link(file, place.fd, b"b")
    other = threading.Thread(target=partial(place.driver.unlink, place.fd, b"b", directory=False))
    rename = os.rename

    def late(*args: Any, **keywords: Any) -> None:
        other.start()
        other.join(0.2)
        rename(*args, **keywords)

    monkeypatch.setattr("vhost9p.fs.local.os.rename", late)
    place.driver.rename(place.fd, b"a", place.fd, b"b")
    other.join()
    (left,) = place.names()
    assert shown(place, left.encode()) == (0o601, 1)


@pytest.mark.parametrize("by_host", [False, True])
def test_names_of_one_file_never_differ(place: Place, by_host: bool) -> None:
    if by_host:
        (place.path / "a").write_text("x")
    else:
        place.make(b"a")
    with place.opened(b"a") as file:
        place.driver.link(file, place.fd, b"b")
    with place.opened(b"b") as file:
        place.driver.chmod(file, 0o604)
        place.driver.chown(file, 9, -1)
    assert shown(place, b"a") == shown(place, b"b") == (0o604, 9)
    place.driver.unlink(place.fd, b"a", directory=False)
    assert shown(place, b"b") == (0o604, 9)
    assert place.metadata() in ({"b"}, set())


def test_a_file_without_a_name_keeps_its_attributes(place: Place) -> None:
    place.make(b"f", 0o601, Owner(1, 1))
    with place.opened(b"f") as file:
        place.driver.unlink(place.fd, b"f", directory=False)
        place.make(b"f", 0o602, Owner(2, 2))
        place.driver.chmod(file, 0o444)
        place.driver.chown(file, 5, 6)
        attr = place.driver.export.attr(file.fd, meta_fd=file.meta_fd)
        assert (attr.mode, attr.uid, attr.gid) == (stat.S_IFREG | 0o444, 5, 6)
    assert shown(place, b"f") == (0o602, 2)


def test_a_mode_that_changes_while_the_owner_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads: what chown(2) takes away is taken of the mode that there is by then."""
    place.make(b"program", 0o4755)
    write = place.driver._keeper.write

    def between(file: File, change: Mapped) -> None:
        monkeypatch.undo()
        place.driver.chmod(file, 0o6710)
        write(file, change)

    with place.opened(b"program") as file:
        monkeypatch.setattr(place.driver._keeper, "write", between)
        place.driver.chown(file, 5, -1)
    assert place.attr(b"program").mode == stat.S_IFREG | 0o710


def test_directories_that_only_hold_metadata_are_empty(place: Place) -> None:
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    place.driver.mkdir(place.fd, b"e", 0o755, OWNER)
    with place.opened(b"d") as d:
        place.driver.mknod(d.fd, b"x", 0o644, (0, 0), OWNER)
        with pytest.raises(OSError) as caught:
            place.driver.unlink(place.fd, b"d", directory=True)
        assert caught.value.errno == errno.ENOTEMPTY
        assert place.driver.attr(d.fd, b"x").uid == OWNER.uid
        place.driver.unlink(d.fd, b"x", directory=False)
        place.driver.rename(place.fd, b"e", place.fd, b"d")
    place.driver.unlink(place.fd, b"d", directory=True)
    assert place.names() == place.metadata() == set()


# ---- changes -------------------------------------------------------------------------------------


def test_host_files_without_metadata(place: Place) -> None:
    (place.path / "f").write_text("x")
    (place.path / "f").chmod(0o4640)
    assert shown(place, b"f") == (0o4640, os.geteuid())
    with place.opened(b"f") as file:
        place.driver.chown(file, 7, -1)
    attr = place.attr(b"f")
    assert (attr.uid, attr.gid) == (7, os.getegid())
    assert attr.mode == stat.S_IFREG | 0o640, "a program that is given away loses its set-id bits"
    assert os.stat(place.path / "f").st_mode == stat.S_IFREG | 0o4640


def test_the_root_has_attributes_too(place: Place) -> None:
    place.driver.chmod(File(place.fd), 0o1755)
    place.driver.chown(File(place.fd), 3, 4)
    fd, attr = place.driver.attach(b"")
    os.close(fd)
    assert (attr.mode, attr.uid, attr.gid) == (stat.S_IFDIR | 0o1755, 3, 4)
    assert os.stat(place.path).st_mode == stat.S_IFDIR | 0o777


def test_symlinks_and_fifos_of_the_host_are_themselves(place: Place) -> None:
    os.symlink("to", place.path / "l")
    os.mkfifo(place.path / "p", 0o640)
    assert place.attr(b"l").mode == stat.S_IFLNK | 0o777
    assert place.attr(b"p").mode == stat.S_IFIFO | 0o640
    for name in (b"l", b"p"):
        with place.opened(name) as file:
            if place.model == "mapped-file":
                place.driver.chown(file, 5, 6)
                assert place.attr(name).uid == 5
            else:
                with pytest.raises(PermissionError):
                    place.driver.chown(file, 5, 6)
    assert os.readlink(place.path / "l") == "to"


def test_metadata_names_are_the_drivers_own(files: Place) -> None:
    files.make(b"f")
    files.driver.chmod(File(files.fd), 0o755)
    driver, fd = files.driver, files.fd
    for name in (b".virtfs_metadata", b".virtfs_metadata_root"):
        with files.opened(b"f") as file:
            for use in (
                lambda name=name: driver.create(fd, name, os.O_RDWR, 0o600, OWNER),
                lambda name=name: driver.mkdir(fd, name, 0o755, OWNER),
                lambda name=name: driver.mknod(fd, name, 0o644, (0, 0), OWNER),
                lambda name=name: driver.symlink(fd, name, b"x", OWNER),
                lambda name=name, file=file: driver.link(file, fd, name),
                lambda name=name: driver.unlink(fd, name, directory=False),
                lambda name=name: driver.unlink(fd, name, directory=True),
                lambda name=name: driver.rename(fd, name, fd, b"x"),
                lambda name=name: driver.rename(fd, b"f", fd, name),
            ):
                with pytest.raises(OSError) as caught:
                    use()
                assert caught.value.errno == errno.EINVAL
        with pytest.raises(FileNotFoundError):
            driver.attach(name)
    assert files.names() == files.metadata() == {"f"}


def test_metadata_of_nothing_are_not_the_next_files(files: Place) -> None:
    os.mkdir(files.path / META)
    (files.path / META / "n").write_text("virtfs.uid=5\nvirtfs.mode=8612\nvirtfs.rdev=5\n")
    os.link(files.path / META / "n", files.path / META / "other")
    files.make(b"n", 0o600, Owner(OWN_ID, 1))
    assert shown(files, b"n") == (0o600, os.geteuid())
    assert (files.path / META / "n").read_text() == "virtfs.gid=1\nvirtfs.mode=33152\n"
    assert (files.path / META / "other").read_text().startswith("virtfs.uid=5\n")


# ---- half way ------------------------------------------------------------------------------------


def killed_after(calls: int, work: Callable[[], object]) -> bool:
    """Runs something in a child that ends at its `calls`-th change of the file system; whether it
    got that far."""
    child = os.fork()
    if child == 0:
        left = [calls]

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def run(*args: object, **kwargs: object) -> object:
                if not left[0]:
                    os._exit(7)
                left[0] -= 1
                return call(*args, **kwargs)

            return run

        for name in ("link", "unlink", "rename"):
            setattr(os, name, counted(getattr(os, name)))
        for name in ("write_metadata", "metadata_dir", "new_metadata", "discard_metadata"):
            setattr(Export, name, counted(getattr(Export, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


CHANGES: dict[str, Callable[[Place, File], object]] = {
    "rename": lambda it, a: it.driver.rename(it.fd, b"a", it.fd, b"n"),
    "link": lambda it, a: it.driver.link(a, it.fd, b"n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_daemon_that_ends_half_way_leaves_whole_files(
    folder: Path, change: str, tmp_path: Path
) -> None:
    """Wherever it ends: each name stands for a file with all of its attributes, old or new."""
    for model in MODELS:
        for calls in range(40):
            top = folder / f"{model}{calls}"
            top.mkdir()
            with serving(top, model) as it:
                it.make(b"a", 0o601, Owner(1, 1))
                it.make(b"b", 0o602, Owner(2, 2))
                with it.opened(b"a") as file:  # for the child as well: C asks the parent's /proc
                    more = killed_after(calls, partial(CHANGES[change], it, file))
            with serving(top, model) as it:
                for name in it.names():
                    attr = it.attr(os.fsencode(name))
                    assert attr.uid in (1, 2)
                    assert attr.mode & 0o777 == 0o600 | attr.uid
                assert it.names() >= ({"b"} if change == "rename" else {"a", "b"})
                # And whatever is left lying about stands in nobody's way.
                for name in list(it.names()):
                    it.driver.unlink(it.fd, os.fsencode(name), directory=False)
                it.make(b"n", 0o605, Owner(5, 5))
                assert shown(it, b"n") == (0o605, 5)
            if not more:
                assert calls
                break
        else:
            pytest.fail("the change never ended")


def test_a_renamed_files_metadata_are_never_anothers(files: Place) -> None:
    """What a walk finds while names change: the file's own metadata, or none to be kept."""
    files.make(b"a", 0o601, Owner(1, 1))
    files.make(b"b", 0o602, Owner(2, 2))
    inodes = {os.stat(files.path / name).st_ino: uid for name, uid in (("a", 1), ("b", 2))}
    stop = threading.Event()
    wrong: list[tuple[int, int]] = []

    def look() -> None:
        while not stop.is_set():
            for name in (b"a", b"b", b"c"):
                with contextlib.suppress(OSError), files.opened(name) as file:
                    attr = files.driver.export.attr(file.fd)
                    if attr.uid != inodes[attr.st_ino]:
                        wrong.append((inodes[attr.st_ino], attr.uid))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(150):
        for old, new in ((b"a", b"c"), (b"b", b"a"), (b"c", b"b")):
            files.driver.rename(files.fd, old, files.fd, new)
    stop.set()
    thread.join()
    assert [each for each in wrong if each[1] != os.geteuid()] == []
