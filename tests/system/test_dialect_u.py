"""9P2000.u: its messages, what they refuse, and what an error looks like."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.frontend import wire
from tests.frontend.client import Client
from tests.frontend.dialect_u import (
    DMDIR,
    OAPPEND,
    OEXEC,
    ORCLOSE,
    ORDWR,
    OREAD,
    OTRUNC,
    OWRITE,
    DialectUClient,
    Stat,
    decode_stats,
    encode_stat,
)
from tests.frontend.wire import NOTAG, REQUEST_FIELDS, Kind, T, U
from tests.system.kinds import check_stat, make_all
from tests.system.share import Share, fails, remount

NO_FID = 4242
FIELDS: dict[str, Any] = {"s": b"name", "w": NO_FID, "q": 1, "b": 0, "h": 0, "d": b"data"}
FIELDS["S"] = [b"name"]
DIALECT_U_KINDS: list[Kind] = [T.ATTACH, T.WALK, T.READ, T.WRITE, T.CLUNK, T.REMOVE, *U]


@pytest.fixture
def speaks() -> type[Client]:
    return DialectUClient


# ---- sessions -------------------------------------------------------------------------------


def test_each_session_has_its_dialect(share: Share, client: DialectUClient) -> None:
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
    share: Share, client: DialectUClient, kind: T
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


@pytest.mark.parametrize("kind", [kind for kind in DIALECT_U_KINDS if kind != T.ATTACH])
def test_every_request_refuses_an_unknown_fid(
    share: Share, client: DialectUClient, kind: Kind
) -> None:
    with fails(errno.EBADF):
        client.call(kind, *valid(kind))
    assert client.stat(share.top).mode & DMDIR


@pytest.mark.parametrize("kind", DIALECT_U_KINDS)
def test_a_short_body_is_an_error(share: Share, client: DialectUClient, kind: Kind) -> None:
    fields = valid(kind)
    fields[0] = share.top
    whole = wire.encode(kind, 5, *fields)
    for size in range(7, len(whole)):
        reply = client.wait_raw(client.submit_raw(wire.message(kind, 5, whole[7:size]), 4096))
        assert wire.decode(reply).type == wire.RERROR, f"{size} of {len(whole)} bytes"
    assert client.stat(share.top).mode & DMDIR
    assert os.listdir(share.host) == []


def test_an_attach_may_name_a_number(share: Share, client: DialectUClient) -> None:
    """Where there is no n_uname; a name that is no number is nobody's."""
    for number, (name, uid) in enumerate(
        [(b"1000", 1000), (b"nobody", os.geteuid()), (b"", os.geteuid()), (b"4294967295", 0)]
    ):
        client.attach(700 + number, uname=name)
        if os.geteuid() == 0:
            top = client.walk_to(700 + number, share.name)
            client.clunk(client.make(top, b"f%d" % number))
            assert os.stat(share.path(b"f%d" % number)).st_uid == uid


def test_a_flood_of_both_dialects(share: Share, client: DialectUClient) -> None:
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


# ---- errors ---------------------------------------------------------------------------------


def test_an_error_has_a_text_and_a_number(share: Share, client: DialectUClient) -> None:
    ticket = client.submit(T.WALK, share.top, 90, [b"absent"])
    reply = wire.decode(client.wait_raw(ticket))
    assert reply.type == wire.RERROR
    assert reply.fields == (os.strerror(errno.ENOENT).encode(), errno.ENOENT)


@pytest.mark.parametrize("from_python", [False, True])
def test_an_error_fits_the_buffer(share: Share, client: DialectUClient, from_python: bool) -> None:
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


def test_a_reply_that_does_not_fit_is_an_error(share: Share, client: DialectUClient) -> None:
    reply = client.wait_raw(client.submit_raw(wire.encode(U.STAT, 9, share.top), 60))
    assert wire.decode(reply).fields[1] == errno.EMSGSIZE


# ---- Tstat ----------------------------------------------------------------------------------


