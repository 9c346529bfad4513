"""Fixtures: one daemon for the whole run, a directory and a new connection for each test.

After each test the guest disconnects, and the daemon has to be back at the descriptors that an
idle one has: every test is a test for leaks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DialectUClient
from tests.frontend.machine import Machine
from tests.frontend.vhost_user import Frontend
from tests.system.host_locks import HostProcess
from tests.system.pair import Pair, two_guests
from tests.system.share import SECURITY, Share, mounted


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory on a real file system, readable by all, away from pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="v9-exports-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A directory of the module's own: what a test leaves is in no other module's way."""
    with directory() as path:
        yield path


@pytest.fixture
def export(scratch: Path, request: pytest.FixtureRequest) -> Path:
    """An empty directory, of the test's name."""
    path = scratch / re.sub("[^a-z_]", "", request.node.originalname)
    path.mkdir(exist_ok=True)
    return path


@contextlib.contextmanager
def probed(daemon: Daemon) -> Iterator[None]:
    """A connection that has been answered: the daemon is done with the one before."""
    frontend = Frontend(daemon.socket)
    frontend.get_features()
    yield
    frontend.close()


class Common:
    """A daemon that tests share; started again when one of them has killed it."""

    def __init__(self, export: Path, *args: str) -> None:
        self.export = export
        self.export.mkdir(exist_ok=True)
        self.args = ["--path", str(export), *args]
        self.daemon: Daemon | None = None
        self.idle_fds = 0

    def running(self) -> Daemon:
        if self.daemon is None or not self.daemon.alive:
            self.daemon = Daemon(*self.args).start()
            with mounted(self.daemon, self.export):
                pass  # what the daemon keeps open after its first guest is no leak
            with probed(self.daemon):
                self.idle_fds = self.daemon.fd_count()
        return self.daemon

    def check(self) -> None:
        """Alive, nothing printed that should not be, no descriptor left open."""
        daemon = self.daemon
        assert daemon is not None and daemon.alive, f"the daemon died:\n{daemon and daemon.output}"
        daemon.check_output()
        with probed(daemon):
            daemon.wait_until(
                lambda: daemon.fd_count() <= self.idle_fds,
                f"descriptors did not go back to {self.idle_fds}: {daemon.fds()}",
            )

    def stop(self) -> None:
        if self.daemon is not None and self.daemon.alive:
            try:
                self.daemon.stop()
            finally:
                self.daemon.kill()


@pytest.fixture(scope="session")
def common() -> Iterator[Common]:
    """The daemon of the tests that need no options of their own."""
    with directory() as path:
        common = Common(path / "common", *SECURITY, "--multidevs", "remap")
        yield common
        common.stop()


@pytest.fixture
def folder(common: Common, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new directory in the common export; its name."""
    path = Path(tempfile.mkdtemp(prefix="t", dir=common.export))
    yield path.name
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def speaks() -> type[Client]:
    """The client of `share`, and with it the dialect."""
    return Client


@pytest.fixture
def share(common: Common, folder: str, speaks: type[Client]) -> Iterator[Share]:
    """A mounted guest in a new directory of the common export."""
    daemon = common.running()
    with mounted(daemon, common.export, folder, speaks=speaks) as share:
        yield share
    common.check()


@pytest.fixture
def client(share: Share) -> DialectUClient:
    """The client of `share`, where that speaks 9P2000.u."""
    assert isinstance(share.client, DialectUClient)
    return share.client


@pytest.fixture
def bare(common: Common) -> Iterator[Machine]:
    """A machine that is connected to the common daemon and has said nothing yet."""
    with Machine(common.running().socket) as machine:
        yield machine
    common.check()


@pytest.fixture
def frontend(bare: Machine) -> Frontend:
    """A connection whose handshake is done."""
    bare.realize()
    return bare.frontend


@pytest.fixture
def second(common: Common, share: Share) -> Iterator[Share]:
    """A second guest on the same directory: another daemon that is told to share the export."""
    args = ["--path", str(common.export), *SECURITY, "--multidevs", "remap", "--force"]
    with Daemon(*args) as daemon, mounted(daemon, common.export, share.host.name) as other:
        yield other


@pytest.fixture
def fid(share: Share) -> int:
    """A fid of a file that is open for reading and writing."""
    share.put("file", bytes(1000))
    return share.client.open(share.top, b"file", os.O_RDWR)


@pytest.fixture
def host(share: Share, fid: int) -> Iterator[HostProcess]:
    """A process of the host with the same file."""
    with HostProcess(share.path("file")) as process:
        yield process


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """An attacker and its neighbour in one daemon."""
    with two_guests(tmp_path) as pair:
        yield pair
