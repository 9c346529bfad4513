"""Writes the saved state of this version's format: see the package.

    python -m tests.saved_states.record

Once a version with the format was released, the file must not be written again.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import tempfile
from pathlib import Path
from typing import Any

from tests.frontend.client import WRLCK, Client
from tests.frontend.daemon import Daemon, children
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.saved_states import (
    FILES,
    MAX_FIDS,
    PAGE,
    PROTOCOL,
    Descriptor,
    Fixture,
    pages_of,
    populate,
)
from vhost9p import __version__, plain
from vhost9p.config import Config, DeviceConfig, ExportConfig, Level
from vhost9p.saved_state import FORMAT


def work(machine: Machine, export: Path) -> dict[str, Any]:
    """What the guest does. A request that waits for a lock is not answered."""
    client = Client(machine)
    client.version()
    client.attach(1)
    noted: dict[str, Any] = {"root": 1, "msize": client.msize}
    for name in FILES:
        noted[name] = client.open(1, os.fsencode(name), os.O_RDWR)
    client.unlinkat(1, b"gone")
    noted["folder"] = client.open(1, b"folder", os.O_RDONLY)
    part = client.readdir(noted["folder"], 0, 1000)
    noted["listed"] = [os.fsdecode(entry.name) for entry in part]
    noted["offset"] = part[-1].offset
    noted["value"] = client.walk_to(1, b"valued")
    client.call(T.XATTRCREATE, noted["value"], b"user.a", 6, 0)
    client.write(noted["value"], 0, b"abc")
    client.lock(noted["locked"], WRLCK)
    noted["waits"] = client.open(1, b"locked", os.O_RDWR)
    client.submit_lock(noted["waits"], WRLCK, proc_id=2)
    client.getattr(1)  # afterwards the one before was taken from the ring
    return noted


def describe(number: int, keeper: int, export: Path, events: dict[str, str]) -> Descriptor | None:
    """What a descriptor of the keeper is; None if it is the keeper's, or of nobody."""
    path = f"/proc/{keeper}/fd/{number}"
    link, status = os.readlink(path), os.stat(path)
    info = Path(f"/proc/{keeper}/fdinfo/{number}").read_text()
    if found := re.search(r"eventfd-id:\s*(\d+)", info):
        kind = events.get(found[1])
        return Descriptor(kind) if kind else None
    if link.startswith("/memfd:guest-ram"):
        return Descriptor("memory")
    if not link.startswith(f"{export}"):
        return None
    return Descriptor(
        "file",
        os.path.relpath(link.removesuffix(" (deleted)"), export),
        int(re.search(r"flags:\s*(\d+)", info)[1], 8),  # type: ignore[index]
        int(re.search(r"pos:\s*(\d+)", info)[1]),  # type: ignore[index]
        "lock:" in info,
        status.st_dev,
        status.st_ino,
    )


def event_numbers(machine: Machine) -> dict[str, str]:
    """What the eventfds of a ring are, by what the kernel calls them."""
    found = {}
    for kind in ("kick", "call", "err"):
        info = Path(f"/proc/self/fdinfo/{getattr(machine.ring, kind + '_fd')}").read_text()
        found[re.search(r"eventfd-id:\s*(\d+)", info)[1]] = kind  # type: ignore[index]
    return found


def connection_of(state: int) -> int:
    """The number of the frontend's socket, the second word of the saved state's first part."""
    return int(struct.unpack("=Ii", os.pread(state, 8, PAGE))[1])


def freeze(keeper: int) -> None:
    """As an upgrade does: no worker lives, and none follows."""
    os.kill(keeper, signal.SIGSTOP)
    for worker in children(keeper, "vhost9p-worker"):
        os.kill(worker, signal.SIGKILL)
        while "Z" not in Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]:
            pass


def state_of(main: int) -> int:
    """Opens the saved state."""
    for fd in os.listdir(f"/proc/{main}/fd"):
        if os.readlink(f"/proc/{main}/fd/{fd}").startswith("/memfd:vhost9p-state"):
            return os.open(f"/proc/{main}/fd/{fd}", os.O_RDONLY)
    raise SystemExit("there is no saved state")


def record(export: Path) -> Fixture:
    populate(export)
    args = ("--path", str(export), "--security-model", "none", "--sandbox", "none")
    daemon = Daemon(*args, "--max-fids", str(MAX_FIDS)).start()
    try:
        with Machine(daemon.socket, protocol=PROTOCOL) as machine:
            noted = work(machine.boot(), export)
            noted["features"] = machine.features
            (keeper,) = daemon.keepers
            freeze(keeper)
            events = event_numbers(machine)
            numbers = map(int, os.listdir(f"/proc/{keeper}/fd"))
            found = {number: describe(number, keeper, export, events) for number in numbers}
            state = state_of(daemon.pid)
            found[connection_of(state)] = Descriptor("socket")
            config = Config(
                (DeviceConfig((ExportConfig("/export", security_model="none"),), "/socket",
                              max_fids=MAX_FIDS, state_dir="/state"),),
                sandbox=Level.NONE,
            )  # fmt: skip
            return Fixture(
                __version__,
                pages_of(state),
                pages_of(machine.memory.regions[0].memfd.fd),
                {str(number): each for number, each in found.items() if each},
                plain.to_plain(config),
                noted,
            )
    finally:
        daemon.kill()


def main() -> None:
    export = Path(tempfile.mkdtemp(prefix="v9-state-"))
    try:
        record(export).write(FORMAT)
    finally:
        shutil.rmtree(export)


if __name__ == "__main__":
    main()
