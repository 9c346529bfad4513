"""Agents are the guest's root, and others choose the names that they handle.

No guest is needed for that: an agent runs over a tmpfs in a namespace of its own, where touching a
file shows, and gets lines that a host would send. Its .vhost9p is read-only, as a real one is.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import fetch
from tests.marks import fetched
from tests.system.share import UNSHARE, needs_root
from vhost9p.changes import lines
from vhost9p.native.export import FORGET_MTIME, REFRESH_MTIME
from vhost9p.native.process import take_descriptor

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "vhost9p/guest/agent"
PROGRAM = ROOT / "vhost9p/guest" / f"agent-{os.uname().machine}"
PATIENCE = 60.0
OLD = 1_000_000_000

SETUP = """
set -e
mount -t tmpfs -o mode=755 outside "$1"
cd "$1"
mkdir mnt
mount -t tmpfs -o mode=755 inside mnt
mkdir mnt/.vhost9p mnt/d
mkfifo events
mount --bind mnt/.vhost9p mnt/.vhost9p
touch mnt/.vhost9p/events mnt/.vhost9p/refresh mnt/.vhost9p/forget
touch -d "@$2" mnt/.vhost9p/refresh
touch -d "@$3" mnt/.vhost9p/forget
mount --bind events mnt/.vhost9p/events
mount -o remount,bind,ro mnt/.vhost9p
shift 3
eval "$PREPARE"
exec "$@"
"""


@dataclass
class Place:
    """Where an agent runs. `outside` is not its mount's, `inside` is."""

    outside: Path
    agent: subprocess.Popen[bytes]

    @property
    def inside(self) -> Path:
        return self.outside / "mnt"

    def send(self, *text: bytes) -> None:
        """Has it take lines, and waits until it has."""
        sentinel = self.inside / "sentinel"
        sentinel.touch()
        # To be read, too: an agent may close what it has opened, and open it again.
        with open(self.outside / "events", "r+b", buffering=0) as events:
            events.write(b"".join(text) + lines.attributes(b"sentinel"))
            end = time.monotonic() + PATIENCE
            while sentinel.stat().st_mtime != REFRESH_MTIME:
                assert self.agent.poll() is None
                assert time.monotonic() < end, "it handles no more lines"
                time.sleep(0.05)


Start = Callable[[str], Place]
AGENTS = {
    "dash": ["dash", str(SCRIPT), "-s"],
    "bash": ["bash", str(SCRIPT), "-s"],
    "busybox": ["busybox", "sh", str(SCRIPT), "-s"],
    "program": [str(PROGRAM)],
}


