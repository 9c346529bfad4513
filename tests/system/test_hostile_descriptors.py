"""Descriptors from a frontend on which the daemon would wait when it writes to or closes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.hostile import slow_to_close
from tests.frontend.machine import Machine
from tests.frontend.memory import GIB, MIB, PAGE
from tests.frontend.vhost_user import (
    REGION,
    U64,
    Request,
)
from tests.frontend.wire import T
from tests.system.pair import Pair, hung_up_is_noticed, send_fd, two_guests
from tests.system.share import Share

FULL = (1 << 64) - 2  # what an eventfd holds at most


def clear_nonblock(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def full_eventfd() -> int:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(fd, FULL)
    return fd


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(PAGE))
    return reader, writer


def full_socket() -> tuple[int, int]:
    """A pipe as User Mode Linux makes them."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            writer.send(bytes(PAGE))
    return reader.detach(), writer.detach()


@contextlib.contextmanager
def blocking(kind: str) -> Iterator[int]:
    """A descriptor that a write blocks on, as far as the frontend can see to it."""
    full = {"eventfd": lambda: (full_eventfd(),), "pipe": full_pipe, "socket": full_socket}
    fds = full[kind]()
    try:
        yield fds[-1]
    finally:
        for fd in fds:
            os.close(fd)


def polled(share: Share, kind: T, *fields: object) -> None:
    """A request whose reply is looked for, without a call."""
    ticket = share.client.submit(kind, *fields)
    deadline = time.monotonic() + 10
    while ticket.reply is None and time.monotonic() < deadline:
        for done in share.machine.ring.poll():
            share.client.finish(done.head, done.length)
    assert ticket.reply


@pytest.mark.parametrize("kind", ["eventfd", "pipe", "socket"])
def test_a_call_descriptor_that_blocks_holds_up_nobody(pair: Pair, kind: str) -> None:
    share = pair.attacker
    with blocking(kind) as fd:
        share.machine.frontend.set_vring_fd(Request.SET_VRING_CALL, fd)
        clear_nonblock(fd)
        share.machine.ring._arm()
        for _ in range(20):
            polled(share, T.GETATTR, share.top, 0)
            share.machine.ring._arm()
            polled(share, T.MKDIR, share.top, b"dir", 0o755, 0)
            share.machine.ring._arm()
            polled(share, T.UNLINKAT, share.top, b"dir", 0x200)
            share.machine.ring._arm()
            pair.goes_on()
        share.machine.frontend.set_vring_fd(Request.SET_VRING_CALL, share.machine.ring.call_fd)
        share.client.getattr(share.top)  # called again


@pytest.mark.parametrize("kind", ["eventfd", "pipe", "socket"])
def test_an_err_descriptor_that_blocks_holds_up_nobody(pair: Pair, kind: str) -> None:
    share = pair.attacker
    with blocking(kind) as fd:
        share.machine.frontend.set_vring_fd(Request.SET_VRING_ERR, fd)
        clear_nonblock(fd)
        ring = share.machine.ring
        share.machine.memory.store16(ring.avail + 2, ring.avail_idx + ring.size + 1)
        ring.kick(force=True)
        pair.daemon.wait_line("the ring is broken")
        pair.goes_on()
        share.machine.frontend.get_vring_base()
        pair.goes_on()


def test_reconnecting_with_descriptors_that_block_leaves_no_threads(pair: Pair) -> None:
    """Each connection leaves a full call descriptor behind, and nobody hanging in it."""
    pair.attacker.machine.close()
    threads = []
    for _ in range(8):
        with Machine(pair.sockets[0]) as machine, blocking("eventfd") as fd:
            machine.boot()
            machine.frontend.set_vring_fd(Request.SET_VRING_CALL, fd)
            clear_nonblock(fd)
            share = Share(pair.daemon, machine, Client(machine), Path(), Path())
            machine.ring._arm()
            polled(share, T.VERSION, 8192, b"9P2000.L")
        threads.append(pair.daemon.threads())
        pair.goes_on()
    assert max(threads[2:]) <= max(threads[:2]) + 1


def test_a_daemon_ends_while_its_call_descriptors_block(tmp_path: Path) -> None:
    with two_guests(tmp_path) as pair, blocking("eventfd") as fd:
        share = pair.attacker
        share.machine.frontend.set_vring_fd(Request.SET_VRING_CALL, fd)
        clear_nonblock(fd)
        share.machine.ring._arm()
        polled(share, T.GETATTR, share.top, 0)


@contextlib.contextmanager
def frozen(daemon: Daemon) -> Iterator[None]:
    """While the daemon reads nothing: what was sent is in flight."""
    os.kill(daemon.worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.worker, signal.SIGCONT)


