"""Attributes of real files behind rules: the host's side, the limits, and stored capabilities."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fs.changes import File, chmod, chown, truncate
from tests.fs.test_local import driver_of
from vhost9p.fs.driver import OWN_ID, Owner
from vhost9p.native.export import Export
from vhost9p.policy.idvalues import CAPABILITY
from vhost9p.policy.xattrs import MAPPED, UNLIMITED, Limits, Rule, XattrLayer

WIDE = Limits(65536, 1000, 1 << 30)
STORED = b"user.virtfs." + CAPABILITY
OWN = Owner(OWN_ID, os.getegid())
ACL = b"system.posix_acl_access"


class Case:
    """A file, a descriptor of it, and the driver that serves its directory."""

    def __init__(
        self, driver: XattrLayer, export: Export, root_fd: int, path: Path, stack: ExitStack
    ) -> None:
        self.driver = driver
        self.export = export
        self.root_fd = root_fd
        self.path = path
        self._stack = stack
        path.touch()
        self.fd = self.open("file")

    def open(self, name: str, flags: int = os.O_PATH) -> int:
        fd = os.open(name, flags, dir_fd=self.root_fd)
        self._stack.callback(os.close, fd)
        return fd

    def names(self) -> set[str]:
        """What the host has."""
        return set(os.listxattr(self.path))


@contextmanager
def case(root: Path, rules: tuple[Rule, ...], limits: Limits = WIDE) -> Iterator[Case]:
    """A file behind a layer."""
    with ExitStack() as stack:
        local, root_fd = stack.enter_context(driver_of(root, "none"))
        layer = XattrLayer(local, rules, limits, local.export)
        one = Case(layer, local.export, root_fd, root / "file", stack)
        try:
            os.setxattr(one.path, "user.probe", b"")
        except OSError as error:
            pytest.skip(f"no user attributes in {root}: {error.strerror}")
        os.removexattr(one.path, "user.probe")
        yield one


def code(work: Callable[[], object]) -> int | None:
    """The errno of what has to fail."""
    with pytest.raises(OSError) as failed:
        work()
    return failed.value.errno


def test_without_limits_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may have thousands of attributes, each of which would be read to set one more."""
    with case(tmp_path, MAPPED, UNLIMITED) as it:
        for i in range(20):
            os.setxattr(it.path, f"user.{i}", b"")
        monkeypatch.setattr(os, "listxattr", lambda *args: pytest.fail("the others are listed"))
        it.driver.set_xattr(it.fd, b"user.more", b"", os.XATTR_CREATE)
        assert os.getxattr(it.path, "user.more") == b""


def test_privileged_names_need_no_privilege(tmp_path: Path) -> None:
    with case(tmp_path, MAPPED) as it:
        for name in (b"security.x", b"trusted.x", ACL, b"user.x"):
            it.driver.set_xattr(it.fd, name, name, os.XATTR_CREATE)
        prefixed = {f"user.virtfs.{ACL.decode()}", "user.virtfs.security.x"}
        assert it.names() == {*prefixed, "user.virtfs.trusted.x", "user.x"}
        os.setxattr(it.path, "user.virtfs.uid", bytes(4))
        shown = it.driver.list_xattrs(it.fd)
        assert sorted(shown) == sorted([b"security.x", b"trusted.x", ACL, b"user.x"])
        for name in shown:
            assert it.driver.get_xattr(it.fd, name) == name
            it.driver.remove_xattr(it.fd, name)
        assert it.names() == {"user.virtfs.uid"}


def test_refused_and_hidden(tmp_path: Path) -> None:
    rules = (Rule(b"user.no.", "refuse"), Rule(b"user.unknown.", "hide"))
    with case(tmp_path, rules) as it:
        for name, get, change in (
            (b"user.no.x", errno.ENODATA, errno.EPERM),
            (b"user.unknown.x", errno.EOPNOTSUPP, errno.EOPNOTSUPP),
        ):
            os.setxattr(it.path, name, b"host's")
            assert code(lambda n=name: it.driver.get_xattr(it.fd, n)) == get  # type: ignore[misc]
            assert code(lambda n=name: it.driver.set_xattr(it.fd, n, b"x", 0)) == change  # type: ignore[misc]
            assert code(lambda n=name: it.driver.remove_xattr(it.fd, n)) == change  # type: ignore[misc]
            assert os.getxattr(it.path, name) == b"host's"
        assert it.driver.list_xattrs(it.fd) == []


