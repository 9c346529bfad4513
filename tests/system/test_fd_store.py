"""The death of main under a service manager that keeps descriptors: its successor goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, WRLCK, Client
from tests.frontend.copied import wait_for_copies
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.systemd import Systemd
from tests.system.share import SECURITY, mounted
from tests.system.test_config_dir import Folder
from tests.system.test_keeper_death import GOES_ON, OLD_S, lose_keeper
from tests.system.test_upgrade import upgraded
from tests.system.test_worker_restart import is_served

DIED = "ERROR: the daemon has died with .*: files are reopened, and locks are lost"
AGAIN = "INFO: serving .* again"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with Systemd(tmp_path) as systemd:
        yield systemd


@pytest.fixture
def daemon(export: Path, systemd: Systemd) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    (export / "file").chmod(0o666)
    time.sleep(OLD_S)
    with Daemon("--path", str(export), *SECURITY, env=systemd.environment) as daemon:
        yield daemon


def wait_for_idle(systemd: Systemd) -> None:
    """Waits until nothing has come for a while."""
    count = -1
    while count != len(systemd.texts):
        count = len(systemd.texts)
        time.sleep(0.3)


def wait_for_store(daemon: Daemon, systemd: Systemd) -> None:
    """Returns once main may die."""
    wait_for_copies(daemon)
    wait_for_idle(systemd)


def text_of(systemd: Systemd) -> tuple[int, bytes]:
    """A descriptor of what main has written down, and its content."""
    (text,) = [fd for name, fd in systemd.stored if "text" in name]
    offset, size = struct.unpack("=QQ", os.pread(text, 16, 0))
    return text, os.pread(text, size, offset)


def change_text(systemd: Systemd, old: bytes, new: bytes) -> None:
    """Changes what main has written down."""
    text, data = text_of(systemd)
    data = re.sub(old, new, data, count=1)
    os.pwrite(text, struct.pack("=QQ", 16, len(data)) + data, 0)


def lose_main(daemon: Daemon, systemd: Systemd) -> None:
    """Kills main, and starts it as systemd would."""
    wait_for_store(daemon, systemd)
    daemon.die()
    systemd.start(daemon)


def test_a_guest_goes_on(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    """After each of several deaths of main and of keepers."""
    with mounted(daemon, export) as share, open(export / "file", "r+b"):
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        for _ in range(2):
            assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS
            lose_main(daemon, systemd)
            assert share.client.read(fid, 0, 10) == b"data"
            assert share.client.write(fid, 0, b"data") == 4
            share.machine.frontend.get_features()
            daemon.wait_line(DIED)
            daemon.wait_line(AGAIN)
            daemon.wait_line("1 locks of the guest are lost")
            lose_keeper(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            daemon.wait_line(GOES_ON)
        share.machine.reboot()
        Client(share.machine).version()
    is_served(daemon, export)


def test_the_manager_hears_of_start_and_end(daemon: Daemon, systemd: Systemd) -> None:
    ready = "READY=1\nSTATUS=serving 1 VM, 0 guests connected"
    daemon.wait_until(lambda: ready in systemd.texts, "it is not ready")
    wait = len(systemd.texts)
    assert wait and systemd.stored
    daemon.stop()
    deadline = time.monotonic() + 30
    while systemd.stored and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not systemd.stored and "STOPPING=1" in systemd.texts


def test_descriptors_do_not_become_more(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    with mounted(daemon, export):
        counts = []
        for _ in range(3):
            lose_main(daemon, systemd)
            daemon.wait_line(AGAIN)
            wait_for_store(daemon, systemd)
            counts.append((len(os.listdir(f"/proc/{daemon.pid}/fd")), len(systemd.stored)))
        assert counts[2][0] <= counts[0][0] + 2 and counts[2][1] <= counts[0][1] + 2


def test_an_upgrade_takes_the_store_along(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file")
        for _ in range(2):
            wait_for_store(daemon, systemd)
            upgraded(daemon)
            lose_main(daemon, systemd)
            assert share.client.read(fid, 0, 10) == b"data"
            daemon.wait_line(DIED)


def test_without_a_guest_the_socket_stays(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    inode = os.stat(daemon.socket).st_ino
    daemon.wait_until(lambda: any("READY=1" in text for text in systemd.texts), "not ready")
    wait_for_idle(systemd)
    daemon.die()
    systemd.start(daemon)
    is_served(daemon, export)
    assert os.stat(daemon.socket).st_ino == inode


def test_several_vms_go_on(scratch: Path, systemd: Systemd) -> None:
    folder = Folder(scratch)
    for name in "ab":
        folder.add(name)
    daemon = folder.daemon
    daemon.env.update(systemd.environment)
    with daemon, ExitStack() as undo:
        for name in "ab":
            daemon.wait_line(f"^vhost9p: {name}: serving ")
        clients = [Client(undo.enter_context(Machine(folder.socket(name))).boot()) for name in "ab"]
        for client in clients:
            client.version()
            client.attach(1)
        wait_for_idle(systemd)
        pids = [os.pidfd_open(pid) for pid in daemon.keepers]
        daemon.process.kill()
        daemon.wait()
        for pidfd in pids:
            os.close(pidfd)
        (folder.path / "b.yaml").unlink()
        folder.add("c")
        systemd.start(daemon)
        daemon.wait_line("b: its file is gone, so its VM ends")
        assert clients[0].getattr(1).nlink
        daemon.wait_line("^vhost9p: c: serving ")


@pytest.mark.parametrize(
    "change",
    [(rb'"read": ', b'"unread": '), (rb'"read": {"a": {', b'"read": {"a": {"new": 1, ')],
)
def test_what_files_said_may_be_lost(
    change: tuple[bytes, bytes], scratch: Path, systemd: Systemd
) -> None:
    """The main process before was of another version, or served a single VM."""
    folder = Folder(scratch)
    folder.add("a")
    daemon = folder.daemon
    daemon.env.update(systemd.environment)
    with daemon:
        daemon.wait_line("^vhost9p: a: serving ")
        wait_for_idle(systemd)
        daemon.process.kill()
        daemon.wait()
        change_text(systemd, *change)
        systemd.start(daemon)
        daemon.wait_line("a: reloaded: nothing has changed")


def test_the_manager_hears_of_guests_and_that_main_lives(export: Path, systemd: Systemd) -> None:
    """Before and after an upgrade."""
    env = {**systemd.environment, "WATCHDOG_USEC": "300000"}
    with Daemon("--path", str(export), *SECURITY, env=env) as daemon:

        def hears(text: str, since: int) -> None:
            daemon.wait_until(
                lambda: any(text in each for each in systemd.texts[since:]), f"no {text}"
            )

        for _ in range(2):
            with mounted(daemon, export):
                hears("STATUS=serving 1 VM, 1 guest connected", 0)
                hears("WATCHDOG=1", len(systemd.texts))
                count = len(systemd.texts)
            hears("STATUS=serving 1 VM, 0 guests connected", count)
            upgraded(daemon)


def test_the_manager_hears_that_files_are_taken_up(scratch: Path, systemd: Systemd) -> None:
    folder = Folder(scratch)
    folder.add("a")
    daemon = folder.daemon
    daemon.env.update(systemd.environment)
    with daemon:
        daemon.wait_line("^vhost9p: a: serving ")
        daemon.wait_until(lambda: any("READY=1" in each for each in systemd.texts), "not ready")
        folder.add("b")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_line("^vhost9p: b: serving ")
        daemon.wait_until(lambda: "STATUS=serving 2 VMs" in "".join(systemd.texts), "not said")
    said = [each for each in systemd.texts if "READY" in each or "RELOADING" in each]
    assert said[0].startswith("READY=1")
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[0-9]+", said[1])
    assert said[2].startswith("READY=1") and len(said) == 3


def has_begun(systemd: Systemd, vms: int) -> bool:
    """Whether all is kept that so many VMs have before a guest uses them."""
    written = json.loads(text_of(systemd)[1])
    begun = [each for each in written["vms"] if each["copies"]["namespaces"]]
    return len(begun) == vms


def test_a_full_store_loses_only_what_did_not_fit(scratch: Path, tmp_path: Path) -> None:
    """It has room for what the VMs need, and not for what the guest's session needs."""
    folder = Folder(scratch)
    for name in "ab":
        folder.add(name)
    (tmp_path / "small").mkdir()
    with Systemd(tmp_path / "small") as systemd:
        daemon = folder.daemon
        daemon.env.update(systemd.environment)
        with daemon, Machine(folder.socket("a")) as machine:
            for name in "ab":
                daemon.wait_line(f"^vhost9p: {name}: serving ")
            daemon.wait_until(lambda: has_begun(systemd, 2), "not all is kept")
            wait_for_idle(systemd)
            systemd.store_max = len(systemd.stored)
            Client(machine.boot()).version()
            wait_for_idle(systemd)
            inode = os.stat(folder.socket("b")).st_ino
            pids = [os.pidfd_open(pid) for pid in daemon.keepers]
            daemon.process.kill()
            daemon.wait()
            for pidfd in pids:
                os.close(pidfd)
            systemd.start(daemon)
            daemon.wait_line("a: descriptor .* of its session was not kept")
            daemon.wait_line("the daemon has died with b")
            assert os.stat(folder.socket("b")).st_ino == inode
            with Machine(folder.socket("b")) as other:
                Client(other.boot()).version()


