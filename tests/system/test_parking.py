"""More files than the daemon may hold descriptors: those of idle fids are given up and got back.

Every test runs as root, where files are opened by handle, and as an ordinary user, where their path
has to lead to them; on a disk's file system and in memory.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.client import SET_MODE, SET_SIZE, Client
from tests.frontend.daemon import Daemon, environment
from tests.frontend.unix import UnixClient
from tests.frontend.wire import T
from tests.system.held_daemon import GO, HELD
from tests.system.share import (
    IS_ROOT,
    SECURITY,
    UNSHARE,
    Share,
    fails,
    mounted,
    needs_root,
    skip_without_namespaces,
)

USER = 12345
# Without any capability: CAP_DAC_READ_SEARCH would open files by handle.
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
WITHOUT_HANDLES = ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-dac_read_search"]
if not IS_ROOT:
    WITHOUT_HANDLES = []
LIMIT = 256
CROWD = 600
"""Files enough to have all that was idle before parked."""


@dataclass
class Place:
    """Where and as whom the daemon serves."""

    parent: str
    privileged: bool


PLACES = [
    pytest.param(
        Place(parent, privileged),
        id=f"{os.path.basename(parent)}-{'root' if privileged else 'user'}",
        marks=pytest.mark.skipif(privileged and not IS_ROOT, reason="needs root"),
    )
    for parent in (tempfile.gettempdir(), "/dev/shm")
    for privileged in (True, False)
]


@contextlib.contextmanager
def serving(
    place: Place,
    limit: int,
    *args: str,
    speaks: type[Client] = Client,
    runner: Sequence[str] = (),
) -> Iterator[Share]:
    """A daemon that may have `limit` files open, run by `runner` if any, and a guest."""
    export = Path(tempfile.mkdtemp(prefix="v9-parking-", dir=place.parent))
    wrapper = ["prlimit", f"--nofile={limit}:{limit}"]
    if IS_ROOT and not place.privileged:
        wrapper += AS_USER
    model = "passthrough" if place.privileged else "none"
    wrapper += runner
    daemon = Daemon("--path", str(export), "--security-model", model, *args, wrapper=wrapper)
    if IS_ROOT and not place.privileged:
        os.chown(export, USER, USER)
        os.chown(daemon.directory, USER, USER)
    try:
        with daemon, mounted(daemon, export, speaks=speaks) as share:
            yield share
            assert daemon.fd_count() < limit
            daemon.check_output()
    finally:
        shutil.rmtree(export, ignore_errors=True)


@functools.cache
def user_can_run() -> bool:
    """Whether another user may read Python and this package, wherever root has put them."""
    command = [*AS_USER, sys.executable, "-c", "import vhost9p.daemon"]
    return subprocess.run(command, cwd="/", env=environment({}), check=False).returncode == 0


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    place = request.param
    assert isinstance(place, Place)
    if IS_ROOT and not place.privileged and not user_can_run():
        pytest.skip("an ordinary user may not read this installation of Python")
    return place


@pytest.fixture
def tight(place: Place) -> Iterator[Share]:
    """A share whose daemon has few descriptors."""
    with serving(place, LIMIT) as share:
        yield share


def own(share: Share, *names: str) -> None:
    """Gives what the test made on the host to the daemon's user."""
    status = os.stat(share.host)
    for name in names:
        os.chown(share.path(name), status.st_uid, status.st_gid)


def put(share: Share, name: str, data: str) -> None:
    """A file of the daemon's user."""
    share.put(name, data.encode())
    own(share, name)


def mkdir(share: Share, name: str) -> None:
    os.mkdir(share.path(name))
    own(share, name)


def age() -> None:
    """Lets new files become of age (csrc/way.h)."""
    time.sleep(0.2)


def shown(share: Share) -> set[str]:
    """What the daemon has open below the export."""
    return {path for path in share.daemon.fds().values() if path.startswith(f"{share.host}/")}


def park(share: Share, *gone: str) -> None:
    """Has a crowd of files walked to until nothing is left of those below the names `gone`."""
    if not os.path.exists(share.path("crowd")):
        mkdir(share, "crowd")
        for i in range(CROWD):
            put(share, f"crowd/{i}", "")
        age()
    crowd = share.client.walk_to(share.top, b"crowd")
    fids = [share.client.walk_to(crowd, b"%d" % i) for i in range(CROWD)]
    for fid in (*fids, crowd):
        share.client.clunk(fid)
    left = {path for path in shown(share) for name in gone if f"/{name}" in path}
    assert not left, f"still open: {left}"


