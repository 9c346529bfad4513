"""Locks of guest processes against another guest and against the host, of both kinds."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.channel import Process
from tests.guest.conftest import Boot
from tests.guest.mounted import scratch_export
from tests.guest.vm import VM

pytestmark = [
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

    def __init__(self, export: Path, vms: list[VM], daemons: list[Daemon]) -> None:
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
def test_two_guests(guests: Guests, kind: str) -> None:
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
def test_guest_and_host(guests: Guests, file: Path, kind: str) -> None:
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
