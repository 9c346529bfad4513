"""Main, keeper and worker: what each one's death means to the others and to frontends."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.frontend.client import AT_REMOVEDIR, LOCK_SUCCESS, UNLCK, WRLCK
from tests.frontend.daemon import Daemon, children, name_of, worker_of
from tests.frontend.deaths import deaths, kill
from tests.frontend.machine import Machine
from tests.frontend.vhost_user import HEADER, U64, Frontend, Request
from tests.frontend.wire import T
from tests.system.mixed_load import OWN, Crowd, fill
from tests.system.replaced import check_an_inherited_connection
from tests.system.share import IS_ROOT, SECURITY, Share, mounted, serve


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    with serve(export, "--multidevs", "remap") as daemon:
        yield daemon


def ended(*pidfds: int) -> bool:
    """Whether these processes have ended; waits for it."""
    return all(select.select([pidfd], [], [], 60)[0] for pidfd in pidfds)


def is_served(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        assert share.client.read(share.client.open(share.top, b"file"), 0, 10) == b"data"


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").rstrip("\0")


def test_ps_tells_them_apart(daemon: Daemon) -> None:
    (keeper,) = daemon.keepers
    worker = daemon.worker
    assert [name_of(pid) for pid in (daemon.pid, keeper, worker)] == [
        "vhost9p",
        "vhost9p-keeper",
        "vhost9p-worker",
    ]
    assert command_line(keeper) == f"vhost9p: keeper of {daemon.socket}"
    assert command_line(worker) == f"vhost9p: worker of {daemon.socket}"
    assert daemon.socket in command_line(daemon.pid).split("\0")


def test_main_and_keeper_have_one_thread(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export):
        for pid in (daemon.pid, *daemon.keepers):
            assert len(os.listdir(f"/proc/{pid}/task")) == 1


def test_the_kernel_prefers_to_kill_the_worker(daemon: Daemon) -> None:
    scores = [
        int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        for pid in (*daemon.keepers, daemon.worker)
    ]
    assert scores[0] < scores[1]


def test_a_killed_worker_is_followed_by_another(daemon: Daemon, export: Path) -> None:
    """Neither frontend nor guest notices."""
    worker = daemon.worker
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        kill(worker)
        assert share.client.read(fid, 0, 10) == b"data"
        assert share.client.write(fid, 0, b"DATA") == 4
    assert (export / "file").read_bytes() == b"DATA"
    (export / "file").write_bytes(b"data")
    assert daemon.worker != worker
    is_served(daemon, export)
    daemon.wait_line("ERROR: the worker died of SIGKILL, death 1: the next one goes on at once")


def test_deaths_leak_no_descriptor(daemon: Daemon, export: Path) -> None:
    """The keeper's table is the worker's, too. Requests are in flight when they die."""
    (keeper,) = daemon.keepers
    idle = daemon.fd_count()
    with mounted(daemon, export) as share:
        client = share.client
        for number in range(12):
            tickets = [
                client.submit(T.WALK, share.top, 1000 + 20 * number + i, [b"file"])
                for i in range(20)
            ]
            kill(daemon.worker)
            for ticket in tickets:
                client.wait(ticket)
        assert daemon.fd_count() <= idle + 20  # one for the file, whatever its fids
    daemon.wait_until(lambda: daemon.fd_count() <= idle + 2, "descriptors were left")
    assert daemon.keepers == [keeper]
    assert "death 8: " in daemon.output


def test_locks_are_held_while_no_worker_lives(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, open(export / "file", "r+b") as file:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS
        for _ in range(5):
            worker = os.pidfd_open(daemon.worker)
            os.kill(daemon.worker, signal.SIGKILL)
            while not select.select([worker], [], [], 0)[0]:
                is_locked(file)
            os.close(worker)
            is_locked(file)
            assert share.client.read(fid, 0, 10) == b"data"
            is_locked(file)
        assert share.client.lock(fid, UNLCK) == LOCK_SUCCESS
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(file: IO[bytes]) -> None:
    with pytest.raises(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


DEATHS = 20


@pytest.mark.parametrize("model", ["passthrough", "mapped-xattr", "mapped-file"])
def test_requests_are_done_once_whenever_workers_die(model: str, scratch: Path) -> None:
    """Each of them fails, or does something else, when it is done twice."""
    if model == "passthrough" and not IS_ROOT:
        model = "none"
    export = scratch / f"once-{model}"
    export.mkdir()
    with Daemon("--path", str(export), "--security-model", model) as daemon:
        with mounted(daemon, export) as share, deaths(daemon, DEATHS) as killer:
            while killer.is_alive():
                do_each_once(share)
        assert not [line for line in daemon.lines if "CRITICAL" in line or "Traceback" in line]
        assert f"death {DEATHS // 2}: " in daemon.output
        is_empty(export)


def do_each_once(share: Share) -> None:
    client, top, name = share.client, share.top, b"-new"
    fid = client.walk_to(top)
    client.lcreate(fid, b"file" + name, os.O_WRONLY | os.O_EXCL | os.O_APPEND, 0o600, OWN)
    for i in range(4):
        assert client.write(fid, 0, b"line %d\n" % i) == 7
    client.clunk(fid)
    client.mkdir(top, b"dir" + name, 0o700, OWN)
    client.renameat(top, b"file" + name, client.walk_to(top, b"dir" + name), b"new")
    fid = client.walk_to(top, b"dir" + name, b"new")
    client.link(top, fid, b"link" + name)
    client.symlink(top, b"symlink" + name, b"target", OWN)
    client.call(T.LOPEN, fid, os.O_RDONLY)
    assert client.read(fid, 0, 100) == b"line 0\nline 1\nline 2\nline 3\n"
    assert client.getattr(fid).nlink == 2
    for each in (b"link", b"symlink"):
        client.unlinkat(top, each + name)
    client.unlinkat(client.walk_to(top, b"dir" + name), b"new")
    assert client.getattr(fid).nlink == 0
    client.unlinkat(top, b"dir" + name, AT_REMOVEDIR)
    assert client.read(fid, 7, 6) == b"line 1"
    client.clunk(fid)


def is_empty(export: Path) -> None:
    assert [entry.name for entry in export.iterdir() if entry.name != ".virtfs_metadata"] == []


def test_a_load_of_everything_goes_on(export: Path) -> None:
    fill(str(export))
    with serve(export) as daemon, deaths(daemon, DEATHS):
        Crowd(daemon.socket, 1, dialect_u=False, packed=True).run(1)


def test_a_worker_ends_with_its_keeper(daemon: Daemon, export: Path) -> None:
    """And main starts both again, on the same socket."""
    (keeper,) = daemon.keepers
    worker = os.pidfd_open(daemon.worker)
    kill(keeper)
    assert ended(worker)
    os.close(worker)
    is_served(daemon, export)
    daemon.wait_line(f"ERROR: the keeper of {daemon.socket} died of SIGKILL: mounts of a")
    assert daemon.keepers != [keeper]


FORK_FAILS_TWICE = """
import errno, itertools, os, sys
from vhost9p import confinement
from vhost9p.__main__ import main

