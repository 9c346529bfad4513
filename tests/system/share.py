"""What the system tests share: a client on a directory of its own in an export.

A Share is one guest with one mount. `host` is the directory's path on the host, `top` the fid of
the same directory in the guest, `root` the fid of the export's root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.frontend.client import Client, P9Errno
from tests.frontend.daemon import Daemon
from tests.frontend.layout import Layout
from tests.frontend.machine import QEMU_PROTOCOL, Machine
from tests.ordinary_user import as_ordinary_user

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")

# What a test gets that cares for neither: a model that works for whoever runs it.
SECURITY = ("--security-model", "passthrough" if IS_ROOT else "none")

# An ordinary user: nobody, where the tests are root's, else who runs them.
USER, USER_GROUP = (65534, 65534) if IS_ROOT else (os.geteuid(), os.getegid())
AS_USER = as_ordinary_user(USER, USER_GROUP)

# A mount namespace of its own, by root's rights or in a user namespace. As on a host with systemd,
# what is mounted there later appears in the namespaces that are made from it: a keeper's.
UNSHARE = [
    *(["unshare", "--mount"] if IS_ROOT else ["unshare", "--map-root-user", "--mount"]),
    *("sh", "-c", 'mount --make-rshared / && exec "$@"', "sh"),
]

ROOT_FID = 1
TOP_FID = 2


@dataclass
class Share:
    """A mounted export: `client` has attached, `root` and `top` are fids."""

    daemon: Daemon
    machine: Machine
    client: Client
    export: Path
    host: Path
    root: int = ROOT_FID
    top: int = TOP_FID
    name: bytes = field(default=b"")

    def path(self, name: bytes | str) -> bytes:
        """The host's path of a name below `top`."""
        return os.path.join(os.fsencode(self.host), os.fsencode(name))

    def put(self, name: bytes | str, data: bytes = b"") -> bytes:
        """Makes a file from the host's side; returns its path."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def get(self, name: bytes | str) -> bytes:
        """A file's contents, read from the host's side."""
        with open(self.path(name), "rb") as file:
            return file.read()


def serve(export: Path, *args: str) -> Daemon:
    """A daemon for a directory, not started yet."""
    return Daemon("--path", str(export), *SECURITY, *args)


@contextlib.contextmanager
def mounted(
    daemon: Daemon,
    export: Path,
    directory: str = "",
    *,
    layout: Layout | None = None,
    protocol: int = QEMU_PROTOCOL,
    ring_size: int = 128,
    event_idx: bool = True,
    indirect: bool = True,
    packed: bool = False,
    n_uname: int = 0xFFFFFFFF,
    speaks: type[Client] = Client,
) -> Iterator[Share]:
    """A new machine that has booted and attached; it disconnects at the end."""
    machine = Machine(
        daemon.socket,
        ring_size=ring_size,
        event_idx=event_idx,
        indirect=indirect,
        packed=packed,
        protocol=protocol,
    )
    with machine:
        machine.boot()
        client = speaks(machine, layout)
        share = Share(daemon, machine, client, export, export / directory)
        share.name = os.fsencode(directory)
        remount(share, n_uname=n_uname)
        yield share


@contextlib.contextmanager
def as_user(*args: str) -> Iterator[Share]:
    """A guest of an ordinary user's daemon, in which its root has attached."""
    export = Path(tempfile.mkdtemp(prefix="v9-user-"))
    daemon = Daemon("--path", str(export), *args, wrapper=AS_USER)
    try:
        for path in (export, daemon.directory):
            os.chown(path, USER, USER_GROUP)
        with daemon, mounted(daemon, export, n_uname=0) as share:
            yield share
    finally:
        shutil.rmtree(export, ignore_errors=True)


def remount(share: Share, msize: int = 512000, n_uname: int = 0xFFFFFFFF) -> None:
    """Tversion, Tattach, and a walk to the test's directory."""
    share.client.version(msize)
    share.client.attach(share.root, n_uname)
    names = [share.name] if share.name else []
    assert len(share.client.walk(share.root, share.top, *names)) == len(names)


def entering(daemon: Daemon) -> list[str]:
    """What runs the words behind it in the mount namespace in which main is: the host's, to the
    daemon."""
    user = [] if IS_ROOT else ["--user", "--preserve-credentials"]
    return ["nsenter", "--target", str(daemon.pid), "--mount", *user, "--"]


def seen_by_main(daemon: Daemon, path: Path) -> Path:
    """Where a path leads in the mount namespace in which main is."""
    return Path(f"/proc/{daemon.pid}/root{path}")


def skip_without_namespaces() -> None:
    """Skips the test where this user may not mount anything."""
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no mount namespace: {probe.stderr.strip()}")


@contextlib.contextmanager
def fails(*codes: int) -> Iterator[None]:
    """The request inside has to be answered by Rlerror with one of these errno values."""
    try:
        yield
    except P9Errno as error:
        assert error.errno in codes, (
            f"{errno.errorcode.get(error.errno or 0, error.errno)}, "
            f"expected {' or '.join(errno.errorcode[code] for code in codes)}"
        )
    else:
        pytest.fail(f"no error, expected {' or '.join(errno.errorcode[code] for code in codes)}")
