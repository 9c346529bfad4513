"""The levels of `sandbox`, by what a worker has left and by what the daemon says."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.system.share import AS_USER, SECURITY, as_user, mounted, needs_root

NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
WITHOUT_ADMIN = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.fixture
def export() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="v9-level-"))
    path.chmod(0o755)
    (path / "file").write_bytes(b"data")
    yield path
    shutil.rmtree(path)


def serves(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        assert share.client.read(share.client.open(share.top, b"file"), 0, 10) == b"data"


def shared_namespaces(daemon: Daemon) -> set[str]:
    """The namespaces that the worker has in common with main."""
    processes = (daemon.pid, daemon.worker)
    return {
        name
        for name in NAMESPACES
        if len({os.readlink(f"/proc/{pid}/ns/{name}") for pid in processes}) == 1
    }


def refused(export: Path, level: str, *wrapper: str, more: tuple[str, ...] = ()) -> str:
    """What a daemon says that does not start."""
    args = ("--path", str(export), "--security-model", "none", "--readonly", "--sandbox", level)
    daemon = Daemon(*args, *more, wrapper=wrapper).start(wait=False)
    try:
        assert daemon.wait() == 2
        assert not os.path.exists(daemon.socket)
        return daemon.output
    finally:
        daemon.kill()


@needs_root
def test_root_has_all_namespaces(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY) as daemon:
        serves(daemon, export)
        lacks = daemon.output.partition("; not confined by ")[2].splitlines()
    if lacks:
        assert lacks[0] in refused(export, "namespace")
        pytest.skip(f"not to be had here: {lacks[0]}")
    with Daemon("--path", str(export), *SECURITY, "--sandbox", "namespace") as daemon:
        serves(daemon, export)
        assert not shared_namespaces(daemon)
        assert sorted(os.listdir(f"/proc/{daemon.worker}/root")) == ["exports", "proc"]


def test_so_does_an_ordinary_user() -> None:
    with as_user("--security-model", "none") as share:
        if "namespaces (" in share.daemon.output:
            pytest.skip(f"not to be had here: {share.daemon.output}")
        assert not shared_namespaces(share.daemon)


@needs_root
def test_chroot_shows_the_export_alone(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY, "--sandbox", "chroot") as daemon:
        serves(daemon, export)
        assert shared_namespaces(daemon) == set(NAMESPACES)
        assert os.readlink(f"/proc/{daemon.worker}/root") == str(export)
        with mounted(daemon, export) as share:
            share.put("new", b"1")
            assert share.client.read(share.client.open(share.top, b"new"), 0, 10) == b"1"


@needs_root
def test_chroot_needs_a_directory_in_common(export: Path) -> None:
    state = Path(tempfile.mkdtemp(prefix="v9-state-", dir="/dev/shm"))
    try:
        more = ("--multidevs", "remap", "--state-dir", str(state))
        said = refused(export, "chroot", more=more)
    finally:
        shutil.rmtree(state)
    assert "sandbox: chroot is not to be had: exports and state directory have no" in said


def test_an_ordinary_user_has_no_chroot(export: Path) -> None:
    args = ("--path", str(export), "--security-model", "none", "--readonly", "--sandbox", "chroot")
    daemon = Daemon(*args, wrapper=AS_USER)
    os.chmod(daemon.directory, 0o777)
    try:
        daemon.start(wait=False)
        assert daemon.wait() == 2
        assert "sandbox: chroot is not to be had: the daemon has no CAP_SYS_CHROOT" in daemon.output
    finally:
        daemon.kill()


@needs_root
def test_namespace_refuses_what_is_not_to_be_had(export: Path) -> None:
    said = refused(export, "namespace", *WITHOUT_ADMIN)
    why = "the daemon has capabilities, but not CAP_SYS_ADMIN"
    assert said.endswith(f"vhost9p: sandbox: namespace lacks namespaces ({why})")


@needs_root
def test_auto_says_what_is_not_to_be_had(export: Path) -> None:
    """And takes what there is: chroot."""
    args = ("--path", str(export), "--security-model", "none")
    with Daemon(*args, wrapper=WITHOUT_ADMIN) as daemon:
        serves(daemon, export)
        assert "; not confined by namespaces (the daemon has capabilities, but" in daemon.output
        assert os.readlink(f"/proc/{daemon.worker}/root") == str(export)


@needs_root
def test_none_leaves_all(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY, "--sandbox", "none") as daemon:
        serves(daemon, export)
        assert shared_namespaces(daemon) == set(NAMESPACES)
        status = Path(f"/proc/{daemon.worker}/status").read_text(encoding="ascii")
        assert "NoNewPrivs:\t0" in status and "Seccomp:\t0" in status
