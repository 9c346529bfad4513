"""The metadata follow a file's names."""

import contextlib
import errno
import os
import stat
import threading

import pytest

from tests.fs.changes import File, chmod, chown, link, rename, unlink
from tests.fs.mapped.place import OWNER, Place, shown
from vhost9p.fs.driver import Owner


def test_rename_takes_the_metadata_along(place: Place) -> None:
    place.make(b"a", 0o601, Owner(1, 1))
    place.make(b"b", 0o602, Owner(2, 2))
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    with place.opened(b"a") as a, place.opened(b"b") as b, place.opened(b"d") as d:
        rename(place.driver.export, place.fd, b"a", d.fd, b"c")
        assert place.driver.attr(d.fd, b"c").uid == 1
        rename(place.driver.export, d.fd, b"c", place.fd, b"b")
        assert shown(place, b"b") == (0o601, 1)
        for file, uid in ((a, 1), (b, 2)):
            assert place.driver.export.attr(file.fd, meta_fd=file.meta_fd).uid == uid
        rename(place.driver.export, place.fd, b"d", place.fd, b"e")
        rename(place.driver.export, place.fd, b"b", d.fd, b"x")
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
                rename(place.driver.export, place.fd, old, place.fd, new)
            assert caught.value.errno == code
        with pytest.raises(OSError):
            rename(place.driver.export, place.fd, b"d", d.fd, b"below")
        assert place.driver.attr(d.fd, b"below").uid == 3
    assert (shown(place, b"f"), shown(place, b"d")) == ((0o601, 1), (0o702, 2))
    assert place.metadata() in ({"f", "d"}, set())


def test_a_full_directory_is_not_removed(place: Place) -> None:
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    for i in range(100):
        (place.path / "d" / str(i)).touch()
    with pytest.raises(OSError) as caught:
        unlink(place.driver.export, place.fd, b"d", directory=True)
    assert caught.value.errno == errno.ENOTEMPTY
    assert shown(place, b"d") == (0o755, 1234)


def test_rename_of_a_file_without_metadata_leaves_none_of_the_others(place: Place) -> None:
    (place.path / "host").write_text("x")
    (place.path / "host").chmod(0o640)
    place.make(b"f", 0o601, Owner(1, 1))
    rename(place.driver.export, place.fd, b"host", place.fd, b"f")
    assert shown(place, b"f") == (0o640, os.geteuid())
    assert place.metadata() == set()


def test_rename_between_names_of_one_file_keeps_both(place: Place) -> None:
    place.make(b"a", 0o601, Owner(1, 1))
    with place.opened(b"a") as file:
        link(place.driver.export, file, place.fd, b"b")
    rename(place.driver.export, place.fd, b"a", place.fd, b"b")
    assert place.names() == {"a", "b"}
    assert shown(place, b"a") == shown(place, b"b") == (0o601, 1)


@pytest.mark.parametrize("by_host", [False, True])
def test_names_of_one_file_never_differ(place: Place, by_host: bool) -> None:
    if by_host:
        (place.path / "a").write_text("x")
    else:
        place.make(b"a")
    with place.opened(b"a") as file:
        link(place.driver.export, file, place.fd, b"b")
    with place.opened(b"b") as file:
        chmod(place.driver.export, file, 0o604)
        chown(place.driver.export, file, 9, -1)
    assert shown(place, b"a") == shown(place, b"b") == (0o604, 9)
    unlink(place.driver.export, place.fd, b"a", directory=False)
    assert shown(place, b"b") == (0o604, 9)
    assert place.metadata() in ({"b"}, set())


def test_a_file_without_a_name_keeps_its_attributes(place: Place) -> None:
    place.make(b"f", 0o601, Owner(1, 1))
    with place.opened(b"f") as file:
        unlink(place.driver.export, place.fd, b"f", directory=False)
        place.make(b"f", 0o602, Owner(2, 2))
        chmod(place.driver.export, file, 0o444)
        chown(place.driver.export, file, 5, 6)
        attr = place.driver.export.attr(file.fd, meta_fd=file.meta_fd)
        assert (attr.mode, attr.uid, attr.gid) == (stat.S_IFREG | 0o444, 5, 6)
    assert shown(place, b"f") == (0o602, 2)


def test_directories_that_only_hold_metadata_are_empty(place: Place) -> None:
    place.driver.mkdir(place.fd, b"d", 0o755, OWNER)
    place.driver.mkdir(place.fd, b"e", 0o755, OWNER)
    with place.opened(b"d") as d:
        place.driver.mknod(d.fd, b"x", 0o644, (0, 0), OWNER)
        with pytest.raises(OSError) as caught:
            unlink(place.driver.export, place.fd, b"d", directory=True)
        assert caught.value.errno == errno.ENOTEMPTY
        assert place.driver.attr(d.fd, b"x").uid == OWNER.uid
        unlink(place.driver.export, d.fd, b"x", directory=False)
        rename(place.driver.export, place.fd, b"e", place.fd, b"d")
    unlink(place.driver.export, place.fd, b"d", directory=True)
    assert place.names() == place.metadata() == set()


def test_metadata_names_are_the_drivers_own(files: Place) -> None:
    files.make(b"f")
    chmod(files.driver.export, File(files.fd), 0o755)
    driver, fd = files.driver, files.fd
    for name in (b".virtfs_metadata", b".virtfs_metadata_root"):
        with files.opened(b"f") as file:
            for use in (
                lambda name=name: driver.create(fd, name, os.O_RDWR, 0o600, OWNER),
                lambda name=name: driver.mkdir(fd, name, 0o755, OWNER),
                lambda name=name: driver.mknod(fd, name, 0o644, (0, 0), OWNER),
                lambda name=name: driver.symlink(fd, name, b"x", OWNER),
                lambda name=name, file=file: link(driver.export, file, fd, name),
                lambda name=name: unlink(driver.export, fd, name, directory=False),
                lambda name=name: unlink(driver.export, fd, name, directory=True),
                lambda name=name: rename(driver.export, fd, name, fd, b"x"),
                lambda name=name: rename(driver.export, fd, b"f", fd, name),
            ):
                with pytest.raises(OSError) as caught:
                    use()
                assert caught.value.errno == errno.EINVAL
        with pytest.raises(FileNotFoundError):
            driver.attach(name)
    assert files.names() == files.metadata() == {"f"}


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
            rename(files.driver.export, files.fd, old, files.fd, new)
    stop.set()
    thread.join()
    assert [each for each in wrong if each[1] != os.geteuid()] == []
