"""Goes on with a saved state, as the keeper that a test starts in the place of an upgrade's.

    python -m tests.saved_states.resume FORMAT EXPORT SOCKET MEMORY KICK CALL ERR

SOCKET and the others are descriptors, what the frontend has of them. The files in EXPORT get the
numbers that the guest's descriptors have had.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.saved_states import Descriptor, Fixture, fill_pages, identity
from vhost9p import plain, worker
from vhost9p.attempts import Attempts
from vhost9p.config import Config, Level
from vhost9p.confinement import Entered
from vhost9p.inventory import Inventory
from vhost9p.keeper import Task, become_keeper
from vhost9p.output import start_log
from vhost9p.progress import Progress
from vhost9p.saved_state import SavedState
from vhost9p.shared_state import SharedState
from vhost9p.stop_signals import STOP
from vhost9p.vhost_user.listener import Listener

APART = 500
"""Descriptors from here on are no descriptors of the guest's."""
LOCK = struct.Struct("hhqqi4x")


def open_file(export: Path, each: Descriptor) -> int:
    fd = os.open(export / each.path, each.flags & ~os.O_CREAT)
    if each.position and not each.flags & os.O_DIRECTORY:
        os.lseek(fd, each.position, os.SEEK_SET)
    if each.is_locked:
        whole = LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
    return fd


def restore(fixture: Fixture, export: Path, given: dict[str, int]) -> list[int]:
    """Gives the guest's descriptors their numbers, and returns these."""
    for fd, each in fixture.descriptors.items():
        opened = open_file(export, each) if each.kind == "file" else os.dup(given[each.kind])
        apart = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, APART + int(fd))
        os.close(opened)
        each.position = apart  # from now on
    for fd, each in fixture.descriptors.items():
        os.dup2(each.position, int(fd), inheritable=False)
        os.close(each.position)
    return [int(fd) for fd in fixture.descriptors]


def identities(fixture: Fixture, export: Path) -> dict[bytes, bytes]:
    """The files' identities then, and now."""
    found = {}
    for each in fixture.descriptors.values():
        if each.kind == "file":
            now = os.stat(export / each.path)
            found[identity(each.st_dev, each.st_ino)] = identity(now.st_dev, now.st_ino)
    return found


def moved(fd: int) -> int:
    apart = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 2 * APART)
    os.close(fd)
    return apart


def main() -> None:
    number, folder, *fds = sys.argv[1:]
    export = Path(folder)
    kinds = ("socket", "memory", "kick", "call", "err")
    given = {kind: moved(int(fd)) for kind, fd in zip(kinds, fds, strict=True)}
    fixture = Fixture.read(int(number))
    listener = Listener.bind(str(export.parent / "socket"))
    listener = Listener.inherit(moved(listener._socket.detach()))
    file = moved(os.memfd_create("state"))
    os.ftruncate(file, 1 << 31)
    fill_pages(file, fixture.state, identities(fixture, export))
    left = restore(fixture, export, given)
    os.unlink(export / "gone")
    config = plain.from_plain(Config, fixture.config)
    (device,) = config.devices
    exports = tuple(replace(each, path=str(export)) for each in device.exports)
    config = replace(config, devices=(replace(device, exports=exports),))
    states = [SharedState.map(listener, SavedState.open(file), config.devices[0], is_new=False)]
    progress = Progress(1)
    progress.serves()
    start_log("info")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    inventory = Inventory(1, moved(os.memfd_create("inventory")), moved(os.eventfd(0)))
    shared = Attempts(1), progress, inventory
    entered = Entered(Level.NONE)
    task = Task(partial(worker.run, config, states, *shared, False, entered, None), left=left)
    kept = [listener.fileno(), inventory.bell]
    become_keeper("fixture", 2, kept, lambda: task, progress, left)


if __name__ == "__main__":
    main()
