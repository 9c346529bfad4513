"""Tcreate and Twstat of 9P2000.u in front of anything that a guest may send; conversions."""

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.p9.guest import Guest, Refused, serving
from vhost9p.fs.local import LocalDriver
from vhost9p.native.fids import FidTable
from vhost9p.p9 import constants as c
from vhost9p.p9 import dialect_u_messages as u
from vhost9p.p9 import messages as m
from vhost9p.p9.codec import Message, P9Error, Qid
from vhost9p.p9.dialect_u import UNTOUCHED
from vhost9p.p9.dialect_u_stat import device_of, fid_of, permissions

U32 = st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 1))
NAMES = st.one_of(
    st.sampled_from([b"", b".", b"..", b"old", b"new", b"a/b", b"..\0", b"n" * 256, b"dir"]),
    st.binary(max_size=20),
)
KINDS = st.sampled_from([0, c.DMDIR, c.DMSYMLINK, c.DMLINK, c.DMNAMEDPIPE, c.DMSOCKET, c.DMDEVICE])
EXTENSIONS = st.one_of(
    st.sampled_from([b"", b"c 1 3", b"b 1", b"9" * 5000, b"1", b"4294967295\n", b"../../x"]),
    st.binary(max_size=30),
)
STATS = st.builds(
    u.Stat,
    st.sampled_from([0, 0xFFFF]),
    U32,
    st.sampled_from([Qid(0, 0, 0), UNTOUCHED.qid]),
    U32,
    U32,
    U32,
    st.sampled_from([0, 5, 2**62, 2**63, 2**64 - 2, 2**64 - 1]),
    NAMES,
    *[st.sampled_from([b"", b"0", b"12", b"x", b"\xb2"])] * 3,
    st.sampled_from([b"", b"x"]),
    *[st.sampled_from([0, 1000, 2**32 - 2, 2**32 - 1])] * 3,
)
PATIENT = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)


@pytest.fixture
def dialect_u(root: Path, guest: Guest) -> Guest:
    """A guest in a session of 9P2000.u, with two files that nothing below names otherwise."""
    guest.call(m.Tversion(65536, b"9P2000.u"), m.Rversion)
    (root.parent / "outside").write_text("out of reach")
    (root / "old").write_text("data")
    return guest


def attempt(guest: Guest, message: Message) -> Message | None:
    """The reply, or None where it is an error."""
    try:
        return guest.do(message)
    except Refused:
        return None


