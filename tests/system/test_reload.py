"""The configuration is read again under a running guest: what changes, and what is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, WRLCK, Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.machine import Machine
from tests.system.share import AS_USER, IS_ROOT, SECURITY, fails, needs_root

ROOT = 0


class Site:
    """Directories, a configuration that names some of them, the daemon, and a guest that has
    attached all of them as fid ROOT."""

    def __init__(
        self,
        base: Path,
        *args: str,
        speaks: type[Client] = Client,
        more: str = "",
        wrapper: Sequence[str] = (),
    ) -> None:
        self.base = base
        self.more = more
        self.model = "none" if wrapper else SECURITY[1]
        self.file = base / "vm.yaml"
        self.socket = base / "9p.sock"
        for name in "abcd":
            (base / name).mkdir()
            (base / name / "file").write_text(name)
        self.write("a", "b")
        self.daemon = Daemon("--config", str(self.file), *args, socket=False, wrapper=wrapper)
        self.speaks = speaks

    def __enter__(self) -> Site:
        self.daemon.__enter__()
        self.machine = Machine(str(self.socket)).__enter__()
        self.machine.boot()
        self.client = self.speaks(self.machine)
        self.client.version()
        self.client.attach(ROOT)
        return self

    def __exit__(self, *error: object) -> None:
        self.machine.__exit__(None, None, None)
        self.daemon.__exit__(None, None, None)

    def write(self, *exports: str, more: str | None = None) -> None:
        """Writes the configuration; each export is a name, perhaps with more keys behind it."""
        lines = [
            f"  - {{name: {each[0]}, path: {self.base / each[0]}{each[1:]}}}" for each in exports
        ]
        self.file.write_text(
            f"socket: {self.socket}\ntag: both\nstate_dir: {self.base}/state\n"
            f"security_model: {self.model}\n{self.more if more is None else more}exports:\n"
            + "\n".join(lines)
            + "\n"
        )

    def hang_up(self, expected: str) -> str:
        """Has the daemon reload, and returns the first line after that which matches."""
        before = len(self.daemon.output)
        self.daemon.process.send_signal(signal.SIGHUP)
        self.daemon.wait_until(
            lambda: any(expected in line for line in self.daemon.output[before:].splitlines()),
            f"{expected!r} after a reload",
        )
        lines = self.daemon.output[before:].splitlines()
        return next(line for line in lines if expected in line)

    def reload(self, *exports: str, more: str | None = None) -> str:
        self.write(*exports, more=more)
        return self.hang_up(": reloaded: ")

    def names(self) -> list[bytes]:
        fid = self.client.open(ROOT, (), os.O_RDONLY | os.O_DIRECTORY)
        found = sorted(each.name for each in self.client.entries(fid))
        self.client.clunk(fid)
        return found[2:]

    def read(self, *path: bytes) -> bytes:
        fid = self.client.open(ROOT, path)
        data = self.client.read(fid, 0, 100)
        self.client.clunk(fid)
        return data


@pytest.fixture
def base(scratch: Path) -> Iterator[Path]:
    """An empty directory."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def site(base: Path) -> Iterator[Site]:
    with Site(base) as site:
        yield site


def test_exports_come_and_go(site: Site) -> None:
    client = site.client
    kept = client.open(ROOT, (b"b", b"file"), os.O_RDWR)
    assert client.lock(kept, WRLCK) == LOCK_SUCCESS
    gone = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    folder = client.new_fid()
    client.walk(ROOT, folder, b"a")
    line = site.reload("c", "b")
    assert f"export c ({site.base}/c) added; export a ({site.base}/a) removed" in line
    assert site.names() == [b"b", b"c"]
    assert site.read(b"c", b"file") == b"c"
    with fails(errno.ENOENT):
        client.walk(ROOT, client.new_fid(), b"a")
    with fails(errno.ESTALE):
        client.read(gone, 0, 10)
    with fails(errno.ESTALE):
        client.walk(folder, client.new_fid(), b"file")
    assert client.read(kept, 0, 10) == b"b"
    client.write(kept, 0, b"B")
    assert (site.base / "b/file").read_text() == "B"
    client.clunk(gone)
    client.clunk(folder)