def test_every_kind_of_file_has_its_stat(share: Share, client: DialectUClient) -> None:
    make_all(share)
    for name in os.listdir(os.fsencode(share.host)):
        found = client.stat(share.top, name)
        check_stat(share, name, found)
        [qid] = client.walk(share.top, 90, name)
        assert found.qid == qid
        client.clunk(90)


def test_names_of_what_has_none(share: Share, client: DialectUClient) -> None:
    assert client.stat(share.root).name == b"/"
    share.put("file")
    share.put("there")
    fid, moved = client.walk_open(share.top, b"file"), client.walk_open(share.top, b"there")
    os.unlink(share.path("file"))
    os.rename(share.path("there"), share.path("here"))
    assert client.stat(fid)[7:12] == (b"file", *client.stat(fid)[8:11], b"HARDLINKCOUNT 0")
    assert client.stat(moved).name == b"here"


def test_a_path_that_the_host_cannot_tell(share: Share, client: DialectUClient) -> None:
    folder = os.open(share.host, os.O_RDONLY)
    fid = share.top
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder, fid = below, client.walk_to(fid, b"d" * 250)
    os.close(os.open("file", os.O_CREAT, 0o600, dir_fd=folder))
    os.close(folder)
    found = client.stat(fid, b"file")
    assert (found.name, found.mode, found.extension) == (b"", 0o600, b"HARDLINKCOUNT 1")
    listed = {each.name for each in client.stats(client.walk_open(fid))}
    assert listed == {b".", b"..", b"file"}


def test_a_name_that_ends_like_a_removed_files(share: Share, client: DialectUClient) -> None:
    share.put("odd (deleted)")
    assert client.stat(share.top, b"odd (deleted)").name == b"odd (deleted)"


# ---- Topen, Tread, Twrite -------------------------------------------------------------------


def test_open_modes_are_obeyed(share: Share, client: DialectUClient) -> None:
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


def test_what_is_never_opened(share: Share, client: DialectUClient) -> None:
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


def test_a_directory_reads_as_stat_structures(share: Share, client: DialectUClient) -> None:
    make_all(share)
    fid = client.walk_open(share.top)
    found = {each.name: each for each in client.stats(fid)}
    assert sorted(found) == sorted([b".", b"..", *os.listdir(os.fsencode(share.host))])
    assert found.pop(b".").qid.path == client.stat(share.top).qid.path
    assert found.pop(b"..").qid.path == client.stat(share.root).qid.path
    for name, each in found.items():
        check_stat(share, name, each)
        assert each == client.stat(share.top, name)


def test_the_roots_parent_is_the_root(share: Share, client: DialectUClient) -> None:
    found = {each.name: each for each in client.stats(client.walk_open(share.root))}
    assert found[b".."]._replace(name=b"/") == client.stat(share.root)


@pytest.mark.parametrize("count", [400, 8192, 511_976])
def test_thousands_of_entries_are_listed(share: Share, client: DialectUClient, count: int) -> None:
    names = [b"entry%05d" % i * (1 + i % 9) for i in range(3000)]
    for name in names:
        os.close(os.open(share.path(name), os.O_CREAT, 0o600))
    fid = client.walk_open(share.top)
    expected = sorted([b".", b"..", *names])
    assert names_of(client.stats(fid, count)) == expected
    assert names_of(client.stats(fid, count)) == expected  # and once more from the start


def test_a_directory_is_read_from_offsets_it_gave(share: Share, client: DialectUClient) -> None:
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


def test_entries_that_vanish_while_they_are_read(share: Share, client: DialectUClient) -> None:
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


def test_a_target_that_no_reply_holds(share: Share, client: DialectUClient) -> None:
    share.put("a")
    os.symlink("t" * 4095, share.path("long"))
    share.put("z")
    fid = client.walk_open(share.top)
    found = {each.name: each for each in client.stats(fid, 400)}
    assert set(found) == {b".", b"..", b"a", b"long", b"z"}
    assert (found[b"long"].extension, found[b"long"].length) == (b"", 4095)
    whole = {each.name: each.extension for each in client.stats(fid, 8192)}
    assert whole[b"long"] == b"t" * 4095


def test_directories_are_read_and_nothing_else(share: Share, client: DialectUClient) -> None:
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
