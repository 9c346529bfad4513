"""What has to go on when a process of a daemon is replaced, by an upgrade or after its death.

`replace` is how that is done; it returns when the next process is there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.frontend.client import Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.system.share import AS_USER, SECURITY, mounted

Replace = Callable[[Daemon], object]


@contextmanager
def log_kept_open(daemon: Daemon) -> Iterator[None]:
    """Meanwhile it is as if the worker of the only VM hung in a system call: it outlives its
    keeper, since its log is open somewhere, so no other keeper begins."""
    fd = os.open(f"/proc/{daemon.keeper}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(fd)


def check_an_inherited_connection(export: Path, replace: Replace) -> None:
    """A connection that the daemon was started with serves on, and the daemon ends with it."""
    ours, theirs = socket.socketpair()
    with theirs:
        daemon = Daemon(
            "--fd", str(theirs.fileno()), "--path", str(export), *SECURITY,
            socket=False, pass_fds=[theirs.fileno()],
        ).start()  # fmt: skip
    try:
        with Machine(sock=ours) as machine:
            client = Client(machine.boot())
            client.version()
            replace(daemon)
            client.attach(1)
            client.clunk(1)
        assert daemon.wait() == 0
    finally:
        daemon.kill()


def check_confinement(export: Path, level: str, user: bool, replace: Replace) -> None:
    """By its namespaces and its root directory it is the same: and files of before and after can
    be mixed. `export` is made; `user` is whether the daemon is an ordinary user's."""
    export.mkdir()
    (export / "file").write_bytes(b"data")
    (export / "folder").mkdir()
    for path in (export, export / "file", export / "folder"):
        path.chmod(0o777)
    model = "none" if user else SECURITY[1]
    args = ("--path", str(export), "--security-model", model, "--sandbox", level)
    daemon = Daemon(*args, wrapper=AS_USER if user else ())
    daemon.directory.chmod(0o777)
    with daemon:
        before = confinement(daemon)
        with mounted(daemon, export, n_uname=0) as share:
            folder = share.client.walk_to(share.top, b"folder")
            fid = share.client.open(share.top, b"file")
            replace(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            share.client.renameat(share.top, b"file", folder, b"file")
            share.client.renameat(folder, b"file", share.client.walk_to(share.top), b"file")
        assert confinement(daemon) == before


def confinement(daemon: Daemon) -> dict[str, object]:
    """How the worker and the keeper are confined."""
    worker, (keeper,) = daemon.worker, daemon.keepers
    names = ("user", "mnt", "net", "ipc", "uts")
    spaces = {name: os.readlink(f"/proc/{worker}/ns/{name}") for name in names}
    status = Path(f"/proc/{worker}/status").read_text()
    lines = [line for line in status.splitlines() if line.startswith(("Cap", "NoNew", "Seccomp:"))]
    own_pids = os.readlink(f"/proc/{worker}/ns/pid") != os.readlink("/proc/self/ns/pid")
    keeps = [line for line in Path(f"/proc/{keeper}/status").read_text().splitlines()
             if line.startswith("Cap")]  # fmt: skip
    root = os.stat(f"/proc/{worker}/root")
    return {**spaces, "status": lines, "pids": own_pids, "keeper": keeps, "root": root.st_ino}
