"""What a frontend sends to make the daemon wait, and that its neighbour in the daemon goes on.

Two devices, one daemon. The first device's frontend does its worst; the second one's guest, and the
signal that ends the daemon, must not notice.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon, environment
from tests.frontend.machine import Machine
from tests.frontend.memory import GIB, MIB, PAGE
from tests.frontend.vhost_user import (
    HEADER,
    NEED_REPLY_FLAG,
    REGION,
    U64,
    VERSION,
    BackendError,
    Frontend,
    Request,
)
from tests.frontend.wire import T
from tests.system.share import SECURITY, Share, remount

FULL = (1 << 64) - 2  # what an eventfd holds at most
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


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_guests(tmp_path) as pair:
        yield pair


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


@contextlib.contextmanager
def blocking(kind: str) -> Iterator[int]:
    """A descriptor that a write blocks on, as far as the frontend can see to it."""
    fds = [full_eventfd()] if kind == "eventfd" else list(full_pipe())
    try:
        yield fds[-1]
    finally:
        for fd in fds:
            os.close(fd)


# ---- call and err


def polled(share: Share, kind: T, *fields: object) -> None:
    """A request whose reply is looked for, without a call."""
    ticket = share.client.submit(kind, *fields)
    deadline = time.monotonic() + 10
    while ticket.reply is None and time.monotonic() < deadline:
        for done in share.machine.ring.poll():
            share.client.finish(done.head, done.length)
    assert ticket.reply


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_call_descriptor_that_blocks(pair: Pair, kind: str) -> None:
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


@pytest.mark.parametrize("kind", ["eventfd", "pipe"])
def test_err_descriptor_that_blocks(pair: Pair, kind: str) -> None:
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


# ---- guest memory


def take_addresses(frontend: Frontend, most: int) -> int:
    """Adds as much memory as it gets, of a file that is longer than all addresses; the sum."""
    taken, at, size = 0, 1 << 50, most
    memory = os.memfd_create("memory")
    os.ftruncate(memory, most)
    while size >= PAGE:
        region = REGION.pack(at, size, at, 0)
        if frontend.ack(Request.ADD_MEM_REG, U64.pack(0) + region, [memory]):
            size //= 2
        else:
            taken += size
        at += most
    os.close(memory)
    return taken


def test_addresses_of_the_process_are_shared(pair: Pair) -> None:
    """A neighbour maps as much as it could have before."""
    most = take_addresses(pair.attacker.machine.frontend, 1 << 47)
    assert most > 1 << 42
    pair.goes_on()
    assert take_addresses(pair.neighbour.machine.frontend, 1 << 47) == most


# ---- descriptors of other kinds


@contextlib.contextmanager
def slow_to_close() -> Iterator[int]:
    """A TCP socket with unsent data, whose last close waits for an hour (SO_LINGER), or until this
    ends. Whoever has it as an argument closes it, which had better not be the last time."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(65536))
        client.setblocking(True)
        try:
            yield client.detach()
        finally:
            peer.close()


