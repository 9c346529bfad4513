"""Several exports under one root: where a step, an attach and the meeting place lead."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vhost9p.fs.local import LocalDriver
from vhost9p.fs.tree import Tree, open_meeting_place
from vhost9p.native.export import Export
from vhost9p.native.qidmap import QidMap
from vhost9p.policy.multidevs import make_policy

ANYBODY = 0xFFFFFFFF
KEY = "a key, \udcff included"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """Where meeting places are kept."""
    (tmp_path / "state").mkdir()
    fd = os.open(tmp_path / "state", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def tree(tmp_path: Path, folder: int) -> Iterator[tuple[Tree, list[Export]]]:
    """src (with dir/file) and out, side by side."""
    with ExitStack() as stack:
        qidmap = QidMap()
        stack.callback(qidmap.close)
        (tmp_path / "a" / "dir").mkdir(parents=True)
        (tmp_path / "a" / "dir" / "file").write_text("a file")
        (tmp_path / "b").mkdir()
        fds = [open_meeting_place(folder, KEY, [b"src", b"out"])]
        fds += [os.open(tmp_path / name, os.O_PATH) for name in "ab"]
        exports, drivers = [], []
        for fd in fds:
            stack.callback(os.close, fd)
            export = Export(fd, readonly=False, stat_entries=True, qidmap=qidmap)
            stack.callback(export.close)
            exports.append(export)
            drivers.append(LocalDriver(export, fd))
        policy = make_policy("remap", qidmap, 0, exports[0].probe, None)
        stack.callback(policy.close)
        for export in exports:
            export.policy = policy
        for name, export in zip((b"src", b"out"), exports[1:], strict=True):
            exports[0].join(name, export)
        yield Tree(dict(enumerate(drivers)), {b"src": 1, b"out": 2}), exports


def test_attach_leads_to_the_root_an_export_or_below_one(
    tree: tuple[Tree, list[Export]], tmp_path: Path
) -> None:
    for path, export, place in (
        (b"", 0, None),
        (b"/", 0, None),
        (b"src", 1, tmp_path / "a"),
        (b"/out/", 2, tmp_path / "b"),
        (b"src/dir", 1, tmp_path / "a" / "dir"),
        (b"//src//dir", 1, tmp_path / "a" / "dir"),
        (b"./src/./dir/.", 1, tmp_path / "a" / "dir"),
        (b"../../out", 2, tmp_path / "b"),
        (b"src/dir/../dir", 1, tmp_path / "a" / "dir"),
        (b"src/dir/..", 1, tmp_path / "a"),
    ):
        index, fd, attr = tree[0].attach(path, ANYBODY)
        try:
            assert index == export
            assert attr.mode & 0o170000 == 0o040000
            if place:
                assert os.path.samestat(os.fstat(fd), place.stat())
            else:
                assert sorted(os.listdir(f"/proc/self/fd/{fd}")) == ["out", "src"]
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"nowhere", errno.ENOENT),
        (b"nowhere/..", errno.ENOENT),
        (b"src/dir/file", errno.ENOTDIR),
        (b"src/dir/file/..", errno.ENOTDIR),
        (b"src/../out", errno.EXDEV),
        (b"src/dir/../../out", errno.EXDEV),
    ],
)
def test_attach_to_what_is_not_there(
    tree: tuple[Tree, list[Export]], path: bytes, error: int
) -> None:
    with pytest.raises(OSError) as refused:
        tree[0].attach(path, ANYBODY)
    assert refused.value.errno == error


def test_an_attach_of_any_length_is_resolved_at_once(
    tree: tuple[Tree, list[Export]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def watch(method: str) -> None:
        real = getattr(Export, method)

        def watched(*args: object) -> object:
            calls.append(method)
            return real(*args)

        monkeypatch.setattr(Export, method, watched)

    for method in ("step", "descend", "open"):
        watch(method)
    for path in (b"../" * 1365, b"src/" + b"dir/../" * 580, b"./" * 2040 + b"src"):
        calls.clear()
        _, fd, _ = tree[0].attach(path, ANYBODY)
        os.close(fd)
        assert len(calls) == 2


def test_drivers_stay_in_their_export(tree: tuple[Tree, list[Export]]) -> None:
    root, source, _ = tree[1]
    _, fd, _ = tree[0].attach(b"", ANYBODY)
    try:
        with pytest.raises(OSError) as refused:
            root.step(fd, b"src")
        assert refused.value.errno == errno.EXDEV
    finally:
        os.close(fd)
    _, fd, _ = tree[0].attach(b"src", ANYBODY)
    try:
        with pytest.raises(OSError) as refused:
            source.step(fd, b"..")
        assert refused.value.errno == errno.EXDEV
    finally:
        os.close(fd)


def test_the_meeting_place_is_the_same_one_after_a_restart(folder: int) -> None:
    def numbers(names: list[bytes]) -> tuple[int, list[str]]:
        fd = open_meeting_place(folder, KEY, names)
        try:
            return os.fstat(fd).st_ino, sorted(os.listdir(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)

    ino, there = numbers([b"a", b"b"])
    assert there == ["a", "b"]
    assert numbers([b"b", b"c"]) == (ino, ["b", "c"])
    assert len(os.listdir(folder)) == 1


def test_files_in_the_meeting_place_are_not_removed(folder: int, tmp_path: Path) -> None:
    os.close(open_meeting_place(folder, KEY, [b"a"]))
    (place,) = (tmp_path / "state").iterdir()
    (place / "a" / "precious").touch()
    with pytest.raises(OSError) as refused:
        open_meeting_place(folder, KEY, [b"b"])
    assert refused.value.errno == errno.ENOTEMPTY
    assert (place / "a" / "precious").exists()
