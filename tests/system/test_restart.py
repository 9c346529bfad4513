"""A restart of the service: the next main process goes on with all that the one before had."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.frontend import PATIENCE
from tests.frontend.client import LOCK_SUCCESS, WRLCK, Client
from tests.frontend.daemon import Daemon
from tests.frontend.machine import Machine
from tests.frontend.systemd import Systemd
from tests.system.mixed_load import Crowd, fill
from tests.system.replaced import log_kept_open
from tests.system.share import SECURITY, Share, mounted
from tests.system.test_config_dir import Folder
from tests.system.test_fd_store import change_text, wait_for_idle, wait_for_store
from tests.system.test_keeper_death import OLD_S, lose_keeper
from tests.system.test_upgrade import upgrade, upgraded
from tests.system.test_worker_restart import is_empty, is_served
from vhost9p.parcel import FDS_MAX

RESTARTED = "the daemon was restarted under .*: it goes on with its open files and locks"
JOB = "echo '  7 other.service stop waiting'; echo ' 12 vm.service {} running'"


class Service(Systemd):
    """A manager whose answer the shell says that is in the file `job`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.job = folder / "job"
        self.says(JOB.format("restart"))

    def says(self, script: str) -> None:
        self.job.write_text(script)

    @contextmanager
    def running(self, daemon: Daemon) -> Iterator[Daemon]:
        """The daemon is its service, and is stopped at the end."""
        daemon.env.update(self.environment)
        program = [sys.executable, "-m", "tests.system.restarted_daemon", f"sh {self.job}"]
        at = daemon.command.index(sys.executable)
        daemon.command = [*daemon.command[:at], *program, *daemon.command[at:]]
        with daemon:
            yield daemon
            self.says(JOB.format("stop"))


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    with service:
        yield service


@pytest.fixture
def daemon(export: Path, systemd: Service) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    with systemd.running(Daemon("--path", str(export), *SECURITY)) as daemon:
        yield daemon


def end(daemon: Daemon) -> None:
    """SIGTERM; main ends in order, and so do the processes of its VMs."""
    pidfds = [os.pidfd_open(pid) for pid in daemon.keepers]
    daemon.process.terminate()
    assert daemon.wait() == 0
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], PATIENCE)[0]
        os.close(pidfd)


def restart(daemon: Daemon, systemd: Service) -> None:
    end(daemon)
    daemon.check_output()
    wait_for_idle(systemd)
    systemd.start(daemon)


# ---- what the guest notices ----------------------------------------------------------------------