def test_a_removed_export_keeps_nothing(site: Site) -> None:
    """Its locks, its descriptors and its mount are released, and it may come again."""
    client = site.client
    file = site.base / "a/file"
    held = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    assert client.lock(held, WRLCK) == LOCK_SUCCESS
    assert is_locked(file)
    site.reload("b")
    assert not is_locked(file)
    assert not any(str(site.base / "a") in path for path in site.daemon.fds().values())
    assert mounts_of(site.daemon) == ["b"]
    site.reload("b", "a")
    with fails(errno.ESTALE):
        client.read(held, 0, 1)
    assert site.read(b"a", b"file") == b"a"
    again = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    assert client.lock(again, WRLCK) == LOCK_SUCCESS
    client.clunk(held)
    assert is_locked(file)


def is_locked(file: Path) -> bool:
    """Whether somebody else holds a lock of a file."""
    with file.open("r+") as ours:
        try:
            fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def mounts_of(daemon: Daemon) -> list[str]:
    """The names of the directories that are mounted for a worker."""
    lines = Path(f"/proc/{daemon.worker}/mountinfo").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines]
    return sorted(os.path.basename(each[3]) for each in words if each[4].startswith("/exports/"))


@pytest.mark.parametrize("speaks", [Client, DialectUClient])
def test_many_reloads_leave_nothing_behind(base: Path, speaks: type[Client]) -> None:
    with Site(base, speaks=speaks) as site:
        kept = site.client.open(ROOT, (b"b", b"file"), os.O_RDWR)
        site.reload("b", "c")
        site.reload("b", "d")
        main, all_of_it = sorted(os.listdir(f"/proc/{site.daemon.pid}/fd")), None
        for _ in range(4):
            site.reload("c", "b")
            site.reload("b", "d")
            now = (len(site.daemon.fds()), mounts_of(site.daemon))
            assert all_of_it in (None, now)
            all_of_it = now
        assert len(os.listdir(f"/proc/{site.daemon.pid}/fd")) == len(main)
        assert site.names() == [b"b", b"d"]
        assert site.client.read(kept, 0, 9) == b"b"


def test_identities_stay(site: Site) -> None:
    """Numbers of files that stay are the same, and none of the new ones is like them."""
    client = site.client
    before = client.walk(ROOT, client.new_fid(), b"b", b"file")
    root = client.getattr(ROOT)
    site.reload("c", "b", "a")
    assert client.walk(ROOT, client.new_fid(), b"b", b"file") == before
    now = client.getattr(ROOT)
    assert now.qid.path == root.qid.path
    assert (now.mtime, now.qid.version) != (root.mtime, root.qid.version)
    new = client.walk(ROOT, client.new_fid(), b"c", b"file")
    assert not {each.path for each in new} & {each.path for each in before}


def test_options_change_at_once(site: Site) -> None:
    client = site.client
    for name in ("hidden", "seen"):
        (site.base / "a" / name).mkdir()
        (site.base / "a" / name / "x").write_text(name)
    written = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    secret = client.open(ROOT, (b"a", b"hidden", b"x"))
    folder = client.walk_to(ROOT, b"a", b"hidden")
    line = site.reload("a, readonly: true, hide: [hidden], throttling: {iops-total: 1000}", "b")
    for change in (
        "export a: readonly from false to true",
        "export a: hide",
        "export a: throttling",
    ):
        assert change in line
    assert client.read(written, 0, 1) == b"a"
    with fails(errno.EROFS):
        client.write(written, 0, b"A")
    with fails(errno.ENOENT):
        client.walk(ROOT, client.new_fid(), b"a", b"hidden")
    for fid in (secret, folder):
        with fails(errno.ESTALE):
            client.getattr(fid)
    site.reload("a", "b", more="log_level: debug\nthreads: 3\n")
    client.write(client.open(ROOT, (b"a", b"file"), os.O_RDWR), 0, b"A")
    assert site.read(b"a", b"hidden", b"x") == b"hidden"
    with fails(errno.ENOENT):
        client.walk(ROOT, client.new_fid(), b"a", b"none")
    site.daemon.wait_line("DEBUG: both: Twalk '/a/none' in export a")


