"""Evicted files that the host replaces, renames or removes."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.frontend.daemon import Daemon
from tests.system.eviction.crowd import (
    CROWD,
    LIMIT,
    Place,
    age,
    evict,
    mkdir,
    put,
    shown,
)
from tests.system.share import (
    SECURITY,
    UNSHARE,
    Share,
    fails,
    mounted,
    needs_root,
    seen_by_main,
    skip_without_namespaces,
)


def replace_by_rename(share: Share, name: str) -> None:
    put(share, "new", "another file's")
    os.rename(share.path("new"), share.path(name))


def replace_by_writing(share: Share, name: str) -> None:
    """The new file may well get the old one's inode number."""
    os.unlink(share.path(name))
    put(share, name, "another file's")


def replace_by_symlink(share: Share, name: str) -> None:
    put(share, "target", "another file's")
    os.unlink(share.path(name))
    os.symlink("target", share.path(name))


def replace_by_directory(share: Share, name: str) -> None:
    os.unlink(share.path(name))
    mkdir(share, name)


def remove(share: Share, name: str) -> None:
    os.unlink(share.path(name))


REPLACE: dict[str, Callable[[Share, str], None]] = {
    "renamed-over": replace_by_rename,
    "written-anew": replace_by_writing,
    "symlink": replace_by_symlink,
    "directory": replace_by_directory,
    "removed": remove,
}


def test_an_evicted_fid_stands_for_what_replaced_its_file(tight: Share) -> None:
    """A fid stands for what has its name. Removed by its fid is that file alone: ESTALE."""
    client = tight.client
    for name in REPLACE:
        put(tight, name, "data")
    age()
    fids = {name: client.walk_to(tight.top, name.encode()) for name in REPLACE}
    clones = {name: client.walk_to(fid) for name, fid in fids.items()}
    evict(tight, *REPLACE)
    for name, replace in REPLACE.items():
        replace(tight, name)
    for clone in clones.values():
        with fails(errno.ESTALE):
            client.remove(clone)  # which ends the fid all the same
        with fails(errno.EBADF):
            client.clunk(clone)
    for name, fid in fids.items():
        if name == "removed":
            with fails(errno.ENOENT):
                client.getattr(fid)
            with fails(errno.ENOENT):
                client.lopen(fid, os.O_RDWR)
        else:
            assert client.getattr(fid).qid.path == os.lstat(tight.path(name)).st_ino
        if name in ("renamed-over", "written-anew"):
            client.lopen(fid, os.O_RDONLY)
            assert client.read(fid, 0, 100) == b"another file's"
        client.clunk(fid)


def test_an_open_file_is_found_by_its_handle_wherever_the_host_moved_it(
    tight: Share, place: Place
) -> None:
    """By handle an open file is found wherever it went, out of the export too: an open fid is a
    capability. By path alone it is not. One that is not open stands for its name."""
    client = tight.client
    for name in ("moved", "outside"):
        put(tight, name, name)
    age()
    fids = {name: client.open(tight.top, name.encode()) for name in ("moved", "outside")}
    unopened = {name: client.walk_to(tight.top, name.encode()) for name in fids}
    evict(tight)
    crowd = client.walk_to(tight.top, b"crowd")
    for i in range(CROWD):
        client.open(crowd, b"%d" % i)  # so that open ones are evicted too
    assert not {path for path in shown(tight) if path.endswith(("/moved", "/outside"))}
    away = tempfile.mkdtemp(dir=place.parent)
    try:
        os.rename(tight.path("moved"), tight.path("elsewhere"))
        os.rename(tight.path("outside"), f"{away}/outside")
        for name, fid in fids.items():
            if place.privileged:
                assert client.read(fid, 0, 100) == name.encode()
            else:
                with fails(errno.ESTALE):
                    client.getattr(fid)
            with fails(errno.ENOENT):
                client.getattr(unopened[name])
        os.rename(tight.path("elsewhere"), tight.path("moved"))
        for fid in (fids["moved"], unopened["moved"]):  # what came back is found again
            assert client.getattr(fid).size == 5
    finally:
        shutil.rmtree(away)


def test_removing_by_fid_removes_no_other_name_of_the_file(tight: Share, place: Place) -> None:
    """In 9P2000.u a fid stands for a name, by which Tremove works. Of a file with two, the other
    one is not removed, and no name that only the host has given it."""
    client = tight.client
    for name in ("one", "two"):
        put(tight, name, name)
    os.link(tight.path("two"), tight.path("second"))
    age()
    client.version(version=b"9P2000.u")
    client.attach(tight.root)
    client.walk(tight.root, tight.top)
    fids = {name: client.walk_to(tight.top, name.encode()) for name in ("one", "two")}
    evict(tight, *fids)
    for name in fids:
        os.rename(tight.path(name), tight.path(f"new-{name}"))
    with fails(errno.ESTALE):
        client.remove(fids["two"])
    assert os.path.exists(tight.path("second"))
    assert os.path.exists(tight.path("new-two"))
    with fails(errno.ENOENT if place.privileged else errno.ESTALE):
        client.remove(fids["one"])
    assert os.path.exists(tight.path("new-one"))


OVERLAY = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged"
mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged"
shift; exec prlimit --nofile=256:256 "$@"
"""


@needs_root
def test_without_handles_birth_times_tell_files_apart(scratch: Path) -> None:
    """On an overlay there are none: birth times tell the files apart."""
    skip_without_namespaces()
    folder = Path(tempfile.mkdtemp(dir=scratch))
    daemon = Daemon(
        "--path", str(folder / "merged"), *SECURITY,
        wrapper=[*UNSHARE, "sh", "-c", OVERLAY, "sh", str(folder)],
    )  # fmt: skip
    with daemon, mounted(daemon, folder) as share:
        client = share.client
        share.host = seen_by_main(daemon, folder) / "merged"
        names = [b"%d" % i for i in range(CROWD)]
        for name in names:
            share.put(name, name)
        age()
        fids = {name: client.walk_to(share.top, name) for name in names}
        assert daemon.fd_count() < LIMIT
        client.renameat(share.top, b"0", share.top, b"zero")
        inos = {name: client.getattr(fid).qid.path for name, fid in fids.items()}
        for name in names[1::2]:
            replace_by_writing(share, os.fsdecode(name))
        age()  # young files keep their descriptors
        replaced = 0
        for name, fid in fids.items():
            replaced += client.getattr(fid).qid.path != inos[name]
            client.lopen(fid, os.O_RDONLY)
            assert client.read(fid, 0, 100) == (b"another file's" if int(name) % 2 else name)
        assert replaced > CROWD // 2 - LIMIT
