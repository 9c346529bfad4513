"""This version goes on with what released ones have left."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.children import ending_with_tests
from tests.frontend import PATIENCE
from tests.frontend.client import LOCK_SUCCESS, UNLCK, WRLCK, Client
from tests.frontend.daemon import environment
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.saved_states import FILES, FOLDER, HERE, PROTOCOL, Fixture, fill_pages, populate
from vhost9p.saved_state import FORMAT, fingerprint

FORMATS = sorted(int(re.findall(r"\d+", path.name)[0]) for path in HERE.glob("format*.xz"))
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the states were written by x86-64"
)


def test_a_change_of_the_layout_needs_a_new_number() -> None:
    """Whoever changes it gives FORMAT a new number if the present one was released, and runs
    `python -m tests.saved_states.record` (docs/upgrade.md)."""
    assert FORMATS[-1] == FORMAT
    assert Fixture.read(FORMAT).header["fingerprint"] == fingerprint()


class Resumed:
    """A guest that goes on with its device: `machine` and `client`; `noted` is what it knows."""

    def __init__(self, number: int, folder: Path, undo: ExitStack) -> None:
        self.export = folder / "export"
        self.export.mkdir()
        populate(self.export)
        fixture = Fixture.read(number)
        self.noted = fixture.noted
        ours, theirs = socket.socketpair()
        self.machine = undo.enter_context(Machine(sock=ours, protocol=PROTOCOL))
        fill_pages(self.machine.memory.regions[0].memfd.fd, fixture.memory)
        ring = self.machine.ring
        memory = self.machine.memory.regions[0].memfd.fd
        fds = [theirs.fileno(), memory, ring.kick_fd, ring.call_fd, ring.err_fd]
        command = [sys.executable, "-m", "tests.saved_states.resume", str(number)]
        self.process = subprocess.Popen(
            ending_with_tests([*command, str(self.export), *map(str, fds)], ()),
            pass_fds=fds, stderr=subprocess.PIPE, text=True, env=environment({}),
        )  # fmt: skip
        undo.callback(self.process.wait)
        undo.callback(self.process.terminate)
        theirs.close()
        self.machine.frontend.protocol = PROTOCOL
        self.machine.features = self.machine.device_features = fixture.noted["features"]
        self.machine.sent_regions = list(self.machine.memory.regions)
        assert self.process.stderr
        while "serving" not in (line := self.process.stderr.readline()):
            assert line, "it has ended"

    def go_on(self) -> Client:
        """Stops the ring, which answers what waits, and starts it where it stands."""
        base = self.machine.stop()
        assert base == self.machine.memory.load16(self.machine.ring.avail + 2)
        assert base == self.machine.memory.load16(self.machine.ring.used + 2)
        self.machine.ring.reset(base)
        self.machine.start()
        client = Client(self.machine)
        client.msize = self.noted["msize"]
        return client


@pytest.fixture(params=FORMATS)
def resumed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Resumed]:
    with ExitStack() as undo:
        yield Resumed(request.param, tmp_path, undo)


def test_files_are_open_and_the_same(resumed: Resumed) -> None:
    noted, client = resumed.noted, resumed.go_on()
    for name, data in FILES.items():
        assert client.read(noted[name], 0, 100) == data
        assert client.getattr(noted[name]).nlink == (name != "gone")
    client.write(noted["file"], 10, b"more")
    assert (resumed.export / "file").read_bytes() == FILES["file"] + b"more"
    client.walk(noted["root"], 2000, b"file")
    client.call(T.LOPEN, 2000, os.O_RDONLY)
    assert client.read(2000, 0, 4) == b"0123"


def test_a_directory_is_listed_to_its_end(resumed: Resumed) -> None:
    """From its beginning: positions are the file system's."""
    noted, client = resumed.noted, resumed.go_on()
    names = {os.fsdecode(entry.name) for entry in client.entries(noted["folder"])}
    assert names == {*FOLDER, ".", ".."}


def test_locks_are_held(resumed: Resumed) -> None:
    noted, client = resumed.noted, resumed.go_on()
    with open(resumed.export / "locked", "r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert client.getlock(noted["waits"], WRLCK, proc_id=2).proc_id == 1
        assert client.lock(noted["locked"], UNLCK) == LOCK_SUCCESS
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_request_that_waits_goes_on(resumed: Resumed) -> None:
    """It was popped, and not answered, since somebody else had the lock."""
    ring, memory = resumed.machine.ring, resumed.machine.memory
    popped = memory.load16(ring.avail + 2)
    assert memory.load16(ring.used + 2) == popped - 1
    resumed.machine.stop()
    assert memory.load16(ring.used + 2) == popped
    assert select.select([ring.call_fd], [], [], PATIENCE)[0]


def test_a_value_is_written_to_its_end(resumed: Resumed) -> None:
    noted, client = resumed.noted, resumed.go_on()
    client.write(noted["value"], 3, b"def")
    client.clunk(noted["value"])
    assert os.getxattr(resumed.export / "valued", "user.a") == b"abcdef"
