"""9P2000.u: its messages, what they refuse, and what an error looks like."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any

import pytest

from tests.frontend import wire
from tests.frontend.client import Client
from tests.frontend.unix import (
    DMAPPEND,
    DMDEVICE,
    DMDIR,
    DMLINK,
    DMNAMEDPIPE,
    DMSETGID,
    DMSETUID,
    DMSETVTX,
    DMSOCKET,
    DMSYMLINK,
    OAPPEND,
    OEXEC,
    ORCLOSE,
    ORDWR,
    OREAD,
    OTRUNC,
    OWRITE,
    Stat,
    UnixClient,
    decode_stats,
    encode_stat,
)
from tests.frontend.wire import NOTAG, REQUEST_FIELDS, Kind, T, U
from tests.system.conftest import Common
from tests.system.share import Share, fails, mounted, needs_root, remount

NO_FID = 4242
FIELDS: dict[str, Any] = {"s": b"name", "w": NO_FID, "q": 1, "b": 0, "h": 0, "d": b"data"}
FIELDS["S"] = [b"name"]
UNIX_KINDS: list[Kind] = [T.ATTACH, T.WALK, T.READ, T.WRITE, T.CLUNK, T.REMOVE, *U]


@pytest.fixture
def share(common: Common, folder: str) -> Iterator[Share]:
    """A guest whose session is of 9P2000.u, in a new directory."""
    with mounted(common.running(), common.export, folder, speaks=UnixClient) as share:
        yield share
    common.check()


@pytest.fixture
def client(share: Share) -> UnixClient:
    assert isinstance(share.client, UnixClient)
    return share.client


# ---- sessions -------------------------------------------------------------------------------


def test_each_session_has_its_dialect(share: Share, client: UnixClient) -> None:
    client.stat(share.top)
    client.version(version=b"9P2000.L")
    with fails(errno.EBADF):
        client.getattr(share.top)
    with fails(errno.EOPNOTSUPP):
        client.stat(share.top)
    assert client.version(version=b"9P2000")[1] == b"unknown"
    with fails(errno.EOPNOTSUPP):  # the dialect is the last one that was agreed on
        client.stat(share.top)
    remount(share)
    assert client.stat(share.top).mode & DMDIR


@pytest.mark.parametrize("kind", [kind for kind in T if kind < T.VERSION])
def test_requests_of_the_other_dialect_are_refused(
    share: Share, client: UnixClient, kind: T
) -> None:
    share.put("file", b"data")
    fields = [FIELDS[letter] for letter in REQUEST_FIELDS[kind]]
    fields[0] = share.top
    with fails(errno.EOPNOTSUPP):
        client.call(kind, *fields)
    assert os.listdir(share.host) == ["file"]


def valid(kind: Kind) -> list[Any]:
    fields = [FIELDS[letter] for letter in REQUEST_FIELDS[kind]]
    if kind == U.WSTAT:
        fields[1] = encode_stat(Stat(mode=0o600))
    if kind == U.CREATE:
        fields[2] = 0o600
    return fields


@pytest.mark.parametrize("kind", [kind for kind in UNIX_KINDS if kind != T.ATTACH])
def test_every_request_refuses_an_unknown_fid(share: Share, client: UnixClient, kind: Kind) -> None:
    with fails(errno.EBADF):
        client.call(kind, *valid(kind))
    assert client.stat(share.top).mode & DMDIR


@pytest.mark.parametrize("kind", UNIX_KINDS)
def test_a_short_body_is_an_error(share: Share, client: UnixClient, kind: Kind) -> None:
    fields = valid(kind)
    fields[0] = share.top
    whole = wire.encode(kind, 5, *fields)
    for size in range(7, len(whole)):
        reply = client.wait_raw(client.submit_raw(wire.message(kind, 5, whole[7:size]), 4096))
        assert wire.decode(reply).type == wire.RERROR, f"{size} of {len(whole)} bytes"
    assert client.stat(share.top).mode & DMDIR
    assert os.listdir(share.host) == []


def test_an_attach_may_name_a_number(share: Share, client: UnixClient) -> None:
    """Where there is no n_uname; a name that is no number is nobody's."""
    for number, (name, uid) in enumerate(
        [(b"1000", 1000), (b"nobody", os.geteuid()), (b"", os.geteuid()), (b"4294967295", 0)]
    ):
        client.attach(700 + number, uname=name)
        if os.geteuid() == 0:
            top = client.walk_to(700 + number, share.name)
            client.clunk(client.make(top, b"f%d" % number))
            assert os.stat(share.path(b"f%d" % number)).st_uid == uid