# ---- what is refused -----------------------------------------------------------------------------


def begins_anew(daemon: Daemon, systemd: Systemd, export: Path, why: str) -> None:
    """Main says why, begins to serve, and nothing of what was kept is left."""
    daemon.wait_line(why)
    daemon.wait_line("^vhost9p: serving ")
    is_served(daemon, export)
    wait_for_idle(systemd)
    assert len([name for name, _ in systemd.stored if "text" in name]) == 1


def test_what_is_missing_is_refused(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    with mounted(daemon, export):
        wait_for_store(daemon, systemd)
    wait_for_idle(systemd)
    daemon.die()
    for name, fd in [*systemd.stored]:
        if "text" not in name:
            systemd.stored.remove((name, fd))
            os.close(fd)
    systemd.start(daemon)
    begins_anew(daemon, systemd, export, "cannot go on: descriptor .* was not kept")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((rb'"format": 1', b'"format": 9'), "is refused: .* in format 9"),
        ((rb"^", b"no "), "is refused: .* is no JSON"),
    ],
)
def test_another_format_is_refused(
    change: tuple[bytes, bytes], why: str, daemon: Daemon, systemd: Systemd, export: Path
) -> None:
    wait_for_idle(systemd)
    daemon.die()
    change_text(systemd, *change)
    systemd.start(daemon)
    begins_anew(daemon, systemd, export, why)


