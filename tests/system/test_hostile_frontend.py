"""A frontend that takes addresses, hides its own end or floods the log. Neither its neighbour in
the daemon nor the signal that ends the daemon may notice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.frontend.daemon import environment
from tests.frontend.memory import PAGE
from tests.frontend.vhost_user import (
    HEADER,
    NEED_REPLY_FLAG,
    REGION,
    U64,
    VERSION,
    Frontend,
    Request,
)
from tests.system.pair import Pair, hung_up_is_noticed, send_fd
from tests.system.share import SECURITY


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


def test_a_frontend_leaves_its_neighbour_as_many_addresses(pair: Pair) -> None:
    """A neighbour maps as much as it could have before."""
    most = take_addresses(pair.attacker.machine.frontend, 1 << 47)
    assert most > 1 << 42
    pair.goes_on()
    assert take_addresses(pair.neighbour.machine.frontend, 1 << 47) == most


@pytest.mark.parametrize("early", [True, False])
def test_an_own_end_sent_into_a_kept_socket_hides_no_hang_up(pair: Pair, early: bool) -> None:
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


def test_nobody_waits_for_who_reads_the_log(tmp_path: Path) -> None:
    """Lines for which there is no room are lost, which is said when there is room again."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    path = str(tmp_path / "s")
    (tmp_path / "export").mkdir()
    command = [sys.executable, "-m", "vhost9p", "--socket", path, *SECURITY]
    command += ["--path", str(tmp_path / "export")]
    process = subprocess.Popen(command, env=environment({}), stderr=writer)
    try:
        while not is_answered(path):
            time.sleep(0.01)
        fill(writer)
        for _ in range(3):
            process.send_signal(signal.SIGHUP)  # which main logs
            while pending(process.pid):
                time.sleep(0.01)
        for _ in range(100):
            assert is_answered(path)  # which the worker logs
        while b"lines were lost: nobody read the log\n" not in os.read(reader, PAGE):
            process.send_signal(signal.SIGHUP)
            select.select([reader], [], [], 0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


def fill(pipe: int) -> None:
    """Writes into a pipe what it has room for."""
    # A description of its own: whoever else writes there still blocks.
    fd = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.close(fd)


def pending(pid: int) -> int:
    """The mask of the signals that a process has not taken yet."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("ShdPnd:"))


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
        except OSError:  # the daemon does not listen yet
            return False
        return True
