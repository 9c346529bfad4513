"""A worker that dies when it has just created a file, which another device has open: each keeps its
own descriptor."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.traced import Traced
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, needs_root, remount

pytestmark = [
    needs_root,  # it traces processes that are confined
    pytest.mark.skipif(platform.machine() != "x86_64", reason="knows x86-64's system calls"),
]

SECONDS = 20.0
NAME = b"new"


@contextmanager
def two_devices(folder: Path) -> Iterator[list[Share]]:
    """Two devices of one VM, each with one thread, on one directory."""
    export = folder / "export"
    export.mkdir()
    daemon = Daemon("--config", str(folder / "vm.yaml"), socket=False)
    sockets = {tag: str(daemon.directory / f"{tag}.sock") for tag in ("one", "two")}
    options = f"path: {export}, security_model: {SECURITY[1]}, force: true, threads: 1"
    lines = [f"- {{socket: {path}, tag: {tag}, {options}}}\n" for tag, path in sockets.items()]
    (folder / "vm.yaml").write_text("devices:\n" + "".join(lines))
    with daemon, ExitStack() as stack:
        shares = []
        for path in sockets.values():
            machine = stack.enter_context(Machine(path)).boot()
            shares.append(Share(daemon, machine, Client(machine), export, export))
            remount(shares[-1])
        yield shares


def is_answered(share: Share) -> bool:
    ring = share.machine.ring
    return share.machine.memory.load16(ring.used + 2) != ring.last_used


def stopped_first(shares: list[Share], until: float) -> list[Share]:
    """The devices, the one first whose thread is stopped: the other one answers."""
    tickets = [share.client.submit(T.GETATTR, share.top, 0x7FF) for share in shares]
    while not any(map(is_answered, shares)):
        assert time.monotonic() < until
    if is_answered(shares[0]):
        shares, tickets = shares[::-1], tickets[::-1]
    shares[1].client.wait(tickets[1])
    return shares


def test_a_file_is_created_while_another_device_has_it_open(scratch: Path) -> None:
    """Its descriptor allows more than that of the device that has created the file."""
    until = time.monotonic() + SECONDS
    with two_devices(scratch) as shares:
        with Traced(shares[0].daemon.worker, until) as thread:
            creating, other = stopped_first(shares, until)
            ticket = creating.client.submit(T.LCREATE, creating.top, NAME, os.O_WRONLY, 0o644, 0)
            while not os.path.exists(creating.path(NAME)):
                thread.step(until)
            fid = other.client.open(other.top, NAME, os.O_RDWR)
            assert other.client.write(fid, 0, b"data") == 4
        creating.client.wait(ticket)
        creating.client.write(creating.top, 0, b"D")
        creating.client.clunk(creating.top)
        assert other.client.read(fid, 0, 10) == b"Data"
        assert other.client.write(fid, 1, b"ATA") == 3
        assert other.get(NAME) == b"DATA"