def settle(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No bug was met, nothing outside was touched; the next example finds what this one found."""
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(os.listdir(root.parent)) == ["export", "outside"]
    assert (root.parent / "outside").read_text() == "out of reach"
    for name in os.listdir(os.fsencode(root)):
        path = os.path.join(os.fsencode(root), name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
    (root / "old").write_text("data")


@PATIENT
@given(NAMES, st.one_of(KINDS, U32), U32, st.integers(0, 255), EXTENSIONS)
@example(b"new", c.DMLINK, 0, 0, b"1")
def test_any_create(
    dialect_u: Guest,
    root: Path,
    caplog: pytest.LogCaptureFixture,
    name: bytes,
    kind: int,
    perm: int,
    mode: int,
    extension: bytes,
) -> None:
    fid = dialect_u.walk()
    known = perm & 0o777 if kind & 0xFFFF else kind | perm & 0o7777
    reply = attempt(dialect_u, u.Tcreate(fid, name, known, mode, extension))
    entries = os.listdir(os.fsencode(root))
    if reply:
        assert isinstance(reply, u.Rcreate)
        status = os.lstat(os.path.join(os.fsencode(root), name))
        assert (status.st_dev, status.st_ino) == (
            dialect_u.fids.look(fid).st_dev,
            dialect_u.fids.look(fid).st_ino,
        )
        assert sorted(entries) == sorted([b"old", name])
    else:
        assert entries == [b"old"]
    dialect_u.do(m.Tclunk(fid))
    settle(root, caplog)


def replace_by_another(root: Path, kind: int) -> None:
    """Somebody else gives the name "new" to a file of the same kind."""
    (root / "new").rename(root / "away")
    (root / "new").mkdir() if kind == c.DMDIR else (root / "new").write_text("another's")


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize(
    ("late", "kind"),
    [
        ((FidTable, "become"), 0),
        ((FidTable, "become"), c.DMDIR),
        ((FidTable, "become"), c.DMNAMEDPIPE),
        ((LocalDriver, "attr"), 0),  # the others are looked up by their name
    ],
)
def test_a_create_that_fails_removes_its_own_file_only(
    dialect_u: Guest,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: tuple[type, str],
    kind: int,
    is_replaced: bool,
) -> None:
    def fail(*_: object, **__: object) -> None:
        if is_replaced:
            replace_by_another(root, kind)
        raise OSError(errno.ENOMEM, "no memory")

    fid = dialect_u.walk()
    monkeypatch.setattr(*late, fail)
    before = len(os.listdir("/proc/self/fd"))
    assert attempt(dialect_u, u.Tcreate(fid, b"new", kind | 0o644, 2 * (not kind), b"")) is None
    assert sorted(os.listdir(root)) == (["away", "new", "old"] if is_replaced else ["old"])
    assert len(os.listdir("/proc/self/fd")) == before


@PATIENT
@given(st.sampled_from(["old", ""]), STATS)
def test_any_wstat(
    dialect_u: Guest, root: Path, caplog: pytest.LogCaptureFixture, path: str, wanted: u.Stat
) -> None:
    fid = dialect_u.walk(path)
    reply = attempt(dialect_u, u.Twstat(fid, wanted))
    assert reply in (None, u.Rwstat())
    assert len(os.listdir(root)) == 1
    dialect_u.do(m.Tclunk(fid))
    os.chmod(root, 0o755)
    os.chown(root, os.geteuid(), os.getegid())
    settle(root, caplog)


def test_untouched_is_what_linux_sends() -> None:
    """v9fs_blank_wstat: all ones and empty strings; the wire form is 4 counts and 61 bytes."""
    encoded = u.Twstat(7, UNTOUCHED).encode(1)
    assert encoded[7:15] == b"\7\0\0\0\x3f\0\x3d\0"
    body = encoded[15:]
    assert body == b"\xff" * 39 + bytes(10) + b"\xff" * 12


def test_the_sync_of_a_readonly_export(root: Path) -> None:
    (root / "file").touch()
    with serving(root, readonly=True) as guest:
        guest.call(m.Tversion(65536, b"9P2000.u"), m.Rversion)
        assert guest.do(u.Twstat(guest.open("file", os.O_RDONLY), UNTOUCHED)) == u.Rwstat()
        assert attempt(guest, u.Twstat(guest.walk("file"), replace(UNTOUCHED, mode=0))) is None
        assert attempt(guest, u.Tcreate(guest.walk(), b"new", 0o644, 0, b"")) is None
        assert os.listdir(root) == ["file"]


def test_permissions() -> None:
    assert permissions(0o644) == 0o644
    assert permissions(c.DMDIR | c.DMSETGID | 0o755) == 0o2755
    assert permissions(c.DMSETUID | c.DMSETVTX) == 0o5000
    assert permissions(0o4755) == 0o4755
    for bit in (0x40000000, 0x20000000, 0x10000000, 0x08000000, 0x04000000, 0x400000, 0x1000):
        with pytest.raises(P9Error):
            permissions(bit | 0o644)


@given(st.binary(max_size=30))
@example(b"c 1 3")
@example(b"b 4095 1048575\n")
def test_devices(text: bytes) -> None:
    try:
        kind, major, minor = device_of(text)
    except P9Error:
        return
    os.makedev(major, minor)
    assert text.rstrip(b"\n").split(b" ")[0] == (b"c" if stat.S_ISCHR(kind) else b"b")


@given(st.binary(max_size=12))
@example(b"12\n")
@example(b"4294967295")
@example(b"4294967296")
def test_fids_in_text(text: bytes) -> None:
    try:
        number = fid_of(text)
    except P9Error:
        return
    assert 0 <= number < 2**32
    assert int(text) == number
