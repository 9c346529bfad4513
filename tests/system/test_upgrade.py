"""An upgrade of a daemon whose VMs run: they notice nothing but a pause.

The new version is this one again. What cannot take over is in test_upgrade_refused.py.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, UNLCK, WRLCK, Client
from tests.frontend.copied import wait_for_copies
from tests.frontend.daemon import Daemon, children, run_cli
from tests.frontend.deaths import kill
from tests.frontend.machine import Machine
from tests.frontend.wire import T
from tests.system.mixed_load import Crowd, fill
from tests.system.replaced import (
    check_an_inherited_connection,
    check_confinement,
    log_kept_open,
)
from tests.system.share import (
    IS_ROOT,
    SECURITY,
    UNSHARE,
    mounted,
    needs_root,
    remount,
    serve,
)
from tests.system.test_config_dir import Folder
from tests.system.test_hung_files import HANGERS, hanging, serves
from tests.system.test_keeper_death import OLD_S
from tests.system.test_worker_restart import do_each_once, is_empty, is_locked, is_served
from vhost9p.native.process import take_descriptor

UPGRADES = [3, pytest.param(20, marks=[pytest.mark.full, pytest.mark.long])]


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    with serve(export, "--multidevs", "remap") as daemon:
        yield daemon


def upgrade(*pids: int, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    return run_cli("upgrade", *map(str, pids), wrapper=wrapper)


def upgraded(daemon: Daemon) -> None:
    """Upgrades a daemon."""
    keepers = set(daemon.keepers)
    done = upgrade(daemon.pid)
    assert (done.returncode, done.stderr) == (0, ""), daemon.output
    assert f"{daemon.pid}: upgraded from version " in done.stdout
    daemon.wait_until(lambda: not keepers & set(daemon.keepers), "the old keepers end")
    assert len(keepers) == len(daemon.keepers)


@contextmanager
def upgrades(daemon: Daemon, count: int) -> Iterator[threading.Thread]:
    """Meanwhile there are so many upgrades; the thread then ends."""
    failed = []

    def run() -> None:
        for _ in range(count):
            done = upgrade(daemon.pid)
            if done.returncode:
                failed.append(done.stderr)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
    assert not failed


# ---- what the guest notices ----------------------------------------------------------------------


@pytest.mark.parametrize("count", UPGRADES)
@pytest.mark.parametrize("model", ["passthrough", "mapped-xattr", "mapped-file"])
def test_requests_are_done_once(model: str, count: int, scratch: Path) -> None:
    """Each of them fails, or does something else, when it is done twice."""
    if model == "passthrough" and not IS_ROOT:
        model = "none"
    export = scratch / f"upgraded-{model}-{count}"
    export.mkdir()
    with Daemon("--path", str(export), "--security-model", model) as daemon:
        with mounted(daemon, export) as share, upgrades(daemon, count) as thread:
            rounds = 0
            while thread.is_alive():
                do_each_once(share)
                rounds += 1
                if not rounds % 100:  # some fids of directories that are gone are left each time
                    remount(share)
        is_empty(export)


@pytest.mark.parametrize("count", UPGRADES)
def test_a_load_of_everything_goes_on(count: int, export: Path) -> None:
    folder = export / str(count)
    folder.mkdir()
    fill(str(folder))
    with serve(folder) as daemon, upgrades(daemon, count) as thread:
        crowd = Crowd(daemon.socket, 1, dialect_u=False, packed=True)
        while thread.is_alive():
            crowd.run(1)
        assert crowd.answered > 100


@pytest.mark.parametrize("count", UPGRADES)
def test_locks_are_held_throughout(count: int, daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, open(export / "file", "r+b") as file:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS
        with upgrades(daemon, count) as thread:
            while thread.is_alive():
                is_locked(file)
        assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS  # it is still the same process's
        assert share.client.lock(fid, UNLCK) == LOCK_SUCCESS


def test_state_is_what_it_was(daemon: Daemon, export: Path) -> None:
    """An open file that was removed, a position in a directory, a value in flight, qids."""
    names = {b"%d" % i for i in range(300)}
    (export / "many").mkdir()
    for name in names:
        (export / "many" / os.fsdecode(name)).touch()
    with mounted(daemon, export) as share:
        client = share.client
        gone = client.open(share.top, b"file", os.O_RDWR)
        qid = client.getattr(gone).qid
        client.unlinkat(share.top, b"file")
        many = client.open(share.top, b"many", os.O_RDONLY)
        first = client.readdir(many, 0, 2000)
        value = client.walk_to(share.top, b"many")
        client.call(T.XATTRCREATE, value, b"user.a", 6, 0)
        client.write(value, 0, b"abc")
        fids = [client.walk_to(share.top, b"many", name) for name in sorted(names)]
        for _ in range(2):
            upgraded(daemon)
        assert client.read(gone, 0, 10) == b"data"
        assert (client.getattr(gone).qid, client.getattr(gone).nlink) == (qid, 0)
        rest, last = [*first], first
        while last := client.readdir(many, last[-1].offset, 2000):
            rest += last
        assert {entry.name for entry in rest} >= names and len(rest) == len(names) + 2
        client.write(value, 3, b"def")
        client.clunk(value)
        assert os.getxattr(export / "many", "user.a") == b"abcdef"
        for fid in fids:
            assert client.getattr(fid).nlink == 1


def test_nothing_is_left_behind(daemon: Daemon, export: Path) -> None:
    """Neither descriptors nor mounts."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file")
        counts, kept = [], 0

        def of_main() -> list[str]:
            return os.listdir(f"/proc/{daemon.pid}/fd")

        for _ in range(3):
            upgraded(daemon)
            assert share.client.read(fid, 0, 10) == b"data"
            wait_for_copies(daemon)
            mounts = Path(f"/proc/{daemon.worker}/mountinfo").read_text().count("\n")
            counts.append((mounts, daemon.fd_count()))
            kept = kept or len(of_main())
        # Copies that others follow are closed soon after.
        daemon.wait_until(lambda: len(of_main()) <= kept, "main keeps descriptors")
        assert counts[0][0] == counts[2][0]
        assert counts[2][1] <= counts[0][1] + 2  # of threads that are at work