def test_what_cannot_change_is_refused_by_name(site: Site) -> None:
    client = site.client
    held = client.open(ROOT, (b"a", b"file"), os.O_RDWR)
    keeper = site.daemon.keepers
    site.write("a, security_model: mapped-xattr", "c", more="sandbox: none\nmsize_max: 65536\n")
    file = site.file.read_text().replace("tag: both", "tag: other")
    site.file.write_text(file)
    line = site.hang_up("cannot change while the guest runs")
    for what in (
        "sandbox from auto to none", "tag from both to other", "msize_max from 1048576 to 65536",
        "export a: security_model", "Set it back",
    ):  # fmt: skip
        assert what in line, what
    assert site.daemon.keepers == keeper
    assert site.names() == [b"a", b"b"]
    client.write(held, 0, b"A")


def test_a_broken_file_changes_nothing(site: Site) -> None:
    keeper = site.daemon.keepers
    site.file.write_text(site.file.read_text() + "colour: red\n")
    assert "vm.yaml:" in site.hang_up("colour")
    site.write("a", "missing")
    assert "missing cannot be exported" in site.hang_up("missing")
    site.write("a", "b")
    assert "nothing has changed" in site.hang_up(": reloaded: ")
    assert site.daemon.keepers == keeper
    assert site.names() == [b"a", b"b"]


def test_a_single_directory_stays_one(base: Path) -> None:
    for name in ("one", "two"):
        (base / name).mkdir()
    file, path = base / "vm.yaml", f"socket: {base}/9p.sock\npath: {base}/one\n"
    file.write_text(path)
    with Daemon("--config", str(file), socket=False) as daemon:
        file.write_text(f"socket: {base}/9p.sock\nexports:\n  - {{name: o, path: {base}/one}}\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("exports: the guest has mounted a single directory")
        file.write_text(path.replace("/one", "/two"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("cannot change while the guest runs.*: path")
        file.write_text(f"{path}readonly: true\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("reloaded: readonly from false to true")
        with Machine(f"{base}/9p.sock") as machine:
            machine.boot()
            client = Client(machine)
            client.version()
            client.attach(ROOT)
            with fails(errno.EROFS):
                client.mkdir(ROOT, b"new")
        daemon.check_output()


@pytest.mark.parametrize("level", ["chroot", "none"])
def test_other_levels_of_confinement(base: Path, level: str) -> None:
    if level == "chroot" and not IS_ROOT:
        pytest.skip("chroot(2) needs root")
    with Site(base, more=f"sandbox: {level}\n") as site:
        gone = site.client.open(ROOT, (b"a", b"file"))
        site.reload("c", "b")
        assert site.read(b"c", b"file") == b"c"
        with fails(errno.ESTALE):
            site.client.read(gone, 0, 1)
        if level == "chroot":
            site.write("b", "../../usr")
            site.file.write_text(
                site.file.read_text()
                .replace(f"{site.base}/../../usr", "/usr/share")
                .replace("name: ../../usr", "name: u, readonly: true")
            )
            site.hang_up("/usr/share is not below")


@needs_root
def test_a_daemon_of_an_ordinary_user(base: Path) -> None:
    for each in (base, base.parent):
        each.chmod(0o777)
    with Site(base, wrapper=AS_USER, more="force: true\n") as site:
        site.reload("c", "b")
        assert site.read(b"c", b"file") == b"c"
        assert site.names() == [b"b", b"c"]
        assert mounts_of(site.daemon) == ["b", "c"]
        site.reload("b")
        assert mounts_of(site.daemon) == ["b"]
