"""Tlopen, Tlcreate, Tread, Twrite, Tfsync and file sizes."""

from __future__ import annotations

import errno
import hashlib
import os
import random

import pytest

from tests.frontend.client import IO_HEADER, SET_SIZE, P9Errno
from tests.frontend.layout import Layout
from tests.frontend.memory import GIB
from tests.frontend.wire import T
from tests.system.share import Share, fails

O_NOATIME = 0o1000000


def test_what_is_written_to_a_new_file_is_read(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"file", mode=0o640)
    assert client.write(fid, 0, b"hello world") == 11
    assert client.read(fid, 6, 100) == b"world"
    assert client.read(fid, 11, 100) == b""
    assert client.read(fid, 1 << 40, 100) == b""
    assert share.get("file") == b"hello world"
    assert os.stat(share.path("file")).st_mode & 0o7777 == 0o640


def test_created_fid_is_the_file(share: Share) -> None:
    """After Tlcreate the directory's fid stands for the file, open."""
    client = share.client
    clone = client.walk_to(share.top)
    qid, iounit = client.lcreate(clone, b"file")
    assert qid.path == client.getattr(clone).qid.path
    assert qid.type == 0
    assert iounit <= client.msize
    with fails(errno.ENOTDIR, errno.ENOENT, errno.EBADF, errno.EINVAL):
        client.lcreate(clone, b"again")
    client.write(clone, 0, b"x")


def test_the_largest_reads_and_writes_pass(share: Share) -> None:
    client = share.client
    count = client.msize - IO_HEADER
    assert count > 500_000
    data = random.Random(1).randbytes(count)
    fid = client.create(share.top, b"file")
    assert client.write(fid, 3, data) == count
    assert client.read(fid, 3, count) == data
    assert hashlib.sha256(share.get("file")[3:]).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("count", [1, 511, 1024, 1025, 4096, 4097, 65536, 100_001])
def test_reads_and_writes_of_any_size(share: Share, count: int) -> None:
    data = random.Random(count).randbytes(count)
    fid = share.client.create(share.top, b"file")
    assert share.client.write(fid, 1, data) == count
    assert share.client.read(fid, 0, count + 100) == b"\0" + data
    assert share.get("file") == b"\0" + data


def test_read_of_nothing(share: Share) -> None:
    share.put("file", b"data")
    fid = share.client.open(share.top, b"file")
    assert share.client.read(fid, 0, 0) == b""
    fid = share.client.open(share.top, b"file", os.O_WRONLY)
    assert share.client.write(fid, 2, b"") == 0
    assert share.get("file") == b"data"


def test_files_above_four_gib_are_written_and_read(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"big")
    for offset in (5 * GIB + 123, (1 << 40) + 7, (1 << 32) - 2):
        assert client.write(fid, offset, b"far away") == 8
        assert client.read(fid, offset, 100)[:8] == b"far away"
    attr = client.getattr(fid)
    assert attr.size == (1 << 40) + 7 + 8
    assert attr.blocks < 1000  # it is sparse
    assert client.read(fid, 3 * GIB, 4096) == bytes(4096)
    client.setattr(fid, SET_SIZE, size=5 * GIB + 127)
    assert client.read(fid, 5 * GIB + 123, 100) == b"far "
    assert os.stat(share.path("big")).st_size == 5 * GIB + 127


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_offsets_beyond_any_file(share: Share, offset: int) -> None:
    fid = share.client.create(share.top, b"file")
    with fails(errno.EINVAL, errno.EFBIG, errno.EOVERFLOW):
        share.client.write(fid, offset, b"data")
    try:
        assert share.client.read(fid, offset, 10) == b""
    except P9Errno as error:
        assert error.errno in (errno.EINVAL, errno.EOVERFLOW)