def test_more_files_than_descriptors(tight: Share) -> None:
    """All are looked at again, some opened, read and written, and every one is the right one."""
    look_at_many(tight, directories=20, files=150)


def look_at_many(share: Share, directories: int, files: int, first: int = 0) -> dict[int, int]:
    """Live fids of so many directories, from the `first` on, with so many files each; their inode
    numbers by fid."""
    client = share.client
    fids: dict[int, int] = {}
    for d in range(first, first + directories):
        mkdir(share, f"d{d}")
        above = client.walk_to(share.top, b"d%d" % d)
        fids[above] = os.stat(share.path(f"d{d}")).st_ino
        for f in range(files):
            name = f"d{d}/f{f}"
            put(share, name, f"{d} {f}")
            fid = client.walk_to(above, b"f%d" % f)
            fids[fid] = os.stat(share.path(name)).st_ino
    for number, (fid, ino) in enumerate(fids.items()):
        attr = client.getattr(fid)
        assert attr.qid.path == ino and attr.nlink
        if number % 40 == 1 and stat.S_ISREG(attr.mode):
            use(share, fid, ino)
    return fids


def use(share: Share, fid: int, ino: int) -> None:
    """Opens, reads and writes through a clone of a fid of a file."""
    client = share.client
    clone = client.walk_to(fid)
    client.lopen(clone, os.O_RDWR)
    data = client.read(clone, 0, 100)
    assert client.write(clone, len(data), b"!") == 1
    attr = client.getattr(fid)
    assert (attr.qid.path, attr.size) == (ino, len(data) + 1)
    client.clunk(clone)


def test_open_files_are_parked_and_go_on(tight: Share, place: Place) -> None:
    """More open files than descriptors; each keeps its access mode and its data. An ordinary user's
    that are open for writing keep their descriptors, so there are fewer of them."""
    client = tight.client
    fids = {}
    writers = CROWD if place.privileged else LIMIT // 2
    for i in range(CROWD):
        put(tight, f"f{i}", f"number {i}")
        flags = os.O_RDWR | os.O_TRUNC if i % 2 else os.O_WRONLY
        if i % 3 or i > writers:
            flags = os.O_RDONLY
        fids[i] = client.open(tight.top, b"f%d" % i, flags), flags
    for _ in range(2):
        for i, (fid, flags) in fids.items():
            expected = b"" if flags & os.O_TRUNC else b"number %d" % i
            if flags == os.O_WRONLY:
                with fails(errno.EBADF):
                    client.read(fid, 0, 100)
                assert client.write(fid, 0, b"number") == 6
            elif flags & os.O_TRUNC:
                client.write(fid, 0, b"again")
                assert client.read(fid, 0, 100) == b"again"
                client.setattr(fid, SET_SIZE, size=0)
            else:
                assert client.read(fid, 0, 100) == expected
                with fails(errno.EBADF):
                    client.write(fid, 0, b"x")
    client.renameat(tight.top, b"f1", tight.top, b"f2")  # over an open file
    assert client.read(fids[1][0], 0, 100) == b"number 1"
    assert client.read(fids[2][0], 0, 100) == b"number 2"


def test_guest_renames(tight: Share) -> None:
    """Files, and directories above parked files, more often than the journal of renames is long."""
    client = tight.client
    mkdir(tight, "a")
    mkdir(tight, "a/b")
    put(tight, "a/b/file", "data")
    put(tight, "a/bb", "other")
    put(tight, "a/plain", "plain")
    age()
    file, other = (
        client.walk_to(tight.top, b"a", b"b", b"file"),
        client.walk_to(tight.top, b"a", b"bb"),
    )
    plain = client.walk_to(tight.top, b"a", b"plain")
    park(tight, "a/")
    above = client.walk_to(tight.top, b"a")
    client.renameat(above, b"plain", tight.top, b"b")
    client.renameat(above, b"b", tight.top, b"c")
    client.renameat(tight.top, b"c", above, b"d")
    client.rename(client.walk_to(above, b"d"), tight.top, b"e")
    assert client.getattr(file).qid.path == os.stat(tight.path("e/file")).st_ino
    park(tight, "a/", "e/")
    for i in range(200):
        client.renameat(tight.top, b"e%d" % (i - 1) if i else b"e", tight.top, b"e%d" % i)
    client.lopen(file, os.O_RDONLY)
    assert client.read(file, 0, 10) == b"data"
    client.lopen(other, os.O_RDONLY)
    assert client.read(other, 0, 10) == b"other"

    client.lopen(plain, os.O_RDONLY)
    assert client.read(plain, 0, 10) == b"plain"


