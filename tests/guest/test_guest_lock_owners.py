"""Whose a lock is: the rows of the table in docs/guests.md, by programs of a real guest.

Each row is a program that locks /mnt/f and says after each step how far it is; the host looks then
whether it may have the file. Rows marked `otherwise` show where the host sees something else than
the guest, because the client does not say more; so does docs/guests.md.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.frontend.daemon import Daemon
from tests.guest.conftest import Boot
from tests.guest.mounted import scratch_export
from tests.guest.vm import VM

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="guest root's files need a daemon of root"),
]

PRELUDE = """
import os, socket, struct, subprocess, sys, threading
from fcntl import (fcntl, flock, lockf, F_OFD_SETLK, F_SETLK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB,
                   LOCK_SH, LOCK_UN)

def step(number, held):
    os.write(1, f"{number} {'held' if held else 'free'}\\n".encode())
    os.read(0, 1)

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

def become(what):  # another program, which does this with the descriptor
    code = f"import sys; from fcntl import *; fd = int(sys.argv[1]); {what}"
    code += "; print('2 free', flush=True); input()"
    os.set_inheritable(fd, True)
    os.execv("/usr/bin/python3", ["python3", "-c", code, str(fd)])

def open_file(flags=os.O_RDWR, path="/mnt/f"):
    return os.open(path, flags)

def lock(fd, command, kind, start=0, length=0):
    fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))

def ofd(fd, kind):
    lock(fd, F_OFD_SETLK, kind, 10, 20)

fd = open_file()
"""

ROWS = {
    "flock, given up by a child": """
flock(fd, LOCK_EX)
step(1, True)
child(lambda: flock(fd, LOCK_UN))
step(2, False)
""",
    "flock, taken again by a child": """
flock(fd, LOCK_SH)
def again():
    flock(fd, LOCK_EX)
    flock(fd, LOCK_EX)
    step(1, True)
    flock(fd, LOCK_SH)
    step(2, True)
    flock(fd, LOCK_UN)
    step(3, False)
child(again)
step(4, False)
""",
    "flock, taken by a child that ends": """
def work():
    flock(fd, LOCK_EX)
    step(1, True)
    flock(fd, LOCK_UN)
child(work)
step(2, False)
flock(fd, LOCK_EX)
step(3, True)
""",
    "flock over a socket": """
ours, theirs = socket.socketpair()
flock(fd, LOCK_EX)
socket.send_fds(ours, [b"x"], [fd])
def received():
    os.close(fd)
    flock(socket.recv_fds(theirs, 1, 1)[1][0], LOCK_UN)
child(received)
step(1, False)
""",
    "flock and a program": """
flock(fd, LOCK_EX)
step(1, True)
become("flock(fd, LOCK_UN)")
""",
    "flock, given up through a copy": """
flock(fd, LOCK_EX)
flock(os.dup(fd), LOCK_UN)
step(1, False)
""",
    "flock of two open files": """
other = open_file()
flock(fd, LOCK_SH)
flock(other, LOCK_SH)
flock(fd, LOCK_UN)
step(1, True)
os.close(fd)
step(2, True)
flock(other, LOCK_UN)
step(3, False)
flock(other, LOCK_EX)
try:
    flock(open_file(), LOCK_SH | LOCK_NB)
    sys.exit("two open files have one lock")
except BlockingIOError:
    step(4, True)
""",
    "flock in threads": """
threading.Thread(target=flock, args=(fd, LOCK_EX)).start()
while threading.active_count() > 1: pass
step(1, True)
flock(fd, LOCK_UN)
step(2, False)
""",
    "fcntl in threads": """
thread = threading.Thread(target=lockf, args=(fd, LOCK_EX))
thread.start(); thread.join()
step(1, True)
lockf(open_file(), LOCK_UN)
step(2, False)
""",
    "fcntl and a child": """
lockf(fd, LOCK_EX)
child(lambda: lock(fd, F_SETLK, F_UNLCK))
step(1, True)
child(lambda: os.close(fd))
step(2, True)
child(lambda: lockf(fd, LOCK_UN, 10, 10))
step(3, True)
os.close(open_file())
step(4, False)
""",
    "fcntl, handed from process to process": """
def work():
    for _ in range(50):
        lockf(fd, LOCK_EX)
        lockf(fd, LOCK_UN)
    lockf(fd, LOCK_EX)
