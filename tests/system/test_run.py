"""`vhost9p run`: a daemon and QEMU as one command. QEMU is a shell script here; tests/guest starts
the real one."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.children import ending_with_tests
from tests.frontend import PATIENCE
from tests.frontend.daemon import Daemon, environment, is_alive, run_cli
from tests.system.share import SECURITY, needs_root

QEMU = """#!/bin/sh
echo once >> starts
case "$*" in
*"-device help"*) echo "name \\"virtio-9p-pci\\", bus PCI"; exit 0;;
*-version*) echo "QEMU emulator version 9.2.1"; exit 0;;
esac
echo "$$" > pid
echo "$@" > arguments
for word; do
    path=$(echo "$word" | sed -n 's/.*socket,.*path=//p')
    if [ -n "$path" ]; then echo "$path" > socket; test -S "$path" || exit 99; fi
done
"""
WAITS = """
trap 'echo got INT' INT
trap 'echo got TERM; exit 9' TERM
echo ready
while ! test -e end; do sleep 0.05; done
exit 4
"""


class Place:
    """A directory with a share, a QEMU and a configuration, from which `vhost9p run` is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "vm.yaml"
        (folder / "share").mkdir()
        (folder / "run").mkdir(mode=0o700)
        self.config.write_text("path: share\nsecurity_model: none\nstate_dir: state\n")
        self.qemu = folder / "qemu"
        self.env = environment({"XDG_RUNTIME_DIR": str(folder / "run")})

    def words(self, *words: str) -> list[str]:
        command = [sys.executable, "-m", "vhost9p", "run", *words]
        return ending_with_tests(command)

    def prepare(self, script: str) -> None:
        self.qemu.write_text(QEMU + script)
        self.qemu.chmod(0o755)

    def start(self, script: str, *before: str) -> subprocess.Popen[str]:
        """Starts it, with a QEMU that does `script` at last."""
        self.prepare(script)
        return subprocess.Popen(
            self.words(*(before or ("vm.yaml",)), "--", f"./{self.qemu.name}", "-m", "256"),
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, script: str, *before: str, stdin: str = "") -> tuple[int, str]:
        """Its exit code and what was printed, after its end; nothing is left behind."""
        with self.start(script, *before) as process:
            out, _ = process.communicate(stdin, timeout=PATIENCE)
        assert not self.sockets()
        assert "Traceback" not in out
        return process.returncode, out

    @property
    def was_started(self) -> bool:
        return (self.folder / "arguments").exists()

    def read(self, name: str) -> str:
        """What QEMU has written, once it has."""
        wait(lambda: (self.folder / name).exists() and (self.folder / name).read_text())
        return (self.folder / name).read_text().strip()

    def sockets(self) -> list[Path]:
        """What is left in the runtime directory, but for the folder of control sockets."""
        folder = self.folder / "run"
        return [each for each in folder.rglob("*") if each != folder / "vhost9p"]

    def daemon(self) -> int:
        """The main process of the daemon, by the socket that it has made."""
        socket = self.read("socket")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/comm").read_text()
                ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                if line == "vhost9p\n" and int(ppid) in self.parents:
                    return int(pid)
        raise AssertionError(f"nobody serves {socket}")

    parents: tuple[int, ...] = ()


