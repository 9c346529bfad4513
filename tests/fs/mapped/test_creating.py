"""Whatever a guest creates is a plain file of the daemon's user on the host."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.fs.changes import chmod, chown, link, rename, truncate, unlink
from tests.fs.mapped.place import EXCL, MODELS, OWNER, Place, serving
from tests.fs.test_local import in_child, needs_root
from vhost9p.fs.driver import OWN_ID, Owner


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
def test_no_privilege_is_needed(folder: Path, model: str) -> None:
    def work() -> None:
        with serving(folder, model) as it:
            make_all(it)
            check_all(it, 0o600, 0o700)
            with it.opened(b"reg") as file:
                chown(it.driver.export, file, 0, 0)
                chmod(it.driver.export, file, 0o2711)
            assert (it.attr(b"reg").uid, it.attr(b"reg").mode) == (0, stat.S_IFREG | 0o2711)
            for name in MADE:
                unlink(it.driver.export, it.fd, name, directory=name == b"dir")
            assert it.names() == it.metadata() == set()

    in_child(work)


@pytest.mark.parametrize("model", MODELS)
def test_fmode_and_dmode_are_the_modes_on_the_host(folder: Path, model: str) -> None:
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


def test_creating_over_an_existing_name_changes_nothing(place: Place) -> None:
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
        link(place.driver.export, file, place.fd, b"chr")
    check_all(place, 0o600, 0o700)


def test_only_regular_files_are_opened_by_create(place: Place) -> None:
    make_all(place)
    for name, code in ((b"link", errno.ELOOP), (b"chr", errno.ENXIO), (b"fifo", errno.ENXIO)):
        with pytest.raises(OSError) as caught:
            place.driver.create(place.fd, name, os.O_RDWR, 0o600, OWNER)
        assert caught.value.errno == code
    with place.opened(b"chr") as file, pytest.raises(OSError):
        truncate(place.driver.export, file.fd, -1, 0)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda it: it.driver.symlink(it.fd, b"n", b"", OWNER), errno.ENOENT),
        (lambda it: it.driver.symlink(it.fd, b"n", b"x" * 4096, OWNER), errno.ENAMETOOLONG),
        (lambda it: it.driver.mknod(it.fd, b"n", stat.S_IFDIR, (0, 0), OWNER), errno.EPERM),
        (lambda it: it.driver.mknod(it.fd, b"n", stat.S_IFLNK, (0, 0), OWNER), errno.EINVAL),
        (lambda it: it.driver.mknod(it.fd, b"n", 0o170000, (0, 0), OWNER), errno.EINVAL),
        (lambda it: it.make(b"n" * 256), errno.ENAMETOOLONG),
        (lambda it: rename(it.driver.export, it.fd, b"n", it.fd, b"m"), errno.ENOENT),
        (lambda it: unlink(it.driver.export, it.fd, b"n", directory=False), errno.ENOENT),
        (lambda it: unlink(it.driver.export, it.fd, b"n", directory=True), errno.ENOENT),
    ],
)
def test_a_failed_change_leaves_nothing(
    place: Place, make: Callable[[Place], object], code: int
) -> None:
    with pytest.raises(OSError) as caught:
        make(place)
    assert caught.value.errno == code
    assert place.names() == place.metadata() == set()


def test_nothing_is_created_in_a_removed_directory(place: Place) -> None:
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    fd = place.driver.export.step(place.fd, b"d")
    unlink(place.driver.export, place.fd, b"d", directory=True)
    for make in (
        lambda: place.driver.create(fd, b"n", EXCL, 0o600, OWNER),
        lambda: place.driver.mkdir(fd, b"n", 0o700, OWNER),
        lambda: place.driver.symlink(fd, b"n", b"x", OWNER),
    ):
        with pytest.raises(FileNotFoundError):
            make()
    os.close(fd)
