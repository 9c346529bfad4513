"""Two guests of one daemon: the frontend of the first attacks, and the second must not notice."""

from __future__ import annotations

import array
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.vhost_user import (
    BackendError,
)
from tests.system.share import SECURITY, Share, remount

MODEL = SECURITY[1]


@dataclass
class Pair:
    """Two guests of one daemon."""

    daemon: Daemon
    sockets: tuple[str, str]
    attacker: Share
    neighbour: Share

    def goes_on(self) -> None:
        """The neighbour is served: data, changes, and messages of its frontend."""
        client, top = self.neighbour.client, self.neighbour.top
        fid = client.create(top, b"file")
        assert client.write(fid, 0, b"data") == 4
        client.clunk(fid)
        client.unlinkat(top, b"file")
        self.neighbour.machine.frontend.get_features()
        self.neighbour.machine.stop()
        self.neighbour.machine.start()


@contextlib.contextmanager
def two_guests(folder: Path) -> Iterator[Pair]:
    names = ("a", "b")
    for name in names:
        (folder / name).mkdir()
    daemon = Daemon("--config", str(folder / "vm.yaml"), socket=False)
    sockets = tuple(str(daemon.directory / f"{name}.sock") for name in names)
    lines = [
        f"- {{socket: {path}, path: {folder / name}, tag: {name}, security_model: {MODEL}}}\n"
        for name, path in zip(names, sockets, strict=True)
    ]
    (folder / "vm.yaml").write_text("devices:\n" + "".join(lines))
    with daemon, contextlib.ExitStack() as stack:
        shares = []
        for name, path in zip(names, sockets, strict=True):
            machine = stack.enter_context(Machine(path)).boot()
            share = Share(daemon, machine, Client(machine), folder / name, folder / name)
            remount(share)
            shares.append(share)
        yield Pair(daemon, (sockets[0], sockets[1]), shares[0], shares[1])


def hung_up_is_noticed(pair: Pair) -> None:
    """The next frontend is served, once what the last one sent has been carried out."""
    deadline = time.monotonic() + 20
    while True:
        with Machine(pair.sockets[0]) as machine:
            try:
                machine.boot()
            except BackendError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
                continue
            Client(machine).version()
            return


def send_fd(sock: socket.socket, fd: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sock.sendmsg([b"x"], rights)
