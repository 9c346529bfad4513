"""Tversion, Tauth, Tattach, Twalk, Tclunk: sessions and fids."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.frontend import wire
from tests.frontend.client import Client, P9Errno
from tests.frontend.layout import Layout
from tests.frontend.machine import Machine
from tests.frontend.wire import NOFID, REQUEST_FIELDS, T, encode
from tests.system.share import Share, fails, remount

DIRECTORY, SYMLINK = 0x80, 0x02  # qid types

# A request of each type for a fid that does not exist, with valid fields otherwise.
NO_FID = 4242
NAMES = {"s": b"name", "w": NO_FID, "q": 1, "b": 1, "h": 0, "d": b"data", "S": [b"name"]}


def test_version_takes_the_smaller_msize(share: Share) -> None:
    assert share.client.version(65536) == (65536, b"9P2000.L")


def test_version_caps_a_huge_msize(share: Share) -> None:
    msize, version = share.client.version(0xFFFFFFFF)
    assert version == b"9P2000.L"
    assert 512000 <= msize <= 64 << 20


@pytest.mark.parametrize("version", [b"9P2001", b"", b"9P", b"\xff" * 300])
def test_unknown_version_is_answered_unknown(share: Share, version: bytes) -> None:
    assert share.client.version(65536, version)[1] == b"unknown"
    remount(share)


def test_small_msize_is_never_raised(share: Share) -> None:
    """A client may not get more than it asked for; whether so little is served is free."""
    try:
        msize, _ = share.client.version(1024)
    except P9Errno:
        pass
    else:
        assert msize <= 1024
    remount(share)


def test_message_above_msize_is_refused(share: Share) -> None:
    remount(share, msize=8192)
    fid = share.client.create(share.top, b"file")
    with fails(errno.EMSGSIZE, errno.EINVAL, errno.E2BIG):
        share.client.write(fid, 0, bytes(8192))
    assert share.client.write(fid, 0, bytes(8192 - 24)) == 8192 - 24


def test_read_is_cut_at_msize(share: Share) -> None:
    remount(share, msize=8192)
    share.put("file", bytes(100_000))
    fid = share.client.open(share.top, b"file")
    assert 0 < len(share.client.read(fid, 0, 100_000)) <= 8192 - 11


def test_version_drops_all_fids(share: Share) -> None:
    client = share.client
    share.put("file")
    opened = client.open(share.top, b"file")
    client.version()
    for fid in (share.root, share.top, opened):
        with fails(errno.EBADF):
            client.getattr(fid)
    remount(share)


def test_auth_is_not_required(share: Share) -> None:
    with pytest.raises(P9Errno) as caught:
        share.client.auth(77)
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.ENOENT)
    with fails(errno.EBADF):
        share.client.getattr(77)


def test_attach_is_the_export(share: Share) -> None:
    client = share.client
    qid = client.attach(50)
    assert qid.type == DIRECTORY
    assert client.getattr(50).qid.path == qid.path == client.getattr(share.root).qid.path
    status = os.stat(share.export)
    assert client.getattr(50).mode == status.st_mode


def test_attach_to_a_used_fid_is_refused(share: Share) -> None:
    with fails(errno.EBADF, errno.EINVAL):
        share.client.attach(share.top)
    assert share.client.getattr(share.top).qid.type == DIRECTORY


def test_attach_with_an_auth_fid_is_refused(share: Share) -> None:
    with pytest.raises(P9Errno):
        share.client.attach(60, afid=61)
    with fails(errno.EBADF):
        share.client.clunk(60)


def test_many_users_attach(share: Share) -> None:
    """Every guest user attaches for itself on one mount."""
    for uid in range(50):
        share.client.attach(5000 + uid, uid, uname=b"")
    qids = {share.client.getattr(5000 + uid).qid for uid in range(50)}
    assert len(qids) == 1


@pytest.mark.parametrize("kind", [k for k in T if k not in (T.VERSION, T.AUTH, T.FLUSH)])
def test_every_request_refuses_an_unknown_fid(share: Share, kind: T) -> None:
    fields = [NAMES[letter] for letter in REQUEST_FIELDS[kind]]
    if kind == T.ATTACH:
        fields[0] = share.top  # the only fid that attach looks up is the new one
    if kind == T.XATTRWALK:
        fields[1] = NO_FID + 1
    elif kind == T.XATTRCREATE:
        fields[3] = 0
    with fails(errno.EBADF, *([errno.EINVAL] if kind == T.ATTACH else [])):
        share.client.call(kind, *fields)
    assert share.client.getattr(share.top).qid.type == DIRECTORY


@pytest.mark.parametrize(
    "kind", [6, 7, 0, 1, 9, 17, 101, 106, 107, 112, 114, 124, 126, 127, 200, 255]
)
def test_unknown_type_is_answered_by_an_error(share: Share, kind: int) -> None:
    """Types of other dialects, reply types, and numbers that mean nothing."""
    reply = raw(share.client, wire.message(kind, 9, bytes(30)))
    assert reply.type == wire.RLERROR
    assert reply.tag == 9
    assert reply.fields[0] in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPROTO)
    assert share.client.getattr(share.top).qid.type == DIRECTORY


def raw(client: Client, data: bytes, capacity: int = 4096) -> wire.Reply:
    return wire.decode(client.wait_raw(client.submit_raw(data, capacity)))


@pytest.mark.parametrize("kind", [k for k in T if k not in (T.VERSION, T.FLUSH)])
def test_short_body_is_an_error(share: Share, kind: T) -> None:
    """Every request, cut short at every field and in the middle of its last one."""
    client = share.client
    fields = [NAMES[letter] for letter in REQUEST_FIELDS[kind]]
    if fields and REQUEST_FIELDS[kind][0] == "w":
        fields[0] = share.top
    whole = encode(kind, 5, *fields)
    for size in range(7, len(whole)):
        reply = raw(client, wire.message(kind, 5, whole[7:size]))
        assert reply.type == wire.RLERROR, f"{kind.name} with {size} of {len(whole)} bytes"
        assert reply.tag == 5
    assert client.getattr(share.top).qid.type == DIRECTORY
    assert os.listdir(share.host) == []


@pytest.mark.parametrize("length", [5, 1000, 0xFFFF])
def test_string_longer_than_the_message_is_an_error(share: Share, length: int) -> None:
    body = share.top.to_bytes(4, "little") + length.to_bytes(2, "little") + b"name"
    assert raw(share.client, wire.message(T.MKDIR, 3, body)).type == wire.RLERROR


def test_walk_count_above_the_names_is_an_error(share: Share) -> None:
    body = encode(T.WALK, 0, share.top, 99, [b"a"] * 3)[7:15] + b"\xff\xff" + b"\x01\x00a" * 3
    assert raw(share.client, wire.message(T.WALK, 3, body)).type == wire.RLERROR


def test_walk_of_no_names_clones(share: Share) -> None:
    client = share.client
    assert client.walk(share.top, 90) == []
    assert client.getattr(90).qid == client.getattr(share.top).qid
    client.clunk(90)
    client.getattr(share.top)


def test_walk_of_an_open_fid_clones_it_unopened(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    opened = client.open(share.top, b"file")
    clone = client.walk_to(opened)
    with fails(errno.EBADF):
        client.read(clone, 0, 10)
    client.lopen(clone, os.O_RDONLY)
    assert client.read(clone, 0, 10) == b"data"


def test_walks_lead_down_and_up(share: Share) -> None:
    client = share.client
    names = [b"d%d" % i for i in range(16)]
    deep = os.path.join(os.fsencode(share.host), *names)
    os.makedirs(deep)
    qids = client.walk(share.top, 90, *names)
    assert len(qids) == 16
    assert all(qid.type == DIRECTORY for qid in qids)
    assert len({qid.path for qid in qids}) == 16
    up = client.walk(90, 91, *[b".."] * 15)
    assert [qid.path for qid in up] == [qid.path for qid in reversed(qids[:15])]


def test_walk_of_seventeen_names_is_refused(share: Share) -> None:
    os.mkdir(share.path("d"))
    with pytest.raises(P9Errno):
        share.client.walk(share.top, 90, *[b"d", b".."] * 8, b"d")
    with fails(errno.EBADF):
        share.client.clunk(90)


def test_walk_to_nothing(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    with fails(errno.ENOENT):
        client.walk(share.top, 90, b"none")
    assert len(client.walk(share.top, 90, b"d", b"none", b"x")) == 1
    with fails(errno.EBADF):
        client.clunk(90)


def test_failed_walk_leaves_its_fid(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    before = client.getattr(share.top).qid.path
    assert len(client.walk(share.top, share.top, b"d", b"none")) == 1
    assert client.getattr(share.top).qid.path == before


def test_walk_in_place_moves_the_fid(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    clone = client.walk_to(share.top)
    (qid,) = client.walk(clone, clone, b"d")
    assert client.getattr(clone).qid.path == qid.path


def test_a_walk_through_a_file_ends_there(share: Share) -> None:
    client = share.client
    share.put("file")
    assert len(client.walk(share.top, 90, b"file", b"x")) == 1
    client.walk(share.top, 91, b"file")
    with fails(errno.ENOTDIR, errno.ENOENT):
        client.walk(91, 92, b"x")
    with fails(errno.ENOTDIR, errno.ENOENT):
        client.walk(91, 92, b"..")


def test_walk_to_a_used_fid_is_refused(share: Share) -> None:
    with fails(errno.EBADF, errno.EINVAL):
        share.client.walk(share.top, share.root)


def test_nofid_is_never_a_fid(share: Share) -> None:
    for request in (
        lambda: share.client.walk(share.top, NOFID),
        lambda: share.client.attach(NOFID),
        lambda: share.client.clunk(NOFID),
    ):
        with fails(errno.EBADF, errno.EINVAL):
            request()


@pytest.mark.parametrize("name", [b"", b"a/b", b"/", b"../x", b"a\0b", b"n" * 256], ids=repr)
def test_walk_refuses_what_is_no_name(share: Share, name: bytes) -> None:
    os.mkdir(share.path("a"))
    share.put("a/b")
    for names in ((name,), (b"a", name), (b"a", b"..", name, b"a")):
        try:
            assert len(share.client.walk(share.top, 90, *names)) == names.index(name) != 0
        except P9Errno as error:
            assert error.errno in (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG)
        with fails(errno.EBADF):
            share.client.clunk(90)


def test_walk_by_a_name_that_is_too_long_says_so_whatever_its_bytes_are(share: Share) -> None:
    for name in (b"n" * 256, b"a/" + b"n" * 254, b"n" * 256 + b"\0", b"/" * 8000, b"/" * 9000):
        with fails(errno.ENAMETOOLONG):
            share.client.walk(share.top, 90, name)


def test_dotdot_is_clamped_at_the_export(share: Share) -> None:
    client = share.client
    root = client.getattr(share.root).qid.path
    qids = client.walk(share.top, 90, *[b".."] * 5, share.name)
    assert [qid.path for qid in qids[:5]] == [root] * 5
    assert qids[5].path == client.getattr(share.top).qid.path


def test_qids_tell_types_and_identities(share: Share) -> None:
    client = share.client
    share.put("file")
    os.link(share.path("file"), share.path("same"))
    os.symlink("file", share.path("link"))
    os.mkfifo(share.path("fifo"))
    kinds = {}
    for name in (b"file", b"same", b"link", b"fifo"):
        (kinds[name],) = client.walk(share.top, client.new_fid(), name)
    assert kinds[b"file"].type == kinds[b"fifo"].type == 0
    assert kinds[b"link"].type == SYMLINK
    assert kinds[b"file"].path == kinds[b"same"].path
    assert len({qid.path for qid in kinds.values()}) == 3


def test_clunked_fid_is_gone_and_its_number_free(share: Share) -> None:
    client = share.client
    client.walk(share.top, 90)
    client.clunk(90)
    with fails(errno.EBADF):
        client.clunk(90)
    client.walk(share.top, 90)
    assert stat.S_ISDIR(client.getattr(90).mode)


def test_thousands_of_fids_are_kept(share: Share) -> None:
    client = share.client
    share.put("file", b"x")
    for start in range(0, 4000, 100):
        tickets = [
            client.submit(T.WALK, share.top, 10_000 + start + i, [b"file"], kick=i == 99)
            for i in range(100)
        ]
        for ticket in tickets:
            client.wait(ticket)
    for fid in range(10_000, 14_000, 1000):
        assert client.getattr(fid).size == 1


def test_next_guest_has_no_fids(share: Share) -> None:
    share.machine.close()
    with Machine(share.daemon.socket) as machine:
        client = Client(machine.boot())
        for fid in (share.root, share.top):
            with pytest.raises(P9Errno):
                client.getattr(fid)


def test_reply_to_tversion_carries_notag(share: Share) -> None:
    data = encode(T.VERSION, 17, 65536, b"9P2000.L")
    assert raw(share.client, data).tag == 17
    remount(share)


def test_small_reply_buffer_gets_rlerror(share: Share) -> None:
    """A reply larger than its buffer: the error always fits."""
    client = share.client
    share.put("file", b"some data")
    os.symlink("target" * 20, share.path("link"))
    fid = client.open(share.top, b"file")
    link = client.walk_to(share.top, b"link")
    for kind, fields in (
        (T.GETATTR, (fid, 0x7FF)),
        (T.STATFS, (fid,)),
        (T.READLINK, (link,)),
        (T.WALK, (share.top, 90, [b"file"])),
        (T.GETLOCK, (fid, 0, 0, 0, 1, b"client")),
        (T.MKDIR, (share.top, b"dir", 0o755, 0)),
    ):
        with pytest.raises(P9Errno):
            client.call(kind, *fields, layout=Layout(reply_size=11))
    assert client.getattr(fid).size == 9
