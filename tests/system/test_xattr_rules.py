"""Rules and limits of attributes, from the guest's requests to the host's files."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, run_cli
from tests.system.share import SECURITY, Share, as_user, fails, mounted

CAPABILITY = b"security.capability"
PLAIN = bytes.fromhex("0100000200040000000000000000000000000000")
STORED = "user.guest.security.capability"
RULES = (
    *("--xattr-rule", "user.none.but=keep"),
    *(
        "--xattr-rule",
        "security.secret=refuse",
        "--xattr-rule",
        "security.=store:user.guest.security.",
    ),
    *("--xattr-rule", "trusted.=store:user.guest.trusted.", "--xattr-rule", "user.none.=hide"),
    *("--xattr-rule", "user.no.=refuse"),
)
MODE, UID, SIZE = 1 << 0, 1 << 1, 1 << 3  # Tsetattr's valid bits
TRUNC = 0o1000  # 9P2000.L's O_TRUNC


@contextmanager
def ruled(folder: Path, daemon: Daemon) -> Iterator[Share]:
    """A guest under a daemon's rules, with one file."""
    export = folder / "export"
    export.mkdir()
    (export / "f").write_bytes(b"old")
    try:
        os.setxattr(export / "f", "user.probe", b"")
    except OSError as error:
        pytest.skip(f"no user attributes in {folder}: {error.strerror}")
    os.removexattr(export / "f", "user.probe")
    with daemon, mounted(daemon, export) as share:
        yield share


@pytest.fixture
def folder(scratch: Path) -> Path:
    """On a real file system."""
    return Path(tempfile.mkdtemp(prefix="rules", dir=scratch))


@pytest.fixture
def share(folder: Path) -> Iterator[Share]:
    """Under RULES."""
    with ruled(folder, Daemon("--path", str(folder / "export"), *SECURITY, *RULES)) as share:
        yield share


def names(share: Share) -> set[str]:
    return set(os.listxattr(share.path("f")))


def test_names_lead_where_the_rules_say(share: Share) -> None:
    client, fid = share.client, share.client.walk_to(share.top, b"f")
    shown = [b"security.a", b"trusted.a", b"user.a", b"user.none.but"]
    for name in shown:
        client.setxattr(fid, name, name, os.XATTR_CREATE)
    plain = {"user.a", "user.none.but"}
    assert names(share) == {"user.guest.security.a", "user.guest.trusted.a", *plain}
    for hidden in ("user.no.x", "user.none.x", "user.guest.security.secret"):
        os.setxattr(share.path("f"), hidden, b"v")
    assert sorted(client.getxattr(fid).split(b"\0")) == [b"", *shown]
    for name in shown:
        assert client.getxattr(fid, name) == name
        client.removexattr(fid, name)
    assert names(share) == {"user.no.x", "user.none.x", "user.guest.security.secret"}


def test_what_rules_forbid_is_refused(share: Share) -> None:
    client, fid = share.client, share.client.walk_to(share.top, b"f")
    for name, get, change in (
        (b"security.secret", errno.ENODATA, errno.EPERM),
        (b"user.no.x", errno.ENODATA, errno.EPERM),
        (b"user.none.x", errno.EOPNOTSUPP, errno.EOPNOTSUPP),
        (b"user.guest.security.capability", errno.ENODATA, errno.EPERM),
    ):
        with fails(get):
            client.getxattr(fid, name)
        with fails(change):
            client.setxattr(fid, name, b"v")
        with fails(change):
            client.removexattr(fid, name)
    assert names(share) == set()


def test_names_and_values_are_limited(folder: Path) -> None:
    config = folder / "vm.yaml"
    daemon = Daemon("--config", str(config), socket=False)
    config.write_text(
        f"socket: {daemon.socket}\npath: export\nsecurity_model: {SECURITY[1]}\n"
        "xattrs: {max_value: 100, max_names: 2, max_total: 156}\n"
    )
    with ruled(folder, daemon) as share:
        client, fid = share.client, share.client.walk_to(share.top, b"f")
        with fails(errno.E2BIG):
            client.setxattr(fid, b"user.a", bytes(101))
        client.setxattr(fid, b"user.a", bytes(100))
        with fails(errno.ENOSPC):
            client.setxattr(fid, b"user.b", bytes(45))
        client.setxattr(fid, b"user.b", bytes(38))  # which leaves room for a third, by their size
        with fails(errno.ENOSPC):
            client.setxattr(fid, b"user.c", b"")
        assert names(share) == {"user.a", "user.b"}


def test_a_programs_capabilities_go_when_it_changes(share: Share) -> None:
    client, fid = share.client, share.client.walk_to(share.top, b"f")
    opened = client.open(share.top, b"f", os.O_RDWR)

    def gone_after(work: Callable[[], object]) -> bool:
        client.setxattr(fid, CAPABILITY, PLAIN)
        assert os.getxattr(share.path("f"), STORED) == PLAIN
        work()
        return STORED not in names(share)

    assert gone_after(lambda: client.write(opened, 0, b"x"))
    assert gone_after(lambda: client.write(opened, 0, b"x"))  # again, the file open all the time
    assert not gone_after(lambda: client.write(opened, 0, b""))
    assert gone_after(lambda: client.write(client.open(share.top, b"f", os.O_WRONLY), 0, b"x"))
    assert not gone_after(lambda: client.open(share.top, b"f", os.O_RDWR))
    assert not gone_after(lambda: client.read(opened, 0, 10))
    assert gone_after(lambda: client.open(share.top, b"f", os.O_RDWR | TRUNC))
    assert gone_after(lambda: client.setattr(fid, SIZE, size=1))
    assert gone_after(lambda: client.setattr(opened, SIZE, size=1))
    assert gone_after(lambda: client.setattr(fid, UID, uid=os.geteuid()))
    assert gone_after(lambda: client.create(share.top, b"f", os.O_RDWR | TRUNC))


def test_a_file_that_lets_nobody_in_is_written_by_who_made_it() -> None:
    """Taking capabilities away takes permission; looking whether there are any does not."""
    with as_user("--security-model", "none", *RULES) as share:
        for mode in (0, 0o444):
            fid = share.client.create(share.top, b"locked%o" % mode, os.O_WRONLY, mode=mode)
            assert share.client.write(fid, 0, b"data") == 4
            assert stat.S_IMODE(os.stat(share.path(b"locked%o" % mode)).st_mode) == mode
        share.client.create(share.top, b"f", os.O_RDWR)
        fid = share.client.open(share.top, b"f", os.O_RDWR)
        share.client.setxattr(fid, CAPABILITY, PLAIN)
        share.client.setattr(fid, MODE, mode=0o444)
        with fails(errno.EACCES):  # not written, rather than written and still privileged
            share.client.write(fid, 0, b"x")
        assert share.get("f") == b""


def test_rules_whose_names_would_meet_are_refused_at_start(folder: Path) -> None:
    rules = ("--xattr-rule", "security.=store:user.g.", "--xattr-rule", "trusted.=store:user.g.t.")
    socket = str(folder / "sock")
    result = run_cli("--socket", socket, "--path", str(folder), *rules)
    assert result.returncode == 2 and "no store prefix may begin another" in result.stderr
    model = ("--security-model", "mapped-xattr", "--xattr-rule", "x.=store:user.virtfs.x.")
    result = run_cli("--socket", socket, "--path", str(folder), *model)
    assert result.returncode == 2 and "mapped-xattr keeps owners and modes" in result.stderr
