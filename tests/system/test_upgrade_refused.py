"""Versions of the daemon that cannot take over: nothing has changed then.

The next version is this one again, changed by a program in the place of the command, when it tries
or when it goes on.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon, worker_of
from tests.system.share import SECURITY, mounted
from tests.system.test_upgrade import upgrade
from tests.system.test_worker_restart import is_served
from vhost9p.upgrade import SERVE_PATIENCE_S

OTHER = """
import os, sys
sys.argv[1:] = sys.argv[sys.argv.index("vhost9p") + 1 :]
purpose = os.environ.get("VHOST9P_HANDOVER", "").split(" ")[0]
from vhost9p.__main__ import main
if purpose in {purposes}:
{change}
sys.exit(main())
"""


def other(change: str, *purposes: str) -> list[str]:
    """The command of a daemon whose next version differs, when it tries, or when it goes on."""
    body = "\n".join(f"    {line}" for line in change.strip().splitlines())
    return [sys.executable, "-c", OTHER.format(purposes=purposes, change=body)]


TAKEN = """
from vhost9p.native import shared_memory
from vhost9p import saved_state
fd = os.memfd_create("x")
os.ftruncate(fd, 4096)
shared_memory.map_shared(fd, 0, 4096, saved_state.FIRST_ADDRESS + 4096)
"""
"""Something else is at the address."""
REFUSALS = {
    "format": (
        "from vhost9p import saved_state\nsaved_state.FORMAT = 2",
        "the saved state has format 1, and this version reads 2 only",
    ),
    "layout": (
        "from vhost9p import saved_state\nsaved_state.fingerprint = lambda: 'another'",
        "is laid out otherwise than format 1 of this version",
    ),
    "own format": (
        "from vhost9p import handover\nhandover.FORMAT = 2",
        "written down what it knows in format 1, and this version reads 2 only",
    ),
    "syntax": ("raise SyntaxError('unfinished')", "SyntaxError: unfinished"),
    "silent": ("sys.exit(0)", "it ends without a word"),
    "option": ("sys.argv.append('--unknown')", "--unknown"),
    "address": (TAKEN, "the memory at 0x200000000000 is in use"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_cannot_go_on_is_refused(kind: str, export: Path) -> None:
    change, why = REFUSALS[kind]
    (export / "file").write_bytes(b"data")
    with Daemon("--path", str(export), *SECURITY, wrapper=other(change, "try")) as daemon:
        processes = daemon.keepers, daemon.worker
        with mounted(daemon, export) as share:
            fid = share.client.open(share.top, b"file")
            done = upgrade(daemon.pid)
            assert done.returncode == 1
            assert "the upgrade is refused" in done.stderr and why in done.stderr
            assert share.client.read(fid, 0, 10) == b"data"
        assert (daemon.keepers, daemon.worker) == processes
        assert "the upgrade is refused" in daemon.output
        daemon.lines = [line for line in daemon.lines if "the new version says" not in line]


def test_a_state_that_lies_elsewhere_is_not_handed_over(export: Path) -> None:
    """The daemon serves, as on a machine without that address, but cannot be upgraded."""
    (export / "file").write_bytes(b"data")
    with Daemon("--path", str(export), *SECURITY, wrapper=other(TAKEN, "")) as daemon:
        is_served(daemon, export)
        done = upgrade(daemon.pid)
        assert (done.returncode, "is not where other processes can map" in done.stderr) == (1, True)
        is_served(daemon, export)


HANGS = """
from vhost9p import handover
import time
handover.Handover.answer = lambda self: time.sleep(1000)
"""
IMPATIENT = """
import os
from vhost9p import upgrade
upgrade.PATIENCE_S = 1.0
"""


def test_one_that_hangs_is_refused(export: Path) -> None:
    wrapper = other(f"{IMPATIENT}{HANGS}", "", "try")
    with Daemon("--path", str(export), *SECURITY, wrapper=wrapper) as daemon:
        keepers = daemon.keepers
        done = upgrade(daemon.pid)
        assert (done.returncode, "has said nothing for 1 s" in done.stderr) == (1, True)
        assert daemon.keepers == keepers


FAILS = """
from vhost9p import confinement
def prepare(entered):
    raise OSError(28, os.strerror(28))
confinement.prepare = prepare
"""
DIES = """
from vhost9p.takeover import Successor
Successor.take_leave = lambda self: os.kill(os.getpid(), 9) or os._exit(3)
"""
"""At the last moment."""
NOT_FORKED = """
from vhost9p.native import sandbox
def fork_beside(*_):
    raise OSError(11, os.strerror(11))
sandbox.fork_beside = fork_beside
"""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (FAILS, os.strerror(errno.ENOSPC)),
        (DIES, "the new keeper died"),
        (NOT_FORKED, os.strerror(errno.EAGAIN)),
    ],
)
def test_an_old_keeper_goes_on_if_the_new_one_fails(change: str, why: str, export: Path) -> None:
    """Up to the moment when the new one is ready."""
    (export / "file").write_bytes(b"data")
    with Daemon("--path", str(export), *SECURITY, wrapper=other(change, "go")) as daemon:
        keepers = daemon.keepers
        with mounted(daemon, export) as share:
            fid = share.client.open(share.top, b"file")
            for _ in range(2):
                done = upgrade(daemon.pid)
                assert (done.returncode, "1 go on with the old version" in done.stderr) == (1, True)
                assert share.client.read(fid, 0, 10) == b"data"
        assert daemon.keepers == keepers
        assert why in daemon.wait_line("goes on with version .*: ")
        is_served(daemon, export)
        assert worker_of(keepers[0])


NEVER_READY = """
import time
from vhost9p.takeover import Successor
Successor.copy = lambda *_: time.sleep(1000)
"""


def test_a_signal_to_stop_ends_the_wait_for_a_new_keeper(export: Path) -> None:
    with Daemon("--path", str(export), *SECURITY, wrapper=other(NEVER_READY, "go")) as daemon:
        stat = Path(f"/proc/{daemon.keepers[0]}/stat")
        os.kill(daemon.pid, signal.SIGUSR2)
        daemon.wait_until(lambda: ") T " in stat.read_text(), "its keeper is not replaced")
        daemon.stop()
        assert "goes on with version" in daemon.output
        assert "the daemon was told to end" in daemon.output


FAULTY = """
from vhost9p import worker
worker.run = lambda *_: os._exit(70)
"""


def test_success_is_reported_only_when_a_worker_has_served(export: Path) -> None:
    """The new keeper is there, but its workers die: the VM is named."""
    with Daemon("--path", str(export), *SECURITY, wrapper=other(FAULTY, "go")) as daemon:
        done = upgrade(daemon.pid)
        assert done.returncode == 1
        assert f": 1 VMs; not served after {SERVE_PATIENCE_S:g} s: {daemon.socket}" in done.stderr
        daemon.wait_line("the worker ended with status 70, death 2")