def wait(ready: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def place(scratch: Path, tmp_path: Path) -> Iterator[Place]:
    folder = scratch / f"run-{tmp_path.name}"
    folder.mkdir()
    yield Place(folder)


def test_qemu_gets_what_it_needs_and_its_exit_code_is_returned(place: Place) -> None:
    code, out = place.ended("cat; exit 3", stdin="typed\n")
    assert (code, "typed" in out) == (3, True)
    arguments = place.read("arguments")
    assert "memory-backend-memfd,id=vhost9p-mem,size=256M,share=on" in arguments
    assert "-machine memory-backend=vhost9p-mem" in arguments
    assert place.read("socket").startswith(f"{place.folder}/run/vhost9p-")
    assert "QEMU gets -object memory-backend-memfd" in out


def test_a_guest_gets_the_unit_of_its_agent(place: Place) -> None:
    """And `notify`, for which there is no key where no file is."""
    code, out = place.ended("exit 5", "--agent", "--path", "share")
    assert code == 5
    assert "value=io.systemd.credential.binary:systemd.extra-unit." in place.read("arguments")
    assert "the guest gets vhost9p-agent.service\n" in out
    assert "smbios" not in out


def test_identities_survive_since_the_socket_is_the_same_next_time(place: Place) -> None:
    place.ended("exit 0")
    first = place.read("socket")
    place.ended("exit 0")
    assert place.read("socket") == first


@needs_root
def test_no_socket_is_in_a_directory_of_somebody_else(place: Place) -> None:
    """Its owner could replace the socket."""
    os.chown(place.folder / "run", 65534, 65534)
    place.env["TMPDIR"] = str(place.folder / "own")
    os.mkdir(place.env["TMPDIR"])
    assert place.ended("exit 0")[0] == 0
    assert place.read("socket").startswith(f"{place.folder}/own/vhost9p-")


def test_a_directory_instead_of_a_configuration(place: Place) -> None:
    code, out = place.ended("exit 0", "--path", "share")
    assert code == 0
    assert f"serving {place.folder}/share as 'host0'" in out


def test_a_socket_of_the_configuration_is_used(place: Place) -> None:
    place.config.write_text(place.config.read_text() + "socket: s\n")
    code, _ = place.ended("exit 0")
    assert (code, place.read("socket")) == (0, f"{place.folder}/s")
    assert not (place.folder / "s").exists()


def test_a_qemu_that_a_signal_ends(place: Place) -> None:
    assert place.ended("kill -9 $$")[0] == 128 + signal.SIGKILL


def test_a_signal_of_a_process_reaches_qemu(place: Place) -> None:
    with place.start(WAITS) as process:
        place.read("pid")
        assert process.stdout
        while "ready" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out.count("got TERM")) == (9, 1)
    assert not place.sockets()


def test_the_terminals_interrupt_reaches_qemu_once_and_the_daemon_goes_on(place: Place) -> None:
    place.prepare(WAITS)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place.folder)
        words = place.words("vm.yaml", "--", "./qemu", "-m", "256")
        os.execvpe(words[0], words, place.env)
    said = b""

    def read_until(text: bytes) -> None:
        nonlocal said
        while text not in said:
            said += os.read(terminal, 4096)

    read_until(b"ready")
    os.write(terminal, b"\x03")
    read_until(b"got INT")
    place.parents = (pid,)
    assert is_alive(place.daemon())
    assert (place.folder / "socket").exists() and os.path.exists(place.read("socket"))
    (place.folder / "end").touch()
    with suppress(OSError):  # EIO: nobody has the terminal open any more
        while data := os.read(terminal, 4096):
            said += data
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    assert (code, said.count(b"got INT")) == (4, 1)
    assert not place.sockets()


def test_a_daemon_that_dies_is_reported_and_qemu_goes_on(place: Place) -> None:
    with place.start(WAITS) as process:
        place.read("socket")
        place.parents = (process.pid,)
        os.kill(place.daemon(), signal.SIGKILL)
        assert process.stdout
        for line in process.stdout:
            if "the daemon has ended: the guest's mounts hang from now on" in line:
                break
        assert process.poll() is None
        (place.folder / "end").touch()
        assert process.wait(PATIENCE) == 4


def test_the_daemon_ends_if_the_command_is_killed(place: Place) -> None:
    with place.start(WAITS) as process:
        qemu = int(place.read("pid"))
        place.read("socket")
        place.parents = (process.pid,)
        daemon = place.daemon()
        process.kill()
        wait(lambda: not is_alive(daemon))
        os.kill(qemu, signal.SIGKILL)


def test_the_configuration_can_be_read_again_also_after_an_upgrade(place: Place) -> None:
    with place.start(WAITS) as process:
        place.read("socket")
        place.parents = (process.pid,)
        text = place.config.read_text()
        for readonly, said in (("true", "from false to true"), ("false", "from true to false")):
            place.config.write_text(f"{text}readonly: {readonly}\n")
            done = run_cli("reload", "--config", str(place.config))
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"vm: reloaded: readonly {said}\n"
            assert run_cli("upgrade", str(place.daemon())).returncode == 0
        (place.folder / "end").touch()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 4


