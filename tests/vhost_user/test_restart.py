"""Workers that die at any line: a frontend sees one connection, and each message answered once."""

from __future__ import annotations

import array
import errno
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.children import ROOT, ending_with_tests
from tests.frontend.vhost_user import CONFIG, HEADER, NO_FD, REGION, STATE, U64
from tests.frontend.vhost_user import Request as R
from tests.vhost_user.dying_worker import REGION_SIZE
from tests.vhost_user.examples import PROTOCOL, REPLY_ACK
from tests.vhost_user.fake_backend import memfds, sockets

MESSAGES = 50
NEED_REPLY = 8


class Script:
    """Messages, and what the frontend gets for each."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._regions: set[int] = set()
        self._base = 0
        self.messages: list[tuple[bytes, str, int]] = []
        """Bytes, and the kind and number of descriptors that go with them."""
        self.replies = b""
        self._add(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL), code=0)
        for _ in range(MESSAGES):
            chance.choice(
                (self._memory, self._memory, self._ring, self._channel, self._call, self._query)
            )()

    def _add(
        self, number: int, payload: bytes, fds: int = 0, kind: str = "memory", *, code: int
    ) -> None:
        """A message that is acknowledged with `code`."""
        message = HEADER.pack(number, 1 | NEED_REPLY, len(payload)) + payload
        self.messages.append((message, kind, fds))
        self._reply(number, U64.pack(code))

    def _ask(self, number: int, payload: bytes, reply: bytes) -> None:
        self.messages.append((HEADER.pack(number, 1, len(payload)) + payload, "", 0))
        self._reply(number, reply)

    def _reply(self, number: int, payload: bytes) -> None:
        self.replies += HEADER.pack(number, 5, len(payload)) + payload

    def _memory(self) -> None:
        """Adds or removes a region, which may be there or not."""
        region = self._chance.randrange(4)
        gpa = region * REGION_SIZE
        payload = bytes(8) + REGION.pack(gpa, REGION_SIZE, 1 << 40 | gpa, 0)
        if self._chance.randrange(2):
            code = errno.EEXIST if region in self._regions else 0
            self._add(R.ADD_MEM_REG, payload, 1, code=code)
            self._regions.add(region)
        else:
            code = 0 if region in self._regions else errno.ENOENT
            self._add(R.REM_MEM_REG, payload, code=code)
            self._regions.discard(region)

    def _ring(self) -> None:
        self._base += 1
        self._add(R.SET_VRING_BASE, STATE.pack(0, self._base), code=0)
        self._ask(R.GET_VRING_BASE, STATE.pack(0, 0), STATE.pack(0, self._base))

    def _channel(self) -> None:
        self._add(R.SET_BACKEND_REQ_FD, b"", 1, "sockets", code=0)

    def _call(self) -> None:
        """Nine descriptors are too many."""
        self._add(R.SET_VRING_CALL, U64.pack(0), 1, code=0)
        self._add(R.SET_VRING_CALL, U64.pack(NO_FD), code=0)
        self._add(R.SET_VRING_CALL, U64.pack(0), 9, code=errno.EMFILE)

    def _query(self) -> None:
        """The first of these acknowledges by features that it takes away itself."""
        self._add(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL & ~REPLY_ACK), code=0)
        piece = CONFIG.pack(0, 256, 0)
        self._ask(R.GET_CONFIG, piece + bytes(256), piece + bytes(range(256)))
        self._add(R.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL), code=0)


def send(sock: socket.socket, script: Script, chance: random.Random) -> None:
    """Sends the messages, each in one or two pieces; descriptors come with the last."""
    for data, kind, count in script.messages:
        cut = chance.choice((0, 0, chance.randrange(len(data))))
        if cut:
            sock.sendall(data[:cut])
        fds = sockets(count) if kind == "sockets" else memfds(count)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert sock.sendmsg([data[cut:]], rights) == len(data) - cut
        for fd in fds:
            os.close(fd)


def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := sock.recv(size - len(got))):
        got += data
    return got


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="v9-") as folder:
        yield Path(folder) / "s"


def test_deaths_at_any_line(path: Path) -> None:
    chance = random.Random(1)
    script = Script(chance)
    command = [sys.executable, "-m", "tests.vhost_user.dying_worker", str(path)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(
            ending_with_tests(command), cwd=ROOT, stdout=pipe, stderr=pipe, text=True
        ) as keeper,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        try:
            sock.settimeout(100)
            while keeper.poll() is None:
                with suppress(FileNotFoundError, ConnectionRefusedError):
                    sock.connect(str(path))
                    break
                time.sleep(0.01)
            sender = threading.Thread(target=send, args=(sock, script, chance))
            sender.start()
            assert receive(sock, len(script.replies)) == script.replies
            sender.join()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""  # and nothing more
        finally:
            sock.close()
            if sys.exc_info()[0]:
                keeper.kill()
            output, log = keeper.communicate(timeout=60)
            print(log[-5000:])
    deaths, inside, connected, left = map(int, output.split())
    assert deaths > MESSAGES
    assert inside > deaths / 4
    assert connected <= 2 + 8, "the socket, the one of SET_BACKEND_REQ_FD, and a message's"
    assert left == 0
