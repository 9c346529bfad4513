"""Who may connect: mode, owner and group of the socket."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.machine import Machine
from tests.system.share import AS_USER, SECURITY, USER, USER_GROUP, needs_root, serve
from vhost9p.vhost_user import listener as listener_module
from vhost9p.vhost_user.listener import Listener

CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
OTHER_GROUP = 5678


def access(path: str) -> tuple[int, int, int]:
    """Mode, owner and group."""
    found = os.lstat(path)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def others_may_connect(path: str, *ids: str) -> bool:
    """Whether another user may, or one in the groups `ids` name."""
    command = ["setpriv", f"--reuid={USER}", *(ids or ("--clear-groups", f"--regid={USER_GROUP}"))]
    python = os.path.realpath("/usr/bin/python3")
    done = subprocess.run(
        [*command, python, "-c", CONNECT, path],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0


def test_the_daemons_alone_unless_configured(export: Path) -> None:
    with serve(export) as daemon:
        assert access(daemon.socket) == (0o600, os.geteuid(), os.getegid())


@needs_root
def test_a_group_is_let_in(export: Path) -> None:
    args = ("--socket-mode", "0660", "--socket-group", str(OTHER_GROUP))
    with serve(export, *args) as daemon:
        os.chmod(daemon.directory, 0o755)
        assert access(daemon.socket) == (0o660, 0, OTHER_GROUP)
        assert not others_may_connect(daemon.socket)
        assert others_may_connect(daemon.socket, "--clear-groups", f"--regid={OTHER_GROUP}")


@needs_root
def test_a_user_is_let_in(export: Path) -> None:
    with serve(export, "--socket-owner", "nobody") as daemon:
        os.chmod(daemon.directory, 0o755)
        assert access(daemon.socket) == (0o600, 65534, 0)
        assert others_may_connect(daemon.socket)


def test_in_a_file_and_beside_it(export: Path, tmp_path: Path) -> None:
    """By numbers and names, as YAML has them; an option counts before the file."""
    file = tmp_path / "vm.yaml"
    file.write_text(
        f"path: {export}\nsecurity_model: {SECURITY[1]}\n"
        f"socket_mode: 0666\nsocket_owner: {os.geteuid()}\nsocket_group: '{os.getegid()}'\n"
    )
    for args, mode in (((), 0o666), (("--socket-mode=0640",), 0o640)):
        with Daemon("--config", str(file), *args) as daemon:
            assert access(daemon.socket) == (mode, os.geteuid(), os.getegid())
            with Machine(daemon.socket) as machine:
                machine.realize()


def test_it_is_set_before_anybody_can_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """While mode and owner are being set, the file is private and nobody listens on it."""
    seen: list[tuple[int, str]] = []
    set_access = listener_module._set_access

    def watch(path: str, *args: int) -> None:
        with socket.socket(socket.AF_UNIX) as early:
            try:
                early.connect(path)
                said = "connected"
            except ConnectionRefusedError:
                said = "refused"
        seen.append((stat.S_IMODE(os.lstat(path).st_mode), said))
        set_access(path, *args)
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(path)

    monkeypatch.setattr(listener_module, "_set_access", watch)
    path = f"/tmp/v9-access-{os.getpid()}"
    for umask in (0, 0o077):
        before = os.umask(umask)
        try:
            listener = Listener.bind(path, 0o666, os.geteuid(), os.getegid())
        finally:
            os.umask(before)
        assert access(path) == (0o666, os.geteuid(), os.getegid())
        listener.close()
    assert seen == [(0o600, "refused")] * 2


def test_a_link_in_its_place_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who may write in the folder puts a link to another file there."""
    victim = tmp_path / "victim"
    victim.touch(0o600)
    set_access = listener_module._set_access

    def swap(path: str, *args: int) -> None:
        os.unlink(path)
        os.symlink(victim, path)
        set_access(path, *args)

    monkeypatch.setattr(listener_module, "_set_access", swap)
    path = f"/tmp/v9-swap-{os.getpid()}"
    try:
        with pytest.raises(listener_module.ListenError):
            Listener.bind(path, 0o666)
    finally:
        if os.path.lexists(path):
            os.unlink(path)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_a_group_that_the_daemon_is_not_in(export: Path) -> None:
    command = [sys.executable, "-m", "vhost9p", "--socket", "/tmp/v9-s", "--path", str(export)]
    command = [*AS_USER, *command]
    done = subprocess.run(
        [*command, "--readonly", "--socket-group", "7", "--socket-owner", "7"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    for key, kind in (("owner", "uid"), ("group", "gid")):
        said = (
            f"socket_{key}: host id 7: without CAP_CHOWN the daemon gives files to its own {kind}"
        )
        assert said in done.stderr
    assert not os.path.lexists("/tmp/v9-s")


def test_an_inherited_socket_keeps_what_it_has(export: Path, tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text(f"path: {export}\nsecurity_model: none\nsocket_group: {os.getegid()}\n")
    said = "is set by the creator of the --fd socket; leave it out"
    done = run_cli("--fd=3", "--path", str(export), "--socket-mode=0660")
    assert done.returncode == 2 and f"socket_mode: {said}" in done.stderr
    done = run_cli("--fd=3", "--config", str(file))
    assert done.returncode == 2 and f"{file}:1:1: socket_group: {said}" in done.stderr
