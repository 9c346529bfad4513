"""Several VMs of one daemon: a file for each in a folder, taken up at SIGHUP."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, run_cli, worker_of
from tests.frontend.machine import Machine
from tests.system.share import SECURITY, Share, mounted


class Folder:
    """A folder of configurations, and the daemon that serves it."""

    def __init__(self, scratch: Path, *wrapper: str) -> None:
        self.daemon = Daemon(socket=False, wrapper=wrapper)
        self.exports = scratch / f"vms-{self.daemon.directory.name}"
        self.exports.mkdir()
        self.path = self.daemon.directory / "vms"
        self.path.mkdir()
        self.daemon.ready = "INFO: .*/vms: . VMs"
        self.daemon.args = ["--config-dir", str(self.path)]

    def add(self, name: str, more: str = "") -> None:
        (self.exports / name).mkdir(exist_ok=True)
        (self.exports / name / "file").write_text(name)
        (self.path / f"{name}.yaml").write_text(
            f"socket: {self.socket(name)}\npath: {self.exports / name}\n"
            f"security_model: {SECURITY[1]}\n{more}"
        )

    def socket(self, name: str) -> str:
        return str(self.daemon.directory / f"{name}.sock")

    def hang_up(self) -> None:
        self.daemon.process.send_signal(signal.SIGHUP)

    def is_served(self, name: str) -> None:
        self.daemon.wait_line(f"^vhost9p: {name}: serving ")
        with Machine(self.socket(name)) as machine:
            machine.realize()
            assert machine.probe() == "host0"

    def keeper(self, name: str) -> int:
        (found,) = (
            pid
            for pid in self.daemon.keepers
            if f"keeper of {name}\0" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
        )
        return found


@pytest.fixture
def folder(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Folder]:
    """It has two files. The parameter is what main is run by, if it is not run as it is."""
    folder = Folder(scratch, *getattr(request, "param", ()))
    folder.add("a")
    folder.add("b")
    yield folder
    folder.daemon.kill()


def test_each_file_is_a_vm_of_its_own(folder: Folder) -> None:
    with folder.daemon:
        for name in "ab":
            folder.is_served(name)
        a, b = folder.keeper("a"), folder.keeper("b")
        worker = worker_of(b)
        assert not sockets(a) & sockets(b)
        os.kill(worker_of(a), signal.SIGKILL)
        folder.daemon.wait_line(r"^vhost9p: a: ERROR: the worker died of SIGKILL")
        folder.is_served("a")
        assert worker_of(b) == worker
    for name in "ab":
        assert not os.path.exists(folder.socket(name))


def sockets(pid: int) -> set[str]:
    """The sockets and pipes that a process has open: listening ones, connections, its log."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it closes some at any time
            found.add(os.readlink(entry.path))
    return {link for link in found if link.startswith(("socket:", "pipe:"))}


def test_a_broken_file_stops_nobody_else(folder: Folder) -> None:
    folder.add("wrong", "multidevs: sometimes\n")
    folder.add("missing")
    (folder.exports / "missing" / "file").unlink()
    (folder.exports / "missing").rmdir()
    (folder.path / "c.yaml").write_text((folder.path / "a.yaml").read_text())
    with folder.daemon:
        for name in "ab":
            folder.is_served(name)
        folder.daemon.wait_line(r"wrong\.yaml:4:\d+: multidevs: 'sometimes' is not one of")
        folder.daemon.wait_line(r"missing\.yaml:2:\d+: .* cannot be exported")
        folder.daemon.wait_line(r"c\.yaml:\d:\d: .*: the exports overlap")
        folder.daemon.wait_line("INFO: .*/vms: 2 VMs")
        folder.add("wrong")
        folder.hang_up()
        folder.is_served("wrong")


def test_what_is_no_file_is_not_read(folder: Folder) -> None:
    """A read of a FIFO would wait for a writer, and main with it."""
    os.mkfifo(folder.path / "fifo.yaml")
    (folder.path / "folder.yaml").mkdir()
    with folder.daemon:
        folder.is_served("a")
        for name in ("fifo", "folder"):
            folder.daemon.wait_line(f"^vhost9p: .*/vms/{name}.yaml: is no regular file")
        folder.is_served("b")