# ---- the daemon afterwards -----------------------------------------------------------------------


def test_everything_else_goes_on_as_before(daemon: Daemon, export: Path) -> None:
    def command() -> bytes:
        return Path(f"/proc/{daemon.pid}/cmdline").read_bytes().rstrip(b"\0")

    pid, before = daemon.pid, command()
    upgraded(daemon)
    assert command() == before
    assert Path(f"/proc/{pid}/comm").read_text() == "vhost9p\n"
    is_served(daemon, export)
    kill(daemon.worker)
    is_served(daemon, export)
    kill(daemon.keepers[0])
    is_served(daemon, export)
    os.kill(pid, signal.SIGUSR1)
    daemon.wait_line("WARNING: SIGUSR1 is ignored")
    upgraded(daemon)
    is_served(daemon, export)


def test_no_descriptor_takes_the_number_of_a_closed_stream(export: Path) -> None:
    shell = ("sh", "-c", 'exec "$@" <&-', "sh")
    with Daemon("--path", str(export), *SECURITY, wrapper=shell) as daemon:
        for _ in range(2):
            upgraded(daemon)
            for pid in (daemon.pid, daemon.keepers[0], daemon.worker):
                assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"


def test_processes_are_named_as_before(daemon: Daemon) -> None:
    def titles() -> list[bytes]:
        return [
            Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
            for pid in (daemon.keepers[0], daemon.worker)
        ]

    before = titles()
    assert before[0].startswith(b"vhost9p: keeper of ")
    upgraded(daemon)
    assert titles() == before


def test_workers_die_meanwhile(daemon: Daemon, export: Path) -> None:
    """At any moment of an upgrade, whichever version's they are."""
    with mounted(daemon, export) as share, upgrades(daemon, 5) as thread:
        fid = share.client.open(share.top, b"file")
        while thread.is_alive():
            for keeper in daemon.keepers:
                for worker in children(keeper, "vhost9p-worker"):
                    with suppress(ProcessLookupError):
                        kill(worker)
            assert share.client.read(fid, 0, 10) == b"data"
    assert " died of SIGKILL, death " in daemon.output


@pytest.mark.parametrize(
    ("level", "user"),
    [
        ("auto", False),
        pytest.param("chroot", False, marks=needs_root),
        ("none", False),
        pytest.param("auto", True, marks=needs_root),
        pytest.param("none", True, marks=needs_root),
    ],
)
def test_the_confinement_is_the_same(level: str, user: bool, scratch: Path) -> None:
    check_confinement(scratch / f"upgraded-{level}-{user}", level, user, upgraded)


def test_an_inherited_connection_goes_on(export: Path) -> None:
    check_an_inherited_connection(export, upgraded)