# ---- errors ---------------------------------------------------------------------------------


def test_an_error_has_a_text_and_a_number(share: Share, client: UnixClient) -> None:
    ticket = client.submit(T.WALK, share.top, 90, [b"absent"])
    reply = wire.decode(client.wait_raw(ticket))
    assert reply.type == wire.RERROR
    assert reply.fields == (os.strerror(errno.ENOENT).encode(), errno.ENOENT)


@pytest.mark.parametrize("from_python", [False, True])
def test_an_error_fits_the_buffer(share: Share, client: UnixClient, from_python: bool) -> None:
    """Of 11 and 12 bytes, an error of plain 9P2000 remains."""
    text = os.strerror(errno.EBADF).encode()
    request = wire.encode(*((T.REMOVE if from_python else T.CLUNK), 9, NO_FID))
    for capacity in range(11, 13 + len(text) + 5):
        reply = client.wait_raw(client.submit_raw(request, capacity))
        assert len(reply) <= capacity
        size, kind, tag = wire.HEADER.unpack_from(reply)
        assert (size, kind, tag) == (len(reply), wire.RERROR, 9)
        fixed = 9 if capacity < 13 else 13
        name = text[: capacity - fixed]
        assert reply[7:] == len(name).to_bytes(2, "little") + name + (
            b"" if capacity < 13 else errno.EBADF.to_bytes(4, "little")
        )


def test_a_reply_that_does_not_fit_is_an_error(share: Share, client: UnixClient) -> None:
    reply = client.wait_raw(client.submit_raw(wire.encode(U.STAT, 9, share.top), 60))
    assert wire.decode(reply).fields[1] == errno.EMSGSIZE


# ---- Tstat ----------------------------------------------------------------------------------