def test_the_name_of_a_vm_adds_no_line(folder: Folder) -> None:
    (folder.path / "b.yaml").rename(folder.path / "x\nvhost9p: forged.yaml")
    with folder.daemon:
        folder.daemon.wait_line(r"^vhost9p: x\\nvhost9p: forged: serving ")
        assert not any(line.startswith("vhost9p: forged") for line in folder.daemon.lines)


def test_a_renamed_file_is_another_vm(folder: Folder) -> None:
    """Which begins when the first one has ended, since they share a directory."""
    with folder.daemon:
        folder.is_served("a")
        (folder.path / "a.yaml").rename(folder.path / "c.yaml")
        os.kill(folder.keeper("a"), signal.SIGSTOP)
        folder.hang_up()
        folder.daemon.wait_line("^vhost9p: c: serving ")
        assert "overlap" not in folder.daemon.output


CHECK_WAITS = """
import os, sys, time
from vhost9p import preflight
from vhost9p.__main__ import main

check = preflight.check

def waiting(config, beside=()):
    try:
        return check(config, beside)
    finally:
        while any(os.path.exists(other.devices[0].socket) for other in beside):
            time.sleep(0.01)
        time.sleep(0.5)

preflight.check = waiting
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""


@pytest.mark.parametrize("folder", [(sys.executable, "-c", CHECK_WAITS)], indirect=True)
def test_what_was_in_the_way_may_end_while_a_file_is_checked(folder: Folder) -> None:
    (folder.path / "b.yaml").unlink()
    folder.daemon.ready = "INFO: .*/vms: 1 VMs"
    with folder.daemon:
        folder.is_served("a")
        (folder.path / "a.yaml").rename(folder.path / "c.yaml")
        folder.hang_up()
        folder.daemon.wait_line("^vhost9p: c: serving ")
        assert "overlap" not in folder.daemon.output


def test_sighup_takes_up_what_has_changed(folder: Folder) -> None:
    with folder.daemon:
        folder.is_served("b")
        with mounted_of(folder, "a"):
            folder.add("c")
            (folder.path / "a.yaml").unlink()
            folder.add("b", "readonly: true\n")
            folder.hang_up()
            folder.is_served("c")
            folder.daemon.wait_line("INFO: a: its file is gone, so its VM ends")
            folder.daemon.wait_line("INFO: b: reloaded: readonly from false to true")
            folder.daemon.wait_line("vhost9p: a: WARNING: SIGTERM while a VM is connected: ")
        folder.daemon.wait_until(lambda: len(folder.daemon.keepers) == 2, "a did not end")
        folder.daemon.wait_until(lambda: not os.path.exists(folder.socket("a")), "it was left")
        folder.is_served("b")


def test_sighup_takes_up_another_directory_of_a_file_that_has_not_changed(folder: Folder) -> None:
    path = folder.exports / "b"
    (folder.path / "b.yaml").write_text(
        f"socket: {folder.socket('b')}\nsecurity_model: {SECURITY[1]}\n"
        f"exports:\n  - {{name: one, path: {path}}}\n"
    )
    with folder.daemon:
        folder.is_served("b")
        path.rename(folder.exports / "old")
        path.mkdir()
        folder.hang_up()
        line = f"INFO: b: reloaded: export one: another directory is at {path} now"
        folder.daemon.wait_line(re.escape(line))
        folder.is_served("b")


def test_a_vm_that_hangs_at_its_end_stops_nobody_else(folder: Folder) -> None:
    with folder.daemon:
        for name in "ab":
            folder.is_served(name)
        os.kill(folder.keeper("a"), signal.SIGSTOP)
        (folder.path / "a.yaml").unlink()
        folder.hang_up()
        folder.daemon.wait_until(lambda: len(folder.daemon.keepers) == 1, "a did not end")
        folder.is_served("b")


def mounted_of(folder: Folder, name: str) -> AbstractContextManager[Share]:
    """A guest of a VM."""
    folder.is_served(name)
    folder.daemon.socket = folder.socket(name)
    return mounted(folder.daemon, folder.exports / name)


def test_a_folder_may_be_empty_at_first(folder: Folder) -> None:
    for name in "ab":
        (folder.path / f"{name}.yaml").unlink()
    folder.daemon.start()
    folder.daemon.wait_line("INFO: .*/vms: 0 VMs")
    folder.add("a")
    folder.hang_up()
    folder.is_served("a")
    folder.daemon.stop()


def test_a_socket_in_use_stops_nobody_else(folder: Folder) -> None:
    (folder.path / "c.yaml").write_text(
        (folder.path / "a.yaml").read_text().replace(f"{folder.exports}/a", str(folder.exports))
        + "readonly: true\nforce: true\n"
    )
    with folder.daemon:
        folder.daemon.wait_line(r"c\.yaml:.* .*a.sock is in use: it is another VM's")
        folder.daemon.wait_line("INFO: .*/vms: 2 VMs")
        assert "disconnected" not in folder.daemon.output
        folder.is_served("a")


CHECK_HANGS = """
import sys, time
from vhost9p import preflight, reloading_daemon
from vhost9p.__main__ import main

