"""Requests and messages at which each worker dies, and states that no worker can take over."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.frontend.client import LOCK_SUCCESS, WRLCK
from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill
from tests.frontend.faulty_code import LOOP, Replaced, replaced
from tests.frontend.vhost_user import STATE, Request
from tests.frontend.wire import T
from tests.system.mixed_load import OWN
from tests.system.share import SECURITY, Share, fails, mounted, remount, serve
from tests.system.test_upgrade import upgraded
from tests.system.test_upgrade_refused import other

OPTIONS = ("--multidevs", "remap", "--threads", "2")
FREE_FID = 1 << 20
"""From here on no client uses fids by itself."""


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    (export / "file").write_bytes(b"data")
    with serve(export, *OPTIONS) as daemon:
        yield daemon


def deaths(daemon: Daemon) -> int:
    return len(re.findall(r"the worker died .*death \d+", daemon.output))


def is_good(share: Share) -> None:
    assert share.client.read(share.client.open(share.top, b"file"), 0, 10) == b"data"


# ---- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_the_third_death_at_a_request_is_its_last(
    daemon: Daemon, export: Path, packed: bool
) -> None:
    """Those in flight with it are served."""
    with (
        mounted(daemon, export, packed=packed) as share,
        replaced(daemon, "v9_p9_mkdir"),
    ):
        client = share.client
        walks = [client.submit(T.WALK, share.top, FREE_FID + i, [b"file"]) for i in range(10)]
        guilty = client.submit(T.MKDIR, share.top, b"poison", 0o755, OWN)
        walks += [client.submit(T.WALK, share.top, FREE_FID + 10 + i, [b"file"]) for i in range(10)]
        with fails(errno.EIO):
            client.wait(guilty)
        for ticket in walks:
            client.wait(ticket)
        is_good(share)
    assert not (export / "poison").exists()
    assert deaths(daemon) == 3
    daemon.wait_line("3 workers died at a request, which gets EIO: type 72 of 9P2000.L, tag ")
    assert b"poison".hex() in daemon.output


def test_each_of_several_poisons_has_three_deaths(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, replaced(daemon, "v9_p9_mkdir"):
        guilty = [
            share.client.submit(T.MKDIR, share.top, b"poison %d" % i, 0o755, OWN) for i in range(2)
        ]
        for ticket in guilty:
            with fails(errno.EIO):
                share.client.wait(ticket)
        is_good(share)
    assert 3 + 2 <= deaths(daemon) <= 3 + 3  # the first may be common to both
    assert daemon.output.count("which gets EIO") == 2


def test_a_poison_that_python_answers(daemon: Daemon, export: Path) -> None:
    """It dies in C again, called by Python."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        with replaced(daemon, "v9_lock_open"):
            with fails(errno.EIO):
                share.client.lock(fid, WRLCK)
            is_good(share)
        assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS
    assert deaths(daemon) == 3


def test_what_a_poison_has_opened_is_closed(daemon: Daemon, export: Path) -> None:
    """It has created a file, whose descriptor waits for the fid at which workers die."""
    with mounted(daemon, export) as share:
        before = daemon.fd_count()
        with replaced(daemon, "v9_fids_become"), fails(errno.EIO):
            share.client.create(share.top, b"half", os.O_RDWR)
        assert share.get(b"half") == b""
        daemon.wait_until(lambda: daemon.fd_count() <= before, "descriptors were left")
    assert deaths(daemon) == 3


