"""The table of handlers, the errno funnel, and what a server keeps no longer than it has to."""

import errno
import os
from pathlib import Path

import pytest

from tests.p9.guest import OWN, FakeRequest, Guest, Refused, serving
from vhost9p.native.library import lib
from vhost9p.p9 import constants as c
from vhost9p.p9 import fids
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, Qid
from vhost9p.p9.constants import Dialect

QID = Qid(0, 0, 0)
ANSWERED_BY_C = {
    "Tstatfs": 8, "Tlopen": 12, "Treadlink": 22, "Tgetattr": 24, "Txattrwalk": 30,
    "Txattrcreate": 32, "Treaddir": 40, "Tflush": 108, "Twalk": 110, "Twrite": 118,
}  # fmt: skip
REPLIES = [m.Rread(b""), m.Rlerror(5), m.Rattach(QID), m.Rclunk()]


@pytest.mark.parametrize("number", ANSWERED_BY_C.values(), ids=ANSWERED_BY_C)
def test_a_request_that_c_answers_is_refused_in_python(guest: Guest, number: int) -> None:
    request = FakeRequest(bytes([7, 0, 0, 0, number, 5, 0]), 5)
    guest.handle(request.data, request)
    with pytest.raises(Refused) as refused:
        request.result(Message)
    assert refused.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("message", REPLIES, ids=lambda message: type(message).__name__)
def test_a_reply_is_refused_as_a_request(guest: Guest, message: Message) -> None:
    with pytest.raises(Refused) as refused:
        guest.do(message)
    assert refused.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("data", [b"", b"\7\0\0\0", b"\x07\0\0\0\x78\1\0", b"\x0b\0\0\0\x78\1\0ab"])
def test_what_cannot_be_decoded(guest: Guest, data: bytes) -> None:
    request = FakeRequest(data, 5)
    guest.handle(data, request)
    with pytest.raises(Refused) as refused:
        request.result(Message)
    assert refused.value.errno == errno.EINVAL


def test_flags_and_sizes_are_those_of_c() -> None:
    """vhost9p.p9 knows nothing of C, and has these numbers once more."""
    assert fids.FID_LOCKS == lib.V9_FID_LOCKS
    assert c.NAME_MAX + 1 == lib.V9_NAME_SIZE


def test_a_requests_errno_reaches_the_guest_and_no_log(
    guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Refused) as refused:
        guest.do(m.Tclunk(77))
    assert refused.value.errno == errno.EBADF
    assert not caplog.records


def test_reset_forgets_everything(guest: Guest, root: Path) -> None:
    (root / "file").touch()
    fid = guest.open("file")
    guest.call(m.Tlock(fid, 1, 0, 0, 0, 1, b"guest"), m.Rlock)
    guest.server.reset()
    assert not guest.count()
    guest.server.resume_waits()
    again = guest.open("file")
    reply = guest.call(m.Tlock(again, 1, 0, 0, 0, 2, b"other"), m.Rlock)
    assert reply.status == 0


def test_readonly_remove_frees_the_fid(root: Path) -> None:
    (root / "file").touch()
    with serving(root, readonly=True) as guest:
        fid = guest.walk("file")
        with pytest.raises(Refused) as refused:
            guest.do(m.Tremove(fid))
        assert refused.value.errno == errno.EROFS
        assert fid not in guest.fids
    assert (root / "file").exists()


# ---- session


def test_version_negotiates_msize_and_dialect(guest: Guest) -> None:
    assert guest.call(m.Tversion(8192, b"9P2000.L"), m.Rversion) == m.Rversion(8192, b"9P2000.L")
    capped = guest.call(m.Tversion(1 << 31, b"9P2000.L"), m.Rversion)
    assert capped.msize == 65536
    dialect_u = guest.call(m.Tversion(8192, b"9P2000.u"), m.Rversion)
    assert dialect_u == m.Rversion(8192, b"9P2000.u")
    assert guest.msizes == [8192, 65536, 8192]
    assert guest.dialects == [Dialect.L, Dialect.L, Dialect.U]


@pytest.mark.parametrize("version", [b"9P2000", b"9P2000.U", b"", b"9p2000.l", b"9P2000.L.x"])
def test_other_dialects_are_unknown(guest: Guest, version: bytes) -> None:
    guest.attach()
    reply = guest.call(m.Tversion(8192, version), m.Rversion)
    assert reply.version == b"unknown"
    assert guest.msizes == []
    assert not guest.count()  # whatever was before, is over


def test_small_msize_ends_nothing(guest: Guest) -> None:
    fid = guest.attach()
    with pytest.raises(Refused) as refused:
        guest.do(m.Tversion(4095, b"9P2000.L"))
    assert refused.value.errno == errno.EMSGSIZE
    assert fid in guest.fids
    assert guest.call(m.Tversion(4096, b"9P2000.L"), m.Rversion).msize == 4096


def test_auth_is_not_required(guest: Guest) -> None:
    with pytest.raises(Refused) as refused:
        guest.do(m.Tauth(5, b"u", b"", 0))
    assert refused.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("aname", [b"", b"/", b"//", b"/./", b"/..", b"../..", b"a/.."])
def test_attach_names_of_the_root(guest: Guest, root: Path, aname: bytes) -> None:
    (root / "a").mkdir()
    guest.call(m.Tattach(3, OWN, b"", aname, 7), m.Rattach)
    entry = guest.fids.look(3)
    assert os.path.samestat(os.fstat(entry.path_fd), os.stat(root))
    assert (entry.uid, entry.flags, entry.io_fd) == (7, 0, -1)


def test_attach_leads_to_a_directory_below(guest: Guest, root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    reply = guest.call(m.Tattach(3, OWN, b"", b"/a/../a//b/", 7), m.Rattach)
    assert reply.qid == Qid(0x80, reply.qid.version, (root / "a/b").stat().st_ino)


@pytest.mark.parametrize(
    ("aname", "code"),
    [
        (b"none", errno.ENOENT),
        (b"file", errno.ENOTDIR),
        (b"file/x", errno.ENOTDIR),
        (b"link", errno.ENOTDIR),
        (b"link/a", errno.ENOTDIR),
        (b"a\0b", errno.EINVAL),
        (b"n" * 256, errno.ENAMETOOLONG),
        (b"/" * 4097, errno.ENAMETOOLONG),
    ],
)
def test_attach_names_that_lead_nowhere(guest: Guest, root: Path, aname: bytes, code: int) -> None:
    (root / "a").mkdir()
    (root / "file").touch()
    (root / "link").symlink_to("/tmp")
    with pytest.raises(Refused) as refused:
        guest.do(m.Tattach(3, OWN, b"", aname, 0))
    assert refused.value.errno == code
    assert not guest.count()


def test_attach_with_an_afid_or_a_used_fid(guest: Guest) -> None:
    with pytest.raises(Refused) as refused:
        guest.do(m.Tattach(3, 4, b"", b"", 0))
    assert refused.value.errno == errno.EINVAL
    used = guest.attach()
    with pytest.raises(Refused) as refused:
        guest.do(m.Tattach(used, OWN, b"", b"", 0))
    assert refused.value.errno == errno.EBADF
