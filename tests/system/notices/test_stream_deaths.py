"""Readers of the stream, while the worker dies again and again: they get each line once."""

from __future__ import annotations

import random
import time
from typing import NamedTuple

from tests.frontend import PATIENCE
from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.system.notices.notices import data_of, events, submit_read
from tests.system.share import Share
from vhost9p.changes.ring import Ring

DEATHS = 12
SIZES = (5, 9, 20, 21, 4096, 65536)
"""Of readers' buffers, in bytes."""
LATEST_S = 0.004
"""Seconds from a line until a death, at most."""


class Reader:
    """A program that reads, as Linux's client does that for it (net/9p/client.c, p9_client_read):
    until its buffer is full, or there is nothing more."""

    def __init__(self, client: Client, fid: int, size: int) -> None:
        self.got = b""
        self._client, self._fid, self._size = client, fid, size
        self._begun = b""
        self._submit()

    def _submit(self) -> None:
        room = self._size - len(self._begun)
        offset = len(self.got) + len(self._begun)
        self._asked = submit_read(self._client, self._fid, offset, min(room, 4096))

    def go_on(self) -> None:
        if self._asked.reply is None:
            return
        data = data_of(self._client, self._asked)
        self._begun += data
        assert self._begun, "the program takes that for the end of the file"
        if not data or len(self._begun) == self._size:
            self.got, self._begun = self.got + self._begun, b""
        self._submit()


class Guest(NamedTuple):
    """All readers."""

    client: Client
    readers: list[Reader]

    def run(self, seconds: float) -> None:
        """Has them read for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for done in self.client.ring.wait_at_most(left):
                self.client.finish(done.head, done.length)
            for reader in self.readers:
                reader.go_on()

    def run_until_all_have(self, lines: bytes) -> None:
        """Has them read until they have that, and nothing else."""
        end = time.monotonic() + PATIENCE
        while any(len(reader.got) < len(lines) for reader in self.readers):
            assert time.monotonic() < end, [len(lines) - len(each.got) for each in self.readers]
            self.run(0.002)
        assert all(reader.got == lines for reader in self.readers)


def test_readers_get_each_line_once_whenever_the_worker_dies(
    daemon: Daemon, share: Share, ring: Ring
) -> None:
    chance, client = random.Random(DEATHS), share.client
    readers = [Reader(client, events(client, share.top), size) for size in SIZES]
    guest, lines = Guest(client, readers), b""
    for number in range(DEATHS):
        for part in range(chance.randint(1, 3)):
            line = b"removed %d-%d\n" % (number, part)
            ring.append(line)
            lines += line
            guest.run(chance.uniform(0, LATEST_S))
        kill(daemon.worker)
        if chance.random() < 0.5:
            ring.append(b"created %d\n" % number)
            lines += b"created %d\n" % number
        guest.run_until_all_have(lines)