def test_a_kill_is_no_fault_of_a_request(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, replaced(daemon, "v9_p9_mkdir", LOOP) as mkdir:
        ticket = share.client.submit(T.MKDIR, share.top, b"dir", 0o755, OWN)
        for _ in range(5):
            daemon.wait_until(lambda: is_running(daemon), "the request does not run again")
            kill(daemon.worker)
        mkdir.heal()
        share.client.wait(ticket)
    assert (export / "dir").is_dir()
    assert deaths(daemon) == 5
    assert "EIO" not in daemon.output


def is_running(daemon: Daemon) -> bool:
    """Whether a thread of the worker computes, and has for longer than a start takes."""
    folder = f"/proc/{daemon.worker}/task"
    try:
        stats = [Path(folder, tid, "stat").read_text() for tid in os.listdir(folder)]
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return any(each[0] == "R" and int(each[11]) > 20 for each in fields)  # utime, proc_pid_stat(5)


def test_an_innocent_request_that_takes_long_is_served(daemon: Daemon, export: Path) -> None:
    """It is in flight at each death of others."""
    with mounted(daemon, export) as share, replaced(daemon, "v9_p9_readlink", LOOP) as readlink:
        client = share.client
        (export / "link").symlink_to("target")
        slow = client.submit(T.READLINK, client.walk_to(share.top, b"link"))
        daemon.wait_until(lambda: is_running(daemon), "the request does not run")
        with replaced(daemon, "v9_p9_mkdir"):
            for name in (b"one", b"two"):
                with fails(errno.EIO):
                    client.mkdir(share.top, name)
        readlink.heal()
        assert client.wait(slow).fields == (b"target",)
        is_good(share)
    assert daemon.output.count("which gets EIO") == 2


def test_a_signal_of_a_fault_counts_whoever_sends_it(daemon: Daemon, export: Path) -> None:
    """As documented; and the request alone is answered so, whose process dies three times."""
    with mounted(daemon, export) as share, replaced(daemon, "v9_p9_mkdir", LOOP):
        ticket = share.client.submit(T.MKDIR, share.top, b"dir", 0o755, OWN)
        for _ in range(3):
            daemon.wait_until(lambda: is_running(daemon), "the request does not run again")
            kill(daemon.worker, signal.SIGSEGV)
        with fails(errno.EIO):
            share.client.wait(ticket)
        is_good(share)


def test_a_fid_has_no_number_after_its_clunk(daemon: Daemon, export: Path) -> None:
    """Linux's client gives the number to another file, whatever the reply."""
    with mounted(daemon, export) as share:
        fid = share.client.open(share.top, b"file")
        with replaced(daemon, "v9_p9_clunk"), fails(errno.EIO):
            share.client.clunk(fid)
        with fails(errno.EBADF):
            share.client.getattr(fid)
        share.client.walk(share.top, fid, b"file")
        is_good(share)


MEMORY_IS_SHORT = """
import itertools, sys
from vhost9p import keeper
from vhost9p.__main__ import main

numbers = itertools.count()
keeper.count_oom_kills = lambda fd: next(numbers)
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
sys.exit(main())
"""


def test_a_request_that_takes_all_memory_is_a_poison(export: Path) -> None:
    """The kernel kills the worker, and counts that."""
    (export / "file").write_bytes(b"data")
    wrapper = [sys.executable, "-c", MEMORY_IS_SHORT]
    with (
        Daemon("--path", str(export), *SECURITY, wrapper=wrapper) as daemon,
        mounted(daemon, export) as share,
        replaced(daemon, "v9_p9_mkdir", LOOP),
    ):
        ticket = share.client.submit(T.MKDIR, share.top, b"dir", 0o755, OWN)
        for _ in range(3):
            daemon.wait_until(lambda: is_running(daemon), "the request does not run again")
            kill(daemon.worker)
        with fails(errno.EIO):
            share.client.wait(ticket)
        is_good(share)
        assert daemon.output.count("died of SIGKILL, for want of memory") == 3


def test_a_chain_that_cannot_be_taken_breaks_the_ring(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        with replaced(daemon, "v9_split_pop"):
            share.client.submit(T.STATFS, share.top)
            daemon.wait_line("the ring is broken: several processes died while they took a chain")
        assert deaths(daemon) == 3
        share.machine.reboot()
        remount(share)
        is_good(share)


# ---- messages ------------------------------------------------------------------------------------


def test_the_third_death_at_a_message_is_its_last(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        frontend = share.machine.frontend
        with replaced(daemon, "v9_ring_set_base"):
            assert frontend.ack(Request.SET_VRING_BASE, STATE.pack(0, 0)) == errno.EIO
        assert deaths(daemon) == 3
        daemon.wait_line("SET_VRING_BASE refused: 3 workers died at it: 00 00")
        assert frontend.ack(Request.SET_VRING_BASE, STATE.pack(0, 0)) == 0
        assert frontend.get_features()


def test_a_message_with_a_reply_gets_an_empty_one(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, replaced(daemon, "v9_ring_drain"):
        frontend = share.machine.frontend
        assert frontend.query(Request.GET_VRING_BASE, STATE.pack(0, 0)) == b""
        assert frontend.get_features()


def test_a_connection_that_cannot_be_ended_is_forgotten(daemon: Daemon, export: Path) -> None:
    reset = Replaced(daemon, "v9_device_reset")
    with mounted(daemon, export) as share:
        is_good(share)
        reset.in_keeper()
        reset.in_worker()
    daemon.wait_line("the state is damaged, and is given up: the device begins anew")
    reset.heal()
    with mounted(daemon, export) as share:
        is_good(share)
    assert deaths(daemon) == 3


# ---- states --------------------------------------------------------------------------------------


def die_in_recovery(daemon: Daemon, function: Replaced) -> None:
    function.in_keeper()
    kill(daemon.worker)
    daemon.wait_line("the state is damaged, and is given up: ")
    function.heal()


def test_a_session_that_cannot_be_recovered_is_given_up(daemon: Daemon, export: Path) -> None:
    """Old fids give errors, locks are released, and a new session works on the same connection."""
    function = Replaced(daemon, "v9_dentry_recover")
    with mounted(daemon, export) as share, open(export / "file", "r+b") as file:
        fid = share.client.open(share.top, b"file", os.O_RDWR)
        assert share.client.lock(fid, WRLCK) == LOCK_SUCCESS
        die_in_recovery(daemon, function)
        for each in (fid, share.top):
            with fails(errno.EBADF):
                share.client.getattr(each)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remount(share)
        is_good(share)
        assert share.machine.frontend.get_features()
    daemon.wait_line("open files and locks of the guest are lost, until it mounts again")
    assert deaths(daemon) == 1 + 3
    daemon.wait_until(lambda: daemon.fd_count() < 60, "descriptors were left")


def test_requests_of_a_lost_session_get_errors(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share, replaced(daemon, "v9_p9_mkdir", LOOP):
        ticket = share.client.submit(T.MKDIR, share.top, b"dir", 0o755, OWN)
        daemon.wait_until(lambda: is_running(daemon), "the request does not run")
        die_in_recovery(daemon, Replaced(daemon, "v9_dentry_recover"))
        with fails(errno.EIO):
            share.client.wait(ticket)
        remount(share)
        is_good(share)


def test_a_device_that_cannot_be_recovered_begins_anew(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        function = Replaced(daemon, "v9_dentries_recover")
        function.in_keeper()
        kill(daemon.worker)
        daemon.wait_line("the state is damaged, and is given up: the device begins anew")
        function.heal()
        assert share.machine.frontend.socket.recv(1) == b""
        with mounted(daemon, export) as other:
            is_good(other)
    assert deaths(daemon) == 1 + 6


def test_kills_in_recovery_give_up_nothing(daemon: Daemon, export: Path) -> None:
    function = Replaced(daemon, "v9_dentry_recover", LOOP)
    with mounted(daemon, export) as share:
        function.in_keeper()
        for _ in range(5):
            kill(daemon.worker)
        function.heal()
        is_good(share)
    assert "given up" not in daemon.output


FAULTS_AT_FIRST = """
import mmap
from vhost9p import worker
page, work = mmap.mmap(-1, 1), worker.Device
def faulty(*args, **more):
    page[0] += 1
    if page[0] <= 4:
        raise ZeroDivisionError("a fault of the new version")
    return work(*args, **more)
worker.Device = faulty
"""


def test_a_new_version_that_cannot_serve_loses_no_session(export: Path) -> None:
    """The state was good for the version before."""
    (export / "file").write_bytes(b"data")
    wrapper = other(FAULTS_AT_FIRST, "go")
    with Daemon("--path", str(export), *SECURITY, wrapper=wrapper) as daemon:
        with mounted(daemon, export) as share:
            fid = share.client.open(share.top, b"file")
            upgraded(daemon)
            daemon.wait_line("the worker ended with status 70, death 4: ")
            assert share.client.read(fid, 0, 10) == b"data"
        assert "given up" not in daemon.output
        daemon.lines.clear()  # with what a fault looks like


def test_only_the_damaged_device_loses_its_state(scratch: Path) -> None:
    for name in "ab":
        (scratch / name).mkdir()
        (scratch / name / "file").write_bytes(b"data")
    daemon = Daemon(socket=False)
    sockets = [str(daemon.directory / name) for name in "ab"]
    config = daemon.directory / "vm1.yaml"
    devices = [
        f"- {{socket: {path}, path: {scratch}/{name}, tag: {name}, "
        f"security_model: {SECURITY[1]}}}\n"
        for name, path in zip("ab", sockets, strict=True)
    ]
    config.write_text("devices:\n" + "".join(devices))
    daemon.args = ["--config", str(config)]
    with daemon, ExitStack() as stack:
        shares = []
        for name, daemon.socket in zip("ab", sockets, strict=True):
            shares.append(stack.enter_context(mounted(daemon, scratch / name)))
        damaged, whole = shares
        fid = whole.client.open(whole.top, b"file")
        damaged.client.xattrcreate(damaged.client.walk_to(damaged.top, b"file"), b"user.a", 5)
        die_in_recovery(daemon, Replaced(daemon, "v9_xattr_value_recover"))
        assert whole.client.read(fid, 0, 10) == b"data"
        with fails(errno.EBADF):
            damaged.client.getattr(damaged.top)
        remount(damaged)
        is_good(damaged)
    assert daemon.output.count("given up") == 1
