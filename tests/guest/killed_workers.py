"""A guest at work while the workers of its file server are killed.

    python -m tests.guest.killed_workers [--kernel 6.12] [--deaths 200]

prints what the guest has done meanwhile, how many deaths fell inside requests, and the longest time
that the guest waited for one. Programs of the guest unpack archives, use git and SQLite, read and
write at random, hold locks and a file without a name, and list directories. Each fails at the first
error, wrong byte or changed inode number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.frontend.daemon import Daemon
from tests.frontend.deaths import kill, kill_inside
from tests.guest import fetch
from tests.guest.channel import Process
from tests.guest.guest import Guest
from tests.guest.image import Image
from tests.guest.mounted import MOUNT, scratch_export
from tests.guest.vm import VM
from tests.system.counting_daemon import WRAPPER, cut_off
from tests.system.host_locks import is_locked

LONGEST_S = 0.3
"""Between two deaths."""
TIMEOUT = 600.0

COMMON = """
import fcntl, json, os, random, subprocess, sys, time
longest = rounds = 0
def timed(call, *words):
    global longest
    began = time.monotonic()
    found = call(*words)
    longest = max(longest, time.monotonic() - began)
    return found
def goes_on():
    global rounds
    rounds += 1
    return not os.path.exists("end")
"""

DATA = """
fd = os.open("data", os.O_RDWR | os.O_CREAT)
ino, size, data = os.fstat(fd).st_ino, 1 << 20, bytearray(1 << 20)
os.pwrite(fd, data, 0)
while goes_on():
    count = random.choice((1, 100, 4096, 30000))
    at = random.randrange(size - count)
    new = random.randbytes(count)
    assert timed(os.pwrite, fd, new, at) == count
    data[at : at + count] = new
    timed(os.fsync, fd)
    at = random.randrange(size - 5000)
    assert timed(os.pread, fd, 5000, at) == data[at : at + 5000]
    assert os.fstat(fd).st_ino == os.stat("data").st_ino == ino
with open("data", "rb") as file:
    assert file.read() == data
"""

HELD = """
whole, part = (os.open(name, os.O_RDWR | os.O_CREAT) for name in ("whole", "part"))
fcntl.flock(whole, fcntl.LOCK_EX)
fcntl.lockf(part, fcntl.LOCK_EX, 10, 100)
gone = os.open("gone", os.O_RDWR | os.O_CREAT)
os.unlink("gone")
inos = [os.fstat(fd).st_ino for fd in (whole, part, gone)]
open("locked", "w").close()
probe = '''
import fcntl
for name, lock in (("whole", fcntl.flock), ("part", lambda f, how: fcntl.lockf(f, how, 10, 100))):
    with open(name, "r+b") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        raise SystemExit(name + " is free")
'''
while goes_on():
    text = b"round %d" % rounds
    assert timed(os.pwrite, gone, text, 0) == len(text)
    assert timed(os.pread, gone, 100, 0) == text
    assert [os.fstat(fd).st_ino for fd in (whole, part, gone)] == inos
    subprocess.run([sys.executable, "-c", probe], check=True)
"""

LISTS = """
os.mkdir("list")
inos = {}
for i in range(300):
    open(f"list/{i}", "w").close()
    inos[str(i)] = os.stat(f"list/{i}").st_ino
while goes_on():
    found = {}
    with os.scandir("list") as entries:
        for entry in entries:
            assert entry.name not in found
            found[entry.name] = entry.inode()
            if len(found) % 60 == 0:
                time.sleep(0.1)
    assert found == inos
"""

TREES = """
script = '''
set -e; mkdir t; cd t; mkdir tree
for i in $(seq 20); do seq $i 400 > tree/f$i; done; ln tree/f1 tree/hard
tar cf all.tar tree; mkdir out; tar xf all.tar -C out; diff -r tree out/tree
git init -q r; cd r; git config user.email a@b; git config user.name n
for i in 1 2; do seq $i 200 > f$i; git add f$i; git commit -qm $i; done; git fsck --strict; cd ..
sqlite3 db 'create table t(n);'
for i in $(seq 5); do sqlite3 db "insert into t values ($i);"; done
[ "$(sqlite3 db 'select count(*) from t; pragma integrity_check;' | tr -d '\\n')" = 5ok ]
cd ..; rm -r t
'''
while goes_on():
    subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)
"""

END = "print(json.dumps([rounds, longest]))"
PROGRAMS = {"data": DATA, "held": HELD, "lists": LISTS, "trees": TREES}


@dataclass(frozen=True)
class Report:
    """What has happened."""

    deaths: int
    inside: int
    """So many of them inside requests."""
    rounds: dict[str, int]
    """Of each program."""
    longest: float
    """Seconds that one system call of a read or write has taken."""

    def __str__(self) -> str:
        done = ", ".join(f"{count} of {name}" for name, count in self.rounds.items())
        return (
            f"{self.deaths} deaths, {self.inside} of them inside requests; longest pause "
            f"{self.longest:.1f} s; rounds: {done}"
        )


def work(vm: Guest, daemon: Daemon, export: Path, deaths: int) -> Report:
    """Has the guest work on its mount while so many workers are killed, half of them inside
    requests at least. Raises CommandFailed if a program fails."""
    programs = {
        name: vm.popen(["python3", "-c", COMMON + text + END], cwd=MOUNT)
        for name, text in PROGRAMS.items()
    }
    daemon.wait_until((export / "locked").exists, "no lock was taken", TIMEOUT)
    killed = kill_workers(daemon, export, deaths, [*programs.values()])
    (export / "end").touch()
    results = {name: json.loads(each.wait(TIMEOUT).text) for name, each in programs.items()}
    return Report(
        killed,
        inside(daemon),
        {name: rounds for name, (rounds, _) in results.items()},
        max(longest for _, longest in results.values()),
    )


def inside(daemon: Daemon) -> int:
    """How many deaths have cut off requests."""
    return sum(map(bool, cut_off(daemon.lines)))


def kill_workers(daemon: Daemon, export: Path, deaths: int, programs: list[Process]) -> int:
    """Kills so many workers at least, until half as many died inside requests; how many. The
    guest's locks hold meanwhile."""
    whole, part = (os.open(export / name, os.O_RDWR) for name in ("whole", "part"))
    killed = 0
    while killed < deaths or 2 * inside(daemon) < deaths:
        time.sleep(random.uniform(0, LONGEST_S))
        worker = daemon.worker
        (kill_inside if 2 * inside(daemon) <= killed else kill)(worker)
        killed += 1
        assert is_locked(whole, 0, 0) and is_locked(part, 100, 10)
        for each in programs:
            assert each.poll() is None, each.wait(check=False)
    os.close(whole)
    os.close(part)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernel", default="6.12")
    parser.add_argument("--deaths", type=int, default=200)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        export = stack.enter_context(scratch_export())
        options = ("--path", str(export), "--multidevs", "remap")
        daemon = stack.enter_context(Daemon(*options, wrapper=WRAPPER))
        image = Image.build(fetch.kernel(arguments.kernel), "full")
        vm = stack.enter_context(VM(image, [Path(daemon.socket)], cpus=2))
        vm.mount("host0", MOUNT)
        print(work(vm, daemon, export, arguments.deaths))
        vm.kill()  # before the daemon: QEMU does not survive its backend


if __name__ == "__main__":
    main()
