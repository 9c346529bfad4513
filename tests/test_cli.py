"""The command line: what options mean, which go together, what is said and with which exit code.

The daemon does not run here: what it would be asked to serve is looked at.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vhost9p import __version__, cli, cli_config, errors, preflight
from vhost9p.config import Config, DeviceConfig, ExportConfig, Level, Seccomp, SecurityModel
from vhost9p.errors import UserError
from vhost9p.notify import HandedOver
from vhost9p.single_vm import Load

SOCKET = "/tmp/v9-test-cli.sock"
RUN_EXIT = 7
"""What the daemon's stand-in returns, to see that it gets through."""


class Cli:
    """Calls main with a stand-in for the daemon."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.served: Config | None = None
        self.out = self.err = ""

    def run(self, config: Config, kept: Sequence[HandedOver], load: Load) -> int:
        """Stands in for vhost9p.single_vm.run."""
        self.served = config
        return RUN_EXIT

    def __call__(self, *args: str) -> int:
        self.served = None
        try:
            return cli.main(list(args))
        finally:
            self.out, self.err = self._capsys.readouterr()

    def config(self, *args: str) -> Config:
        """What is served; it must not be refused."""
        assert self(*args) == RUN_EXIT, self.err
        assert self.served is not None
        return self.served

    def device(self, *args: str) -> DeviceConfig:
        """The one device that is served."""
        (device,) = self.config(*args).devices
        return device

    def refused(self, *args: str) -> str:
        """What is said, a mistake in each line."""
        assert self(*args) == errors.EXIT_USAGE
        assert self.served is None
        assert self.out == ""
        lines = self.err.splitlines()
        assert all(line.startswith("vhost9p: ") for line in lines)
        return "\n".join(line.removeprefix("vhost9p: ") for line in lines)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, without XDG variables."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    run = Cli(capsys)
    single_vm = types.ModuleType("vhost9p.single_vm")
    single_vm.run = run.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vhost9p.single_vm", single_vm)
    monkeypatch.setattr("vhost9p.single_vm", single_vm, raising=False)
    return run


@pytest.fixture
def share(tmp_path: Path) -> str:
    """A directory to export."""
    share = tmp_path / "share"
    share.mkdir()
    return str(share)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(text: str, name: str = "vm.yaml") -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    return write


# ---- options -------------------------------------------------------------------------------------


def test_a_socket_and_a_path_are_enough(run: Cli, share: str) -> None:
    config = run.config("--socket", SOCKET, "--path", share)
    model: SecurityModel = "passthrough" if os.geteuid() == 0 else "none"
    export = ExportConfig(share, security_model=model)
    assert config == Config((DeviceConfig((export,), socket=SOCKET),))
    assert (run.out, run.err) == ("", "")
    device = config.devices[0]
    assert (device.tag, device.multidevs, device.once, device.force) == (
        "host0",
        "warn",
        False,
        False,
    )
    assert not export.readonly
    assert (device.socket_mode, device.socket_owner, device.socket_group) == (None, None, None)


def test_every_option_is_read(run: Cli, share: str, tmp_path: Path) -> None:
    config = run.config(
        f"--socket-path={SOCKET}", "--socket-mode=0666", f"--socket-owner={os.geteuid()}",
        f"--socket-group={os.getegid()}", f"--path={share}", "--tag=work", "--security-model=none",
        "--multidevs=remap", "--readonly", "--msize-max=512KiB", "--max-fids=1000", "--threads=4",
        "--cpus=1", "--poll-us=70", "--notify",
        "--ring=split", "--once", "--force", f"--state-dir={tmp_path}/state", "--log-level=error",
        "--sandbox=namespace", "--seccomp=log",
    )  # fmt: skip
    assert config == Config(
        (
            DeviceConfig(
                (ExportConfig(share, security_model="none", readonly=True),),
                socket=SOCKET,
                socket_mode=0o666,
                socket_owner=os.geteuid(),
                socket_group=os.getegid(),
                tag="work",
                multidevs="remap",
                msize_max=512 * 1024,
                max_fids=1000,
                threads=4,
                cpus=(1,),
                poll_us=70,
                notify=True,
                ring="split",
                once=True,
                force=True,
                state_dir=f"{tmp_path}/state",
            ),
        ),
        log_level="error",
        sandbox=Level.NAMESPACE,
        seccomp=Seccomp.LOG,
    )


def test_relative_paths(
    run: Cli, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    device = run.device("--socket", "s", "--path", "share", "--state-dir", "share/../state")
    assert device.socket == f"{tmp_path}/s"
    assert device.exports[0].path == share
    assert device.state_dir == f"{tmp_path}/state"


def test_a_descriptor_instead_of_a_socket(run: Cli, share: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        device = run.device("--fd", str(ours.fileno()), "--path", share)
        assert (device.socket, device.fd) == (None, ours.fileno())


def test_capabilities_version_and_help_are_printed(run: Cli) -> None:
    assert run("--print-capabilities") == 0
    assert json.loads(run.out) == {"type": "9p", "features": []}
    for option, part in (("--version", f"vhost9p {__version__}\n"), ("--help", "--multidevs")):
        with pytest.raises(SystemExit) as caught:
            run(option)
        assert caught.value.code == 0
        assert part in run.out


REFUSED = [
    ([], "name a --socket to listen on, an --fd, or a --config (vhost9p --help)"),
    (["--path", "."], "name a --socket to listen on, an --fd, or a --config (vhost9p --help)"),
    (["--socket", SOCKET, "--fd", "3"], "--fd and --socket exclude each other: name one"),
    (
        ["--config", "vm.yaml", "--path", ".", "--readonly"],
        "--config excludes --path, --readonly: set it in the file. Allowed with --config are "
        "--socket, --fd, --socket-mode, --socket-owner, --socket-group, --once, --force, "
        "--state-dir, --sandbox, --seccomp, --log-level, --log-format, --log-time, "
        "--log-failures, --control-socket and --metrics",
    ),
    (["--socket"], "argument --socket/--socket-path: expected one argument (vhost9p --help lists"),
    (["--sock", SOCKET], "unknown option --sock; did you mean '--socket'? (vhost9p --help"),
    (["--socket", SOCKET, "extra"], "'extra' belongs to no option (vhost9p --help lists"),
    (["--path", "/a", "--path", "/b"], "argument --path: is given twice; several directories take"),
    (["--socket", SOCKET, "--socket", SOCKET], "argument --socket/--socket-path: is given twice"),
    (["--virtfs", "local,path=/a,security_model=none"] * 2, "argument --virtfs: is given twice"),
    (["--config", "a", "--config", "b"], "argument --config: is given twice; several direct"),
    (["--socket", ""], "argument --socket/--socket-path: '' is no path"),
    (["--socket", "/tmp/"], "'/tmp/' is the name of a directory; a socket's is expected"),
    (["--socket", "/" + "s" * 107], "108 bytes; a socket's path has at most 107 bytes"),
    (["--path", ""], "argument --path: '' is no path"),
    (["--path", "a\nb"], "argument --path: 'a\\nb' contains control characters"),
    (["--config", ""], "argument --config: '' is no path"),
    (["--config", "/none/x.yaml"], "/none/x.yaml: cannot be read: No such file or directory"),
    (["--fd", "2"], "argument --fd: '2' is no inherited descriptor: a number from 3"),
    (["--fd", "²"], "argument --fd: '²' is no inherited descriptor: a number from 3"),
    (["--fd", "2147483648"], "is no inherited descriptor"),
    (["--fd", "9" * 5000], "is no inherited descriptor"),
    (["--tag", "a/b"], "argument --tag: 'a/b' is no mount tag, which has 1 to 254 bytes and no /"),
    (["--tag", "\udcff" * 255], "is no mount tag"),
    (["--security-model", "non"], "is not one of passthrough, none, mapped-xattr, mapped-file"),
    (["--multidevs", ""], "argument --multidevs: '' is not one of warn, forbid, remap"),
    (["--threads", "0"], "argument --threads: '0' is no whole number from 1 to 32"),
    (["--threads", "²"], "argument --threads: '²' is no whole number from 1 to 32"),
    (["--max-fids", "many"], "argument --max-fids: 'many' is no whole number from 16 to 16000000"),
    (["--msize-max", "1GiB"], "argument --msize-max: '1GiB' is no size from 4096 to 16777216"),
    (["--log-level", "INFO"], "'INFO' is not one of debug, info, warning, error"),
    (["--readonly=yes"], "argument --readonly: ignored explicit argument 'yes'"),
    (["--socket", SOCKET, "--path", "/none"], "/none cannot be exported: No such file or dir"),
    (["--socket", SOCKET, "--path", "/etc/passwd"], "/etc/passwd cannot be exported: Not a dir"),
    (["--socket", "/none/s", "--path", "/usr"], "/none/s: there is no directory /none to create"),
]  # fmt: skip


@pytest.mark.parametrize("args,said", REFUSED, ids=lambda value: str(value)[:40])
def test_wrong_arguments_are_refused(run: Cli, args: list[str], said: str) -> None:
    assert said in run.refused(*args)


def test_all_that_is_wrong_with_a_file_is_reported(run: Cli, write: Callable[..., str]) -> None:
    file = write("socket: s\npath: [x]\nthreads: 0\n")
    assert run("--config", file) == errors.EXIT_USAGE
    assert [line.split(": ")[:3] for line in run.err.splitlines()] == [
        ["vhost9p", f"{file}:2:7", "path"],
        ["vhost9p", f"{file}:3:10", "threads"],
    ]


def test_what_the_host_refuses_is_reported_in_a_line(
    run: Cli, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Config) -> None:
        raise OSError(13, "Permission denied", "/proc/self/mountinfo")

    monkeypatch.setattr(preflight, "check", fail)
    assert run("--socket", SOCKET, "--path", share) == errors.EXIT_FAILURE
    assert run.err == "vhost9p: /proc/self/mountinfo: Permission denied\n"


def test_nothing_unprintable_is_printed(
    run: Cli, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Config) -> None:
        raise UserError("a\nb\x1b\udcffé")

    monkeypatch.setattr(preflight, "check", fail)
    assert run.refused("--socket", SOCKET, "--path", share) == "a\\nb\\x1b\\xffé"


# ---- --socket alone ------------------------------------------------------------------------------


def test_the_current_directory_is_exported_by_default(
    run: Cli, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(share)
    assert run.device("--socket", SOCKET, "--once").exports[0].path == share
    assert run.err == f"vhost9p: no --path: exporting the current directory, {share}\n"
    assert run.device("--socket", SOCKET, "--readonly").exports[0].readonly


def test_the_current_directory_is_gone(tmp_path: Path) -> None:
    """In a process of its own: it is the process's current directory."""
    code = "import os, sys; os.rmdir(os.getcwd()); from vhost9p.cli import main; sys.exit(main())"
    for option in ("--socket=s", "--config=c.yaml", "--fd=3"):
        gone = tmp_path / "gone"
        gone.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, option],
            cwd=gone,
            env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == errors.EXIT_USAGE
        assert "No such file or directory" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_configuration_named_after_the_socket(
    run: Cli, home: Path, share: str, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"path: {share}\ntag: {{}}\n"
    write(text.format("users"), "home/.config/vhost9p/v9-test-cli.yaml")
    write(text.format("xdgs"), "xdg/vhost9p/v9-test-cli.yaml")
    assert run.device("--socket", SOCKET).tag == "users"
    assert run.err == f"vhost9p: using {home}/.config/vhost9p/v9-test-cli.yaml\n"
    assert run.served and run.served.devices[0].socket == SOCKET
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent / "xdg"))
    assert run.device("--socket", SOCKET, "--log-level", "debug").tag == "xdgs"
    assert run.device("--socket", SOCKET, "--path", share).tag == "host0", "--path is said"