threads = [threading.Thread(target=child, args=(work,)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
step(1, False)
lockf(fd, LOCK_EX)
step(2, True)
""",
    "fcntl and a program": """
lockf(fd, LOCK_EX)
step(1, True)
become("lockf(fd, LOCK_UN)")
""",
    "an open file's fcntl lock": """
ofd(fd, F_WRLCK)
step(1, True)
ofd(os.dup(fd), F_UNLCK)
step(2, False)
ofd(fd, F_WRLCK)
step(3, True)
os.close(fd)
step(4, False)
""",
    "an open file's fcntl lock, in threads and a program": """
thread = threading.Thread(target=ofd, args=(fd, F_WRLCK))
thread.start(); thread.join()
step(1, True)
become(f"import struct; fcntl(fd, F_OFD_SETLK, struct.pack('hhqqi4x', {F_UNLCK}, 0, 10, 20, 0))")
""",
    "a bind mount": """
subprocess.run("mkdir -p /bound; mount --bind /mnt /bound", shell=True, check=True)
lockf(fd, LOCK_EX)
lockf(open_file(path="/bound/f"), LOCK_UN)
subprocess.run("umount -l /bound", shell=True, check=True)
step(1, False)
""",
    "two mounts of two devices": """
twice = open_file(path="/twice/f")
lockf(fd, LOCK_EX)
try:
    lockf(twice, LOCK_EX | LOCK_NB)
    sys.exit("a process is the same on both mounts")
except BlockingIOError:
    step(1, True)
lockf(twice, LOCK_UN)
step(2, True)
lockf(fd, LOCK_UN)
step(3, False)
""",
    "otherwise: flock, and the program that took it ends": """
subprocess.run(["flock", str(fd)], pass_fds=[fd], check=True)
step(1, False)
""",
    "otherwise: flock, and the descriptor was closed once": """
flock(fd, LOCK_EX)
os.close(os.dup(fd))
step(1, False)
""",
    "otherwise: flock, given up by a child with LOCK_NB": """
flock(fd, LOCK_EX)
child(lambda: flock(fd, LOCK_UN | LOCK_NB))
step(1, True)
os.close(fd)
step(2, False)
""",
    "otherwise: flock, and another descriptor was closed": """
flock(fd, LOCK_EX)
os.close(open_file())
step(1, False)
""",
    "otherwise: an open file's fcntl lock, taken again by a child": """
ofd(fd, F_WRLCK)
def again():
    try:
        ofd(fd, F_WRLCK)
        sys.exit("the child has the lock, too")
    except BlockingIOError:
        step(1, True)
child(again)
""",
    "otherwise: fcntl, given up by a child with F_SETLKW": """
lockf(fd, LOCK_EX)
child(lambda: lockf(fd, LOCK_UN))
step(1, False)
""",
    "otherwise: an open file's fcntl lock, given up by a child": """
ofd(fd, F_WRLCK)
child(lambda: ofd(fd, F_UNLCK))
step(1, True)
os.close(fd)
step(2, False)
""",
    "otherwise: an open file's fcntl lock, and another was closed": """
ofd(fd, F_WRLCK)
os.close(open_file())
step(1, False)
""",
}


class Guest(NamedTuple):
    """A guest that has mounted one directory by two devices."""

    vm: VM
    file: Path


@pytest.fixture(scope="module")
def guest(boot_shared: Boot) -> Iterator[Guest]:
    with ExitStack() as stack:
        export = stack.enter_context(scratch_export())
        file = export / "f"
        file.write_bytes(bytes(100))
        tags = ("host0", "host1")
        daemons = [stack.enter_context(Daemon("--path", str(export), "--tag", tag)) for tag in tags]
        vm = boot_shared.qemu("full", [Path(daemon.socket) for daemon in daemons], cpus=2)
        stack.callback(vm.kill)
        vm.mount("host0", "/mnt")
        vm.mount("host1", "/twice")
        yield Guest(vm, file)


def held(path: Path) -> bool:
    """Whether a guest keeps the host from locking the file."""
    with path.open("r+b") as host:
        try:
            fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("row", ROWS)
def test_whose_a_lock_is(guest: Guest, row: str) -> None:
    program = guest.vm.popen(["python3", "-c", PRELUDE + ROWS[row]], stdin=None)
    steps = ROWS[row].count("step(") + ROWS[row].count("become(")
    for number in range(1, steps + 1):
        program.expect(f"{number} ".encode())
        said = program.stdout.split()[-1]
        assert held(guest.file) == (said == b"held"), f"after step {number}: not {said.decode()}"
        program.write(b"\n")
    program.wait()
    assert not held(guest.file)