def test_another_layout_is_refused(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    wait_for_idle(systemd)
    daemon.die()
    for _, fd in systemd.stored:
        if "vhost9p-state" in os.readlink(f"/proc/self/fd/{fd}"):
            os.pwrite(
                fd, os.pread(fd, 4096, 0).replace(b'"fingerprint": "', b'"fingerprint": "x'), 0
            )
    systemd.start(daemon)
    begins_anew(daemon, systemd, export, "cannot go on: the saved state is laid out otherwise")


def test_what_is_another_process_s_is_left_alone(export: Path, tmp_path: Path) -> None:
    """LISTEN_PID names another process."""
    (export / "file").write_bytes(b"data")
    names = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "vhost9p-text-1"}
    with Daemon("--path", str(export), *SECURITY, env=names) as daemon:
        is_served(daemon, export)
        assert "refused" not in daemon.output


def test_another_vm_is_refused(daemon: Daemon, systemd: Systemd, export: Path) -> None:
    wait_for_idle(systemd)
    daemon.die()
    os.rename(daemon.socket, daemon.socket + "2")
    daemon.socket += "2"
    daemon.args = ["--socket", daemon.socket, *daemon.args[2:]]
    systemd.start(daemon)
    begins_anew(daemon, systemd, export, "is configured no more: ")


def test_another_configuration_has_no_effect_yet(
    daemon: Daemon, systemd: Systemd, export: Path
) -> None:
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        wait_for_store(daemon, systemd)
        daemon.die()
        daemon.args = [*daemon.args, "--readonly"]
        systemd.start(daemon)
        daemon.wait_line("WARNING: .* its configuration has changed, which it ignores")
        assert share.client.write(fid, 0, b"data") == 4
