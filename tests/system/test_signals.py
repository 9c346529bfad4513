"""Which signals end the daemon, and what it says of the VMs that hang then."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.system.share import SECURITY, mounted, serve
from vhost9p.signals import LOGGED, NOT_IGNORED

STRAY = sorted(signal.valid_signals() - NOT_IGNORED)
"""What nobody sends who wants the daemon to end."""


def ignored(pid: int) -> int:
    """The mask of the signals that a process ignores."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("SigIgn:"))


def test_which_are_stray() -> None:
    names = {signal.Signals(each).name for each in STRAY if each < signal.SIGRTMIN}
    assert names >= {"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO"}
    assert names >= {"SIGPIPE", "SIGTTIN", "SIGTTOU", "SIGPWR", "SIGSTKFLT"}
    assert not names & {"SIGTERM", "SIGINT", "SIGQUIT", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGTSTP"}


def test_stray_signals_do_not_end_a_daemon_with_a_guest(export: Path) -> None:
    (export / "file").write_bytes(b"data")
    with serve(export) as daemon, mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        for number in STRAY:
            daemon.process.send_signal(number)
            share.client.getattr(fid)
        daemon.wait_line("INFO: upgraded from version ")
        for number in set(LOGGED) - {signal.SIGUSR2}:  # an upgrade
            daemon.wait_line(f"{number.name} is ignored: the daemon continues; SIGTERM ends it")
        assert share.client.read(fid, 0, 10) == b"data"


def test_stray_signals_do_not_end_a_starting_daemon(export: Path) -> None:
    """From the first moment on: long before its socket can be seen."""
    daemon = serve(export).start(wait=False)
    try:
        stray = sum(1 << (number - 1) for number in STRAY)
        daemon.wait_until(lambda: ignored(daemon.pid) & stray == stray, "not all were ignored")
        assert not os.path.exists(daemon.socket)
        while "serving" not in daemon.output and daemon.alive:
            for number in STRAY:
                daemon.process.send_signal(number)
        assert daemon.alive, daemon.output
        daemon.stop()
    finally:
        daemon.kill()


@pytest.fixture
def in_terminal(export: Path) -> Iterator[tuple[Daemon, int, int]]:
    """A daemon that somebody has started in a terminal: its pid and the terminal's other end."""
    daemon = serve(export)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "vhost9p", *daemon.args], daemon.env)
    try:
        said = b""
        while b"serving" not in said:
            said += os.read(terminal, 1000)
        yield daemon, pid, terminal
    finally:
        daemon.kill()


def test_the_terminal_is_closed(in_terminal: tuple[Daemon, int, int]) -> None:
    """The daemon is hung up on and can write nothing any more; the guest notices nothing."""
    daemon, pid, terminal = in_terminal
    with Machine(daemon.socket) as machine:
        client = Client(machine.boot())
        client.version()
        client.attach(1)
        os.close(terminal)
        client.getattr(1)
    with Machine(daemon.socket) as machine:  # which is logged
        client = Client(machine.boot())
        client.version()
        client.attach(1)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == 0
    assert not os.path.lexists(daemon.socket)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_who_hangs_is_said(scratch: Path, sign: signal.Signals) -> None:
    """The connected one of two devices."""
    daemon = Daemon(socket=False)
    other = str(daemon.directory / "other.sock")
    lines = ["devices:"]
    for tag, where in (("used", daemon.socket), ("idle", other)):
        path = scratch / f"hang-{tag}-{sign.name}"
        path.mkdir()
        lines += [f"- socket: {where}", f"  tag: {tag}", f"  path: {path}"]
        lines += [f"  security_model: {SECURITY[1]}"]
    config = daemon.directory / "vm.yaml"
    config.write_text("\n".join(lines) + "\n")
    daemon.args = ["--config", str(config), "--log-level", "warning"]
    with daemon, mounted(daemon, scratch / f"hang-used-{sign.name}"):
        daemon.stop(sign)
    said = [line for line in daemon.lines if "hangs from now on" in line]
    assert len(said) == 1
    for part in (sign.name, "'used'", daemon.socket):
        assert part in said[0]
    assert "docs/troubleshooting.md" in daemon.output
    assert "idle" not in said[0]


def test_nobody_hangs(export: Path) -> None:
    with serve(export) as daemon:
        with mounted(daemon, export):
            pass
        daemon.wait_line("disconnected")
        daemon.stop()
        assert "hangs from now on" not in daemon.output


EARLY = """
import os, sys
from vhost9p import cli
from vhost9p.__main__ import main

def load():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except BaseException:  # as modules do that try what there is
        pass
    print("it goes on")

cli.main = load
sys.exit(main())
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_modules_are_loaded(sign: signal.Signals) -> None:
    command = [sys.executable, "-c", EARLY, str(int(sign))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_takes_long(export: Path, tmp_path: Path, sign: signal.Signals) -> None:
    """While the files of a quota are counted: it ends at once, and leaves no socket."""
    daemon = Daemon(
        "--path", str(export), *SECURITY, "--quota-inodes=9", f"--state-dir={tmp_path}",
        wrapper=[sys.executable, "-m", "tests.system.slow_start"],
    ).start(wait=False)  # fmt: skip
    try:
        daemon.wait_line("counting")
        for number in LOGGED:
            daemon.process.send_signal(number)
        assert os.path.exists(daemon.socket)
        daemon.stop(sign)
    finally:
        daemon.kill()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_daemon_with_closed_standard_streams_serves(export: Path, closed: str) -> None:
    """It serves and ends as always, and none of the guest's files takes a stream's number."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    daemon = Daemon("--path", str(export), *SECURITY, wrapper=shell).start(wait=False)
    try:
        daemon.wait_until(lambda: os.path.exists(daemon.socket), "the socket was not made")
        with mounted(daemon, export):
            daemon.process.send_signal(signal.SIGHUP)
            streams = {daemon.fds()[number] for number in range(3)}
            assert all(each == os.devnull or each.startswith("pipe:") for each in streams)
        daemon.stop()
    finally:
        daemon.kill()