def test_all_devices_of_a_vm_go_on(scratch: Path) -> None:
    """Each has a saved state of its own, at an address of its own."""
    daemon = Daemon(socket=False)
    sockets = [str(daemon.directory / name) for name in "abc"]
    lines = []
    for path in sockets:
        folder = scratch / f"device-{os.path.basename(path)}"
        folder.mkdir()
        (folder / "file").write_text(path)
        lines.append(
            f"- {{socket: {path}, path: {folder}, tag: {folder.name}, "
            f"security_model: {SECURITY[1]}}}\n"
        )
    config = daemon.directory / "vm.yaml"
    config.write_text("devices:\n" + "".join(lines))
    daemon.args = ["--config", str(config)]
    with daemon, ExitStack() as undo:
        clients = [Client(undo.enter_context(Machine(path)).boot()) for path in sockets]
        for client in clients:
            client.version()
            client.attach(1)
        fids = [client.open(1, b"file") for client in clients]
        for _ in range(2):
            upgraded(daemon)
            for client, fid, path in zip(clients, fids, sockets, strict=True):
                assert client.read(fid, 0, 200) == path.encode()


def test_several_vms_go_on(scratch: Path) -> None:
    folder = Folder(scratch)
    folder.add("a")
    folder.add("b")
    daemon = folder.daemon
    with daemon:
        with Machine(folder.socket("a")) as one, Machine(folder.socket("b")) as other:
            clients = [Client(machine.boot()) for machine in (one, other)]
            for client in clients:
                client.version()
            upgraded(daemon)
            for client in clients:
                client.attach(1)
        daemon.wait_line("INFO: upgraded from version .*: 2 VMs")
        folder.add("c")
        (folder.path / "b.yaml").unlink()
        folder.hang_up()
        daemon.wait_line("^vhost9p: c: serving ")
        daemon.wait_line("b: its file is gone, so its VM ends")
        daemon.wait_until(lambda: len(daemon.keepers) == 2, "b has not ended")
        upgraded(daemon)
        folder.is_served("a")
        folder.is_served("c")


def test_a_worker_cannot_deny_that_it_has_served(daemon: Daemon, export: Path) -> None:
    """One that an attacker controls, which would keep its version by that."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file")
        progress, *_ = [  # a mapping has a descriptor of its own of the same memory
            each
            for each in Path(f"/proc/{daemon.pid}/fd").iterdir()
            if "vhost9p-progress" in os.readlink(each)
        ]
        wait_for_copies(daemon)
        with progress.open("r+b", buffering=0) as file:
            file.write(b"\0")
        upgraded(daemon)
        assert share.client.read(fid, 0, 10) == b"data"


def test_a_worker_that_hangs_keeps_its_keeper(scratch: Path) -> None:
    """The kernel cannot end it before its system call has ended, and no other one may start. So it
    is not killed, and goes on with what does not hang."""
    with hanging(scratch / "hung-1") as hung:
        daemon = hung.share.daemon
        processes = daemon.keepers, daemon.worker
        ticket = HANGERS["fsync"](hung.share.client, hung.open())
        serves(hung.share)
        done = upgrade(daemon.pid)
        assert (done.returncode, "1 go on with the old version" in done.stderr) == (1, True)
        daemon.wait_line("its worker hangs in a system call$")
        assert (daemon.keepers, daemon.worker) == processes
        serves(hung.share)
        assert not ticket.reply
        hung.release()
        hung.share.client.wait(ticket)
        assert (daemon.keepers, daemon.worker) == processes
        upgraded(daemon)
        serves(hung.share)


@pytest.mark.parametrize("sandbox", ["auto", "none"])
def test_an_old_keeper_that_hangs_at_its_end_holds_up_nothing(sandbox: str, scratch: Path) -> None:
    """It has a file open whose file system does not answer its close."""
    export = scratch / f"hung-close-{sandbox}"
    with hanging(export, None, "--sandbox", sandbox, what="close") as hung:
        daemon = hung.share.daemon
        (keeper,) = daemon.keepers
        hung.open()
        assert upgrade(daemon.pid).returncode == 0
        serves(hung.share)
        os.kill(daemon.pid, signal.SIGUSR1)
        daemon.wait_line("WARNING: SIGUSR1 is ignored")
        assert keeper in children(daemon.pid, "vhost9p-keeper")
        hung.release()
        daemon.wait_until(
            lambda: keeper not in children(daemon.pid, "vhost9p-keeper"), "nobody reaps it"
        )
        upgraded(daemon)


@needs_root
def test_files_that_the_old_keeper_has_not_closed_hold_up_nothing(
    daemon: Daemon, export: Path
) -> None:
    """The kernel closes them in its own time. Meanwhile the state is not locked by them."""
    with mounted(daemon, export) as share, ExitStack() as stack:
        pidfd = os.pidfd_open(daemon.keeper)
        stack.callback(os.close, pidfd)
        for number in os.listdir(f"/proc/{daemon.keeper}/fd"):
            stack.callback(os.close, take_descriptor(pidfd, int(number)))
        upgraded(daemon)
        serves(share)
        assert "is in use" not in daemon.output


def test_a_vm_whose_keeper_has_died_is_no_obstacle(scratch: Path) -> None:
    """Its next keeper waits for a worker that hangs, and is of the new version."""
    with hanging(scratch / "hung-2", None, "--sandbox", "none") as hung:
        daemon = hung.share.daemon
        HANGERS["fsync"](hung.share.client, hung.open())
        serves(hung.share)
        kill(daemon.keepers[0])
        daemon.wait_line("a worker outlives its keeper, so the next keeper waits")
        done = upgrade(daemon.pid)
        assert (done.returncode, done.stderr) == (0, "")
        assert not daemon.keepers
        hung.release()
        daemon.wait_until(lambda: daemon.output.count(" serving ") == 2, "it is not served again")


def test_a_session_goes_on_if_its_keeper_has_died(daemon: Daemon, export: Path) -> None:
    """The new version has what the next keeper begins with."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        time.sleep(OLD_S)
        wait_for_copies(daemon)
        with log_kept_open(daemon):
            kill(daemon.keeper)
            daemon.wait_line("a worker outlives its keeper, so the next keeper waits")
            for _ in range(2):
                done = upgrade(daemon.pid)
                assert (done.returncode, done.stderr) == (0, ""), daemon.output
            assert not daemon.keepers
        assert share.client.read(fid, 0, 10) == b"data"
        upgraded(daemon)
        assert share.client.read(fid, 0, 10) == b"data"
    is_served(daemon, export)