numbers, fork = itertools.count(), confinement.fork

def failing(config):
    if next(numbers) in (1, 2):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork(config)

confinement.fork = failing
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""


def test_a_keeper_that_cannot_be_started_is_tried_again(export: Path) -> None:
    (export / "file").write_bytes(b"data")
    wrapper = [sys.executable, "-c", FORK_FAILS_TWICE]
    with Daemon("--path", str(export), *SECURITY, wrapper=wrapper) as daemon:
        kill(daemon.keepers[0])
        is_served(daemon, export)
        said = [line for line in daemon.lines if "is tried again: Resource temp" in line]
        assert len(said) == 2


def test_all_end_with_main(export: Path) -> None:
    daemon = serve(export).start()
    try:
        others = [os.pidfd_open(pid) for pid in (*daemon.keepers, daemon.worker)]
        daemon.process.kill()
        assert ended(*others)
        for pidfd in others:
            os.close(pidfd)
    finally:
        daemon.kill()


@pytest.mark.parametrize("which", ["keeper", "worker"])
def test_sigterm_for_one_ends_all_in_order(daemon: Daemon, which: str) -> None:
    os.kill(daemon.worker if which == "worker" else daemon.keepers[0], signal.SIGTERM)
    assert daemon.wait() == 0
    assert not os.path.exists(daemon.socket)
    assert "died" not in daemon.output


