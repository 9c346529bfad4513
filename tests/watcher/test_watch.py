"""What a batch of events becomes, over places that a test has made up."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.share import needs_root
from vhost9p.changes import records
from vhost9p.changes.report import View
from vhost9p.changes.ring import Ring
from vhost9p.native import fanotify
from vhost9p.watcher.places import DIRECTORY, Gone, Place
from vhost9p.watcher.watch import A_WORKER_SERVES, Watch

pytestmark = needs_root


class Made:
    """Places and file systems, in which a directory `gone` was on a mount that is gone."""

    all = (Place(0, View(), -1, True),)
    have_changed = False

    def __init__(self, base: Path) -> None:
        self.places = self
        self.group = fanotify.open_group()
        self.mounts_change = os.eventfd(0)
        root = os.open(base, DIRECTORY)
        fanotify.mark_file_system(self.group, records.CREATE, root)
        os.close(root)
        self.names: dict[bytes, str] = {}
        for name in ("here", "gone"):
            (base / name).mkdir()
            (base / name / "f").touch()
            self.names[self.created(b"f")] = name

    def created(self, name: bytes) -> bytes:
        """The directory in which a file of this name was just created, whatever others do."""
        events = records.parse(os.read(self.group, 1 << 16))
        return next(each.entry for each in events if each.entry and each.entry.name == name)[0]

    def find(self, directory: bytes) -> dict[int, list[bytes]]:
        name = self.names.get(directory)
        if name == "gone":
            raise Gone
        return {0: [os.fsencode(name) + b"/"]} if name else {}

    def close(self) -> None:
        os.close(self.group)
        os.close(self.mounts_change)


class Roots:
    have_changed = False


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made(tmp_path)
    yield made
    made.close()


def watch(file_systems: Any, ring: Ring) -> None:
    """Watches for one batch, and would do so for long: another process must not follow yet."""
    main, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    children = os.open("/proc/thread-self/children", os.O_RDONLY)
    keeper = os.pidfd_open(os.getpid())
    main.send(A_WORKER_SERVES)
    main.close()
    try:
        roots: Any = Roots()
        Watch(file_systems, [ring], children, roots).until(its, keeper, 3600)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.close(children)
        os.close(keeper)
        its.close()


def test_a_mount_that_is_gone_costs_its_own_lines_only(made: Made, tmp_path: Path) -> None:
    """The next process, which begins with an overflow, may follow after minutes."""
    ring = Ring()
    for name in ("here/one", "gone/two", "here/three"):
        (tmp_path / name).touch()
    watch(made, ring)
    lines = ring.read(0, 4096)[0].splitlines()
    assert lines == [b"overflow", b"created here/one", b"overflow", b"created here/three"]
    ring.close()