@pytest.mark.parametrize("pause", [0, 0.2, 0.5, 0.7, 0.9, 1.2])
def test_it_ends_in_order_whatever_it_is_at(pause: float, export: Path) -> None:
    """SIGTERM comes so many seconds after the upgrade was asked for: before, in or after it."""
    daemon = serve(export).start()
    try:
        os.kill(daemon.pid, signal.SIGUSR2)
        time.sleep(pause)
        daemon.stop()
    finally:
        daemon.kill()


# ---- who asks ------------------------------------------------------------------------------------


def test_a_signal_is_enough(daemon: Daemon, export: Path) -> None:
    (keeper,) = daemon.keepers
    os.kill(daemon.pid, signal.SIGUSR2)
    daemon.wait_line("INFO: upgraded from version .*: 1 VMs$")
    assert daemon.keepers != [keeper]
    is_served(daemon, export)


@needs_root
def test_the_command_finds_the_daemons_that_run_from_its_files(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY, wrapper=UNSHARE) as daemon:
        (keeper,) = daemon.keepers
        done = upgrade(wrapper=("nsenter", f"--target={daemon.pid}", "--mount"))
        assert (done.returncode, done.stdout.count("\n")) == (0, 1)
        assert done.stdout.startswith(f"{daemon.pid}: upgraded")
        assert daemon.keepers != [keeper]
        assert upgrade(wrapper=("unshare", "--mount")).stdout == ""


FAKE = """
import json, os, signal, time
fd = os.memfd_create("vhost9p-upgrade")
os.write(fd, json.dumps({"count": 0}).encode())
answer = json.dumps({"count": 1, "text": chr(27) + "[2J"}).encode()
signal.signal(signal.SIGUSR2, lambda *_: os.pwrite(fd, answer, 0))
print(flush=True)
time.sleep(1000)
"""


def test_what_a_process_says_cannot_command_a_terminal() -> None:
    with subprocess.Popen([sys.executable, "-c", FAKE], stdout=subprocess.PIPE) as fake:
        try:
            assert fake.stdout and fake.stdout.readline()
            done = upgrade(fake.pid)
        finally:
            fake.kill()
    assert (done.returncode, done.stdout) == (0, f"{fake.pid}: \\x1b[2J\n")


def test_what_is_no_daemon_is_refused(daemon: Daemon) -> None:
    done = upgrade(daemon.worker)
    assert (done.returncode, "is no daemon that can be upgraded" in done.stderr) == (2, True)
    done = upgrade(2**22 + 1)
    assert (done.returncode, os.strerror(errno.ESRCH) in done.stderr) == (2, True)