REQUESTS = {
    "SET_VRING_KICK": (Request.SET_VRING_KICK, U64.pack(0)),
    "SET_VRING_CALL": (Request.SET_VRING_CALL, U64.pack(0)),
    "SET_BACKEND_REQ_FD": (Request.SET_BACKEND_REQ_FD, b""),
    "ADD_MEM_REG": (Request.ADD_MEM_REG, U64.pack(0) + REGION.pack(16 * GIB, PAGE, 1 << 46, 0)),
    "unknown": (99, b"payload"),
    "GET_FEATURES": (Request.GET_FEATURES, b""),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_descriptor_whose_close_takes_for_ever_holds_up_nobody(pair: Pair, name: str) -> None:
    """Neither the neighbour nor even the attacker's own session waits for it."""
    request, payload = REQUESTS[name]
    frontend = pair.attacker.machine.frontend
    with slow_to_close() as fd:
        with frozen(pair.daemon):
            frontend.send(request, payload, [fd])
            os.close(fd)  # the daemon's is the last now
        if request == Request.GET_FEATURES:
            frontend.receive()
        for _ in range(3):
            pair.goes_on()
        frontend.get_features()
        pair.attacker.client.getattr(pair.attacker.top)


def test_more_descriptors_than_a_message_may_have_hold_up_nobody(pair: Pair) -> None:
    """The kernel closes what there is no room for, on the thread that reads."""
    frontend = pair.attacker.machine.frontend
    with slow_to_close() as fd:
        event = os.eventfd(0)
        with frozen(pair.daemon):
            frontend.send(Request.GET_FEATURES, b"", [event] * 8 + [fd])
            os.close(fd)
        os.close(event)
        for _ in range(3):
            pair.goes_on()


def test_descriptors_of_a_connection_that_is_turned_away_hold_up_nobody(pair: Pair) -> None:
    """They are closed with the connection, unread."""
    with slow_to_close() as fd:
        with socket.socket(socket.AF_UNIX) as sock, frozen(pair.daemon):
            sock.connect(pair.sockets[0])
            send_fd(sock, fd)
            os.close(fd)
        for _ in range(3):
            pair.goes_on()
        pair.attacker.machine.frontend.get_features()


def test_descriptors_of_the_wrong_kind_are_refused(pair: Pair, tmp_path: Path) -> None:
    frontend = pair.attacker.machine.frontend
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with open(tmp_path / "disk", "wb+") as file, ours, theirs:
        file.truncate(16 * MIB)
        named = os.open(fifo, os.O_RDWR)
        memory = os.memfd_create("memory")
        os.ftruncate(memory, 16 * MIB)
        epoll = os.open("/dev/null", os.O_RDWR)
        slot = U64.pack(0) + REGION.pack(32 * GIB, PAGE, 1 << 45, 0)
        events = (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)
        for fd in (file.fileno(), named, memory, epoll, ours.fileno()):
            for request in events:
                assert frontend.ack(request, U64.pack(0), [fd]) != 0
            if fd != memory:
                assert frontend.ack(Request.ADD_MEM_REG, slot, [fd]) != 0
            assert frontend.ack(Request.SET_BACKEND_REQ_FD, b"", [fd]) != 0
        assert frontend.ack(Request.ADD_MEM_REG, slot, [memory]) == 0
        for fd in (named, memory, epoll):
            os.close(fd)
    pair.daemon.wait_line("SET_VRING_KICK refused: its descriptor is .*; an eventfd or a pipe")
    pair.daemon.wait_line("ADD_MEM_REG refused: guest memory is a memfd, or a file on tmpfs")
    pair.attacker.client.getattr(pair.attacker.top)


@contextlib.contextmanager
def deep_directory(folder: Path) -> Iterator[int]:
    """A directory whose path is longer than the kernel shows (PATH_MAX)."""
    with contextlib.ExitStack() as opened:
        fd = os.open(folder, os.O_RDONLY)
        opened.callback(os.close, fd)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=fd)
            fd = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
            opened.callback(os.close, fd)
        yield fd


@pytest.mark.parametrize("name", REQUESTS)
def test_a_descriptor_whose_path_is_too_long_is_closed(
    pair: Pair, tmp_path: Path, name: str
) -> None:
    request, payload = REQUESTS[name]
    frontend = pair.attacker.machine.frontend
    before = pair.daemon.fd_count()
    with deep_directory(tmp_path) as fd:
        for _ in range(3):
            frontend.send(request, payload, [fd] * 4)
            frontend.send(request, payload, [fd])
            if request == Request.GET_FEATURES:
                frontend.receive()
                frontend.receive()
    frontend.get_features()
    pair.attacker.client.getattr(pair.attacker.top)
    pair.daemon.wait_until(lambda: pair.daemon.fd_count() <= before, "descriptors were kept")


def test_a_connection_that_ends_within_a_message_is_noticed(pair: Pair, tmp_path: Path) -> None:
    """The connection ends before the message that they came with."""
    with deep_directory(tmp_path) as fd:
        frontend = pair.attacker.machine.frontend
        send_fd(frontend.socket, fd)
        frontend.close()
    hung_up_is_noticed(pair)
    pair.goes_on()


def test_a_file_name_cannot_forge_a_line_of_the_log(pair: Pair, tmp_path: Path) -> None:
    frontend = pair.attacker.machine.frontend
    with open(tmp_path / "x\nvhost9p: forged\x1b[31m", "wb") as file:
        assert frontend.ack(Request.SET_VRING_KICK, U64.pack(0), [file.fileno()]) != 0
    pair.daemon.wait_line(r"its descriptor is .*/x\\nvhost9p: forged\\x1b\[31m; an eventfd")
    assert "vhost9p: forged" not in {line[:15] for line in pair.daemon.lines}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_frontend_that_sends_its_own_end_is_seen_to_hang_up(pair: Pair, name: str) -> None:
    request, payload = REQUESTS[name]
    frontend = pair.attacker.machine.frontend
    frontend.send(request, payload, [frontend.socket.fileno()])
    frontend.close()
    hung_up_is_noticed(pair)
    pair.goes_on()