def test_renames_at_the_same_time() -> None:
    """Of a directory, and of one in it: what is parked below, and opened by its path, follows both,
    in their order."""
    place = Place(tempfile.gettempdir(), privileged=IS_ROOT)
    runner = [*WITHOUT_HANDLES, sys.executable, "-m", "tests.system.held_daemon"]
    with serving(place, LIMIT, "--threads", "2", runner=runner) as share:
        client = share.client
        for name in ("outer", "outer/x"):
            mkdir(share, name)
        put(share, "outer/x/file", "data")
        age()
        file = client.walk_to(share.top, b"outer", b"x", b"file")
        park(share, "outer/")
        outer = client.walk_to(share.top, b"outer")
        first = client.submit(T.RENAMEAT, share.top, b"outer", share.top, HELD)
        share.daemon.wait_until(lambda: os.path.exists(share.path(HELD)), "a rename")
        second = client.submit(T.RENAMEAT, outer, b"x", outer, b"y")
        with contextlib.suppress(TimeoutError):
            client.wait(second, 1)
        share.put(GO)
        client.wait(first)
        client.wait(second)
        client.lopen(file, os.O_RDONLY)
        assert client.read(file, 0, 10) == b"data"


def limit_files(share: Share, place: Place, limit: int) -> None:
    """Sets the daemon's limit; its user may, where root needs a capability for it (prlimit(2))."""
    command = ["prlimit", f"--pid={share.daemon.pid}", f"--nofile={limit}:"]
    user = AS_USER if IS_ROOT and not place.privileged else []
    subprocess.run([*user, *command], cwd="/", check=True)


def test_limit_that_is_lower_than_told(place: Place) -> None:
    """Descriptors run out before the daemon expects it: some are given up, and it tries again."""
    with serving(place, 4 * LIMIT) as share:
        client = share.client
        mkdir(share, "d")
        for i in range(2 * LIMIT):
            put(share, f"d/{i}", str(i))
        age()
        above = client.walk_to(share.top, b"d")
        early = [client.walk_to(above, b"%d" % i) for i in range(LIMIT)]
        limit_files(share, place, LIMIT)
        late = [client.walk_to(above, b"%d" % i) for i in range(LIMIT, 2 * LIMIT)]
        for i, fid in enumerate(early + late):
            client.lopen(fid, os.O_RDONLY)
            assert client.read(fid, 0, 10) == str(i).encode()
        for i in range(LIMIT):
            created = client.walk_to(above)
            client.lcreate(created, b"new%d" % i, os.O_RDWR, 0o600, 0)
            if not place.privileged:
                client.clunk(created)  # open for writing it would keep its descriptor
        limit_files(share, place, 4 * LIMIT)


def test_guest_unlinks(tight: Share) -> None:
    """What loses its name while it is parked stays what it is: by unlinkat, by a rename over it,
    by remove, and a directory by rmdir."""
    client = tight.client
    names = ["unlinked", "covered", "removed", "open"]
    for name in (*names, "cover"):
        put(tight, name, name)
    mkdir(tight, "directory")
    age()
    fids = {name: client.walk_to(tight.top, name.encode()) for name in (*names, "directory")}
    inos = {name: os.stat(tight.path(name)).st_ino for name in fids}
    client.lopen(fids["open"], os.O_RDWR)
    park(tight, *(name for name in fids if name != "open"))
    client.unlinkat(tight.top, b"unlinked")
    client.renameat(tight.top, b"cover", tight.top, b"covered")
    client.remove(client.walk_to(tight.top, b"removed"))
    client.unlinkat(tight.top, b"directory", 0x200)
    client.unlinkat(tight.top, b"open")
    for name in ("unlinked", "removed", "open", "directory"):
        put(tight, name, "impostor")
    park(tight)
    for name, fid in fids.items():
        attr = client.getattr(fid)
        assert (attr.qid.path, attr.nlink) == (inos[name], 0), name
    for name in names:
        if name != "open":
            client.lopen(fids[name], os.O_RDONLY)
        assert client.read(fids[name], 0, 100) == name.encode()


def test_metadata_of_what_was_unlinked(place: Place) -> None:
    """Under mapped-file they are in another file, whose name goes with the file's."""
    with serving(place, LIMIT, "--security-model", "mapped-file") as share:
        client = share.client
        fids = {}
        for name in (b"kept", b"unlinked"):
            client.clunk(client.create(share.top, name, mode=0o4711, gid=77))
            fids[name] = client.walk_to(share.top, name)
        age()
        park(share, "kept", "unlinked")
        client.unlinkat(share.top, b"unlinked")
        park(share, "kept")
        for fid in fids.values():
            attr = client.getattr(fid)
            assert (attr.mode & 0o7777, attr.gid) == (0o4711, 77)


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


