"""Sockets that a service manager hands over, and the directories that it makes for a service."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.frontend.systemd import HAND_OVER
from tests.system.share import SECURITY
from tests.system.test_worker_restart import is_served


class Sockets:
    """What a manager listens on, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        self._sockets: list[socket.socket] = []

    def listen(self, name: str, file: str) -> str:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = str(self.folder / file)
        sock.bind(path)
        sock.listen()
        return self.add(name, sock) and path

    def add(self, name: str, sock: socket.socket) -> str:
        self.names.append(name)
        self._sockets.append(sock)
        return name or "-"

    def daemon(self, *args: str, env: dict[str, str] | None = None) -> Daemon:
        """A daemon that gets them."""
        fds = [sock.fileno() for sock in self._sockets]
        names = ":".join(self.names)
        hand_over = (sys.executable, "-c", HAND_OVER, str(len(fds)))
        return Daemon(
            *args,
            socket=False,
            pass_fds=fds,
            command=(*hand_over, sys.executable, "-m", "vhost9p"),
            env={"HANDED_OVER": f"{names}={','.join(map(str, fds))}", **(env or {})},
        )

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path, since sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="v9-") as folder:
        yield Path(folder)


@pytest.fixture
def sockets(folder: Path) -> Iterator[Sockets]:
    sockets = Sockets(folder)
    yield sockets
    sockets.close()


def write_config(folder: Path, *devices: str) -> str:
    file = folder / "vm.yaml"
    for tag in ("src", "out"):
        (folder / tag).mkdir(exist_ok=True)
        (folder / tag / "file").write_bytes(b"data")
    model = SECURITY[1]
    lines = (f"  - {{{each}, security_model: {model}}}\n" for each in devices)
    file.write_text("devices:\n" + "".join(lines))
    return str(file)


def serves(daemon: Daemon, path: str, export: Path) -> None:
    daemon.socket = path
    is_served(daemon, export)


def refused(daemon: Daemon, *lines: str) -> None:
    """It ends with these errors, and no more."""
    with ExitStack() as undo:
        undo.callback(daemon.kill)
        daemon.start(wait=False)
        assert daemon.wait() == 2
        daemon.check_output()
        said = [line.removeprefix("vhost9p: ") for line in daemon.lines]
        assert len(said) == len(lines), daemon.output
        for line, start in zip(said, lines, strict=True):
            assert start in line


def test_a_socket_is_its_devices_by_path_or_by_name(folder: Path, sockets: Sockets) -> None:
    """In any order, and beside one that the daemon makes itself."""
    named = sockets.listen("out", "anywhere")
    by_path = sockets.listen("vhost9p@vm.socket", "src.sock")
    (folder / "own").mkdir()
    (folder / "own" / "file").write_bytes(b"data")
    own = str(folder / "own.sock")
    file = write_config(
        folder,
        f"tag: src, path: {folder}/src, socket: {by_path}",
        f"tag: out, path: {folder}/out",
        f"tag: own, path: {folder}/own, socket: {own}",
    )
    daemon = sockets.daemon("--config", file)
    with daemon:
        serves(daemon, by_path, folder / "src")
        serves(daemon, named, folder / "out")
        serves(daemon, own, folder / "own")
        assert f"'src' on {by_path}" in daemon.output
        assert f"'out' on {named}" in daemon.output
        daemon.socket = own
    assert os.path.exists(by_path) and os.path.exists(named)


@pytest.mark.parametrize("name", ["vhost9p-vm.socket", "vhost9p-src", "vhost9p-text-vm"])
def test_a_socket_may_be_named_after_the_program(name: str, folder: Path, sockets: Sockets) -> None:
    """It is not taken for what a main process has stored."""
    path = sockets.listen(name, "src.sock")
    file = write_config(folder, f"tag: src, path: {folder}/src")
    with sockets.daemon("--config", file) as daemon:
        serves(daemon, path, folder / "src")
        daemon.socket = str(folder / "none")  # the manager's stays


