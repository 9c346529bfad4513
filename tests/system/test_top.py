"""`vhost9p top` on a terminal and in a pipe, while a VM asks, dies, and is gone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte
import pytest

from tests.frontend import PATIENCE
from tests.frontend.client import P9Errno
from tests.frontend.daemon import Daemon, environment, run_cli
from tests.frontend.deaths import kill
from tests.system.share import Share, mounted, serve
from tests.system.test_logs import upgrade

COMMAND = [sys.executable, "-m", "vhost9p", "top"]
WIDTH, HEIGHT = 80, 24


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    (export / "hot").write_bytes(bytes(8192))
    with serve(export) as daemon:
        yield daemon


@contextmanager
def reading(share: Share) -> Iterator[None]:
    """A guest reads one file all the time, and asks for another that is not there."""
    fid = share.client.walk_to(share.root, b"hot")
    share.client.lopen(fid, os.O_RDONLY)
    has_ended = threading.Event()

    def run() -> None:
        while not has_ended.wait(0.02):
            share.client.read(fid, 0, 4096)
            with suppress(P9Errno):
                share.client.walk_to(share.root, b"missing")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def top(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run_cli("top", *args, env=more)


def test_one_interval_is_printed(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, reading(share):
        done = top(daemon.socket, "--once", "--interval", "0.5")
        as_json = top(daemon.socket, "--once", "--json", "--interval", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    for pattern in (r"host0 +mounted +[1-9]", r"Tread +[1-9]", r"ENOENT +[1-9]", r"[1-9].* /hot$"):
        assert re.search(pattern, done.stdout, re.MULTILINE), done.stdout
    found = json.loads(as_json.stdout)
    (device,) = found["devices"]
    assert device["requests"] > 0 and device["read"] > 0 and device["types"]["Tread"]["median"] > 0
    assert device["errors"]["ENOENT"] > 0
    assert {each["path"] for each in found["files"]} >= {"/hot", "/missing"}
    assert found["slowest"][0]["seconds"] > 0 and found["problems"] == []


def test_nothing_is_recorded_while_nobody_watches(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, reading(share):
        top(daemon.socket, "--once", "--interval", "0.2")
        traces = [
            path
            for fd in os.listdir(f"/proc/{daemon.pid}/fd")
            if "vhost9p-trace" in os.readlink(path := f"/proc/{daemon.pid}/fd/{fd}")
        ]
        (trace,) = traces
        with open(trace, "rb") as file:
            assert file.read(4) == bytes(4)


@pytest.mark.parametrize(
    "args,said",
    [
        (["--interval", "0"], "argument --interval: '0' is no number of seconds from 0.1 to 3600"),
        (["--sort", "size"], "argument --sort: 'size' is not one of requests, bytes, latency"),
        (["nobody", "--once"], "no daemon has a VM 'nobody' now"),
        (["--control-socket", "/nowhere", "--once"], "/nowhere: no daemon listens there"),
    ],
)
def test_what_is_wrong_is_one_line(args: list[str], said: str, daemon: Daemon) -> None:
    done = top(*args)
    *_, line = done.stderr.splitlines()
    assert done.returncode in (1, 2) and line.startswith(f"vhost9p: {said}")
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_without_rich_a_table_can_be_had(daemon: Daemon) -> None:
    code = "import sys; sys.modules['rich'] = None; from vhost9p.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "top", daemon.socket]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("vhost9p: this takes Rich: install python3-rich, or vhost9p[top]")
    done = subprocess.run(
        [*command, "--once", "--interval", "0.1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "host0" in done.stdout


# ---- on a terminal -------------------------------------------------------------------------------


class Terminal:
    """A terminal of 24 lines, and the command on it."""

    def __init__(self, *args: str, term: str = "xterm") -> None:
        self.screen = pyte.Screen(WIDTH, HEIGHT)
        self._stream = pyte.ByteStream(self.screen)
        self.data = b""
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [*COMMAND, "--interval", "0.3", *args],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment({"TERM": term}),
            start_new_session=True,
        )  # fmt: skip

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def wait(self, pattern: str) -> str:
        """Waits until the screen shows it."""
        self._wait(lambda: re.search(pattern, self.text, re.MULTILINE) is not None, pattern)
        return self.text

    def _wait(self, is_there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_there():
            assert time.monotonic() < deadline, f"no {what} in:\n{self.text}"
            self.take(0.2)

    def take(self, seconds: float) -> None:
        if select.select([self.ours], [], [], seconds)[0]:
            data = os.read(self.ours, 65536)
            self.data += data
            self._stream.feed(data)

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def end(self) -> int:
        """Waits for the end. Returns the exit code."""
        self._wait(lambda: self.process.poll() is not None, "end")
        while select.select([self.ours], [], [], 0)[0]:
            self.take(0)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@contextmanager
def terminal(*args: str, term: str = "xterm") -> Iterator[Terminal]:
    found = Terminal(*args, term=term)
    try:
        yield found
    finally:
        found.close()


def test_a_terminal_shows_what_happens_until_q(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, terminal(daemon.socket) as shown:
        with reading(share):
            shown.wait(r"host0 +mounted +[1-9]")
            assert shown.wait("/hot").splitlines()[0].startswith("vhost9p top ")
            shown.press("s")
            shown.wait("by bytes")
            shown.press("p")
            shown.wait("top +paused")
            shown.press("p")
            shown.wait(r"top +\d\d:")
            kill(daemon.worker)
            shown.wait(r"host0 +mounted .* 1 *$")  # its death
            upgrade(daemon)
            shown.wait(r"host0 +mounted +[1-9]")
        shown.press("q")
        assert shown.end() == 0
        assert b"\x1b[?1049l" in shown.data  # the screen before is there again
        assert termios.tcgetattr(shown.theirs) == shown.before


def test_a_daemon_ends_and_another_comes(daemon: Daemon, export: Path) -> None:
    with terminal(daemon.socket) as shown:
        shown.wait("host0 +none")
        daemon.stop()
        shown.wait("! .*no daemon")
        daemon.start()
        shown.wait("host0 +none")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.end() == 0
        assert termios.tcgetattr(shown.theirs) == shown.before


def test_a_dumb_terminal_gets_tables(daemon: Daemon) -> None:
    with terminal(daemon.socket, term="dumb") as shown:
        shown.wait(r"(?s)host0 +none.*host0 +none")
        assert b"\x1b" not in shown.data
        shown.press("q")
        assert shown.end() == 0
