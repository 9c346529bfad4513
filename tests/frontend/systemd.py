"""A service manager as systemd is one to a daemon: notifications, and a store of descriptors.

It does what systemd does with FDSTORE=1, FDSTOREREMOVE=1 and FDNAME (sd_notify(3)): a descriptor of
a file description that it has already is dropped (kcmp(2)), and a restarted daemon gets what is
stored, in the order in which it came, from descriptor 3 on.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from pathlib import Path

from tests.frontend.daemon import Daemon

FDS_MAX = 64
KCMP, KCMP_FILE = 312, 0  # of x86-64 (syscall(2))

HAND_OVER = """
import os, sys
count, *command = sys.argv[1:]
names, _, fds = os.environ.pop("HANDED_OVER").partition("=")
apart = [os.dup2(int(fd), 500 + i) for i, fd in enumerate(fds.split(",") if fds else [])]
os.closerange(3, 500)
for number, fd in enumerate(apart, 3):
    os.dup2(fd, number, inheritable=True)
    os.close(fd)
os.environ["LISTEN_FDS"], os.environ["LISTEN_FDNAMES"] = str(len(apart)), names
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(command[0], command)
"""


class Systemd:
    """A manager of one service. As a context manager it listens inside. It keeps `store_max`
    descriptors, and drops others without a word (FileDescriptorStoreMax=)."""

    def __init__(self, folder: Path, store_max: int = 1 << 16) -> None:
        self.store_max = store_max
        self._path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        os.chmod(self._path, 0o777)
        self.stored: list[tuple[str, int]] = []
        self.texts: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Systemd:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self._path)
        self._thread.join()
        self._socket.close()
        for _, fd in self.stored:
            os.close(fd)

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self._path}

    def _run(self) -> None:
        while True:
            data, fds, flags, _ = socket.recv_fds(self._socket, 65536, FDS_MAX)
            assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
            if data == b"end":
                return
            self.texts.append(data.decode())
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            if fields.get("FDSTOREREMOVE") == "1":
                for name, fd in [*self.stored]:
                    if name == fields["FDNAME"]:
                        self.stored.remove((name, fd))
                        os.close(fd)
            is_stored = fields.get("FDSTORE") == "1"
            for fd in fds:
                is_full = len(self.stored) >= self.store_max
                known = (_is_same(fd, other) for _, other in self.stored)
                if not is_stored or is_full or any(known):
                    os.close(fd)
                else:
                    self.stored.append((fields["FDNAME"], fd))

    def start(self, daemon: Daemon) -> None:
        """Starts the daemon once more, with what is stored."""
        names = ":".join(name for name, _ in self.stored)
        fds = [fd for _, fd in self.stored]
        daemon.pass_fds = fds
        command, env_before = daemon.command, daemon.env
        at = daemon.command.index(sys.executable)
        hand_over = [sys.executable, "-c", HAND_OVER, str(len(fds))]
        daemon.command = [*daemon.command[:at], *hand_over, *daemon.command[at:]]
        handed = f"{names}={','.join(map(str, fds))}"
        daemon.env = {**daemon.env, "HANDED_OVER": handed}
        daemon.lines.clear()
        daemon.start(wait=False)
        daemon.command, daemon.env, daemon.pass_fds = command, env_before, ()


def _is_same(one: int, other: int) -> bool:
    """Whether two descriptors are of one open file description."""
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.getpid()
    result: int = libc.syscall(KCMP, pid, pid, KCMP_FILE, one, other)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result == 0