@pytest.fixture(params=AGENTS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts an agent, after commands that prepare its mount."""
    command = AGENTS[request.param]
    if request.param == "busybox":
        command = [*fetched(fetch.busybox).command, *command[1:]]
    agents: list[subprocess.Popen[bytes]] = []

    def begin(prepare: str) -> Place:
        base = tmp_path / "base"
        base.mkdir()
        times = str(REFRESH_MTIME), str(FORGET_MTIME)
        words = ["sh", "-c", SETUP, "sh", str(base), *times, *command, str(base / "mnt/.vhost9p")]
        agent = subprocess.Popen([*UNSHARE, *words], env={**os.environ, "PREPARE": prepare})
        agents.append(agent)
        return Place(Path(f"/proc/{agent.pid}/root{base}"), agent)

    yield begin
    for agent in agents:
        agent.terminate()
        agent.wait()


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def all_kinds(name: bytes) -> bytes:
    """Lines of each kind about a name."""
    return b"".join(
        (
            lines.changed(name, 5),
            lines.changed(name, 0),
            lines.attributes(name),
            lines.created(name),
            lines.renamed(name, name),
            lines.attributes(name + b"/"),
            lines.removed(name),
        )
    )


@needs_root
def test_nothing_outside_of_the_mount_is_touched(start: Start) -> None:
    place = start(
        f"""
        mkdir -p victim/dir mnt/below mnt/real 'mnt/odd
below'
        for file in victim/file victim/dir/file; do echo data >$file; done
        ln -s ../victim/file mnt/link
        ln -s ../victim mnt/way
        ln -s ../../victim mnt/d/way
        touch mnt/covered mnt/real/covered
        mount --bind victim/file mnt/covered
        mount --bind victim/file mnt/real/covered
        mount --bind victim mnt/below
        mount --bind victim 'mnt/odd
below'
        touch -d @{OLD} victim/file victim/dir/file victim/dir victim
        touch ready
        """
    )
    wait_for(place.outside / "ready")
    names = [b"link", b"way", b"way/file", b"way/dir/file", b"d/way/file", b"covered"]
    names += [b"real/covered", b"below", b"below/file", b"below/dir/file", b"../victim/file"]
    names += [b"d/../../victim/file", b"odd\nbelow/file", b"odd\nbelow", b"d/way", b".."]
    place.send(*map(all_kinds, names), lines.OVERFLOW)
    for name in ("file", "dir/file", "dir", "."):
        status = (place.outside / "victim" / name).stat()
        assert status.st_mtime == OLD, name
    assert (place.outside / "victim/file").read_text() == "data\n"


@needs_root
def test_names_are_only_names(start: Start) -> None:
    odd = [b"$(touch pwned)", b"`touch pwned`", b";touch pwned", b"-r", b"--help", b"*", b"[a]"]
    odd += [b"a b", b"a\nb", b"\\0141", b"%s", b"\xff\xfe", b"'", b'"', b"\x01\x1b[2J", b"~", b"-"]
    odd += [b"n" * 255, b"$IFS", b"\n", b"x\n", b"(", b"!", b"="]
    place = start(f"touch -d @{OLD} mnt/bystander mnt/a mnt/0141; touch ready")
    wait_for(place.outside / "ready")
    inside = os.fsencode(place.inside)
    for name in odd:
        os.mkdir(inside + b"/d/" + name)
        for path in (inside + b"/" + name, inside + b"/d/" + name + b"/" + name):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    for name in odd:
        place.send(lines.attributes(name), lines.attributes(b"d/" + name + b"/" + name))
        for path in (inside + b"/" + name, inside + b"/d/" + name + b"/" + name):
            assert os.stat(path).st_mtime == REFRESH_MTIME, path
        os.utime(place.inside / "sentinel", (OLD, OLD))
    assert not list(place.outside.rglob("pwned"))
    for bystander in ("bystander", "a", "0141"):
        assert (place.inside / bystander).stat().st_mtime == OLD


@needs_root
def test_fifos_and_devices_are_not_opened(start: Start) -> None:
    place = start("mkfifo mnt/fifo mnt/d/fifo; mknod mnt/device c 10 130; touch ready")
    wait_for(place.outside / "ready")
    place.send(*map(all_kinds, (b"fifo", b"d/fifo", b"device")), lines.OVERFLOW)
    assert (place.inside / "fifo").is_fifo()


@needs_root
@pytest.mark.parametrize("shell", [name for name in AGENTS if name != "program"])
def test_the_script_is_found_by_a_relative_path_whatever_cdpath_says(
    tmp_path: Path, shell: str
) -> None:
    """Where cd(1) finds a directory by that, it prints which one."""
    (tmp_path / ".vhost9p").mkdir()
    (tmp_path / ".vhost9p/agent").symlink_to(SCRIPT)
    command = [*AGENTS[shell][:-2], ".vhost9p/agent", "-s"]
    if shell == "busybox":
        command = [*fetched(fetch.busybox).command, *command[1:]]
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "CDPATH": f"{tmp_path}:/"},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = f"vhost9p agent: {tmp_path}/.vhost9p has no events and refresh;"
    assert found.stderr.startswith(expected)


@needs_root
def test_reads_for_which_there_is_no_room_are_tried_again(start: Start) -> None:
    """EAGAIN: any user of the guest may have so many locks wait that no read may."""
    place = start("touch ready")
    wait_for(place.outside / "ready")
    place.send(lines.attributes(b"d"))
    with open(place.outside / "events", "r+b", buffering=0) as events:
        for flag in (os.O_NONBLOCK, 0):
            set_flag_of_events(place.agent.pid, flag)
            events.write(lines.attributes(b"d"))  # so that the read ends that waits
            time.sleep(1.5)
            assert place.agent.poll() is None
    os.utime(place.inside / "sentinel", (OLD, OLD))
    place.send(lines.attributes(b"d"))


TWO_MOUNTS = """
set -e
cd "$1"
mkdir bin
printf '#!/bin/sh\\necho "$@" >>%s/told\\n' "$1" >bin/systemd-notify
chmod 755 bin/systemd-notify
for each in one two; do
    mkdir $each
    mount -t tmpfs $each $each
    mkdir $each/.vhost9p
    mount --bind $each/.vhost9p $each/.vhost9p
    touch $each/.vhost9p/refresh $each/.vhost9p/forget
    $2 $each/.vhost9p/events
    mount -o remount,bind,ro $each/.vhost9p
done
shift 2
export NOTIFY_SOCKET=none PATH="$PWD/bin:$PATH"
exec timeout 60 "$@" $PWD/one/.vhost9p $PWD/two/.vhost9p
"""


@needs_root
@pytest.mark.parametrize("shell", [name for name in AGENTS if name != "program"])
def test_a_script_that_follows_several_mounts_is_ready_once_and_ends_with_an_error(
    tmp_path: Path, shell: str
) -> None:
    command = AGENTS[shell]
    if shell == "busybox":
        command = [*fetched(fetch.busybox).command, *command[1:]]
    words = ["sh", "-c", TWO_MOUNTS, "sh", str(tmp_path), "mkdir"]  # which cannot be read
    ran = subprocess.run([*UNSHARE, *words, *command], capture_output=True, text=True, check=False)
    assert (tmp_path / "told").read_text() == "--ready\n"
    assert ran.returncode == 1, ran
    assert ran.stderr.count("no more changes can be read") == 2


def set_flag_of_events(agent: int, flag: int) -> None:
    """Has reads of `events` wait or not, as the agent or its child has it open."""
    below = Path(f"/proc/{agent}/task/{agent}/children").read_text(encoding="ascii").split()
    for pid in (agent, *map(int, below)):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(link).endswith("/events"):
                pidfd = os.pidfd_open(pid)
                file = take_descriptor(pidfd, int(link.name))
                os.close(pidfd)
                fcntl.fcntl(file, fcntl.F_SETFL, os.O_LARGEFILE | flag)
                os.close(file)
                return
    raise AssertionError("nobody has events open")


FAKES = {
    "a file": "true",
    "a FIFO": "rm -r refresh; mkfifo refresh",
    "a directory": "rm -r refresh; mkdir refresh",
    "a symlink": "rm -r refresh; ln -s ../read-only refresh",
    "a file that root may not write": "chattr +i refresh",
}
"""What whoever makes a directory like it takes for `refresh`."""


@needs_root
@pytest.mark.parametrize("prepare", FAKES.values(), ids=FAKES)
def test_a_directory_that_vhost9p_has_not_made_is_refused(tmp_path: Path, prepare: str) -> None:
    """Whoever may write where it was would choose what the guest's root does there."""
    fake = tmp_path / ".vhost9p"
    fake.mkdir()
    for name in ("events", "refresh", "forget"):
        (fake / name).write_bytes(b"changed victim 0\n" if name == "events" else b"")
        (fake / name).chmod(0o444)
    (tmp_path / "victim").write_bytes(b"data")
    os.utime(tmp_path / "victim", (OLD, OLD))
    (tmp_path / "read-only").touch()
    bind = "mount --bind ../read-only ../read-only; mount -o remount,bind,ro ../read-only"
    script = f'cd "$1"; {bind}; {prepare} || exit 77; shift; exec timeout 20 "$@"'
    words = [*UNSHARE, "sh", "-c", script, "sh", str(fake)]
    for command in (AGENTS["dash"], AGENTS["program"]):
        ran = subprocess.run(
            [*words, *command, str(fake)], capture_output=True, text=True, check=False
        )
        subprocess.run(["chattr", "-i", fake / "refresh"], capture_output=True, check=False)
        if ran.returncode == 77:
            pytest.skip(ran.stderr)
        assert ran.returncode in (1, 2), ran
        assert "vhost9p has not made it" in ran.stderr or "no events and refresh" in ran.stderr
    assert (tmp_path / "victim").read_bytes() == b"data"
    assert (tmp_path / "victim").stat().st_mtime == OLD


def forbid(number: int) -> None:
    """Has a system call fail with ENOSYS in this process, as on a kernel without it."""
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 0), (equal, 0, 1, number), (answer, 0, 0, 0x50026), (answer, 0, 0, 2**31)]
    steps[3] = (answer, 0, 0, 0x7FFF0000)
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None).prctl
    if prctl(38, 1, 0, 0, 0) or prctl(22, 2, program, 0, 0):
        raise OSError("prctl")


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM.name} was not built")
def test_the_program_says_whether_the_kernel_is_too_old() -> None:
    """Else the script would hand over to what does nothing."""
    openat2 = 437
    assert subprocess.run([PROGRAM, "-t"], check=False).returncode == 0
    old = subprocess.run([PROGRAM, "-t"], check=False, preexec_fn=lambda: forbid(openat2))
    assert old.returncode == 1
