"""Several file systems in one export, by all three policies, with real mounts.

The daemon runs in a mount namespace of its own, made with root's rights or in a user namespace,
so that the host sees nothing of the mounts. Two new tmpfs give out the same inode numbers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.wire import DirEntry, Qid
from tests.system.share import (
    SECURITY,
    UNSHARE,
    Share,
    entering,
    fails,
    mounted,
    skip_without_namespaces,
)

# Runs with the export as $1 and the daemon's command behind it.
MOUNTS = """
set -e
cd "$1"; shift
mount -t tmpfs one one
mount -t tmpfs two two
for d in one two; do
    mkdir $d/sub; for i in 1 2 3; do echo $d$i > $d/file$i; done; ln $d/file1 $d/hard
done
mount --bind one/sub bound
mount --bind one/file2 bound-file
mkdir one/deep; mount -t tmpfs deep one/deep; echo deep > one/deep/file
exec "$@"
"""
TREE: list[tuple[bytes, ...]] = [
    (), (b"one",), (b"two",), (b"plain",), (b"here",), (b"bound",), (b"bound-file",),
    *[(d, f) for d in (b"one", b"two") for f in (b"sub", b"file1", b"file2", b"file3", b"hard")],
    (b"one", b"deep"), (b"one", b"deep", b"file"),
]  # fmt: skip
SAME: list[set[tuple[bytes, ...]]] = [
    {(b"one", b"file1"), (b"one", b"hard")},
    {(b"two", b"file1"), (b"two", b"hard")},
    {(b"bound",), (b"one", b"sub")},
    {(b"bound-file",), (b"one", b"file2")},
]


@pytest.fixture(scope="module")
def export(scratch: Path) -> Path:
    export = scratch / "multidevs"
    for name in ("one", "two", "bound", "plain"):
        (export / name).mkdir(parents=True)
    (export / "bound-file").touch()
    (export / "here").write_text("here")
    skip_without_namespaces()
    return export


@contextlib.contextmanager
def serving(
    export: Path, multidevs: str, state: Path | None = None, speaks: type[Client] = Client
) -> Iterator[Share]:
    daemon = Daemon(
        "--path", str(export), *SECURITY, *(["--multidevs", multidevs] if multidevs else []),
        wrapper=[*UNSHARE, "sh", "-c", MOUNTS, "sh", str(export)],
        env={"XDG_STATE_HOME": str(state)} if state else None,
    )  # fmt: skip
    with daemon, mounted(daemon, export, speaks=speaks) as share:
        yield share


def walked(share: Share) -> dict[tuple[bytes, ...], Qid]:
    """The qid of everything in the tree, by walking to it."""
    return {path: share.client.getattr(share.client.walk_to(share.top, *path)).qid for path in TREE}


def listed(share: Share) -> dict[tuple[bytes, ...], DirEntry]:
    """The same from the listings of its directories."""
    found = {}
    for directory in ((), (b"one",), (b"two",), (b"one", b"deep")):
        for name, entry in share.client.listing(share.top, *directory).items():
            found[(*directory, name)] = entry
    return found


def test_remap_gives_every_file_its_own_identity(export: Path) -> None:
    with serving(export, "remap") as share:
        qids = walked(share)
        groups: dict[int, set[tuple[bytes, ...]]] = {}
        for path, qid in qids.items():
            groups.setdefault(qid.path, set()).add(path)
        several = set().union(*SAME)
        expected = [*SAME, *({path} for path in TREE if path not in several)]
        assert sorted(sorted(group) for group in groups.values()) == sorted(
            sorted(group) for group in expected
        )


def test_remapped_listings_agree_with_walks(export: Path) -> None:
    """Mount points too: their entry is the mounted root, not the directory it covers."""
    with serving(export, "remap") as share:
        entries, qids = listed(share), walked(share)
        for path in TREE[1:]:
            assert entries[path].qid.path == qids[path].path, path
            assert entries[path].qid.type == qids[path].type, path


def test_remapped_dotdot_of_a_mount(export: Path) -> None:
    with serving(export, "remap") as share:
        client = share.client
        root = client.getattr(share.top).qid.path
        fid = client.open(share.top, b"one", os.O_RDONLY | os.O_DIRECTORY)
        found = {entry.name: entry.qid.path for entry in client.entries(fid)}
        assert found[b".."] == root
        assert found[b"."] == client.getattr(fid).qid.path
        assert client.walk(fid, client.new_fid(), b"..")[0].path == root


def test_remap_order_does_not_matter(export: Path) -> None:
    """Whether a file is first seen by a listing or by a walk, it is the same file."""
    with serving(export, "remap") as share:
        entries = listed(share)
        for path, qid in walked(share).items():
            if path:
                assert entries[path].qid.path == qid.path


def test_remap_survives_a_restart(export: Path, tmp_path: Path) -> None:
    """The state file: a guest that keeps its mount keeps its identities, whatever the order.

    The mounts here are new with every start; the export's own device is the same.
    """
    own = [(), (b"plain",), (b"here",)]
    with serving(export, "remap", tmp_path) as share:
        before = {path: qid.path for path, qid in walked(share).items() if path in own}
    with serving(export, "remap", tmp_path) as share:
        listed(share)
        after = {path: qid.path for path, qid in walked(share).items() if path in own}
    assert before == after


def test_state_file_is_private(export: Path, tmp_path: Path) -> None:
    with serving(export, "remap", tmp_path) as share:
        walked(share)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0


def test_damaged_state_file_is_not_fatal(export: Path, tmp_path: Path) -> None:
    with serving(export, "remap", tmp_path) as share:
        before = walked(share)[(b"here",)]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-3] + b"\xff\xff")
    with serving(export, "remap", tmp_path) as share:
        assert len({qid.path for qid in walked(share).values()}) == len(TREE) - len(SAME)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(os.urandom(500))
    with serving(export, "remap", tmp_path) as share:
        assert walked(share)[(b"here",)].type == before.type


def warnings(share: Share, *words: str) -> list[str]:
    """Lines of the log that hold all these words; the first line of all is no warning."""
    return [line for line in share.daemon.lines[1:] if all(word in line for word in words)]


@pytest.mark.parametrize("multidevs", ["warn", ""], ids=["warn", "default"])
def test_warn_serves_inode_numbers_and_says_so_once(export: Path, multidevs: str) -> None:
    with serving(export, multidevs) as share:
        client = share.client
        for name in ("plain", "here"):
            fid = client.walk_to(share.top, name.encode())
            assert client.getattr(fid).qid.path == os.stat(export / name).st_ino
        assert warnings(share, "remap") == []
        qids = walked(share)
        assert qids[(b"one", b"file1")].path == qids[(b"two", b"file1")].path
        listed(share)
    assert len(warnings(share, "remap", "export")) == 1


def test_forbid_denies_other_devices(export: Path) -> None:
    with serving(export, "forbid") as share:
        client = share.client
        for name in (b"one", b"two", b"bound", b"bound-file"):
            with fails(errno.ENODEV):
                client.walk_to(share.top, name)
        assert len(client.walk(share.top, 90, b"plain", b"..", b"one")) == 2
        # Hidden entries would make rm -rf fail without a reason.
        assert set(client.listing(share.top)) == {path[0] for path in TREE if len(path) == 1}
        fid = client.open(share.top, b"here")
        assert client.read(fid, 0, 100) == b"here"
        assert client.getattr(fid).qid.path == os.stat(export / "here").st_ino
        for name in (b"one", b"bound-file"):
            for _ in range(2):
                with fails(errno.ENODEV):
                    client.walk_to(share.top, name)
    assert len(warnings(share, "forbid")) == 1


def test_forbidden_devices_are_visible_in_9p2000_u(export: Path) -> None:
    with serving(export, "forbid", speaks=DialectUClient) as share:
        client = share.client
        assert isinstance(client, DialectUClient)
        for name in (b"one", b"bound-file"):
            with fails(errno.ENODEV):
                client.walk_to(share.top, name)
        found = {each.name: each for each in client.stats(client.walk_open(share.top))}
        assert set(found) == {b".", b"..", *(path[0] for path in TREE if len(path) == 1)}
        covered = {os.fsencode(each.name): each.inode() for each in os.scandir(export)}
        for name in (b"one", b"bound", b"bound-file", b"here", b"plain"):
            assert found[name].qid.path == covered[name]


def test_listings_in_9p2000_u_show_the_qids_of_walks(export: Path, tmp_path: Path) -> None:
    with serving(export, "remap", tmp_path, DialectUClient) as share:
        client = share.client
        assert isinstance(client, DialectUClient)
        found = {each.name: each.qid for each in client.stats(client.walk_open(share.top))}
        for path in TREE:
            if len(path) == 1:
                assert found[path[0]] == client.stat(share.top, *path).qid
        assert found[b"one"].path != found[b"two"].path


def test_renames_and_links_across_devices_fail_with_exdev(export: Path) -> None:
    """rename(2) and link(2) know no way from one file system to another."""
    with serving(export, "remap") as share:
        client = share.client
        one, two = client.walk_to(share.top, b"one"), client.walk_to(share.top, b"two")
        with fails(errno.EXDEV):
            client.renameat(one, b"file3", two, b"moved")
        with fails(errno.EXDEV):
            client.link(two, client.walk_to(one, b"file3"), b"linked")
        with fails(errno.EBUSY):
            client.unlinkat(share.top, b"one", 0x200)
        created = client.create(two, b"new")
        client.write(created, 0, b"data")
        again = client.walk_to(two, b"new")
        assert client.getattr(again).qid.path == client.getattr(created).qid.path


def test_mount_that_appears_while_a_guest_runs(export: Path) -> None:
    """A mount made later is a device like the others."""
    with serving(export, "remap") as share:
        client = share.client
        before = client.listing(share.top)[b"plain"].qid.path
        subprocess.run(
            [*entering(share.daemon), "mount", "-t", "tmpfs", "late", str(export / "plain")],
            check=True,
        )
        after = client.listing(share.top)[b"plain"].qid.path
        (qid,) = client.walk(share.top, client.new_fid(), b"plain")
        assert after == qid.path != before
        qids = {path: qid.path for path, qid in walked(share).items()}
        assert list(qids.values()).count(qid.path) == 1
