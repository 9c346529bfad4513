"""A vhost9p daemon as a child process: started, watched from outside, stopped.

What is counted (descriptors, threads, anonymous memory) is the worker's, which serves, and is read
from /proc, so that the daemon needs no help for it.

VHOST9P_TEST_PRELOAD names libraries to preload into the daemon alone: a sanitizer's runtime, where
the extension was built with it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from tests.children import ending_with_tests
from tests.frontend import PATIENCE
from tests.frontend.warm import Warm, can_be_warm

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "vhost9p")


class DaemonError(Exception):
    """The daemon did not do what a healthy one does."""


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """This process's environment as a daemon needs it, and `env`."""
    preload = os.environ.get("VHOST9P_TEST_PRELOAD")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        **({"LD_PRELOAD": preload} if preload else {}),
        **env,
    }


def children(pid: int, name: str) -> list[int]:
    """The children of a process whose main threads have this name."""
    with suppress(FileNotFoundError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [child for child in map(int, text.split()) if name_of(child) == name]
    return []


def name_of(pid: int) -> str:
    """The name of a process's main thread; empty if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return ""


def is_alive(pid: int) -> bool:
    """Whether a process has not ended. A zombie has no command line (proc_pid_cmdline(5))."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False


def worker_of(keeper: int) -> int:
    """The worker of a keeper, once there is one."""
    deadline = time.monotonic() + PATIENCE
    while not (found := [*filter(is_alive, children(keeper, "vhost9p-worker"))]):
        if time.monotonic() > deadline:
            raise DaemonError("a keeper starts no worker")
        time.sleep(0.001)
    return found[0]


def _mounts(pid: int) -> list[tuple[str, str, str]]:
    """What is mounted in a process's namespace: file system, directory in it, mount point
    (proc_pid_mountinfo(5))."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        fields = [[_unescaped(word) for word in line.split(" ")[2:5]] for line in table]
    return [(device, root, point) for device, root, point in fields]


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def host_paths(worker: int, main: int) -> dict[str, str]:
    """The mount points of a confined worker, deepest first, each with its path for main. Empty if
    they share a namespace."""
    if len({os.readlink(f"/proc/{pid}/ns/mnt") for pid in (worker, main)}) == 1:
        return {}
    outside = sorted(_mounts(main), key=lambda mount: len(mount[1]), reverse=True)
    found = {}
    for device, root, point in sorted(_mounts(worker), key=lambda mount: -len(mount[2])):
        for other, above, path in outside:
            if other == device and Path(root).is_relative_to(above):
                found[point] = str(Path(path, Path(root).relative_to(above)))
                break
    return found


def _on_host(path: str, places: Mapping[str, str]) -> str:
    for point, host in places.items():
        if path == point or path.startswith(point.rstrip("/") + "/"):
            return host + path[len(point.rstrip("/")) :]
    return path


class Daemon:
    """`python -m vhost9p ARGS…` with a socket of its own in a short temporary path.

    `args` come after `--socket SOCKET`; `socket=False` leaves the socket to `args`. `env` is
    added to the environment; `wrapper` is a command that ends in executing the words behind it
    (as another user, in a namespace); `command` is an installed vhost9p instead of this tree's.
    Without a wrapper and a command it begins with its modules loaded, if `warm`. As a context
    manager it is running inside, and at the end it is stopped and has to exit with 0. It never
    outlives the tests, nor, if it is executed, the thread that starts it (tests/children.py).
    """

    warm: ClassVar[bool] = False
    """Whether to begin with modules loaded where that is possible (warm.py): in tests, but not in
    benchmarks, since such daemons share memory."""
    started: ClassVar[list[Daemon]] = []
    """Those whose logs a failure shows: they run, or have ended during this test."""

    @classmethod
    def forget_ended(cls) -> None:
        """Begin a test: leave in `started` only what runs."""
        cls.started[:] = [daemon for daemon in cls.started if daemon.alive]

    def __init__(
        self,
        *args: str,
        socket: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        pass_fds: Sequence[int] = (),
        wrapper: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
    ) -> None:
        # A unix socket's path holds 107 bytes: pytest's own directories are too deep.
        self.directory = Path(tempfile.mkdtemp(prefix="v9-"))
        self.socket = str(self.directory / "9p.sock")
        self.args = [*(["--socket", self.socket] if socket else []), *args]
        self.env = environment(
            {
                "XDG_STATE_HOME": str(self.directory / "state"),
                "XDG_CONFIG_HOME": str(self.directory / "config"),
                "XDG_RUNTIME_DIR": str(self.directory),
                **(env or {}),
            }
        )
        self.cwd = cwd
        self.pass_fds = pass_fds
        self.command = ending_with_tests(command, wrapper)
        self.lines: list[str] = []
        self.ready = "vhost9p: serving "  # what it says when it serves
        self._news = threading.Condition()
        self._silent = False  # its output has ended
        self._reader: threading.Thread | None = None
        self._process: subprocess.Popen[str] | Warm | None = None

    @property
    def process(self) -> subprocess.Popen[str] | Warm:
        assert self._process is not None, "the daemon has not been started"
        return self._process

    @property
    def pid(self) -> int:
        """The main process."""
        return self.process.pid

    @property
    def keepers(self) -> list[int]:
        """The keepers, one for each VM."""
        return children(self.pid, "vhost9p-keeper")

    @property
    def worker(self) -> int:
        """The process that serves the only VM. A version of one process is that itself."""
        return worker_of(self.keeper) if self.keepers else self.pid

    @property
    def keeper(self) -> int:
        """The keeper of the only VM. One that was replaced may take its time to end."""
        self.wait_until(lambda: len(self.keepers) == 1, "one keeper")
        (keeper,) = self.keepers
        return keeper

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Daemon:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.stop()
        finally:
            self.kill()

    def start(self, wait: bool = True) -> Daemon:
        """Starts it and waits until it says what it serves."""
        self._process = self._begin()
        Daemon.started.append(self)
        self._silent = False
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()
        if wait:
            self.wait_line(self.ready)
        return self

    def _begin(self) -> subprocess.Popen[str] | Warm:
        plain = self.command == ending_with_tests(COMMAND) and not self.pass_fds
        if self.warm and plain and can_be_warm(self.env):
            reading, writing = os.pipe()
            process = Warm(self.args, self.env, self.cwd, writing, writing)
            os.close(writing)
            process.stdout = os.fdopen(reading, encoding="utf-8", errors="backslashreplace")
            return process
        return subprocess.Popen(
            [*self.command, *self.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            env=self.env,
            cwd=self.cwd,
            pass_fds=self.pass_fds,
        )

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        self.process.stdout.close()
        with self._news:
            self._silent = True
            self._news.notify_all()

    def wait_until(self, ready: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Waits for a condition outside this process; fails at once if the daemon has ended."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive:
                raise DaemonError(f"{what}: exit {self.process.returncode}\n{self.output}")
            if time.monotonic() > deadline:
                raise DaemonError(f"{what} within {timeout} s\n{self.output}")
            time.sleep(0.005)

    def wait_line(self, pattern: str, timeout: float = PATIENCE) -> str:
        """Waits for a line of output that matches, and returns the first one."""
        search = re.compile(pattern).search
        with self._news:
            self._news.wait_for(lambda: any(map(search, self.lines)) or self._silent, timeout)
            for line in self.lines:
                if search(line):
                    return line
        raise DaemonError(f"no line matches {pattern!r} in:\n{self.output}")

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def stop(self, sign: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE) -> None:
        """Stops it; it must exit with 0, leave no socket and have shown no traceback."""
        if self.alive:
            self.process.send_signal(sign)
        code = self.wait(timeout)
        if code != 0:
            raise DaemonError(f"exit status {code}\n{self.output}")
        if os.path.lexists(self.socket):
            raise DaemonError("the socket was left behind")
        self.check_output()

    def check_output(self) -> None:
        """No traceback and no sanitizer report may have been printed."""
        for word in ("Traceback", "Sanitizer", "runtime error:", "never awaited"):
            if word in self.output:
                raise DaemonError(f"the daemon printed a {word}:\n{self.output}")

    def wait(self, timeout: float = PATIENCE) -> int:
        """Waits for the exit status."""
        code = self.process.wait(timeout)
        if self._reader:
            self._reader.join(timeout)
        return code

    def die(self) -> None:
        """Kills main, and waits until the processes of its VMs have died, too."""
        pidfds = [os.pidfd_open(pid) for pid in (*self.keepers, self.worker)]
        self.process.kill()
        self.wait()
        for pidfd in pidfds:
            select.select([pidfd], [], [], PATIENCE)
            os.close(pidfd)

    def kill(self) -> None:
        """Ends it whatever its state, and removes its directory."""
        if self.alive:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- counting

    def fds(self) -> dict[int, str]:
        """Open descriptors with what they point to, by the host's paths."""
        found = {}
        worker = self.worker
        folder = f"/proc/{worker}/fd"
        places = host_paths(worker, self.pid)
        for name in os.listdir(folder):
            try:
                found[int(name)] = _on_host(os.readlink(f"{folder}/{name}"), places)
            except FileNotFoundError:
                continue
        return found

    def fd_count(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def map_count(self, containing: str = "") -> int:
        """Mappings whose line in /proc/PID/maps holds a text."""
        with open(f"/proc/{self.worker}/maps", encoding="utf-8", errors="replace") as maps:
            return sum(containing in line for line in maps)

    def _status(self, key: str) -> int:
        with open(f"/proc/{self.worker}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        raise KeyError(key)

    def threads(self) -> int:
        return self._status("Threads")

    def anonymous_kib(self) -> int:
        """Resident memory that is its own: guest memory does not count."""
        return self._status("RssAnon")


def run_cli(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    wrapper: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends by itself (--version, a refused configuration, a subcommand), behind
    a `wrapper` that may execute it, with `env` added to the environment."""
    words = [*map(str, args)]
    env = environment(env or {})
    if wrapper or not Daemon.warm or not can_be_warm(env):
        return subprocess.run(
            ending_with_tests([*COMMAND, *words], wrapper),
            capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cwd, env=env,
        )  # fmt: skip
    pipes = [os.pipe(), os.pipe()]
    process = Warm(words, env, cwd, *(writing for _, writing in pipes))
    for _, writing in pipes:
        os.close(writing)
    with ThreadPoolExecutor() as pool:
        printed = pool.map(_read, (reading for reading, _ in pipes))
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
    return subprocess.CompletedProcess([*COMMAND, *words], code, *printed)


def _read(fd: int) -> str:
    with os.fdopen(fd, encoding="utf-8") as file:
        return file.read()
