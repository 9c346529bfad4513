"""Locks of guest processes against another guest and against the host, of both kinds."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.channel import Process
from tests.guest.conftest import Boot
from tests.guest.guest import Guest
from tests.guest.mounted import scratch_export

pytestmark = [
    pytest.mark.native,
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

# A process that takes a lock and says so, or says that it may not have it; ends with its input.
LOCKER = """
import fcntl, sys
kind, mode, wait, start, length = sys.argv[1:6]
f = open("/mnt/f", "r+b")
flags = {"ex": fcntl.LOCK_EX, "sh": fcntl.LOCK_SH}[mode] | (0 if wait == "wait" else fcntl.LOCK_NB)
try:
    if kind == "flock":
        fcntl.flock(f, flags)
    else:
        fcntl.lockf(f, flags, int(length), int(start))
    print("got", flush=True)
except BlockingIOError:
    print("busy", flush=True)
sys.stdin.read()
"""


class Guests:
    """Two guests of two daemons, with one export mounted in both."""

    def __init__(self, export: Path, vms: list[Guest], daemons: list[Daemon]) -> None:
        self.export = export
        self.vms = vms
        self.daemons = daemons

    def locker(
        self, guest: int, kind: str, mode: str, wait: str = "now", span: str = "0 0"
    ) -> Process:
        """Starts a process that locks; see LOCKER."""
        command = ["python3", "-c", LOCKER, kind, mode, wait, *span.split()]
        return self.vms[guest].popen(command, stdin=None)


@pytest.fixture(scope="module")
def guests(boot_shared: Boot) -> Iterator[Guests]:
    with ExitStack() as stack:
        export = stack.enter_context(scratch_export())
        daemons = [stack.enter_context(Daemon("--path", str(export))) for _ in range(2)]
        vms = []
        for daemon in daemons:
            vm = boot_shared("full", [Path(daemon.socket)])
            stack.callback(vm.kill)
            vm.mount("host0", "/mnt")
            vms.append(vm)
        yield Guests(export, vms, daemons)


@pytest.fixture(autouse=True)
def file(guests: Guests) -> Path:
    path = guests.export / "f"
    path.write_bytes(b"x" * 100)
    return path


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_of_one_guest_hold_against_another(guests: Guests, kind: str) -> None:
    holder = guests.locker(0, kind, "ex")
    holder.expect(b"got")
    refused = guests.locker(1, kind, "ex")
    refused.expect(b"busy")
    refused.kill()
    waiting = guests.locker(1, kind, "ex", "wait")
    holder.kill()
    waiting.expect(b"got")
    late = guests.locker(0, kind, "sh")
    late.expect(b"busy")
    late.kill()
    waiting.kill()
    waiting.wait(check=False)
    free = guests.locker(0, kind, "ex", "wait")
    free.expect(b"got")
    free.kill()
    free.wait(check=False)


def test_ranges_and_readers_of_two_guests(guests: Guests) -> None:
    first = guests.locker(0, "fcntl", "ex", span="0 10")
    first.expect(b"got")
    second = guests.locker(1, "fcntl", "ex", span="10 10")
    second.expect(b"got")
    readers = [guests.locker(guest, "fcntl", "sh", span="50 10") for guest in (0, 1)]
    for reader in readers:
        reader.expect(b"got")
    for span in ("5 10", "55 1"):
        refused = guests.locker(1, "fcntl", "ex", span=span)
        refused.expect(b"busy")
        refused.kill()
    for process in (first, second, *readers):
        process.kill()
        process.wait(check=False)


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_hold_between_guest_and_host(guests: Guests, file: Path, kind: str) -> None:
    holder = guests.locker(0, kind, "ex")
    holder.expect(b"got")
    with file.open("r+b") as host:
        with pytest.raises(BlockingIOError):
            fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait(check=False)
        if kind == "flock":
            fcntl.flock(host, fcntl.LOCK_EX)
        else:
            fcntl.lockf(host, fcntl.LOCK_EX)
        refused = guests.locker(1, kind, "sh")
        refused.expect(b"busy")
        refused.kill()
        waiting = guests.locker(1, kind, "sh", "wait")
    waiting.expect(b"got")  # when the host's file was closed
    waiting.kill()
    waiting.wait(check=False)


def test_a_guest_that_dies_holds_nothing(guests: Guests, boot: Boot, file: Path) -> None:
    with Daemon("--path", str(guests.export)) as daemon:
        vm = boot("full", [Path(daemon.socket)])
        vm.mount("host0", "/mnt")
        holder = vm.popen(["python3", "-c", LOCKER, "fcntl", "ex", "now", "0", "0"], stdin=None)
        holder.expect(b"got")
        waiting = guests.locker(0, "fcntl", "ex", "wait")
        vm.kill()
        waiting.expect(b"got")
        waiting.kill()
        waiting.wait(check=False)


def waiters(file: Path) -> int:
    """How many threads of host processes wait for a lock on a file."""
    inode = f":{file.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and inode in line for line in lines)


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_the_host_waits_for_a_guest(guests: Guests, file: Path, kind: str) -> None:
    holder = guests.locker(0, kind, "ex")
    holder.expect(b"got")
    lock = fcntl.flock if kind == "flock" else fcntl.lockf
    with file.open("r+b") as host:
        waiting = threading.Thread(target=lock, args=(host, fcntl.LOCK_EX), daemon=True)
        waiting.start()
        with file.open("r+b") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        guests.daemons[0].wait_until(lambda: waiters(file) == 1, "the host does not wait")
        holder.kill()
        waiting.join(timeout=60)
        assert not waiting.is_alive()


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_killed_waiter_never_gets_the_lock(guests: Guests, file: Path, kind: str) -> None:
    holder = guests.locker(0, kind, "ex")
    holder.expect(b"got")
    waiter = guests.locker(1, kind, "ex", "wait")
    guests.daemons[1].wait_until(lambda: waiters(file) == 1, "nobody waits for the lock")
    waiter.kill()
    waiter.wait(check=False)
    guests.daemons[1].wait_until(lambda: waiters(file) == 0, "the dead still wait for the lock")
    holder.kill()
    holder.wait(check=False)
    successor = guests.locker(0, kind, "ex")
    successor.expect(b"got")
    successor.kill()
    successor.wait(check=False)


def test_one_descriptor_unlocks_for_its_sibling(guests: Guests, file: Path) -> None:
    """A process's fcntl locks belong to the process: closing any descriptor ends them."""
    script = """
import fcntl, os, sys
one, two = os.open("/mnt/f", os.O_RDWR), os.open("/mnt/f", os.O_RDWR)
fcntl.lockf(one, fcntl.LOCK_EX, 10, 0)
fcntl.lockf(two, fcntl.LOCK_EX, 10, 5)
print("locked", flush=True); input()
fcntl.lockf(two, fcntl.LOCK_UN, 8, 0)
print("partly", flush=True); input()
os.close(two)
print("closed", flush=True); input()
"""
    process = guests.vms[0].popen(["python3", "-c", script], stdin=None)

    def free(start: int) -> bool:
        """Whether a host process may have this byte."""
        with file.open("r+b") as host:
            try:
                fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
            except BlockingIOError:
                return False
        return True

    process.expect(b"locked")
    assert [free(byte) for byte in (0, 7, 8, 14, 15)] == [False, False, False, False, True]
    process.write(b"\n")
    process.expect(b"partly")
    assert [free(byte) for byte in (0, 7, 8, 14, 15)] == [True, True, False, False, True]
    process.write(b"\n")
    process.expect(b"closed")
    assert [free(byte) for byte in (0, 7, 8, 14, 15)] == [True] * 5
    process.write(b"\n")
    assert process.wait().returncode == 0