def test_nothing_is_lost(daemon: Daemon, systemd: Service, export: Path) -> None:
    """A file without a name, locks, positions, a value that is being written, young files."""
    (export / "many").mkdir()
    for i in range(300):
        (export / "many" / str(i)).touch()
    with mounted(daemon, export) as share, open(export / "file", "r+b") as file:
        client, top = share.client, share.top
        gone = client.create(top, b"gone", os.O_RDWR)
        client.write(gone, 0, b"nameless")
        client.unlinkat(top, b"gone")
        fid = client.open(top, b"file", os.O_RDWR)
        assert client.lock(fid, WRLCK) == LOCK_SUCCESS
        listing = client.open(top, b"many", os.O_RDONLY)
        seen = client.readdir(listing, 0, 2000)
        for _ in range(3):
            restart(daemon, systemd)
            assert client.read(gone, 0, 100) == b"nameless"
            assert client.write(fid, 0, b"data") == 4
            with pytest.raises(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen += client.readdir(listing, seen[-1].offset, 2000)
            daemon.wait_line(RESTARTED)
            assert "are lost" not in daemon.output
        while rest := client.readdir(listing, seen[-1].offset, 2000):
            seen += rest
        assert len(seen) == len({entry.name for entry in seen}) == 302
        client.clunk(fid)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    is_served(daemon, export)


def test_a_parcel_of_many_descriptors(daemon: Daemon, systemd: Service, export: Path) -> None:
    """Of several messages."""
    with mounted(daemon, export) as share:
        fids = []
        for i in range(2 * FDS_MAX):
            fid = share.client.create(share.top, b"%d" % i, os.O_RDWR)
            share.client.write(fid, 0, b"%d" % i)
            share.client.unlinkat(share.top, b"%d" % i)
            fids.append(fid)
        before = daemon.fd_count()
        restart(daemon, systemd)
        for i, fid in enumerate(fids):
            assert share.client.read(fid, 0, 10) == b"%d" % i
        assert abs(daemon.fd_count() - before) < 20


def change(share: Share, ends: threading.Event, failed: list[BaseException]) -> None:
    """Makes changes that fail if they are done twice."""
    client, top = share.client, share.top
    log = client.create(top, b"log", os.O_WRONLY | os.O_APPEND)
    rounds, written = 0, b""
    try:
        while not ends.is_set():
            client.mkdir(top, b"made")
            client.renameat(top, b"made", top, b"moved")
            client.symlink(top, b"link", b"target")
            client.unlinkat(top, b"link")
            client.unlinkat(top, b"moved", 0x200)
            line = b"%08d\n" % rounds
            assert client.write(log, 0, line) == len(line)
            written += line
            rounds += 1
        assert rounds > 4 and share.get("log") == written
        client.unlinkat(top, b"log")
    except BaseException as error:
        failed.append(error)


def test_requests_are_done_once(daemon: Daemon, systemd: Service, export: Path) -> None:
    with mounted(daemon, export) as share:
        ends, failed = threading.Event(), list[BaseException]()
        thread = threading.Thread(target=change, args=(share, ends, failed))
        thread.start()
        for _ in range(4):
            time.sleep(0.3)
            restart(daemon, systemd)
            daemon.wait_line(RESTARTED)
            daemon.wait_line("INFO: serving .* again")
        ends.set()
        thread.join()
        assert not failed, failed
    (export / "file").unlink()
    is_empty(export)


def test_a_load_of_everything_survives(export: Path, systemd: Service) -> None:
    fill(str(export))
    with systemd.running(Daemon("--path", str(export), *SECURITY)) as daemon:
        with Machine(daemon.socket) as machine:
            Client(machine.boot()).version()
            restart(daemon, systemd)
        crowd = Crowd(daemon.socket, 1, dialect_u=False, packed=True)
        crowd.run(1)
        assert crowd.answered > 100


def test_other_ends_follow(daemon: Daemon, systemd: Service, export: Path) -> None:
    """A death of the keeper, an upgrade, and a death of main: then files are reopened."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        time.sleep(OLD_S)
        for _ in range(2):
            restart(daemon, systemd)
            assert share.client.read(fid, 0, 10) == b"data"
            lose_keeper(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            upgraded(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            wait_for_store(daemon, systemd)
            daemon.die()
            systemd.start(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            wait_for_store(daemon, systemd)


NAMES = "abcdefgh"


def nameless_files(folder: Folder, share: ExitStack) -> Iterator[tuple[Client, int, bytes]]:
    """Has a guest of each VM open files that have no name any more: the fids, and what is in."""
    for name in NAMES:
        machine = share.enter_context(Machine(folder.socket(name)))
        client = Client(machine.boot())
        client.version()
        client.attach(1)
        for i in range(20):
            fid, data = client.create(1, b"%d" % i, os.O_RDWR), b"%s %d" % (name.encode(), i)
            client.write(fid, 0, data)
            client.unlinkat(1, b"%d" % i)
            yield client, fid, data


def test_keepers_may_die_while_others_are_replaced(scratch: Path, systemd: Service) -> None:
    """Their VMs have copies all the time."""
    folder = Folder(scratch)
    for name in "ab":
        folder.add(name)
    folder.daemon.env["WHEN"] = "upgrade"
    with systemd.running(folder.daemon) as daemon, ExitStack() as share:
        clients = []
        for name in "ab":
            daemon.wait_line(f"^vhost9p: {name}: serving ")
            clients.append(Client(share.enter_context(Machine(folder.socket(name))).boot()))
            clients[-1].version()
            clients[-1].attach(1)
        wait_for_idle(systemd)
        upgrade(daemon.pid)
        for client in clients:
            assert client.getattr(1).nlink
        daemon.wait_line("the keeper of b died of SIGKILL: files are reopened")


@pytest.mark.parametrize("how", ["upgrade", "reload"])
def test_a_keeper_that_has_inherited_is_replaced(how: str, scratch: Path, systemd: Service) -> None:
    """Its guests' files have numbers that main's own descriptors may have by now."""
    folder = Folder(scratch)
    for name in NAMES:
        folder.add(name)
    with systemd.running(folder.daemon) as daemon, ExitStack() as share:
        for name in NAMES:
            daemon.wait_line(f"^vhost9p: {name}: serving ")
        files = [*nameless_files(folder, share)]
        restart(daemon, systemd)
        for name in NAMES:
            daemon.wait_line(f"^vhost9p: {name}: INFO: serving .* again")
        daemon.wait_line(daemon.ready)  # the files have been taken up
        if how == "upgrade":
            upgraded(daemon)
        else:
            for name in NAMES:
                folder.add(name, "msize_max: 65536\n")
            folder.hang_up()
            for name in NAMES:
                daemon.wait_line(f"{name}: reloaded: msize_max")
        for client, fid, data in files:
            assert client.read(fid, 0, 100) == data
        assert "ERROR" not in daemon.output


def test_what_is_kept_does_not_become_more(daemon: Daemon, systemd: Service, export: Path) -> None:
    with mounted(daemon, export):
        counts = []
        for _ in range(3):
            wait_for_store(daemon, systemd)
            restart(daemon, systemd)
            daemon.wait_line("INFO: serving .* again")
            wait_for_store(daemon, systemd)
            counts.append((len(os.listdir(f"/proc/{daemon.pid}/fd")), len(systemd.stored)))
        assert counts[2][0] <= counts[0][0] + 2 and counts[2][1] <= counts[0][1] + 2


def test_what_no_keeper_has_taken_is_left_once_more(
    daemon: Daemon, systemd: Service, export: Path
) -> None:
    """At the next restart, or in an upgrade, while a worker outlives its keeper."""
    with mounted(daemon, export) as share:
        gone = share.client.create(share.top, b"gone", os.O_RDWR)
        share.client.write(gone, 0, b"nameless")
        share.client.unlinkat(share.top, b"gone")
        wait_for_store(daemon, systemd)
        with log_kept_open(daemon):
            for _ in range(2):
                restart(daemon, systemd)
                daemon.wait_line(RESTARTED)
                assert not daemon.keepers
            assert upgrade(daemon.pid).returncode == 0
            assert not daemon.keepers
        assert share.client.read(gone, 0, 100) == b"nameless"
        restart(daemon, systemd)
        assert share.client.read(gone, 0, 100) == b"nameless"
        assert "are lost" not in daemon.output


def test_a_socket_that_the_manager_has_made_anew_is_taken(
    daemon: Daemon, systemd: Service, export: Path
) -> None:
    """As when the unit of the socket was restarted, too: or the next VMM would wait for ever."""
    with socket.socket(socket.AF_UNIX) as sock:
        with mounted(daemon, export) as share:
            wait_for_store(daemon, systemd)
            end(daemon)
            wait_for_idle(systemd)
            os.unlink(daemon.socket)
            sock.bind(daemon.socket)
            sock.listen()
            unit = "vm.socket", os.dup(sock.fileno())
            systemd.stored.append(unit)
            systemd.start(daemon)
            assert share.client.getattr(share.top).nlink
            daemon.wait_line(RESTARTED)
        is_served(daemon, export)
        systemd.stored.remove(unit)
        os.close(unit[1])
        os.unlink(daemon.socket)


# ---- what is a restart ---------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [JOB.format("stop"), "true"])
def test_a_stop_is_a_stop(answer: str, daemon: Daemon, systemd: Service, export: Path) -> None:
    """Also if there is no job: somebody has sent the signal."""
    systemd.says(answer)
    with mounted(daemon, export):
        wait_for_store(daemon, systemd)
        daemon.stop()
        assert "SIGTERM while a VM is connected: its mount" in daemon.output
        wait_for_idle(systemd)
        assert not systemd.stored


@pytest.mark.parametrize("answer", ["echo no bus >&2; exit 1", "exec sleep 100"])
def test_where_nobody_knows_all_is_left(
    answer: str, daemon: Daemon, systemd: Service, export: Path
) -> None:
    systemd.says(answer)
    with mounted(daemon, export) as share:
        wait_for_store(daemon, systemd)
        restart(daemon, systemd)
        assert share.client.getattr(share.top).nlink
        daemon.wait_line(RESTARTED)


def test_without_a_guest_it_begins_anew(daemon: Daemon, systemd: Service, export: Path) -> None:
    end(daemon)
    wait_for_idle(systemd)
    assert not systemd.stored and not os.path.exists(daemon.socket)
    systemd.start(daemon)
    daemon.wait_line("^vhost9p: serving ")
    is_served(daemon, export)
    assert "restarted" not in daemon.output


# ---- what may go wrong ---------------------------------------------------------------------------


@contextmanager
def left(daemon: Daemon, systemd: Service, export: Path) -> Iterator[tuple[Client, int]]:
    """A guest of a daemon that has left it to the next one; and a fid by which it has a file open
    that is old enough to be reopened."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        time.sleep(OLD_S)
        wait_for_store(daemon, systemd)
        end(daemon)
        wait_for_idle(systemd)
        yield share.client, fid


def test_without_the_parcel_files_are_reopened(
    daemon: Daemon, systemd: Service, export: Path
) -> None:
    """As after the death of main; so it is if the store is full."""
    with left(daemon, systemd, export) as (client, fid):
        change_text(systemd, rb'"parcel": {"fds": \[', b'"parcel": {"fds": [9999, ')
        systemd.start(daemon)
        assert client.read(fid, 0, 10) == b"data"
        daemon.wait_line("was restarted under .*: files are reopened, and locks are lost")


def test_an_incomplete_parcel_is_not_used(daemon: Daemon, systemd: Service, export: Path) -> None:
    with left(daemon, systemd, export) as (client, fid):
        (number,) = re.findall(rb'"parcel": {"fds": \[([0-9]+)\]', text_of(systemd))
        empty_parcel(systemd, int(number))
        systemd.start(daemon)
        assert client.read(fid, 0, 10) == b"data"
        daemon.wait_line("cannot go on: descriptors of its keeper are missing: files are reopened")


@pytest.mark.parametrize("with_parcel", [True, False])
def test_a_stop_while_a_keeper_is_created(
    with_parcel: bool, daemon: Daemon, systemd: Service, export: Path
) -> None:
    """The next main process gets all that this one had."""
    with left(daemon, systemd, export) as (client, fid):
        if not with_parcel:
            change_text(systemd, rb'"parcel": {"fds": \[', b'"parcel": {"fds": [9999, ')
        daemon.env["WHEN"] = "birth"
        systemd.start(daemon)
        assert daemon.wait() == 0
        del daemon.env["WHEN"]
        wait_for_idle(systemd)
        systemd.start(daemon)
        assert client.read(fid, 0, 10) == b"data"
        daemon.wait_line(RESTARTED if with_parcel else "files are reopened, and locks are lost")


def text_of(systemd: Service) -> bytes:
    (text,) = [fd for name, fd in systemd.stored if "text" in name]
    return os.pread(text, os.fstat(text).st_size, 0)


def empty_parcel(systemd: Service, number: int) -> None:
    """Receives what is in it."""
    (name,) = re.findall(rb'"names": {.*"%d": ([0-9]+)[,}]' % number, text_of(systemd))
    (fd,) = [fd for each, fd in systemd.stored if each == f"vhost9p-{int(name)}"]
    with socket.socket(fileno=os.dup(fd)) as sock:
        for each in socket.recv_fds(sock, 4096, FDS_MAX)[1]:
            os.close(each)


def test_several_vms_go_on(scratch: Path, systemd: Service) -> None:
    """One has no guest, and ends; one has another configuration, which is taken up."""
    folder = Folder(scratch)
    for name in "ab":
        folder.add(name)
    with systemd.running(folder.daemon) as daemon, Machine(folder.socket("a")) as machine:
        for name in "ab":
            daemon.wait_line(f"^vhost9p: {name}: serving ")
        client = Client(machine.boot())
        client.version()
        client.attach(1)
        wait_for_idle(systemd)
        restart(daemon, systemd)
        daemon.wait_line("^vhost9p: b: serving ")
        assert client.getattr(1).nlink
        daemon.wait_line("was restarted under a: it goes on")


def test_another_configuration_is_taken_up(scratch: Path, systemd: Service) -> None:
    """As by a reload."""
    export = scratch / "taken up"
    export.mkdir()
    (export / "file").touch()
    file = scratch / "vm.yaml"
    text = f"path: {export}\nsecurity_model: {SECURITY[1]}\n"
    file.write_text(text)
    running = systemd.running(Daemon("--config", str(file)))
    with running as daemon, mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDONLY)
        wait_for_store(daemon, systemd)
        file.write_text(text + "readonly: true\n")
        restart(daemon, systemd)
        daemon.wait_line("reloaded: .*readonly")
        assert share.client.read(fid, 0, 1) == b""


