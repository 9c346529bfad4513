"""Main's copies of what a VM needs to outlive its keeper."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

import vhost9p.copies
import vhost9p.native.process
from vhost9p import memory_file
from vhost9p.copies import FOREIGN_MAX, Copies
from vhost9p.inventory import Inventory


def _fail(*unused: object) -> None:
    raise TimeoutError("it blocks")


@pytest.fixture
def inventory() -> Iterator[Inventory]:
    inventory = Inventory(2)
    yield inventory
    inventory.close()


def test_a_worker_cannot_block_main_by_the_bell(inventory: Inventory) -> None:
    """It has the same file description as main: it has made it blocking, and read the count."""
    os.set_blocking(inventory.bell, True)
    pidfd = os.pidfd_open(os.getpid())
    copies = Copies("vm", inventory)
    handler = signal.signal(signal.SIGALRM, _fail)
    signal.alarm(5)
    try:
        assert copies.take(os.getpid(), pidfd)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        copies.drop()
        os.close(pidfd)


def test_the_connection_of_a_device_that_had_changed_ends(inventory: Inventory) -> None:
    """Main has no copies of it any more, and its frontend hears of it at once, even if a service
    manager has it open still."""
    pairs = [socket.socketpair() for _ in range(2)]
    stored = os.dup(pairs[1][0].fileno())
    pidfd = os.pidfd_open(os.getpid())
    copies = Copies("vm", inventory)
    for number, (ours, _) in enumerate(pairs):
        inventory.write(number, [ours.fileno()], anew=True)
    assert copies.take(os.getpid(), pidfd)
    inventory.write(1, [pairs[1][0].fileno()], anew=True)
    for ours, _ in pairs:
        ours.close()
    assert [bool(each) for each in copies.loss().devices] == [True, False]
    pairs[1][1].settimeout(30)
    assert pairs[1][1].recv(1) == b""
    pairs[0][1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pairs[0][1].recv(1)
    copies.drop()
    for fd in (pidfd, stored):
        os.close(fd)
    for _, theirs in pairs:
        theirs.close()


def test_main_does_not_wait_for_the_writer_of_a_pipe(inventory: Inventory) -> None:
    """Who writes to a pipe may hang in that, and whoever closes the pipe waits for it."""
    pidfd, (read, write) = os.pidfd_open(os.getpid()), os.pipe()
    copies = Copies("vm", inventory)
    inventory.write(0, [read], anew=True)
    copies.take(os.getpid(), pidfd)
    (copy,) = [fd for fd in copies.fds if fd not in copies.namespaces.values()]
    closed: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "close", closed.append)
        copies.drop()
    assert copy not in closed
    for fd in (*closed, pidfd, read, write):
        os.close(fd)


def test_what_others_have_is_not_taken_from_them(inventory: Inventory) -> None:
    """After main's death: workers of two VMs had listed the same file, and one of main's own."""
    own, shared = os.eventfd(0), os.eventfd(0)
    numbers, taken = {7: own, 8: shared}, {own}
    device = {"generation": 2, "fds": [5, 6], "copies": [7, 8]}
    written = {"namespaces": None, "devices": [device, None], "given": [None, None]}
    vms = [Copies(name, inventory) for name in "ab"]
    for copies in vms:
        copies.read(written, numbers, taken)
    fds = [fd for copies in vms for fd in copies.fds]
    assert len({*fds}) == 4 and own not in fds
    for copies in vms:
        copies.drop()
    os.close(own)


def test_a_file_of_a_file_system_is_not_copied(inventory: Inventory, tmp_path: Path) -> None:
    """Its close may hang, in each process that main creates."""
    pidfd, socks = os.pidfd_open(os.getpid()), socket.socketpair()
    copies = Copies("vm", inventory)
    session = [socks[0].fileno(), os.eventfd(0), *os.pipe(), memory_file.create("vhost9p-guest")]
    with open(tmp_path / "file", "wb") as file:
        for _ in range(FOREIGN_MAX):
            inventory.write(0, session, anew=True)
            assert copies.take(os.getpid(), pidfd) and len(copies.fds) == len(session)
            copies.drop()
            inventory.write(0, [*session, file.fileno()], anew=True)
            copies.take(os.getpid(), pidfd)
            assert not copies.fds
    inventory.write(0, session, anew=True)
    assert not copies.take(os.getpid(), pidfd) and not copies.fds
    for fd in (pidfd, *session[1:]):
        os.close(fd)
    for sock in socks:
        sock.close()


def open_fds() -> set[int]:
    """Those of this process, but for the one that the listing itself takes."""
    folder = Path("/proc/self/fd")
    return {int(name) for name in os.listdir(folder) if (folder / name).is_symlink()}


def leaves_nothing(inventory: Inventory, folder: Path) -> bool:
    """Whether a list with a file of a file system leaves main's table as it was."""
    pidfd, copies = os.pidfd_open(os.getpid()), Copies("vm", inventory)
    with open(folder / "file", "wb") as file:
        inventory.write(0, [file.fileno()], anew=True)
        before = open_fds()
        copies.take(os.getpid(), pidfd)
        copies.drop()
        left = open_fds() - before
    for fd in (pidfd, *left):
        os.close(fd)
    return not left


def test_main_has_let_go_of_what_it_does_not_copy(
    inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process that main creates would close it too, and may hang. The child that closes it may
    be late."""
    late = vhost9p.copies._close_all

    def close_all(fds: Sequence[int], *, shuts_down: bool) -> NoReturn:
        time.sleep(0.1)
        late(fds, shuts_down=shuts_down)

    monkeypatch.setattr(vhost9p.copies, "_close_all", close_all)
    assert leaves_nothing(inventory, tmp_path)


def refuses() -> tuple[int, int]:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_main_tries_again_where_it_can_create_no_process(
    inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may have used up all that there may be, for a moment."""
    refusals = [refuses, refuses]

    def clone() -> tuple[int, int]:
        return (refusals.pop() if refusals else vhost9p.native.process.clone)()

    monkeypatch.setattr(vhost9p.copies, "clone", clone)
    assert leaves_nothing(inventory, tmp_path)
    assert not refusals


def test_main_copies_no_more_of_a_worker_whose_file_it_cannot_close(
    inventory: Inventory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For each one it would wait, and keep it."""
    monkeypatch.setattr(vhost9p.copies, "clone", refuses)
    monkeypatch.setattr(vhost9p.copies, "REFUSING_S", 0.01)
    assert not leaves_nothing(inventory, tmp_path)
    assert "nothing is copied any more" in caplog.text
