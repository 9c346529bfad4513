"""The agents: what the host changes is reported to a guest's programs, and read by them.

`script` is vhost9p/guest/agent in the shell of the guest, `program` is what guest/ is compiled to.
Exports are on a tmpfs, so that nobody else changes anything on their file system.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.frontend.changes import ring_of
from tests.frontend.daemon import Daemon
from tests.guest.channel import Process
from tests.guest.conftest import Boot
from tests.guest.guest import Guest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "vhost9p/guest" / f"agent-{os.uname().machine}"
MOUNT = "/mnt"

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to watch whole file systems"),
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM.name} was not built"),
]

ODD = b"a b\\c\n\xff\x01-"


class Place:
    """A guest with an export, which is mounted in one way at a time."""

    def __init__(self, vm: Guest, export: Path, daemon: Daemon) -> None:
        self.vm = vm
        self.export = export
        self.daemon = daemon

    def sh(self, script: str) -> str:
        return self.vm.run(f"cd {MOUNT}; {script}").text

    def shows(self, file: str, text: str) -> None:
        """Waits until the guest finds this in a file: an event may be that of its truncation."""
        self.sh(f"until [ \"$(cat {file})\" = '{text}' ]; do sleep 0.1; done")

    @contextmanager
    def running(self, command: str, uid: int = 0) -> Iterator[Process]:
        """A process that has said that it is ready, until the block ends."""
        process = self.vm.popen(command, uid=uid, gid=uid)
        try:
            process.expect(b"ready\n")
            yield process
        finally:
            process.kill()
            process.wait(check=False)

    def settle(self, agent: Process, name: str) -> None:
        """Waits until an agent has dealt with all changes so far: it reads on afterwards. `name` is
        a new one."""
        for each in (f"{name}1", f"{name}2"):
            (self.export / each).touch()
            agent.expect(f"created {each}".encode())

    def watched(self, path: str) -> AbstractContextManager[Process]:
        return self.running(f"exec /watch {MOUNT}/{path}")

    @contextmanager
    def mounted(self, cache: str = "none") -> Iterator[None]:
        """A mount of an export with some files."""
        for entry in self.export.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (self.export / "d").mkdir()
        (self.export / "d/f").write_text("old")
        (self.export / "top").write_text("old")
        self.vm.mount("host0", MOUNT, cache=cache)
        try:
            yield
        finally:
            # Until who was killed has ended, in the kernel, too.
            self.vm.run(f"until umount {MOUNT}; do sleep 0.1; done")

    @contextmanager
    def followed(self, cache: str, agent: str) -> Iterator[Process]:
        """The same, with an agent that runs."""
        with self.mounted(cache), self.running(command(agent)) as process:
            yield process


def command(agent: str, directory: str = "", shell: str = "sh") -> str:
    """What starts an agent, which then says that it is ready."""
    start = {
        "program": f"{MOUNT}/.vhost9p/{PROGRAM.name} -v {directory}",
        "script": f"{shell} {MOUNT}/.vhost9p/agent -s -v {directory}",
    }[agent]
    return f"exec {start}"


@contextmanager
def exported(*args: str) -> Iterator[tuple[Path, Daemon]]:
    """An export and its daemon."""
    export = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="v9-agents-"))
    export.chmod(0o755)
    args = ("--path", str(export), "--notify", "--security-model", "passthrough", *args)
    try:
        with Daemon(*args) as daemon:
            yield export, daemon
    finally:
        shutil.rmtree(export)


@pytest.fixture(scope="module")
def place(boot_shared: Boot, watch_program: Path) -> Iterator[Place]:
    with exported() as (export, daemon):
        vm = boot_shared("full", [Path(daemon.socket)], extra={"/watch": watch_program})
        yield Place(vm, export, daemon)
        vm.kill()  # before the daemon: QEMU does not survive its backend


def host_saw_nothing(path: Path, before: os.stat_result) -> None:
    """No agent has changed the file, whatever it told the guest."""
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.newest
@pytest.mark.parametrize("cache", ["none", "mmap", "loose"])
@pytest.mark.parametrize("agent", ["script", "program"])
def test_a_watched_directory_and_the_data_are_right(place: Place, agent: str, cache: str) -> None:
    """Who watches a directory hears of everything in it, and then reads what the host has."""
    # Without the names, only the root is held for the script.
    where, file = ("", "top") if agent == "script" and cache != "loose" else ("d/", "d/f")
    with place.followed(cache, agent):
        place.sh(f"cat {file}")
        with place.watched(where.rstrip("/") or ".") as watch:
            shown = f"{MOUNT}/{where}" if where else f"{MOUNT}/./"
            (place.export / file).write_text("new and longer")
            before = (place.export / file).stat()
            watch.expect(f"{shown}{Path(file).name} modify".encode())
            place.shows(file, "new and longer")
            host_saw_nothing(place.export / file, before)
            (place.export / f"{where}made").write_text("made")
            watch.expect(f"{shown}made attrib".encode())
            place.shows(f"{where}made", "made")
            (place.export / f"{where}other").write_text("by a rename")
            (place.export / f"{where}other").rename(place.export / file)
            watch.expect(f"{shown}{Path(file).name} attrib".encode())
            place.shows(file, "by a rename")
            (place.export / f"{where}made").unlink()
            place.sh(f"while [ -e {where}made ]; do sleep 0.1; done")


@pytest.mark.newest
@pytest.mark.parametrize("cache", ["none", "loose"])
def test_a_reader_that_follows_a_file_gets_all_of_it(place: Place, cache: str) -> None:
    """No zeros, nothing twice; each piece is longer than a page."""
    with place.followed(cache, "program"):
        log = place.export / "d/f"
        with place.running(f"echo ready; exec tail -c +1 -f {MOUNT}/d/f") as tail:
            tail.expect(b"old")
            for i in range(10):
                with log.open("a") as file:
                    file.write(f"{i}" * 5000 + ".\n")
                tail.expect(b"%d.\n" % i)
        assert tail.stdout == b"ready\n" + log.read_bytes()


@pytest.mark.parametrize("agent", ["script", "program"])
def test_a_name_may_have_any_bytes(place: Place, agent: str) -> None:
    with place.followed("loose", agent), place.watched("d") as watch:
        path = os.path.join(os.fsencode(place.export), b"d", ODD)
        Path(os.fsdecode(path)).write_text("new")
        watch.expect(f"{MOUNT}/d/".encode() + ODD + b" attrib")


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_each_shell_runs_the_script(place: Place, shell: str) -> None:
    with (
        place.mounted("loose"),
        place.running(command("script", shell=shell)),
        place.watched("d") as watch,
    ):
        (place.export / "d/a b").write_text("new")
        watch.expect(b"a b attrib")


def test_the_script_hands_over_to_the_program(place: Place) -> None:
    with place.mounted(), place.running(f"exec sh {MOUNT}/.vhost9p/agent -v"):
        assert PROGRAM.name in place.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


@pytest.mark.parametrize("agent", ["script", "program"])
def test_what_is_killed_lets_go_of_the_mount(place: Place, agent: str) -> None:
    """The process alone, which takes along the one that reads."""
    start = command(agent).removeprefix("exec ")
    with place.mounted():
        place.vm.run(
            f"{start} >/tmp/agent 2>&1 & agent=$!; "
            "until grep -q ready /tmp/agent; do sleep 0.1; done; kill $agent; wait $agent; "
            "while ls -l /proc/[0-9]*/fd | grep vhost9p/events; do sleep 0.1; done"
        )


def test_the_program_ends_with_the_mount(place: Place) -> None:
    start = (
        f"cp {MOUNT}/.vhost9p/{PROGRAM.name} /tmp/follower; exec /tmp/follower -v {MOUNT}/.vhost9p"
    )
    with place.mounted(), place.running(start) as agent:
        place.vm.run(("umount", "-l", MOUNT))
        assert agent.wait(check=False).returncode == 1
        place.vm.run(
            f"until mount -t 9p -o trans=virtio,version=9p2000.L host0 {MOUNT}; do sleep 0.1; done"
        )


def test_an_agent_survives_the_worker(place: Place) -> None:
    with place.followed("loose", "program"), place.watched("d") as watch:
        os.kill(place.daemon.worker, 9)
        (place.export / "d/f").write_text("new")
        watch.expect(b"d/f modify")
        place.shows("d/f", "new")


@pytest.mark.parametrize("agent", ["script", "program"])
def test_a_directory_is_no_mount_of_ours(place: Place, agent: str) -> None:
    with place.mounted():
        result = place.vm.run(command(agent, "/tmp"), check=False)
    assert result.returncode in (1, 2)
    assert "vhost9p agent: /tmp" in result.stderr.decode()


@pytest.mark.parametrize("agent", ["script", "program"])
def test_lines_lead_nowhere_else(place: Place, agent: str) -> None:
    """Symlinks, mounts and .. are not followed, and what is no line is skipped."""
    lines = [
        f"{kind} {path}{more}"
        for path in ("link/f", "covered/f", "../tmp/f", "link", "\\0000", "")
        for kind, more in (("changed", " 0"), ("attributes", ""), ("created", ""), ("removed", ""))
    ]
    with place.followed("loose", agent) as running:
        (place.export / "link").symlink_to("/tmp")
        (place.export / "covered").mkdir()
        place.settle(running, "before")
        place.sh("mount -t tmpfs tmpfs covered; echo kept | tee covered/f > /tmp/f")
        before = place.sh("stat -c '%y %s' covered/f /tmp/f /tmp")
        with ring_of(place.daemon) as ring:
            ring.append("\n".join([*lines, "unheard of", "renamed d", "changed", ""]).encode())
        place.settle(running, "behind")
        assert place.sh("stat -c '%y %s' covered/f /tmp/f /tmp") == before
        place.sh("umount covered")


@pytest.mark.parametrize("agent", ["script", "program"])
def test_after_lost_changes_everything_is_looked_at(place: Place, agent: str) -> None:
    with place.followed("loose", agent) as running:
        (place.export / "d/f").write_text("seen")
        running.expect(b"changed d/f")
        place.sh("cat d/f; ls d")  # what the guest keeps
        with place.watched("d") as watch, ring_of(place.daemon) as ring:
            ring.append(b"overflow\n")
            watch.expect(b"d attrib")
        assert "changes were lost" in running.stderr.decode()


@pytest.mark.parametrize("agent", ["script", "program"])
def test_an_ordinary_user_reads_why_it_does_not_run(place: Place, agent: str) -> None:
    with place.mounted():
        result = place.vm.run(command(agent), uid=1000, check=False)
    assert result.returncode in (1, 2)
    assert "for root" in result.stderr.decode()


def test_a_readonly_export_is_followed(boot: Boot, watch_program: Path) -> None:
    """The guest mounts it to be written, and the host refuses that."""
    with exported("--readonly") as (export, daemon):
        vm = boot("full", [Path(daemon.socket)], extra={"/watch": watch_program})
        place = Place(vm, export, daemon)
        with place.followed("loose", "program"), place.watched(".") as watch:
            place.sh("cat top")
            (export / "top").write_text("new and longer")
            watch.expect(b"top modify")
            place.shows("top", "new and longer")
        vm.kill()  # before the daemon: QEMU does not survive its backend


MOUNTS = """
mount -t tmpfs tmpfs "d/a b"; echo kept >"d/a b/f"; mount --bind "d/a b/f" d/f; echo ready
until [ -e /tmp/look ]; do sleep 0.1; done
cat "d/a b/f" d/f
"""


@pytest.mark.newest
@pytest.mark.parametrize("namespace", ["own", "other"])
@pytest.mark.parametrize("agent", ["script", "program"])
def test_mounts_on_what_changes_stay(place: Place, agent: str, namespace: str) -> None:
    """The kernel takes them away, in containers, too, if it drops the name of what they lie on, or
    of a directory above: after that they would be the host's files that are written."""
    script = f"cd {MOUNT}; {MOUNTS}"
    alone = "" if namespace == "own" else "unshare -m "
    with place.followed("loose", agent) as running:
        place.sh('rm -f /tmp/look; mkdir "d/a b"; ! [ -e d/new ]')
        place.settle(running, "before")
        with place.running(f"exec {alone}sh -c {shlex.quote(script)}") as looking:
            (place.export / "d/new").write_text("new")
            place.shows("d/new", "new")
            (place.export / "d/f").write_text("other")
            os.utime(place.export / "d", (1, 1))
            with ring_of(place.daemon) as ring:
                ring.append(b"created d/\nremoved d/\ncreated d/f\noverflow\n")
            place.settle(running, "behind")
            place.sh("touch /tmp/look")
            found = looking.wait(check=False).text
        place.sh('umount d/f "d/a b" || :')
        assert found == "ready\nkept\nkept"