@contextlib.contextmanager
def frozen(daemon: Daemon) -> Iterator[None]:
    """While the daemon reads nothing: what was sent is in flight."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


REQUESTS = {
    "SET_VRING_KICK": (Request.SET_VRING_KICK, U64.pack(0)),
    "SET_VRING_CALL": (Request.SET_VRING_CALL, U64.pack(0)),
    "SET_BACKEND_REQ_FD": (Request.SET_BACKEND_REQ_FD, b""),
    "ADD_MEM_REG": (Request.ADD_MEM_REG, U64.pack(0) + REGION.pack(16 * GIB, PAGE, 1 << 46, 0)),
    "unknown": (99, b"payload"),
    "GET_FEATURES": (Request.GET_FEATURES, b""),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_descriptor_whose_close_takes_for_ever(pair: Pair, name: str) -> None:
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


def test_more_descriptors_than_a_message_may_have(pair: Pair) -> None:
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


def test_descriptors_in_a_connection_that_is_turned_away(pair: Pair) -> None:
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
def test_descriptor_without_a_name(pair: Pair, tmp_path: Path, name: str) -> None:
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


def test_end_in_a_message_with_descriptors(pair: Pair, tmp_path: Path) -> None:
    """The connection ends before the message that they came with."""
    with deep_directory(tmp_path) as fd:
        frontend = pair.attacker.machine.frontend
        send_fd(frontend.socket, fd)
        frontend.close()
    hung_up_is_noticed(pair)
    pair.goes_on()


def test_names_of_descriptors_are_no_lines(pair: Pair, tmp_path: Path) -> None:
    frontend = pair.attacker.machine.frontend
    with open(tmp_path / "x\nvhost9p: forged\x1b[31m", "wb") as file:
        assert frontend.ack(Request.SET_VRING_KICK, U64.pack(0), [file.fileno()]) != 0
    pair.daemon.wait_line(r"its descriptor is .*/x\\nvhost9p: forged\\x1b\[31m; an eventfd")
    assert "vhost9p: forged" not in {line[:15] for line in pair.daemon.lines}


# ---- the connection itself


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


@pytest.mark.parametrize("name", REQUESTS)
def test_own_end_of_the_connection(pair: Pair, name: str) -> None:
    request, payload = REQUESTS[name]
    frontend = pair.attacker.machine.frontend
    frontend.send(request, payload, [frontend.socket.fileno()])
    frontend.close()
    hung_up_is_noticed(pair)
    pair.goes_on()


def send_fd(sock: socket.socket, fd: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sock.sendmsg([b"x"], rights)


@pytest.mark.parametrize("early", [True, False])
def test_own_end_within_a_socket_that_is_kept(pair: Pair, early: bool) -> None:
    """The channel for the backend's requests carries it, sent before the channel or after."""
    frontend = pair.attacker.machine.frontend
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if early:
            send_fd(ours, frontend.socket.fileno())
        frontend.send(Request.SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        frontend.get_features()
        if not early:
            with contextlib.suppress(BrokenPipeError):
                send_fd(ours, frontend.socket.fileno())
    frontend.close()
    hung_up_is_noticed(pair)


def test_a_kept_channel_is_not_hung_up(pair: Pair) -> None:
    """A frontend that watches its end of it sees neither data nor an end."""
    channel = pair.attacker.machine.backend_requests
    assert channel
    channel.settimeout(0.2)
    with pytest.raises(TimeoutError):
        channel.recv(1)


# ---- the log


def test_reconnecting_does_not_fill_the_log(pair: Pair) -> None:
    """Lines are limited by the second, however many connections they come from; and the
    neighbour's are not the attacker's."""
    pair.attacker.machine.close()
    begun = time.monotonic()
    bad = HEADER.pack(Request.SET_CONFIG, VERSION | NEED_REPLY_FLAG, 0)
    for _ in range(400):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(pair.sockets[0])
            with contextlib.suppress(OSError):
                sock.sendall(bad * 5)
    took = time.monotonic() - begun
    hung_up_is_noticed(pair)
    lines = [line for line in pair.daemon.lines if "a.sock" in line]
    assert len(lines) < 150 + 20 * took
    pair.neighbour.machine.frontend.ack(Request.SET_VRING_NUM, struct.pack("=II", 7, 7))
    pair.daemon.wait_line(r"b\.sock: SET_VRING_NUM refused")


# ---- SIGTERM


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_ends_while_its_threads_hang(tmp_path: Path, sign: signal.Signals) -> None:
    """Even where the event loop does not come back, since nobody reads what it logs."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    path = str(tmp_path / "s")
    (tmp_path / "export").mkdir()
    command = [sys.executable, "-m", "vhost9p", "--socket", path, *SECURITY]
    command += ["--path", str(tmp_path / "export")]
    process = subprocess.Popen(command, env=environment({}), stderr=writer)
    os.close(writer)
    try:
        assert any(not is_answered(path) for _ in range(400))
        process.send_signal(sign)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def is_answered(path: str) -> bool:
    """Whether a new connection is, once the daemon listens."""
    deadline = time.monotonic() + 20
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        try:
            sock.connect(path)
            sock.sendall(HEADER.pack(Request.GET_FEATURES, VERSION, 0))
            sock.recv(20)
        except TimeoutError:
            return False
        except OSError:  # the daemon does not listen yet, or turns this one away
            time.sleep(0.01)
        return True
