"""Whether main has copies of the descriptors that the sessions of a VM need."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

from tests.frontend.daemon import Daemon, children
from vhost9p.inventory import SLOT


def _kinds(pid: int) -> dict[int, str]:
    """What each descriptor of a process is of (proc_pid_fdinfo(5))."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fdinfo"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/fdinfo/{number}").read_text(encoding="ascii")
            lines = [line for line in text.splitlines() if line.startswith(("ino:", "eventfd-id:"))]
            found[int(number)] = " ".join(lines)
    return found


def _ringing(pid: int) -> set[str]:
    """The eventfds of main that nobody has read since they were written, as _kinds has them."""
    found = set()
    for number, kind in _kinds(pid).items():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/fdinfo/{number}").read_text(encoding="ascii")
            counts = [line.split()[1] for line in text.splitlines() if line.startswith("eventfd-c")]
            if any(int(each, 16) for each in counts):
                found.add(kind)
    return found


def _of_watchers(main: int) -> set[str]:
    """What the watchers have, as _kinds has it: their bells ring until a guest reads. A watcher
    that has not yet closed what it inherits does not count."""
    found: set[str] = set()
    for pid in children(main, "vhost9p-watcher"):
        with suppress(FileNotFoundError):
            if not _inventories(pid):
                found |= {*_kinds(pid).values()}
    return found


def _inventories(pid: int) -> list[Path]:
    """The inventories that a process has, as paths of its descriptors."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if "vhost9p-inventory" in os.readlink(each):
                found.append(each)
    return found


def _listed(pid: int) -> list[int]:
    """The descriptors in the inventory of a daemon's only VM."""
    found: list[int] = []
    data = _inventories(pid)[0].read_bytes()
    for at in range(0, len(data), SLOT):
        _, count = struct.unpack_from("=QI", data, at)
        found += struct.unpack_from(f"={count}i", data, at + 12)
    return [fd for fd in found if fd >= 0]


def has_copies(daemon: Daemon) -> bool:
    """Whether main has copied all that a keeper's successor would need, and knows of the last
    change: no worker's bell rings."""
    try:
        theirs, ours = _kinds(daemon.worker), {*_kinds(daemon.pid).values()}
        listed = _listed(daemon.pid)
        ringing = _ringing(daemon.pid) - _of_watchers(daemon.pid)
    except FileNotFoundError:  # main has just closed some
        return False
    needed = {theirs.get(fd, "?") for fd in listed}
    return len(listed) > 3 and needed <= ours and ringing <= needed


def wait_for_copies(daemon: Daemon) -> None:
    """Returns once the daemon's only keeper may die."""
    daemon.wait_until(lambda: has_copies(daemon), "main has no copies")
