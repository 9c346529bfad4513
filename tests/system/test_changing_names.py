"""Names that a process of the host makes other files' while the guest asks about them: each answer
is about one file, and nothing but files and directories is ever opened."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.dialect_u import DMNAMEDPIPE, DMSYMLINK, DialectUClient
from tests.system.share import SECURITY, Share, mounted

ROUNDS = 500
PAIRS = 50
TARGET = b"where/it/leads"
EXCHANGE = """
import ctypes, sys
names = [arg.encode() for arg in sys.argv[1:]]
pairs = list(zip(names[::2], names[1::2]))
rename = ctypes.CDLL(None).renameat2
print(flush=True)
while not any(rename(-100, a, -100, b, 2) for a, b in pairs):
    pass
"""


@contextlib.contextmanager
def exchanging(*names: bytes) -> Iterator[None]:
    """Names of the host, the first and the second, and so on, change places for as long as the
    block takes."""
    command = [sys.executable, "-c", EXCHANGE, *map(os.fsdecode, names)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        assert process.poll() is None, "the host does not exchange names"
        process.kill()


def watch_opens(fifo: bytes) -> threading.Event:
    """Tells whether anybody opens a FIFO for reading: opening for writing waits for that."""
    opened = threading.Event()

    def wait() -> None:
        os.close(os.open(fifo, os.O_WRONLY))
        opened.set()

    threading.Thread(target=wait, daemon=True).start()
    return opened


@contextlib.contextmanager
def serving(folder: Path, model: str, speaks: type[Client]) -> Iterator[Share]:
    export = folder / "export"
    export.mkdir()
    with Daemon("--path", str(export), "--security-model", model) as daemon:  # noqa: SIM117
        with mounted(daemon, export, speaks=speaks) as share:
            yield share


def test_a_listing_opens_nothing_that_a_symlink_has_become(tmp_path: Path) -> None:
    with serving(tmp_path, SECURITY[1], DialectUClient) as share:
        client = share.client
        assert isinstance(client, DialectUClient)
        fifo = os.fsencode(tmp_path / "fifo")
        os.mkfifo(fifo)
        opened = watch_opens(fifo)
        names = [b"%d" % i for i in range(2 * PAIRS)]
        for link, pipe in zip(names[::2], names[1::2], strict=True):
            os.symlink(TARGET, share.path(link))
            os.link(fifo, share.path(pipe))
        fid, seen = client.walk_open(share.top), set()
        with exchanging(*map(share.path, names)):
            for _ in range(ROUNDS):
                for found in client.stats(fid, 65536):
                    if found.name in names:
                        seen.add((found.mode & (DMSYMLINK | DMNAMEDPIPE), found.extension))
        assert seen == {(DMSYMLINK, TARGET), (DMNAMEDPIPE, b"")}
        assert not opened.wait(0.1)
        os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))  # the thread that waits ends


def test_attributes_and_metadata_are_of_one_file(tmp_path: Path) -> None:
    """Under mapped-xattr a size and an owner, in listings and by a walk."""
    with serving(tmp_path, "mapped-xattr", DialectUClient) as share:
        client = share.client
        assert isinstance(client, DialectUClient)
        sizes = {b"a": 1000, b"b": 2000}
        for name, size in sizes.items():
            share.put(name, bytes(size))
            os.setxattr(share.path(name), "user.virtfs.uid", size.to_bytes(4, "little"))
        fid, seen = client.walk_open(share.top), set()
        with exchanging(share.path("a"), share.path("b")):
            for _ in range(ROUNDS):
                found = [each for each in client.stats(fid) if each.name in sizes]
                found.append(client.stat(share.top, b"a"))
                seen |= {(each.length, each.n_uid) for each in found}
        assert seen == {(size, size) for size in sizes.values()}


@pytest.mark.parametrize(
    ("model", "folder"),
    [(SECURITY[1], b""), ("mapped-xattr", b""), ("mapped-file", b".virtfs_metadata/")],
)
def test_a_fifo_for_a_file_is_not_opened(tmp_path: Path, model: str, folder: bytes) -> None:
    """While a guest opens a file, and while its metadata are looked for."""
    with serving(tmp_path, model, Client) as share:
        client = share.client
        client.clunk(client.create(share.top, b"a", mode=0o644))
        share.put("b", b"b")
        fifo = share.path(folder + b"fifo")
        os.mkfifo(fifo)
        opened = watch_opens(fifo)
        with exchanging(share.path(folder + b"a"), fifo):
            for _ in range(ROUNDS // 5):
                with contextlib.suppress(OSError):
                    client.clunk(client.open(share.top, b"a"))
                with contextlib.suppress(OSError):
                    client.clunk(client.create(share.top, b"a", os.O_RDWR))
                client.listing(share.top)
        assert not opened.wait(0.1)
        for name in (b"a", b"fifo"):
            if stat.S_ISFIFO(os.lstat(share.path(folder + name)).st_mode):
                os.close(os.open(share.path(folder + name), os.O_RDONLY | os.O_NONBLOCK))