def test_a_worker_that_is_stopped_holds_up_nobody(daemon: Daemon) -> None:
    """One that cannot hear of the end is killed with its keeper when main's time is up."""
    worker = os.pidfd_open(daemon.worker)
    os.kill(daemon.worker, signal.SIGSTOP)
    daemon.stop()
    assert ended(worker)
    os.close(worker)


def test_an_inherited_connection_goes_on(export: Path) -> None:
    check_an_inherited_connection(export, lambda daemon: kill(daemon.worker))


def test_the_only_connection_of_once_goes_on(export: Path) -> None:
    (export / "file").write_bytes(b"data")
    daemon = serve(export, "--once").start()
    try:
        kill(daemon.worker)
        daemon.wait_line("death 1: the next one goes on")
        with mounted(daemon, export) as share:
            kill(daemon.worker)
            assert share.client.read(share.client.open(share.top, b"file"), 0, 10) == b"data"
        assert daemon.wait() == 0
        assert "death 2: " in daemon.output
    finally:
        daemon.kill()


def test_devices_that_wait_for_their_only_connection_go_on(scratch: Path) -> None:
    daemon = Daemon(socket=False)
    sockets = [str(daemon.directory / name) for name in "ab"]
    config = daemon.directory / "vm1.yaml"
    lines = [
        f"- {{socket: {path}, path: {scratch}, tag: t{i}, readonly: true}}\n"
        for i, path in enumerate(sockets)
    ]
    config.write_text("devices:\n" + "".join(lines))
    daemon.args = ["--config", str(config), "--once"]
    with daemon:
        with Machine(sockets[0]) as machine:
            machine.realize()
        kill(daemon.worker)
        daemon.wait_line("serving 't1' on .* again")
        with Machine(sockets[1]) as machine:
            machine.realize()
            kill(daemon.worker)
        assert daemon.wait() == 0