def test_an_access_list_is_removed_as_the_kernel_removes_it(tmp_path: Path) -> None:
    with case(tmp_path, MAPPED) as it:
        it.driver.remove_xattr(it.fd, ACL)  # there is none: no error
        it.driver.set_xattr(it.fd, ACL, b"list", 0)
        it.driver.set_xattr(it.fd, ACL, b"", 0)
        assert it.names() == set()
        assert code(lambda: it.driver.remove_xattr(it.fd, b"security.x")) == errno.ENODATA


def test_what_the_host_cannot_keep_it_says(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with case(tmp_path, MAPPED) as it:
        link = it.open("link", os.O_PATH | os.O_NOFOLLOW)
        refused = code(lambda: it.driver.set_xattr(link, b"security.x", b"v", 0))
        assert refused == errno.EPERM
        long = b"security." + b"n" * 246  # 255 bytes, and with a prefix more than any name has
        assert code(lambda: it.driver.set_xattr(it.fd, long, b"v", 0)) == errno.ERANGE


# ---- limits


def test_limits(tmp_path: Path) -> None:
    with case(tmp_path, (), Limits(value=100, names=3, total=200)) as it:
        fill = it.driver.set_xattr
        assert code(lambda: fill(it.fd, b"user.a", bytes(101), 0)) == errno.E2BIG
        fill(it.fd, b"user.a", bytes(100), 0)  # 106 bytes
        assert code(lambda: fill(it.fd, b"user.b", bytes(89), 0)) == errno.ENOSPC
        fill(it.fd, b"user.b", bytes(88), 0)  # 200
        assert code(lambda: fill(it.fd, b"user.c", b"", 0)) == errno.ENOSPC
        fill(it.fd, b"user.b", bytes(1), os.XATTR_REPLACE)
        fill(it.fd, b"user.c", b"", 0)
        assert code(lambda: fill(it.fd, b"user.d", b"", 0)) == errno.ENOSPC  # the fourth
        assert it.names() == {"user.a", "user.b", "user.c"}


def test_what_is_above_a_limit_may_shrink(tmp_path: Path) -> None:
    with case(tmp_path, (), Limits(value=100, names=1, total=50)) as it:
        for name in ("user.a", "user.b"):
            os.setxattr(it.path, name, bytes(60))
        it.driver.set_xattr(it.fd, b"user.a", bytes(59), 0)
        assert code(lambda: it.driver.set_xattr(it.fd, b"user.a", bytes(60), 0)) == errno.ENOSPC
        assert len(os.getxattr(it.path, "user.a")) == 59
        it.driver.remove_xattr(it.fd, b"user.b")


def test_xattrs_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names may be longer in the guest than on the host, where the kernel bounds their list."""
    with case(tmp_path, (Rule(b"security." + b"x" * 200, "store", b"user.g."),)) as it:
        for count, fails in ((307, False), (308, True)):  # of 213 bytes each
            hosts = [b"user.g.%03d" % i for i in range(count)]
            monkeypatch.setattr(it.driver.below, "list_xattrs", lambda fd, h=hosts: h)
            if fails:
                assert code(lambda: it.driver.list_xattrs(it.fd)) == errno.E2BIG
            else:
                assert len(it.driver.list_xattrs(it.fd)) == count


# ---- capabilities


def test_stored_capabilities_go_with_the_contents_and_the_owner(tmp_path: Path) -> None:
    with case(tmp_path, MAPPED) as it:
        driver = it.driver

        def change(work: Callable[[], object]) -> bool:
            """Whether they are gone after it, and nothing else is."""
            driver.set_xattr(it.fd, CAPABILITY, b"cap", 0)
            driver.set_xattr(it.fd, b"security.x", b"v", 0)
            work()
            assert "user.virtfs.security.x" in it.names()
            return STORED.decode() not in it.names()

        def create(flags: int) -> None:
            made = driver.create(it.root_fd, b"file", flags, 0o644, OWN)
            os.close(made.path_fd)
            os.close(made.io_fd)

        io_fd = it.open("file", os.O_RDWR)
        assert change(lambda: truncate(it.export, it.fd, -1, 0))
        assert change(lambda: truncate(it.export, it.fd, io_fd, 5))
        assert change(lambda: chown(it.export, File(it.fd), os.geteuid(), os.getegid()))
        assert change(lambda: create(os.O_RDWR | 0o1000))
        assert not change(lambda: create(os.O_RDWR))
        assert not change(lambda: chmod(it.export, File(it.fd), 0o755))


def test_a_directorys_stay(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with case(tmp_path, MAPPED) as it:
        fd = it.open("d")
        it.driver.set_xattr(fd, CAPABILITY, b"cap", 0)
        chown(it.export, File(fd), os.geteuid(), os.getegid())
        assert os.listxattr(tmp_path / "d") == [STORED.decode()]