def test_the_configuration_of_the_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"/etc/vhost9p/9p.yaml"}
    monkeypatch.setattr(os.path, "isfile", lambda path: path in there)
    assert cli_config.find_config("/tmp/9p.sock") == "/etc/vhost9p/9p.yaml"
    assert cli_config.find_config("/tmp/vm.9p.sock") is None
    there.add(f"{home}/.config/vhost9p/9p.yaml")
    assert cli_config.find_config("9p") == f"{home}/.config/vhost9p/9p.yaml"


# ---- --config ------------------------------------------------------------------------------------


def test_a_configuration_file_is_read(
    run: Cli, share: str, write: Callable[..., str], tmp_path: Path
) -> None:
    file = write("socket: s\npath: share\nlog_level: debug\n")
    config = run.config("--config", file)
    assert (config.log_level, config.file) == ("debug", file)
    assert config.devices[0].socket == f"{tmp_path}/s"
    config = run.config(
        "--config", file, "--log-level=error", "--once", "--force", "--state-dir=/tmp/st"
    )
    device = config.devices[0]
    assert (config.log_level, device.once, device.force) == ("error", True, True)
    assert device.state_dir == "/tmp/st"


def test_a_file_and_another_socket(run: Cli, share: str, write: Callable[..., str]) -> None:
    file = write("socket: s\npath: share\nonce: true\nforce: true\n")
    device = run.device("--config", file, "--socket", SOCKET)
    assert (device.socket, device.fd, device.once, device.force) == (SOCKET, None, True, True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        device = run.device("--config", file, "--fd", str(ours.fileno()))
        assert (device.socket, device.fd) == (None, ours.fileno())
    assert run.device("--config", write("path: share\n"), "--socket", SOCKET).socket == SOCKET


def test_which_of_several_devices_has_the_socket(
    run: Cli, share: str, write: Callable[..., str]
) -> None:
    file = write(
        "devices:\n- {path: share, socket: a, tag: a, readonly: true}\n"
        "- {path: share, socket: b, tag: b, readonly: true}\n"
    )
    assert len(run.config("--config", file).devices) == 2
    said = run.refused("--config", file, "--socket", SOCKET)
    assert said == f"{file}: has several devices, so --socket would not say for which"