check = preflight.check

def hanging(config, beside=()):
    while config.file.endswith("/aa.yaml"):
        print("the check hangs", flush=True)
        time.sleep(1)
    return check(config, beside)

preflight.check = hanging
reloading_daemon.PATIENCE_S = 3
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""


@pytest.mark.parametrize("folder", [(sys.executable, "-c", CHECK_HANGS)], indirect=True)
def test_a_file_whose_check_hangs_holds_up_nobody(folder: Folder) -> None:
    """Neither the VMs that are served already, nor, for long, the files behind it."""
    with folder.daemon as daemon:
        folder.add("aa")
        folder.add("c")
        folder.hang_up()
        daemon.wait_line("the check hangs")
        os.kill(folder.keeper("a"), signal.SIGKILL)
        daemon.wait_line("ERROR: the keeper of a died of SIGKILL")
        folder.is_served("a")
        daemon.wait_line("aa: what it names cannot be checked within 3 s")
        folder.is_served("c")
        folder.hang_up()
        daemon.wait_until(lambda: daemon.output.count("the check hangs") > 4, "no second try")


@pytest.mark.parametrize("folder", [(sys.executable, "-c", CHECK_HANGS)], indirect=True)
def test_a_file_that_goes_while_it_is_checked_is_no_vm(folder: Folder) -> None:
    with folder.daemon as daemon:
        folder.add("aa")
        folder.hang_up()
        daemon.wait_line("the check hangs")
        (folder.path / "aa.yaml").unlink()
        folder.add("c")
        folder.hang_up()
        folder.is_served("c")
        assert not re.search("vhost9p: aa", daemon.output)


@pytest.mark.parametrize("level", ["none", "auto"])
def test_options_hold_for_all_files(folder: Folder, level: str) -> None:
    for name in "ab":
        folder.add(name, f"sandbox: {'auto' if level == 'none' else 'none'}\n")
    folder.daemon.args += ["--sandbox", level]
    with folder.daemon:
        for name in "ab":
            folder.is_served(name)
            worker = worker_of(folder.keeper(name))
            is_outside = len({os.readlink(f"/proc/{pid}/ns/mnt") for pid in ("self", worker)}) == 1
            assert is_outside == (level == "none")


def test_other_options_are_refused(folder: Folder) -> None:
    done = run_cli("--config-dir", str(folder.path), "--tag", "x", "--once", "--socket=/tmp/v9-s")
    assert done.returncode == 2
    assert "--config-dir excludes --socket, --tag, --once: each VM has a file of" in done.stderr
    done = run_cli("--config-dir", str(folder.path / "none"))
    assert done.returncode == 2
    assert "--config-dir: " in done.stderr and "none cannot be read: No such file" in done.stderr
