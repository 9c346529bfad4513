"""The metadata follow a file's names."""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fs.changes import chmod, chown
from tests.fs.mapped.place import MODELS, OWNER, Place, serving, shown
from vhost9p.fs.driver import File, Owner
from vhost9p.native.export import Export


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
        place.driver.rename(place.fd, b"b", d.fd, b"x")
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
        chmod(place.driver.export, file, 0o604)
        chown(place.driver.export, file, 9, -1)
    assert shown(place, b"a") == shown(place, b"b") == (0o604, 9)
    place.driver.unlink(place.fd, b"a", directory=False)
    assert shown(place, b"b") == (0o604, 9)
    assert place.metadata() in ({"b"}, set())


def test_a_file_without_a_name_keeps_its_attributes(place: Place) -> None:
    place.make(b"f", 0o601, Owner(1, 1))
    with place.opened(b"f") as file:
        place.driver.unlink(place.fd, b"f", directory=False)
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
            place.driver.unlink(place.fd, b"d", directory=True)
        assert caught.value.errno == errno.ENOTEMPTY
        assert place.driver.attr(d.fd, b"x").uid == OWNER.uid
        place.driver.unlink(d.fd, b"x", directory=False)
        place.driver.rename(place.fd, b"e", place.fd, b"d")
    place.driver.unlink(place.fd, b"d", directory=True)
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
        parts = ("metadata_dir", "open_sidecar", "share_metadata", "placed")
        for name in (*parts, "discard_metadata"):
            setattr(Export, name, counted(getattr(Export, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 7), "the change fails where it is not killed"
    return status == 7


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
