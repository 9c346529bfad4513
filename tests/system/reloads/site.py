"""A daemon that is told to reload, and what a guest sees of it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.machine import Machine
from tests.system.share import SECURITY

ROOT = 0


class Site:
    """Directories, a configuration that names some of them, the daemon, and a guest that has
    attached all of them as fid ROOT."""

    def __init__(
        self,
        base: Path,
        *args: str,
        speaks: type[Client] = Client,
        more: str = "",
        model: str = "",
        wrapper: Sequence[str] = (),
    ) -> None:
        self.base = base
        self.more = more
        self.model = model or ("none" if wrapper else SECURITY[1])
        self.file = base / "vm.yaml"
        self.socket = base / "9p.sock"
        for name in "abcd":
            (base / name).mkdir()
            (base / name / "file").write_text(name)
        self.write("a", "b")
        self.daemon = Daemon("--config", str(self.file), *args, socket=False, wrapper=wrapper)
        self.speaks = speaks

    def __enter__(self) -> Site:
        self.daemon.__enter__()
        self.machine = Machine(str(self.socket)).__enter__()
        self.machine.boot()
        self.client = self.speaks(self.machine)
        self.client.version()
        self.client.attach(ROOT)
        return self

    def __exit__(self, *error: object) -> None:
        self.machine.__exit__(None, None, None)
        self.daemon.__exit__(None, None, None)

    def write(self, *exports: str, more: str | None = None) -> None:
        """Writes the configuration; each export is a name, perhaps with more keys behind it."""
        lines = [
            f"  - {{name: {each[0]}, path: {self.base / each[0]}{each[1:]}}}" for each in exports
        ]
        self.file.write_text(
            f"socket: {self.socket}\ntag: both\nstate_dir: {self.base}/state\n"
            f"security_model: {self.model}\n{self.more if more is None else more}exports:\n"
            + "\n".join(lines)
            + "\n"
        )

    def hang_up(self, expected: str) -> str:
        """Has the daemon reload, and returns the first line after that which matches."""
        before = len(self.daemon.output)
        self.daemon.process.send_signal(signal.SIGHUP)
        self.daemon.wait_until(
            lambda: any(expected in line for line in self.daemon.output[before:].splitlines()),
            f"{expected!r} after a reload",
        )
        lines = self.daemon.output[before:].splitlines()
        return next(line for line in lines if expected in line)

    def reload(self, *exports: str, more: str | None = None) -> str:
        self.write(*exports, more=more)
        return self.hang_up(": reloaded: ")

    def names(self) -> list[bytes]:
        fid = self.client.open(ROOT, (), os.O_RDONLY | os.O_DIRECTORY)
        found = sorted(each.name for each in self.client.entries(fid))
        self.client.clunk(fid)
        return found[2:]

    def read(self, *path: bytes) -> bytes:
        fid = self.client.open(ROOT, path)
        data = self.client.read(fid, 0, 100)
        self.client.clunk(fid)
        return data


def mounts_of(daemon: Daemon) -> list[str]:
    """The names of the directories that are mounted for a worker."""
    lines = Path(f"/proc/{daemon.worker}/mountinfo").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines]
    return sorted(os.path.basename(each[3]) for each in words if each[4].startswith("/exports/"))


def is_locked(file: Path) -> bool:
    """Whether somebody else holds a lock of a file."""
    with file.open("r+") as ours:
        try:
            fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_cli("reload", *words, env=env)