def test_the_only_one_is_the_only_device_s(folder: Path, sockets: Sockets) -> None:
    (folder / "file").write_bytes(b"data")
    path = sockets.listen("", "any.sock")
    daemon = sockets.daemon("--path", str(folder), "--force", *SECURITY)
    daemon.start()
    try:
        serves(daemon, path, folder)
    finally:
        daemon.kill()


def test_devices_without_a_socket_are_in_the_runtime_directory(
    folder: Path, sockets: Sockets
) -> None:
    run = folder / "run"
    run.mkdir()
    handed = sockets.listen("vhost9p@vm.socket", "run/out.sock")
    file = write_config(
        folder,
        f"tag: src, path: {folder}/src",
        f"tag: out, path: {folder}/out, multidevs: remap",
    )
    env = {"RUNTIME_DIRECTORY": f"{run}:/nowhere", "STATE_DIRECTORY": str(folder / "state")}
    daemon = sockets.daemon("--config", file, env=env)
    with daemon:
        serves(daemon, handed, folder / "out")
        serves(daemon, str(run / "src.sock"), folder / "src")
    assert os.listdir(folder / "state")


def test_a_socket_of_no_device_is_refused(folder: Path, sockets: Sockets) -> None:
    sockets.listen("data", "one.sock")
    sockets.listen("src", "two.sock")
    sockets.listen("src", "three.sock")
    file = write_config(folder, f"tag: src, path: {folder}/src", f"tag: out, path: {folder}/out")
    refused(
        sockets.daemon("--config", file),
        f"the service manager's socket {folder}/one.sock (data) is no device's: there are src at ",
        f"the service manager's socket {folder}/three.sock (src) is not the only one for the "
        "device 'src': a socket belongs to",
    )


def test_a_device_that_gets_none_is_named(folder: Path, sockets: Sockets) -> None:
    sockets.listen("src", "one.sock")
    file = write_config(folder, f"tag: src, path: {folder}/src", f"tag: out, path: {folder}/out")
    refused(sockets.daemon("--config", file), "the device 'out' has no socket: set its socket")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_what_is_no_stream_of_unix_is_refused(
    family: socket.AddressFamily, folder: Path, sockets: Sockets
) -> None:
    kind = socket.SOCK_STREAM if family == socket.AF_INET else socket.SOCK_DGRAM
    sockets.add("src", socket.socket(family, kind))
    file = write_config(folder, f"tag: src, path: {folder}/src")
    refused(sockets.daemon("--config", file), "is not a unix stream socket")


def test_what_the_unit_says_is_no_key_s(folder: Path, sockets: Sockets) -> None:
    path = sockets.listen("src", "one.sock")
    file = write_config(folder, f"tag: src, path: {folder}/src, socket: {path}, socket_mode: 0660")
    refused(
        sockets.daemon("--config", file), "socket_mode: is set by the unit of the socket; leave it"
    )


def test_a_folder_takes_no_sockets(folder: Path, sockets: Sockets) -> None:
    sockets.listen("src", "one.sock")
    refused(
        sockets.daemon("--config-dir", str(folder)),
        "--config-dir takes no sockets of the service manager: src",
    )


@pytest.mark.parametrize("count", ["x", "-1", "99999999999", "3"])
def test_a_wrong_count_is_one_line_each(count: str, folder: Path) -> None:
    """What is said to be handed over is not there."""
    (folder / "file").write_bytes(b"data")
    shim = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    args: Sequence[str] = ("--path", str(folder), "--force", *SECURITY)
    daemon = Daemon(
        *args,
        command=(sys.executable, "-c", shim, sys.executable, "-m", "vhost9p"),
        env={"LISTEN_FDS": count},
    )
    daemon.start(wait=False)
    try:
        if count.isdigit():
            assert daemon.wait() == 2
            wrong = "LISTEN_FDS: is more than the descriptors that are open from 3 on"
            assert [line for line in daemon.lines if "LISTEN" in line] == [f"vhost9p: {wrong}"]
        else:
            daemon.wait_line(daemon.ready)
        daemon.check_output()
    finally:
        daemon.kill()