@pytest.mark.parametrize("mistake", ["folder", "option"])
def test_a_mistake_of_a_folders_daemon_ends_no_vm(
    mistake: str, scratch: Path, systemd: Service
) -> None:
    """They go on as they were, until it is mended."""
    folder = Folder(scratch)
    folder.add("a")
    with systemd.running(folder.daemon) as daemon, Machine(folder.socket("a")) as machine:
        daemon.wait_line("^vhost9p: a: serving ")
        client = Client(machine.boot())
        client.version()
        client.attach(1)
        wait_for_idle(systemd)
        away = folder.path.with_name("away")
        if mistake == "folder":
            folder.path.rename(away)
        else:
            daemon.args += ["--log-level", "nonsense"]
        restart(daemon, systemd)
        assert client.getattr(1).nlink
        daemon.wait_line("was restarted under a: it goes on")
        daemon.wait_line("cannot be read" if mistake == "folder" else "--log-level: 'nonsense'")
        if mistake == "folder":
            away.rename(folder.path)
        else:
            del daemon.args[-2:]
        folder.add("b")
        if mistake == "folder":
            folder.hang_up()
        else:
            wait_for_idle(systemd)
            restart(daemon, systemd)
        daemon.wait_line("^vhost9p: b: serving ")
        assert client.getattr(1).nlink