def test_the_daemon_can_be_upgraded_and_qemu_goes_on(place: Place) -> None:
    with place.start(WAITS) as process:
        place.read("socket")
        place.parents = (process.pid,)
        daemon = place.daemon()
        started = (place.folder / "arguments").stat().st_mtime_ns
        done = run_cli("upgrade", str(daemon))
        assert (done.returncode, done.stderr) == (0, "")
        assert place.daemon() == daemon
        (place.folder / "end").touch()
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4
    assert "the daemon has ended" not in out
    assert (place.folder / "arguments").stat().st_mtime_ns == started, "QEMU began once"
    assert not place.sockets()


@pytest.mark.parametrize(
    "qemu,code,why",
    [("./none", 127, "No such file or directory"), ("./vm.yaml", 126, "Permission denied")],
)
def test_a_qemu_that_cannot_be_started(qemu: str, code: int, why: str, place: Place) -> None:
    command = place.words("vm.yaml", "--", qemu)
    done = subprocess.run(
        command, cwd=place.folder, env=place.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert f"vhost9p: {qemu} cannot be started: {why}\n" in done.stderr
    assert not place.sockets()


def test_a_qemu_that_is_too_old(place: Place) -> None:
    code, out = place.ended("echo no such device; exit 1")
    assert code == 1
    assert out.count("QEMU 9.2.1 has no vhost-user-test-device-pci: QEMU 10.2 or newer") == 1


def test_nothing_is_asked_of_a_qemu_that_has_worked(place: Place) -> None:
    assert "is needed" not in place.ended("exit 5")[1]


def bad_path(place: Place) -> None:
    place.config.write_text("path: none\n")


def foreign_folder(place: Place) -> None:
    """A directory of the name that the sockets would have, open to others."""
    code, _ = place.ended("exit 0")
    assert code == 0
    os.makedirs(os.path.dirname(place.read("socket")), mode=0o755)
    (place.folder / "arguments").unlink()


BAD = [
    (bad_path, 2, "cannot be exported: No such file or directory"),
    (foreign_folder, 2, "cannot hold the sockets: it is not a directory that only this user can"),
]


@pytest.mark.parametrize("spoil,code,said", BAD, ids=lambda each: getattr(each, "__name__", ""))
def test_qemu_is_not_started_if_serving_cannot_begin(
    spoil: Callable[[Place], None], code: int, said: str, place: Place
) -> None:
    spoil(place)
    with place.start("exit 0") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert re.search(said, out)
    assert not place.was_started


def test_qemu_is_not_started_if_the_socket_is_in_use(place: Place) -> None:
    with Daemon("--path", str(place.folder / "share"), *SECURITY) as daemon:
        place.config.write_text(f"{place.config.read_text()}socket: {daemon.socket}\n")
        code, out = place.ended("exit 0")
    assert code == 1
    assert "is in use: another process listens there" in out
    assert not place.was_started


@pytest.mark.parametrize(
    "words,said",
    [
        ([], "name a configuration or a --path"),
        (["vm.yaml"], "name the command that starts QEMU, after --"),
        (["vm.yaml", "qemu", "-m", "4G"], "unknown option -m; put -- before QEMU…"),
        (["vm.yaml", "qemu", "--version"], "unknown option --version; put -- before QEMU…"),
        (["--none", "vm.yaml", "--", "qemu"], "unknown option --none (vhost9p run --help"),
        (["--path", ".", "vm.yaml", "--", "qemu"], "(vm.yaml) and --path exclude each other"),
        (["vm.yaml", "--", "qemu", "-daemonize"], "-daemonize: QEMU would leave"),
    ],
)
def test_bad_input_gets_one_line(words: list[str], said: str, place: Place) -> None:
    done = subprocess.run(
        place.words(*words),
        cwd=place.folder,
        env=place.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


def test_a_script_that_starts_qemu_is_started_once(place: Place) -> None:
    """It may start the VM again if it is asked what QEMU it is."""
    place.qemu = place.folder / "start.sh"
    code, _ = place.ended("exit 1")
    assert (code, (place.folder / "starts").read_text()) == (1, "once\n")
