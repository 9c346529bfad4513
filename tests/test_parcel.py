"""All descriptors of a keeper, on their way to another main process."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.frontend import PATIENCE
from vhost9p import parcel
from vhost9p.parcel import Packing


def packed(pid: int) -> parcel.Parcel | None:
    pidfd = os.pidfd_open(pid)
    packing = Packing(pid, pidfd)
    assert select.select([packing.fileno()], [], [], PATIENCE)[0]
    os.close(pidfd)
    return packing.result()


def test_what_could_not_be_packed_is_not_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second message finds no room; the first one goes, too."""
    reader, writer = os.pipe()
    copies = [os.dup(writer) for _ in range(parcel.FDS_MAX)]
    os.close(writer)
    send = parcel._send
    sent = iter([send])

    def fail(*arguments: object) -> None:
        next(sent)(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parcel, "_send", fail)
    before = len(os.listdir("/proc/self/fd"))
    assert packed(os.getpid()) is None
    for fd in copies:
        os.close(fd)
    assert select.select([reader], [], [], PATIENCE)[0], "somebody has the other end"
    assert len(os.listdir("/proc/self/fd")) == before - len(copies)
    os.close(reader)


def test_what_main_has_open_takes_no_room(daemon_like: int) -> None:
    """A keeper may have as many descriptors as there may be; main has others."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = [os.dup(0) for _ in range(COUNT)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (COUNT + 300, limits[1]))
    try:
        found = packed(daemon_like)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found and found.count >= COUNT
    for fd in (*own, *found.fds):
        os.close(fd)


COUNT = 600


@pytest.fixture
def daemon_like() -> Iterator[int]:
    """A process with so many descriptors."""
    program = f"import os; [os.dup(0) for _ in range({COUNT})]; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        yield process.pid
        process.stdin.write(b"\n")
