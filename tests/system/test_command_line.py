"""The command line and the configuration file, as a person meets them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.machine import Machine
from tests.system.share import SECURITY, mounted


@pytest.fixture
def export(scratch: Path, tmp_path: Path) -> Iterator[Path]:
    export = scratch / f"cli-{tmp_path.name}"
    export.mkdir()
    (export / "file").write_bytes(b"data")
    yield export


def refused(*args: str, words: tuple[str, ...] = (), **kwargs: Path) -> str:
    """The command ends by itself, not with success, and says why in one line."""
    result = run_cli(*args, cwd=kwargs.get("cwd"))
    assert result.returncode not in (0, -6, -11), result
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert lines, "no word about what is wrong"
    for word in words:
        assert word in result.stderr, result.stderr
    return result.stderr


def test_capabilities_are_printed() -> None:
    result = run_cli("--print-capabilities")
    assert result.returncode == 0
    assert json.loads(result.stdout) == {"type": "9p", "features": []}


def test_version_and_help_are_printed() -> None:
    result = run_cli("--version")
    assert result.returncode == 0
    assert "0." in result.stdout
    result = run_cli("--help")
    assert result.returncode == 0
    for option in (
        "--socket", "--path", "--tag", "--security-model", "--multidevs", "--readonly",
        "--config", "--fd", "--once", "--log-level", "--print-capabilities", "--print-limits",
    ):  # fmt: skip
        assert option in result.stdout


def test_it_says_what_it_serves(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY, "--tag", "work") as daemon:
        line = daemon.wait_line("work")
        assert str(export) in line
        assert daemon.socket in line


def test_socket_path_is_an_alias(export: Path) -> None:
    daemon = Daemon(socket=False)
    daemon.args = [f"--socket-path={daemon.socket}", "--path", str(export), *SECURITY]
    with daemon, mounted(daemon, export) as share:
        assert set(share.client.listing(share.top)) == {b"file"}


def test_socket_alone_exports_the_current_directory(export: Path) -> None:
    daemon = Daemon(*([] if os.geteuid() == 0 else SECURITY), cwd=export)
    with daemon:
        daemon.wait_line(str(export))
        with mounted(daemon, export) as share:
            assert share.machine.probe() == "host0"
            assert set(share.client.listing(share.top)) == {b"file"}


def test_socket_alone_takes_the_configuration_of_its_name(export: Path) -> None:
    daemon = Daemon()
    folder = daemon.directory / "config" / "vhost9p"
    folder.mkdir(parents=True)
    (folder / "9p.yaml").write_text(
        f"tag: named\npath: {export}\nsecurity_model: {SECURITY[1]}\nreadonly: true\n"
    )
    with daemon, Machine(daemon.socket) as machine:
        machine.realize()
        assert machine.probe() == "named"


@pytest.mark.parametrize(
    "args,words",
    [
        (["--no-such-option"], ["--no-such-option"]),
        (["--security-model", "magic"], ["magic", "passthrough", "none"]),
        (["--multidevs", "maybe"], ["maybe", "warn", "forbid", "remap"]),
        (["--log-level", "shout"], ["shout", "debug"]),
        (["--path", "/no/such/place"], ["/no/such/place"]),
        (["--path", "/etc/passwd"], ["/etc/passwd", "directory"]),
        (["--tag", ""], ["tag"]),
        (["--tag", "x" * 300], ["tag"]),
        (["--fd", "3"], ["--fd", "--socket"]),
        (["--config", "/no/such/file.yaml"], ["/no/such/file.yaml"]),
        (["surplus"], ["surplus"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_bad_option_is_refused(
    export: Path, tmp_path: Path, args: list[str], words: list[str]
) -> None:
    rest = [] if "--path" in args or "--config" in args else ["--path", str(export)]
    refused("--socket", str(tmp_path / "s"), *rest, *args, words=tuple(words))
    assert not os.path.lexists(tmp_path / "s")


def test_a_bad_descriptor_is_refused(export: Path, tmp_path: Path) -> None:
    for value in ("99", "-1", "nonsense", "0"):
        refused(f"--fd={value}", "--path", str(export), words=("--fd",))


def test_bad_sockets_are_refused(export: Path, tmp_path: Path) -> None:
    path = ["--path", str(export)]
    refused("--socket", str(tmp_path / "none" / "s"), *path, words=("none/s",))
    refused("--socket", str(tmp_path), *path, words=(str(tmp_path),))
    refused("--socket", "/tmp/" + "x" * 200, *path, words=("107",))
    plain = tmp_path / "plain"
    plain.write_text("not a socket")
    refused("--socket", str(plain), *path, words=(str(plain),))
    assert plain.read_text() == "not a socket"


def test_exit_code_of_what_another_process_has(export: Path, tmp_path: Path) -> None:
    """Nothing is wrong in the options, and later they may work: 1. The state directory is named,
    with the option for another one."""
    state = str(tmp_path / "state")
    args = ["--path", str(export), *SECURITY, "--quota-inodes", "100", "--state-dir", state]
    with Daemon(*args) as daemon:
        done = run_cli("--socket", daemon.socket, *args)
        assert done.returncode == 1
        assert done.stderr.endswith(f"{daemon.socket} is in use: another process listens there\n")
        other = f"{daemon.directory}/other.sock"
        done = run_cli("--socket", other, *args)
        assert done.returncode == 1
        start = f"vhost9p: the state directory {state} (--state-dir; in a file, state_dir): "
        assert done.stderr.startswith(start + "the state file ")
        assert f"is in use: another daemon serves '{export}'" in done.stderr
        assert not os.path.lexists(other)


def test_state_that_is_not_safe(export: Path, tmp_path: Path) -> None:
    """A state file that others can write: named with its directory."""
    state = tmp_path / "state"
    args = ["--path", str(export), *SECURITY, "--multidevs", "remap", "--state-dir", str(state)]
    with Daemon(*args) as daemon:
        pass
    (file,) = state.glob("*.state")
    file.chmod(0o666)
    daemon.directory.mkdir()
    done = run_cli("--socket", daemon.socket, *args)
    daemon.kill()
    assert done.returncode == 1
    assert (
        f"the state directory {state} (--state-dir; in a file, state_dir): the state" in done.stderr
    )
    assert "has mode 0666" in done.stderr.replace("0o", "0")


def test_live_socket_is_refused(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY) as daemon:
        refused("--socket", daemon.socket, "--path", str(export), words=(daemon.socket,))
        with mounted(daemon, export) as share:
            refused("--socket", daemon.socket, "--path", str(export), words=(daemon.socket,))
            share.client.getattr(share.top)


def test_foreign_live_socket_is_refused(export: Path, tmp_path: Path) -> None:
    path = f"/tmp/v9-foreign-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        try:
            refused("--socket", path, "--path", str(export), words=(path,))
            assert os.path.exists(path)
        finally:
            os.unlink(path)


def test_export_with_the_socket_inside_is_refused(export: Path) -> None:
    refused("--socket", str(export / "s"), "--path", str(export), words=("socket",))
    assert os.listdir(export) == ["file"]


def test_overlapping_writable_exports_are_refused(export: Path, tmp_path: Path) -> None:
    (export / "inner").mkdir()
    config = tmp_path / "vm.yaml"
    text = (
        f"devices:\n"
        f"- socket: {tmp_path}/one\n  tag: one\n  path: {export}\n"
        f"- socket: {tmp_path}/two\n  tag: two\n  path: {export}/inner\n"
    )
    config.write_text(text)
    refused("--config", str(config), words=("overlap",))


def test_configuration_mistakes_are_reported_all_at_once(export: Path, tmp_path: Path) -> None:
    config = tmp_path / "vm.yaml"
    config.write_text(
        f"devices:\n"
        f"- socket: {tmp_path}/one\n"
        f"  path: {export}\n"
        f"  multidevs: sometimes\n"
        f"  readonyl: true\n"
        f"- socket: {tmp_path}/one\n"
        f"  tag: 5\n"
    )
    text = refused("--config", str(config))
    for word in ("vm.yaml", "4", "multidevs", "sometimes", "remap", "readonyl", "path", "tag"):
        assert word in text, text
    assert not os.path.exists(tmp_path / "one")