def test_host_replaces(tight: Share) -> None:
    """A fid stands for what has its name. Removed by its fid is that file alone: ESTALE."""
    client = tight.client
    for name in REPLACE:
        put(tight, name, "data")
    age()
    fids = {name: client.walk_to(tight.top, name.encode()) for name in REPLACE}
    clones = {name: client.walk_to(fid) for name, fid in fids.items()}
    park(tight, *REPLACE)
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


def test_host_renames(tight: Share, place: Place) -> None:
    """By handle an open file is found wherever it went, out of the export too: an open fid is a
    capability. By path alone it is not. One that is not open stands for its name."""
    client = tight.client
    for name in ("moved", "outside"):
        put(tight, name, name)
    age()
    fids = {name: client.open(tight.top, name.encode()) for name in ("moved", "outside")}
    unopened = {name: client.walk_to(tight.top, name.encode()) for name in fids}
    park(tight)
    crowd = client.walk_to(tight.top, b"crowd")
    for i in range(CROWD):
        client.open(crowd, b"%d" % i)  # so that open ones are parked too
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


def test_a_name_is_not_taken_for_another(tight: Share, place: Place) -> None:
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
    park(tight, *fids)
    for name in fids:
        os.rename(tight.path(name), tight.path(f"new-{name}"))
    with fails(errno.ESTALE):
        client.remove(fids["two"])
    assert os.path.exists(tight.path("second"))
    assert os.path.exists(tight.path("new-two"))
    with fails(errno.ENOENT if place.privileged else errno.ESTALE):
        client.remove(fids["one"])
    assert os.path.exists(tight.path("new-one"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_lost_permission(tight: Share, when: str) -> None:
    """What may not be opened again keeps its descriptor: the permission was checked at the time."""
    client = tight.client
    fid = client.create(tight.top, b"file", os.O_RDWR)
    if when == "before":
        client.setattr(fid, SET_MODE, mode=0o400)
    park(tight)
    if when == "after":
        readers = [client.open(tight.top, b"crowd") for _ in range(CROWD)]
        for reader in readers:
            client.clunk(reader)
        client.setattr(fid, SET_MODE, mode=0o400)
    hold = [client.open(tight.top, b"crowd") for _ in range(CROWD)]
    assert client.write(fid, 0, b"data") == 4
    assert client.read(fid, 0, 9) == b"data"
    assert len(hold) > LIMIT


def test_symlinks_and_special_files(tight: Share) -> None:
    client = tight.client
    os.symlink("target", tight.path("link"))
    os.mkfifo(tight.path("fifo"))
    age()
    link, fifo = (client.walk_to(tight.top, name) for name in (b"link", b"fifo"))
    park(tight, "link", "fifo")
    assert client.readlink(link) == b"target"
    assert client.getattr(fifo).qid.path == os.stat(tight.path("fifo")).st_ino
    with fails(errno.ENXIO):
        client.lopen(fifo, os.O_RDONLY)


def test_directory_that_is_being_read(tight: Share) -> None:
    """Its position survives pressure, although files vanish from it meanwhile."""
    client = tight.client
    mkdir(tight, "full")
    for i in range(400):
        put(tight, f"full/{i}", "")
    age()
    fid = client.open(tight.top, b"full")
    seen: set[bytes] = set()
    offset = 0
    while entries := client.readdir(fid, offset, 4000):
        for entry in entries:
            seen.add(entry.name)
            if entry.name not in (b".", b".."):
                os.unlink(tight.path(f"full/{os.fsdecode(entry.name)}"))
        offset = entries[-1].offset
        park(tight)
    assert len(seen) == 402
    assert os.listdir(tight.path("full")) == []


OVERLAY = """
mkdir "$1/lower" "$1/upper" "$1/work" "$1/merged"
mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged"
shift; exec prlimit --nofile=256:256 "$@"
"""


@needs_root
def test_file_system_without_handles(scratch: Path) -> None:
    """On an overlay there are none: birth times tell the files apart."""
    skip_without_namespaces()
    folder = Path(tempfile.mkdtemp(dir=scratch))
    daemon = Daemon(
        "--path", str(folder / "merged"), *SECURITY,
        wrapper=[*UNSHARE, "sh", "-c", OVERLAY, "sh", str(folder)],
    )  # fmt: skip
    with daemon, mounted(daemon, folder) as share:
        client = share.client
        share.host = Path(f"/proc/{daemon.pid}/root{folder}/merged")
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
        replaced = 0
        for name, fid in fids.items():
            replaced += client.getattr(fid).qid.path != inos[name]
            client.lopen(fid, os.O_RDONLY)
            assert client.read(fid, 0, 100) == (b"another file's" if int(name) % 2 else name)
        assert replaced > CROWD // 2 - LIMIT


def test_9p2000u(place: Place) -> None:
    """There each walk has a descriptor of its own, whose name is what Tremove removes and Twstat
    renames."""
    with serving(place, LIMIT, speaks=UnixClient) as share:
        client = share.client
        assert isinstance(client, UnixClient)
        put(share, "one", "data")
        os.link(share.path("one"), share.path("two"))
        age()
        one, two, third = (client.walk_to(share.top, name) for name in (b"one", b"two", b"two"))
        park(share, "one", "two")
        client.wstat(third, name=b"three")
        assert [client.stat(fid).name for fid in (one, third)] == [b"one", b"three"]
        park(share, "one", "two", "three")
        client.remove(one)
        assert sorted(os.listdir(share.host)) == ["crowd", "three"]
        client.remove(third)
        client.open_fid(two)
        assert client.read(two, 0, 100) == b"data"


@pytest.mark.parametrize("parent", [tempfile.gettempdir(), "/dev/shm"])
def test_two_guests_share_what_there_is(parent: str) -> None:
    """One that has taken nearly everything gives up for another."""
    folders = [tempfile.mkdtemp(prefix="v9-two-", dir=parent) for _ in range(2)]
    sockets = tempfile.mkdtemp(prefix="v9-")
    config = Path(sockets) / "config.yaml"
    config.write_text(
        "devices:\n"
        + "".join(
            f"  - {{socket: {sockets}/{i}, tag: t{i}, path: {folder}, security_model: none}}\n"
            for i, folder in enumerate(folders)
        )
    )
    daemon = Daemon(
        "--config", str(config), socket=False, wrapper=["prlimit", f"--nofile={LIMIT}:{LIMIT}"]
    )
    with daemon, contextlib.ExitStack() as stack:
        shares = []
        for i, folder in enumerate(folders):
            daemon.socket = f"{sockets}/{i}"
            shares.append(stack.enter_context(mounted(daemon, Path(folder))))
        for share in shares:
            look_at_many(share, directories=4, files=CROWD // 4)
        counts = [
            sum(path.startswith(folder) for path in daemon.fds().values()) for folder in folders
        ]
        assert min(counts) > LIMIT // 10, counts
        for share in shares:
            park(share)
    for folder in (*folders, sockets):
        shutil.rmtree(folder)


def memory(daemon: Daemon) -> int:
    """Bytes that the daemon takes for itself: its own memory and the fid table, not the guest's."""
    tables = [fd for fd, path in daemon.fds().items() if "vhost9p-fids" in path]
    blocks = sum(os.stat(f"/proc/{daemon.pid}/fd/{fd}").st_blocks for fd in tables)
    return blocks * 512 + daemon.anonymous_kib() * 1024


@pytest.mark.full
@pytest.mark.parametrize("parked", [False, True], ids=["descriptors", "parked"])
@pytest.mark.parametrize("privileged", [True, False], ids=["root", "user"])
def test_half_a_million(privileged: bool, parked: bool) -> None:
    """500,000 live fids under `ulimit -n 4096`; what each takes of memory is printed (-s), and for
    comparison what one takes that keeps its descriptor, with as many as may be open."""
    place = Place(tempfile.gettempdir(), privileged)
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 4096 if parked else allowed
    directories = 500 if parked else min(allowed // 1200, 500)
    with serving(place, limit) as share:
        fids = look_at_many(share, directories // 2, 1000)
        before, count = memory(share.daemon), len(fids)
        fids |= look_at_many(share, directories // 2, 1000, directories // 2)
        each = (memory(share.daemon) - before) / (len(fids) - count)
        print(
            f"\n{len(fids)} fids of as many files, {share.daemon.fd_count()} descriptors: "
            f"{each:.0f} bytes of the daemon's memory for one more"
        )
        for number, (fid, ino) in enumerate(fids.items()):
            if number % 7 == 0:
                assert share.client.getattr(fid).qid.path == ino


def test_limit_command() -> None:
    """The wrapper that these tests rely on."""
    told = subprocess.run(
        ["prlimit", "--nofile=99:99", "sh", "-c", "ulimit -n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == "99"