WITHOUT_THREADS = """
import sys
from vhost9p import worker
from vhost9p.__main__ import main

def initialise():
    raise RuntimeError("can't start new thread")

worker.initialise = initialise
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""


def test_a_host_that_lacks_something_at_the_start_is_no_endless_loop(export: Path) -> None:
    wrapper = [sys.executable, "-c", WITHOUT_THREADS]
    daemon = Daemon("--path", str(export), *SECURITY, wrapper=wrapper).start(wait=False)
    try:
        assert daemon.wait() == 1
        daemon.wait_line("death 1: it has not served yet, so the VM ends")
        assert "death 2" not in daemon.output
        assert not os.path.exists(daemon.socket)
    finally:
        daemon.kill()


def features_after_deaths(daemon: Daemon, frontend: Frontend) -> None:
    for _ in range(2):
        assert frontend.get_features() & 1 << 30
        kill(daemon.worker)
    assert frontend.get_features() & 1 << 30
    frontend.send_raw(HEADER.pack(Request.GET_QUEUE_NUM, 1, 0)[:5])
    kill(daemon.worker)
    frontend.send_raw(HEADER.pack(Request.GET_QUEUE_NUM, 1, 0)[5:])
    assert frontend.receive().payload == U64.pack(1)


@pytest.mark.parametrize("level", ["auto", "none"])
def test_a_connection_survives_its_worker(export: Path, level: str) -> None:
    with serve(export, "--sandbox", level) as daemon:
        (keeper,) = daemon.keepers
        counts = []
        for _ in range(2):
            frontend = Frontend(daemon.socket)
            features_after_deaths(daemon, frontend)
            counts.append(len(os.listdir(f"/proc/{keeper}/fd")))
            frontend.close()
        assert max(counts) <= counts[0] + 2  # of threads that are at work


def test_all_devices_of_a_vm_are_served_again(scratch: Path) -> None:
    daemon = Daemon(socket=False)
    sockets = [str(daemon.directory / name) for name in "ab"]
    config = daemon.directory / "vm1.yaml"
    lines = []
    for name, path in zip("ab", sockets, strict=True):
        (scratch / f"restart-{name}").mkdir()
        (scratch / f"restart-{name}" / "file").write_bytes(b"data")
        lines.append(
            f"- {{socket: {path}, path: {scratch}/restart-{name}, tag: {name}, "
            f"security_model: {SECURITY[1]}}}\n"
        )
    config.write_text("devices:\n" + "".join(lines))
    daemon.args = ["--config", str(config)]
    with daemon:
        (keeper,) = daemon.keepers
        assert command_line(keeper) == "vhost9p: keeper of vm1"
        kill(daemon.worker)
        for name, daemon.socket in zip("ab", sockets, strict=True):
            is_served(daemon, scratch / f"restart-{name}")
        assert children(daemon.pid, "vhost9p-keeper") == [keeper]
        assert worker_of(keeper)


@pytest.mark.parametrize("level", ["auto", "none"])
def test_a_path_by_descriptor_names_what_main_had(export: Path, level: str) -> None:
    """/proc/self/fd/N: the other processes have other descriptors by this number."""
    (export / "file").write_bytes(b"data")
    fd = os.open(export, os.O_PATH)
    try:
        path = f"/proc/self/fd/{fd}"
        daemon = Daemon("--path", path, "--sandbox", level, *SECURITY, pass_fds=[fd])
        with daemon:
            is_served(daemon, export)
            kill(daemon.worker)
            is_served(daemon, export)
    finally:
        os.close(fd)


def test_a_directory_without_a_path_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    tmp_path.rmdir()
    try:
        daemon = Daemon("--path", f"/proc/self/fd/{fd}", *SECURITY, pass_fds=[fd]).start(wait=False)
        assert daemon.wait() == 2
        assert "the directory has no path of its own" in daemon.output
    finally:
        daemon.kill()
        os.close(fd)


PIDFD_FAILS_ONCE = """
import errno, itertools, os, sys
from vhost9p.__main__ import main

numbers, pidfd_open = itertools.count(), os.pidfd_open

def failing(pid):
    number = next(numbers)
    if number == 1:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if number == 2:
        print("there is the next keeper", flush=True)
    return pidfd_open(pid)

os.pidfd_open = failing
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""


def test_no_keeper_is_left_without_supervision(export: Path) -> None:
    (export / "file").write_bytes(b"data")
    wrapper = [sys.executable, "-c", PIDFD_FAILS_ONCE]
    with Daemon("--path", str(export), *SECURITY, wrapper=wrapper) as daemon:
        kill(daemon.keepers[0])
        daemon.wait_line("is tried again: Too many open files")
        daemon.wait_line("there is the next keeper")
        is_served(daemon, export)
        assert len(daemon.keepers) == 1


SUBREAPER = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_main_reaps_what_keepers_leave(export: Path) -> None:
    """As the init of a container does."""
    wrapper = [sys.executable, "-c", SUBREAPER]
    arguments = ("--path", str(export), *SECURITY, "--sandbox=none")
    with Daemon(*arguments, wrapper=wrapper) as daemon:
        worker = daemon.worker
        kill(daemon.keepers[0])
        gone = f"/proc/{worker}"
        daemon.wait_until(lambda: not os.path.exists(gone), "the worker is a zombie", 10)
