"""What the guest sees and changes: modes and owners of files with metadata and without."""

import os
import stat

import pytest

from tests.fs.changes import File, chmod, chown
from tests.fs.mapped.place import META, Place, shown
from vhost9p.fs.driver import OWN_ID, Owner


def test_a_host_file_without_metadata_gets_some_when_it_is_changed(place: Place) -> None:
    (place.path / "f").write_text("x")
    (place.path / "f").chmod(0o4640)
    assert shown(place, b"f") == (0o4640, os.geteuid())
    with place.opened(b"f") as file:
        chown(place.driver.export, file, 7, -1)
    attr = place.attr(b"f")
    assert (attr.uid, attr.gid) == (7, os.getegid())
    assert attr.mode == stat.S_IFREG | 0o640, "a program that is given away loses its set-id bits"
    assert os.stat(place.path / "f").st_mode == stat.S_IFREG | 0o4640


def test_the_root_has_attributes_too(place: Place) -> None:
    chmod(place.driver.export, File(place.fd), 0o1755)
    chown(place.driver.export, File(place.fd), 3, 4)
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
                chown(place.driver.export, file, 5, 6)
                assert place.attr(name).uid == 5
            else:
                with pytest.raises(PermissionError):
                    chown(place.driver.export, file, 5, 6)
    assert os.readlink(place.path / "l") == "to"


def test_leftover_metadata_are_not_the_next_files(files: Place) -> None:
    os.mkdir(files.path / META)
    (files.path / META / "n").write_text("virtfs.uid=5\nvirtfs.mode=8612\nvirtfs.rdev=5\n")
    os.link(files.path / META / "n", files.path / META / "other")
    files.make(b"n", 0o600, Owner(OWN_ID, 1))
    assert shown(files, b"n") == (0o600, os.geteuid())
    assert (files.path / META / "n").read_text() == "virtfs.gid=1\nvirtfs.mode=33152\n"
    assert (files.path / META / "other").read_text().startswith("virtfs.uid=5\n")