def make_all(share: Share) -> None:
    """One of each kind that this user can make."""
    share.put("file", b"12345")
    os.link(share.path("file"), share.path("hard"))
    os.mkdir(share.path("dir"))
    os.symlink(b"\xff/target", share.path("link"))
    os.mkfifo(share.path("fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(share.path("sock"))
    os.chmod(share.path("file"), 0o6751)
    os.chmod(share.path("dir"), 0o1777)
    os.utime(share.path("file"), (1000, 2000))
    if os.geteuid() == 0:
        os.mknod(share.path("null"), stat.S_IFCHR | 0o644, os.makedev(1, 3))
        os.mknod(share.path("disk"), stat.S_IFBLK | 0o600, os.makedev(8, 300))


EXPECTED = {
    b"file": (DMSETUID | DMSETGID | 0o751, b"HARDLINKCOUNT 2"),
    b"hard": (DMSETUID | DMSETGID | 0o751, b"HARDLINKCOUNT 2"),
    b"dir": (DMDIR | DMSETVTX | 0o777, None),
    b"link": (DMSYMLINK | 0o777, b"\xff/target"),
    b"fifo": (DMNAMEDPIPE, b""),
    b"sock": (DMSOCKET, b""),
    b"null": (DMDEVICE | 0o644, b"c 1 3"),
    b"disk": (DMDEVICE | 0o600, b"b 8 300"),
}


def check_stat(share: Share, name: bytes, found: Stat) -> None:
    status = os.lstat(share.path(name))
    mode, extension = EXPECTED[name]
    assert found.name == name
    if name in (b"fifo", b"sock"):  # whose permissions the umask has a say in
        mode |= stat.S_IMODE(status.st_mode)
    assert found.mode == mode
    if extension is None:
        extension = b"HARDLINKCOUNT %d" % status.st_nlink
    assert found.extension == extension
    assert (found.atime, found.mtime) == (int(status.st_atime), int(status.st_mtime))
    assert found.length == status.st_size
    assert (found.n_uid, found.n_gid) == (status.st_uid, status.st_gid)
    assert (found.uid, found.gid) == (b"%d" % status.st_uid, b"%d" % status.st_gid)
    assert (found.type, found.dev, found.muid) == (0, 0, b"")


def test_stat_of_every_kind(share: Share, client: UnixClient) -> None:
    make_all(share)
    for name in os.listdir(os.fsencode(share.host)):
        found = client.stat(share.top, name)
        check_stat(share, name, found)
        [qid] = client.walk(share.top, 90, name)
        assert found.qid == qid
        client.clunk(90)


def test_names_of_what_has_none(share: Share, client: UnixClient) -> None:
    assert client.stat(share.root).name == b"/"
    share.put("file")
    share.put("there")
    fid, moved = client.walk_to(share.top, b"file"), client.walk_to(share.top, b"there")
    os.unlink(share.path("file"))
    os.rename(share.path("there"), share.path("here"))
    assert client.stat(fid)[7:12] == (b"file", *client.stat(fid)[8:11], b"HARDLINKCOUNT 0")
    assert client.stat(moved).name == b"here"


def test_a_name_that_ends_like_a_removed_files(share: Share, client: UnixClient) -> None:
    share.put("odd (deleted)")
    assert client.stat(share.top, b"odd (deleted)").name == b"odd (deleted)"


# ---- Topen, Tread, Twrite -------------------------------------------------------------------


def test_open_modes(share: Share, client: UnixClient) -> None:
    share.put("file", b"0123456789")
    for mode in (OREAD, OEXEC):
        fid = client.walk_open(share.top, b"file", mode=mode)
        assert client.read(fid, 2, 5) == b"23456"
        with fails(errno.EBADF):
            client.write(fid, 0, b"x")
        with fails(errno.EBADF):
            client.open_fid(fid)
    fid = client.walk_open(share.top, b"file", mode=OWRITE)
    with fails(errno.EBADF):
        client.read(fid, 0, 1)
    assert client.write(fid, 3, b"abc") == 3
    fid = client.walk_open(share.top, b"file", mode=OWRITE | OAPPEND)
    client.write(fid, 0, b"end")
    assert share.get("file") == b"012abc6789end"
    fid = client.walk_open(share.top, b"file", mode=ORDWR | OTRUNC)
    assert share.get("file") == b""
    client.write(fid, 0, b"both")
    assert client.read(fid, 0, 9) == b"both"


def test_what_is_never_opened(share: Share, client: UnixClient) -> None:
    make_all(share)
    for name, code in ((b"link", errno.ELOOP), (b"fifo", errno.ENXIO), (b"sock", errno.ENXIO)):
        with fails(code):
            client.walk_open(share.top, name)
    for mode in (OWRITE, ORDWR, OTRUNC):
        with fails(errno.EISDIR):
            client.walk_open(share.top, b"dir", mode=mode)
    with fails(errno.EOPNOTSUPP):
        client.walk_open(share.top, b"file", mode=ORCLOSE)
    assert share.get("file") == b"12345"


# ---- a directory's contents -----------------------------------------------------------------


def names_of(stats: Iterator[Stat]) -> list[bytes]:
    return sorted(stat.name for stat in stats)


def test_a_directory_reads_as_stat_structures(share: Share, client: UnixClient) -> None:
    make_all(share)
    fid = client.walk_open(share.top)
    found = {each.name: each for each in client.stats(fid)}
    assert sorted(found) == sorted([b".", b"..", *os.listdir(os.fsencode(share.host))])
    assert found.pop(b".").qid.path == client.stat(share.top).qid.path
    assert found.pop(b"..").qid.path == client.stat(share.root).qid.path
    for name, each in found.items():
        check_stat(share, name, each)
        assert each == client.stat(share.top, name)


def test_the_roots_parent_is_the_root(share: Share, client: UnixClient) -> None:
    found = {each.name: each for each in client.stats(client.walk_open(share.root))}
    assert found[b".."]._replace(name=b"/") == client.stat(share.root)


@pytest.mark.parametrize("count", [400, 8192, 511_976])
def test_thousands_of_entries(share: Share, client: UnixClient, count: int) -> None:
    names = [b"entry%05d" % i * (1 + i % 9) for i in range(3000)]
    for name in names:
        os.close(os.open(share.path(name), os.O_CREAT, 0o600))
    fid = client.walk_open(share.top)
    expected = sorted([b".", b"..", *names])
    assert names_of(client.stats(fid, count)) == expected
    assert names_of(client.stats(fid, count)) == expected  # and once more from the start


def test_offsets_of_a_directory(share: Share, client: UnixClient) -> None:
    for i in range(200):
        share.put(f"f{i}", bytes(i))
    fid = client.walk_open(share.top)
    ends, names, offset = [0], [], 0
    while data := client.read(fid, offset, 1000):
        for size, each in decode_stats(data):
            offset += size
            ends.append(offset)
            names.append(each.name)
    for at in (150, 3, 77, 201):  # as after seekdir(3)
        [(_, each), *_] = decode_stats(client.read(fid, ends[at], 1000))
        assert each.name == names[at]
        [(_, each), *_] = decode_stats(client.read(fid, ends[at] - 1, 1000))
        assert each.name == names[at]  # within an entry: the next one
    for beyond in (offset, offset + 1, 2**40, 2**63 - 1):
        assert client.read(fid, beyond, 1000) == b""
    with fails(errno.EINVAL):
        client.read(fid, 2**63, 1000)
    share.put("new")
    assert b"new" in names_of(client.stats(fid))


def test_entries_that_vanish_while_they_are_read(share: Share, client: UnixClient) -> None:
    for i in range(500):
        share.put(f"f{i}")
    fid = client.walk_open(share.top)
    first = client.read(fid, 0, 4000)
    seen = {each.name for _, each in decode_stats(first)}
    left = sorted(set(os.listdir(os.fsencode(share.host))) - seen)
    for name in left[::2]:
        os.unlink(share.path(name))
    offset, rest = len(first), set()
    while data := client.read(fid, offset, 4000):
        offset += len(data)
        rest |= {each.name for _, each in decode_stats(data)}
    assert set(left[1::2]) <= rest
    assert not rest & set(left[::2])


def test_a_target_that_no_reply_holds(share: Share, client: UnixClient) -> None:
    share.put("a")
    os.symlink("t" * 4095, share.path("long"))
    share.put("z")
    fid = client.walk_open(share.top)
    found = {each.name: each for each in client.stats(fid, 400)}
    assert set(found) == {b".", b"..", b"a", b"long", b"z"}
    assert (found[b"long"].extension, found[b"long"].length) == (b"", 4095)
    whole = {each.name: each.extension for each in client.stats(fid, 8192)}
    assert whole[b"long"] == b"t" * 4095


def test_directories_are_read_and_nothing_else(share: Share, client: UnixClient) -> None:
    share.put("file")
    fid = client.walk_open(share.top)
    for count in (0, 1, 60):
        with fails(errno.EINVAL):
            client.read(fid, 0, count)
    with fails(errno.EBADF):
        client.write(fid, 0, b"x")
    with fails(errno.EBADF):
        client.read(share.top, 0, 1000)
    client.clunk(fid)
    with fails(errno.EBADF):
        client.read(fid, 0, 1000)


# ---- Tcreate --------------------------------------------------------------------------------


def test_create_a_file(share: Share, client: UnixClient) -> None:
    fid = client.make(share.top, b"new", DMSETUID | DMSETVTX | 0o751, ORDWR)
    status = os.stat(share.path("new"))
    assert stat.S_IMODE(status.st_mode) == 0o5751
    assert client.write(fid, 0, b"data") == 4
    assert client.read(fid, 0, 9) == b"data"
    found = client.stat(fid)
    assert (found.name, found.length) == (b"new", 4)
    with fails(errno.EBADF):
        client.call(U.CREATE, fid, b"more", 0o644, OREAD, b"")
    with fails(errno.EEXIST):
        client.make(share.top, b"new", 0o644, ORDWR | OTRUNC)
    assert share.get("new") == b"data"


def test_create_a_directory(share: Share, client: UnixClient) -> None:
    fid = client.make(share.top, b"dir", DMDIR | DMSETVTX | 0o775)
    assert stat.S_IMODE(os.stat(share.path("dir")).st_mode) == 0o1775
    share.put("dir/inside")
    assert names_of(client.stats(fid)) == [b".", b"..", b"inside"]
    with fails(errno.EISDIR):
        client.make(share.top, b"no", DMDIR | 0o755, OWRITE)
    with fails(errno.EEXIST):
        client.make(share.top, b"dir", DMDIR | 0o755)
    assert sorted(os.listdir(share.host)) == ["dir"]


def test_create_all_else(share: Share, client: UnixClient) -> None:
    share.put("file", b"data")
    file = client.walk_to(share.top, b"file")
    link = client.make(share.top, b"link", DMSYMLINK, OREAD, b"../\xff")
    assert os.readlink(share.path("link")) == b"../\xff"
    assert client.stat(link).extension == b"../\xff"
    fifo = client.make(share.top, b"fifo", DMNAMEDPIPE | 0o640)
    assert stat.S_ISFIFO(os.lstat(share.path("fifo")).st_mode)
    client.make(share.top, b"sock", DMSOCKET | 0o640)
    assert stat.S_ISSOCK(os.lstat(share.path("sock")).st_mode)
    hard = client.make(share.top, b"hard", DMLINK, OREAD, b"%d\n" % file)
    assert os.path.samefile(share.path("hard"), share.path("file"))
    assert client.stat(hard)[7:12:4] == (b"hard", b"HARDLINKCOUNT 2")
    for fid in (link, fifo, hard):  # they stand for what was made, and are not open
        with fails(errno.EBADF):
            client.read(fid, 0, 10)
    client.open_fid(hard)
    assert client.read(hard, 0, 10) == b"data"


@needs_root
def test_create_devices(share: Share, client: UnixClient) -> None:
    client.make(share.top, b"null", DMDEVICE | 0o600, OREAD, b"c 1 3")
    client.make(share.top, b"disk", DMDEVICE | 0o600, OREAD, b"b 4095 1048575\n")
    assert os.stat(share.path("null")).st_rdev == os.makedev(1, 3)
    status = os.stat(share.path("disk"))
    assert stat.S_ISBLK(status.st_mode)
    assert status.st_rdev == os.makedev(4095, 1048575)
    assert client.stat(share.top, b"disk").extension == b"b 4095 1048575"


HOSTILE = {
    "a device without numbers": (DMDEVICE, b"c", errno.EINVAL),
    "a device of no kind": (DMDEVICE, b"x 1 3", errno.EINVAL),
    "a negative device": (DMDEVICE, b"c -1 3", errno.EINVAL),
    "a great major number": (DMDEVICE, b"c 4096 3", errno.EINVAL),
    "a great minor number": (DMDEVICE, b"b 1 1048576", errno.EINVAL),
    "numbers beyond all bounds": (DMDEVICE, b"c 99999999999999999999 1", errno.EINVAL),
    "a device with more behind it": (DMDEVICE, b"c 1 3 x", errno.EINVAL),
    "a link to nothing": (DMLINK, b"", errno.EINVAL),
    "a link to no number": (DMLINK, b"file", errno.EINVAL),
    "a link to an unknown fid": (DMLINK, b"4242", errno.EBADF),
    "a link to a number that is no fid": (DMLINK, b"4294967296", errno.EINVAL),
    "a target with NUL": (DMSYMLINK, b"a\0b", errno.EINVAL),
    "an empty target": (DMSYMLINK, b"", errno.ENOENT),
    "a target that is too long": (DMSYMLINK, b"t" * 5000, errno.ENAMETOOLONG),
    "two kinds": (DMDIR | DMSYMLINK, b"x", errno.EINVAL),
    "all kinds": (0xFFFFFFFF, b"x", errno.EOPNOTSUPP),
    "append-only": (DMAPPEND | 0o644, b"", errno.EOPNOTSUPP),
    "remove on clunk": (0o644, b"", errno.EOPNOTSUPP),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_create_refuses(share: Share, client: UnixClient, what: str) -> None:
    perm, extension, code = HOSTILE[what]
    mode = ORCLOSE if what == "remove on clunk" else OREAD
    with fails(code):
        client.make(share.top, b"new", perm, mode, extension)
    assert os.listdir(share.host) == []


NAMES = [
    (b"", errno.ENOENT, errno.ENOENT),
    (b".", errno.EEXIST, errno.EBUSY),
    (b"..", errno.EEXIST, errno.EBUSY),
    (b"a/b", errno.EINVAL, errno.EINVAL),
    (b"a\0", errno.EINVAL, errno.EINVAL),
    (b"n" * 256, errno.ENAMETOOLONG, errno.ENAMETOOLONG),
]


@pytest.mark.parametrize(("name", "create", "rename"), NAMES)
def test_what_is_no_name(
    share: Share, client: UnixClient, name: bytes, create: int, rename: int
) -> None:
    share.put("file")
    file = client.walk_to(share.top, b"file")
    for perm in (0o644, DMDIR, DMSYMLINK, DMLINK, DMNAMEDPIPE):
        with fails(create):
            client.make(share.top, name, perm, OREAD, b"%d" % file)
    if name:  # which leaves the name alone
        with fails(rename):
            client.wstat(file, name=name)
    assert os.listdir(share.host) == ["file"]


@needs_root
def test_owners_of_what_is_created(share: Share, client: UnixClient) -> None:
    """The user is the attach's; the group the daemon's, or that of a set-gid directory."""
    os.chmod(share.host, 0o777)
    os.mkdir(share.path("team"))
    os.chown(share.path("team"), 0, 5000)
    os.chmod(share.path("team"), 0o2777)
    client.attach(70, 1000)
    kinds = {b"f": 0o644, b"d": DMDIR | 0o755, b"l": DMSYMLINK, b"p": DMNAMEDPIPE | 0o600}
    for path, group in ((b"", os.getegid()), (b"team", 5000)):
        below = client.walk_to(70, share.name, *[path][: len(path)])
        for name, perm in kinds.items():
            client.clunk(client.make(below, name, perm, OREAD, b"x"))
            status = os.lstat(os.path.join(share.path(path), name))
            assert (status.st_uid, status.st_gid) == (1000, group), (path, name)


# ---- Twstat ---------------------------------------------------------------------------------


def test_wstat_changes_what_it_names(share: Share, client: UnixClient) -> None:
    path = share.put("file", b"0123456789")
    os.utime(path, (100, 200))
    fid = client.walk_to(share.top, b"file")
    client.wstat(fid, mode=DMSETGID | 0o640)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o2640
    client.wstat(fid, atime=1)
    assert (os.stat(path).st_atime, os.stat(path).st_mtime) == (1, 200)
    client.wstat(fid, mtime=0xFFFFFFFE)
    assert (os.stat(path).st_atime, os.stat(path).st_mtime) == (1, 0xFFFFFFFE)
    client.wstat(fid, length=4)
    assert share.get("file") == b"0123"
    assert os.stat(path).st_mtime != 0xFFFFFFFE
    client.wstat(fid, length=6, mtime=77, muid=b"nobody", n_muid=5)
    assert (share.get("file"), os.stat(path).st_mtime) == (b"0123\0\0", 77)


@needs_root
def test_wstat_changes_owners(share: Share, client: UnixClient) -> None:
    path = share.put("file")
    os.symlink("file", share.path("link"))
    fid, link = client.walk_to(share.top, b"file"), client.walk_to(share.top, b"link")
    client.wstat(fid, n_uid=1000)
    client.wstat(fid, n_gid=1001)
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == (1000, 1001)
    client.wstat(fid, uid=b"1002", gid=b"1003")
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == (1002, 1003)
    client.wstat(fid, uid=b"5", n_uid=6)
    assert os.stat(path).st_uid == 6
    client.wstat(link, n_uid=7)
    assert (os.lstat(share.path("link")).st_uid, os.stat(path).st_uid) == (7, 6)
    for name in (b"root", b"-1", b"4294967295", b"99999999999", b"\xb2"):
        with fails(errno.EINVAL):
            client.wstat(fid, uid=name)
    assert os.stat(path).st_uid == 6


def test_wstat_of_nothing_makes_durable(share: Share, client: UnixClient) -> None:
    make_all(share)
    client.wstat(client.walk_open(share.top, b"file", mode=OWRITE))
    for name in (b"file", b"dir", b"link", b"fifo"):
        client.wstat(client.walk_to(share.top, name))
    client.wstat(client.walk_open(share.top, b"dir"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"mode": DMDIR | 0o755}, errno.EINVAL),
        ({"mode": DMAPPEND | 0o644}, errno.EOPNOTSUPP),
        ({"type": 1}, errno.EPERM),
        ({"dev": 1}, errno.EPERM),
        ({"qid": wire.Qid(0, 0, 0)}, errno.EPERM),
        ({"extension": b"x"}, errno.EPERM),
        ({"length": 2**63}, errno.EINVAL),
        ({"uid": b"alice"}, errno.EINVAL),
    ],
)
def test_wstat_refuses(share: Share, client: UnixClient, fields: dict[str, Any], code: int) -> None:
    path = share.put("file", b"data")
    before = os.stat(path)
    fid = client.walk_to(share.top, b"file")
    for more in ({}, {"name": b"other"}, {"mtime": 5}):
        with fails(code):
            client.wstat(fid, **{**fields, **more})
    assert os.stat(path) == before
    assert os.listdir(share.host) == ["file"]


def test_wstat_of_sizes_that_there_are_not(share: Share, client: UnixClient) -> None:
    make_all(share)
    for name, code in ((b"dir", errno.EISDIR), (b"fifo", errno.EINVAL), (b"link", errno.EINVAL)):
        with fails(code):
            client.wstat(client.walk_to(share.top, name), length=0)


def test_wstat_renames_within_the_directory(share: Share, client: UnixClient) -> None:
    share.put("old", b"data")
    share.put("other", b"gone")
    os.mkdir(share.path("dir"))
    fid = client.walk_to(share.top, b"old")
    client.wstat(fid, name=b"new", muid=b"nobody")
    assert client.stat(fid).name == b"new"
    client.wstat(fid, name=b"other")
    assert share.get("other") == b"data"
    assert sorted(os.listdir(share.host)) == ["dir", "other"]
    with fails(errno.EISDIR):
        client.wstat(fid, name=b"dir")
    client.wstat(client.walk_to(share.top, b"dir"), name=b"folder")
    assert sorted(os.listdir(share.host)) == ["folder", "other"]
    with fails(errno.EBUSY):
        client.wstat(share.root, name=b"root")


# ---- names of hard links --------------------------------------------------------------------


def test_each_fid_keeps_the_name_by_which_it_was_reached(share: Share, client: UnixClient) -> None:
    share.put("a", b"data")
    for name in "bcd":
        os.link(share.path("a"), share.path(name))
    fids = {name: client.walk_to(share.top, name) for name in (b"a", b"b", b"c", b"d")}
    clone = client.walk_to(fids[b"b"])
    client.remove(clone)
    assert sorted(os.listdir(share.host)) == ["a", "c", "d"]
    client.wstat(fids[b"c"], name=b"e")
    assert sorted(os.listdir(share.host)) == ["a", "d", "e"]
    assert [client.stat(fids[name]).name for name in (b"a", b"c", b"d")] == [b"a", b"e", b"d"]
    client.remove(fids[b"d"])
    client.remove(fids[b"a"])
    assert os.listdir(share.host) == ["e"]
    with fails(errno.EBUSY, errno.ENOENT):
        client.remove(fids[b"b"])  # its name is gone: no other one goes for it


def test_remove(share: Share, client: UnixClient) -> None:
    make_all(share)
    share.put("dir/inside")
    opened = client.walk_open(share.top, b"dir")
    with fails(errno.ENOTEMPTY):
        client.remove(opened)
    with fails(errno.EBADF):  # the fid goes either way
        client.stat(opened)
    os.unlink(share.path("dir/inside"))
    client.remove(client.walk_open(share.top, b"dir"))
    for name in os.listdir(os.fsencode(share.host)):
        client.remove(client.walk_to(share.top, name))
    assert os.listdir(share.host) == []


def test_an_open_file_outlives_its_name(share: Share, client: UnixClient) -> None:
    fid = client.make(share.top, b"file", 0o600, ORDWR)
    client.write(fid, 0, b"data")
    client.remove(client.walk_to(share.top, b"file"))
    client.wstat(fid, length=2)
    assert client.stat(fid).length == 2
    assert client.read(fid, 0, 9) == b"da"


def test_a_flood_of_both_dialects(share: Share, client: UnixClient) -> None:
    """Sessions that end while requests of theirs are in flight."""
    for i in range(100):
        share.put(f"f{i}")
    for version in (b"9P2000.L", b"9P2000.u") * 5:
        for _ in range(20):
            client.submit(T.WALK, share.top, client.new_fid(), [b"f1"])
        end = client.submit(T.VERSION, 65536, version, tag=NOTAG)
        while client.in_flight:
            client.reap()
        assert end.reply is not None
        answer = wire.decode(end.reply)
        assert answer.fields == (65536, version)
        client.error = wire.RERROR if version == b"9P2000.u" else wire.RLERROR
        Client.attach(client, share.root)
        client.walk(share.root, share.top, share.name)
    assert client.stat(share.top).mode & DMDIR
