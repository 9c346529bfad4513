"""Several directories under one tag: what the guest sees of them, and that each keeps its rules."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.client import AT_REMOVEDIR, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMDIR, DMLINK, ORDWR, DialectUClient
from tests.frontend.machine import Machine
from tests.frontend.wire import DirEntry
from tests.system.share import fails

CONFIG = """
state_dir: {base}/state
devices:
  - socket: {base}/9p.sock
    tag: both
    exports:
      - {{name: src, path: {base}/source, readonly: true}}
      - {{name: out, path: {base}/output, security_model: none}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """source (with a file and a directory) and output, and a configuration with both."""
    for name in ("source/dir", "output"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "source/file").write_text("from the source")
    (tmp_path / "vm.yaml").write_text(CONFIG.format(base=tmp_path))
    return tmp_path


ROOT = 0


@pytest.fixture
def client(base: Path) -> Iterator[Client]:
    """A guest that has attached the whole as fid 0."""
    with serving(base) as client:
        yield client


@contextmanager
def serving(base: Path, speaks: type[Client] = Client) -> Iterator[Client]:
    """The daemon and a guest with the whole as fid 0."""
    args = ["--config", str(base / "vm.yaml")]
    with Daemon(*args, socket=False) as daemon:
        with Machine(str(base / "9p.sock")) as machine:
            machine.boot()
            client = speaks(machine)
            client.version()
            client.attach(ROOT)
            yield client
        daemon.check_output()


def everything(client: Client, *names: bytes) -> dict[bytes, DirEntry]:
    """A directory's entries, . and .. included."""
    fid = client.open(ROOT, names, os.O_RDONLY | os.O_DIRECTORY)
    return {entry.name: entry for entry in client.entries(fid)}


def test_the_root_shows_the_exports_and_nothing_else(client: Client) -> None:
    entries = everything(client)
    assert sorted(entries) == [b".", b"..", b"out", b"src"]
    for name, entry in entries.items():
        (qid,) = client.walk(ROOT, client.new_fid(), name)
        assert (entry.qid.type, entry.qid.path) == (qid.type, qid.path), name
    assert entries[b".."].qid.path == entries[b"."].qid.path
    with fails(errno.ENOENT):
        client.walk(ROOT, client.new_fid(), b"other")


def test_walks_cross_over_and_back(client: Client) -> None:
    qids = client.walk(ROOT, client.new_fid(), b"src", b"dir", b"..", b"..", b"out")
    direct = [client.walk(ROOT, client.new_fid(), *names)[-1] for names in (
        (b"src",), (b"src", b"dir"), (b"src",), (b".",), (b"out",)
    )]  # fmt: skip
    assert [qid.path for qid in qids] == [qid.path for qid in direct]
    assert len({qid.path for qid in qids}) == 4
    inside = everything(client, b"src")
    assert inside[b".."].qid.path == client.getattr(ROOT).qid.path
    assert inside[b"."].qid.path == qids[0].path


@pytest.mark.parametrize("aname", [b"out", b"/out", b"out/"])
def test_an_export_by_its_attach_name(client: Client, base: Path, aname: bytes) -> None:
    client.attach(5, aname=aname)
    assert client.getattr(5).qid.path == client.walk(ROOT, client.new_fid(), b"out")[0].path
    client.create(client.walk_to(5), b"new", os.O_WRONLY | os.O_EXCL)
    assert (base / "output/new").exists()


def test_each_keeps_its_options(client: Client, base: Path) -> None:
    source, output = client.walk_to(ROOT, b"src"), client.walk_to(ROOT, b"out")
    fid = client.create(client.walk_to(output), b"file", os.O_RDWR)
    assert client.write(fid, 0, b"to the output") == 13
    assert client.read_all(client.open(source, b"file")) == b"from the source"
    for change in (
        lambda: client.create(client.walk_to(source), b"new", os.O_RDWR),
        lambda: client.mkdir(source, b"new"),
        lambda: client.unlinkat(source, b"file"),
        lambda: client.open(source, b"file", os.O_RDWR),
        lambda: client.mkdir(ROOT, b"new"),
        lambda: client.unlinkat(ROOT, b"out", AT_REMOVEDIR),
        lambda: client.renameat(ROOT, b"out", ROOT, b"new"),
    ):
        with fails(errno.EROFS):
            change()
    assert sorted(os.listdir(base / "source")) == ["dir", "file"]
    assert (base / "output/file").read_bytes() == b"to the output"


def test_nothing_moves_between_exports(client: Client, base: Path) -> None:
    source, output = client.walk_to(ROOT, b"src"), client.walk_to(ROOT, b"out")
    client.create(client.walk_to(output), b"mine", os.O_RDWR)
    file = client.walk_to(source, b"file")
    with fails(errno.EXDEV):
        client.link(output, file, b"linked")
    with fails(errno.EXDEV):
        client.renameat(source, b"file", output, b"moved")
    with fails(errno.EXDEV):
        client.renameat(output, b"mine", source, b"moved")
    with fails(errno.EXDEV):
        client.rename(client.walk_to(output, b"mine"), source, b"moved")
    assert sorted(os.listdir(base / "output")) == ["mine"]
    assert sorted(os.listdir(base / "source")) == ["dir", "file"]


def test_the_same_in_the_other_dialect(base: Path) -> None:
    with serving(base, DialectUClient) as client:
        assert isinstance(client, DialectUClient)
        entries = {each.name: each for each in client.stats(client.walk_open(ROOT))}
        assert sorted(entries) == [b".", b"..", b"out", b"src"]
        for name in (b"out", b"src"):
            assert client.stat(ROOT, name) == entries[name]
        source, output = client.walk_to(ROOT, b"src"), client.walk_to(ROOT, b"out")
        inside = {each.name: each.qid for each in client.stats(client.walk_open(source))}
        assert inside[b".."] == client.stat(ROOT).qid
        fid = client.make(output, b"mine", 0o644, ORDWR)
        assert client.write(fid, 0, b"data") == 4
        file = client.walk_to(source, b"file")
        with fails(errno.EXDEV):
            client.make(output, b"linked", DMLINK, extension=b"%d" % file)
        for change in (
            lambda: client.make(source, b"new", 0o644),
            lambda: client.make(ROOT, b"new", DMDIR | 0o755),
            lambda: client.wstat(file, name=b"new"),
        ):
            with fails(errno.EROFS):
                change()
        for name in (b"out", b"src"):
            with fails(errno.EROFS, errno.EBUSY):
                client.remove(client.walk_to(ROOT, name))
            with fails(errno.EROFS, errno.EBUSY):
                client.wstat(client.walk_to(ROOT, name), name=b"new")
        client.remove(client.walk_to(output, b"mine"))
    assert os.listdir(base / "output") == []
    assert sorted(os.listdir(base / "source")) == ["dir", "file"]


def test_identities_outlive_the_daemon(base: Path) -> None:
    """Of the root too, and none is shared."""
    seen = []
    for _ in range(2):
        with serving(base) as client:
            names = [(), (b"src",), (b"src", b"file"), (b"out",)]
            seen.append([client.getattr(client.walk_to(ROOT, *name)).qid.path for name in names])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 4