def test_a_mistake_in_the_configuration_ends_no_vm(scratch: Path, systemd: Service) -> None:
    """It goes on as it was, until the file is mended; without a guest the mistake is an end."""
    export = scratch / "mistaken"
    export.mkdir()
    file = scratch / "vm.yaml"
    text = f"path: {export}\nsecurity_model: {SECURITY[1]}\n"
    file.write_text(text)
    with systemd.running(Daemon("--config", str(file))) as daemon:
        with mounted(daemon, export) as share:
            wait_for_store(daemon, systemd)
            file.write_text(text + "readonly: perhaps\n")
            restart(daemon, systemd)
            assert share.client.getattr(share.top).nlink
            daemon.wait_line("readonly: 'perhaps' is text")
            daemon.wait_line("the VM goes on as it was")
            file.write_text(text + "readonly: true\n")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_line("reloaded: readonly from false to true")
            file.write_text(text + "readonly: perhaps\n")
            restart(daemon, systemd)
            daemon.wait_line("the VM goes on as it was")
        systemd.says(JOB.format("stop"))
        wait_for_idle(systemd)
        end(daemon)
        systemd.start(daemon)
        assert daemon.wait() == 2
        file.write_text(text)
        systemd.start(daemon)
        daemon.wait_line("^vhost9p: serving ")