def test_open_modes_are_enforced(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    reader = client.open(share.top, b"file", os.O_RDONLY)
    with fails(errno.EBADF):
        client.write(reader, 0, b"x")
    writer = client.open(share.top, b"file", os.O_WRONLY)
    with fails(errno.EBADF):
        client.read(writer, 0, 10)
    unopened = client.walk_to(share.top, b"file")
    with fails(errno.EBADF):
        client.read(unopened, 0, 10)
    with fails(errno.EBADF):
        client.write(unopened, 0, b"x")
    assert share.get("file") == b"data"


def test_open_twice_is_refused(share: Share) -> None:
    share.put("file", b"data")
    fid = share.client.open(share.top, b"file")
    with fails(errno.EBADF, errno.EINVAL, errno.EBUSY):
        share.client.lopen(fid, os.O_RDWR)
    assert share.client.read(fid, 0, 10) == b"data"


def test_opening_with_o_trunc_truncates(share: Share) -> None:
    share.put("file", b"data")
    share.client.open(share.top, b"file", os.O_WRONLY | os.O_TRUNC)
    assert share.get("file") == b""


def test_directories_open_for_reading_only(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    for flags in (os.O_WRONLY, os.O_RDWR):
        with fails(errno.EISDIR):
            client.open(share.top, b"d", flags)
    fid = client.open(share.top, b"d")
    with fails(errno.EISDIR, errno.EBADF):
        client.read(fid, 0, 100)
    with fails(errno.EISDIR, errno.EBADF):
        client.write(fid, 0, b"x")


def test_o_directory_on_a_file(share: Share) -> None:
    share.put("file")
    with fails(errno.ENOTDIR):
        share.client.open(share.top, b"file", os.O_DIRECTORY)


def test_append_on_write_only_opens(share: Share) -> None:
    """The offset of a Twrite is ignored, as for pwrite on Linux: two guests may append."""
    client = share.client
    share.put("log", b"begin\n")
    fid = client.open(share.top, b"log", os.O_WRONLY | os.O_APPEND)
    client.write(fid, 0, b"one\n")
    with open(share.path("log"), "ab") as file:
        file.write(b"host\n")
    client.write(fid, 0, b"two\n")
    assert share.get("log") == b"begin\none\nhost\ntwo\n"


def test_append_is_dropped_on_read_write_opens(share: Share) -> None:
    """With cache=mmap the client opens so and writes pages back by offset."""
    share.put("file", b"0123456789")
    fid = share.client.open(share.top, b"file", os.O_RDWR | os.O_APPEND)
    share.client.write(fid, 2, b"ab")
    assert share.get("file") == b"01ab456789"


def test_append_on_creation(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"log", os.O_WRONLY | os.O_APPEND)
    client.write(fid, 0, b"one")
    client.write(fid, 0, b"two")
    assert share.get("log") == b"onetwo"
    fid = client.create(share.top, b"page", os.O_RDWR | os.O_APPEND)
    client.write(fid, 0, b"one")
    client.write(fid, 0, b"two")
    assert share.get("page") == b"two"


def test_direct_io_is_dropped(share: Share) -> None:
    """The client's buffers need not be aligned as O_DIRECT on the host wants it."""
    fid = share.client.create(share.top, b"file", os.O_RDWR | os.O_DIRECT)
    layout = Layout(readable=(23, 3, 5), writable=(11, 1))
    assert share.client.write(fid, 1, b"odd bytes", layout=layout) == 9
    assert share.client.read(fid, 1, 100, layout=layout) == b"odd bytes"
    fid = share.client.open(share.top, b"file", os.O_RDONLY | os.O_DIRECT)
    assert share.client.read(fid, 3, 3) == b"d b"


def test_harmless_open_flags(share: Share) -> None:
    share.put("file", b"data")
    flags = os.O_NONBLOCK | os.O_SYNC | os.O_DSYNC | os.O_NOCTTY | os.O_CLOEXEC
    flags |= os.O_ASYNC | 0o100000  # and O_LARGEFILE
    fid = share.client.open(share.top, b"file", os.O_RDWR | flags | O_NOATIME)
    assert share.client.read(fid, 0, 10) == b"data"


def test_exclusive_creation_fails_where_the_name_exists(share: Share) -> None:
    client = share.client
    share.put("file", b"data")
    with fails(errno.EEXIST):
        client.create(share.top, b"file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    fid = client.create(share.top, b"file", os.O_RDWR | os.O_CREAT)
    assert client.read(fid, 0, 10) == b"data"
    client.create(share.top, b"file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    assert share.get("file") == b""


def test_failed_creation_leaves_the_directory(share: Share) -> None:
    client = share.client
    os.mkdir(share.path("d"))
    clone = client.walk_to(share.top)
    with fails(errno.EISDIR, errno.EEXIST):
        client.lcreate(clone, b"d", os.O_RDWR)
    client.lcreate(clone, b"file")
    assert sorted(os.listdir(share.host)) == ["d", "file"]


@pytest.mark.parametrize("mode", [0o777, 0o666, 0o000, 0o4755, 0o2755, 0o1644, 0o6777])
def test_mode_is_the_guests(share: Share, mode: int) -> None:
    """The guest has applied its umask already; the daemon's own must not count."""
    fid = share.client.create(share.top, b"file", mode=mode)
    share.client.write(fid, 0, b"")
    assert os.stat(share.path("file")).st_mode & 0o7777 == mode


def test_creation_without_write_permission_stays_open(share: Share) -> None:
    """open(2) may create a file that its mode would not let it open."""
    fid = share.client.create(share.top, b"file", os.O_RDWR, mode=0)
    assert share.client.write(fid, 0, b"data") == 4


def test_fsync_is_answered(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"file")
    client.write(fid, 0, b"data")
    client.fsync(fid)
    client.fsync(fid, datasync=1)
    directory = client.walk_to(share.top)
    client.lopen(directory, os.O_RDONLY)
    client.fsync(directory)
    with fails(errno.EBADF, errno.EINVAL):
        client.fsync(client.walk_to(share.top, b"file"))


def test_truncation_through_another_fid_is_seen(share: Share) -> None:
    client = share.client
    fid = client.create(share.top, b"file")
    client.write(fid, 0, b"0123456789")
    other = client.walk_to(share.top, b"file")
    client.setattr(other, SET_SIZE, size=4)
    assert client.read(fid, 0, 100) == b"0123"
    client.setattr(other, SET_SIZE, size=6)
    assert client.read(fid, 0, 100) == b"0123\0\0"


def test_a_full_ring_of_requests_is_answered(share: Share) -> None:
    """A ring full of reads and writes, answered in any order."""
    client = share.client
    data = random.Random(2).randbytes(128 * 4096)
    fid = client.create(share.top, b"file")
    pieces = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    writes = [
        client.submit(T.WRITE, fid, 4096 * i, piece, kick=False) for i, piece in enumerate(pieces)
    ]
    client.ring.kick()
    assert all(client.wait(ticket).fields == (4096,) for ticket in writes)
    assert share.get("file") == data
    reads = [client.submit(T.READ, fid, 4096 * i, 4096) for i in range(128)]
    for i in random.Random(3).sample(range(128), 128):
        assert client.wait(reads[i]).fields[0] == pieces[i]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(readable=(1,) * 30, writable=(1,) * 30),
        Layout(readable=(4, 1, 2, 4, 8, 3), writable=(7, 4, 1, 5)),
        Layout(readable=(22,), writable=(10,)),
        Layout(readable=(24,), writable=(12,), backwards=True),
        Layout(empty=True),
        Layout(indirect=False),
        Layout(indirect=False, readable=(5, 5), writable=(3, 8, 100), empty=True),
    ],
    ids=range(7),
)
def test_headers_and_data_may_be_split_anywhere(share: Share, layout: Layout) -> None:
    client = share.client
    client.layout = layout
    data = random.Random(4).randbytes(30_000)
    fid = client.create(share.top, b"file")
    assert client.write(fid, 5, data) == len(data)
    assert client.read(fid, 5, len(data)) == data
    assert client.getattr(fid).size == len(data) + 5
    assert [entry.name for entry in client.listing(share.top).values()] == [b"file"]
