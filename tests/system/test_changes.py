"""The host changes files, and the daemon reports it: which lines there are, whose changes are left
out, and what outlives what. Where main may watch file systems (vhost9p/watcher)."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.frontend import PATIENCE
from tests.frontend.client import Client
from tests.frontend.daemon import Daemon, is_alive
from tests.frontend.deaths import kill
from tests.frontend.machine import Machine
from tests.system.reloads.site import Site
from tests.system.reported import Reported, reported, watcher_of, watchers
from tests.system.share import SECURITY, UNSHARE, Share, mounted, needs_root, serve
from tests.system.test_keeper_death import lose_keeper
from tests.system.test_listed_mounts import Inside
from tests.system.test_upgrade import upgraded
from vhost9p.changes.ring import Ring
from vhost9p.native import process

pytestmark = needs_root


@pytest.fixture
def base(scratch: Path) -> Iterator[Path]:
    """An empty directory."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def watched(export: Path, *args: str) -> Iterator[tuple[Share, Reported]]:
    """A guest, and what is reported to it."""
    daemon = serve(export, "--notify", *args)
    with daemon, mounted(daemon, export) as share, reported(daemon) as (lines,):
        yield share, lines


def change(script: str, folder: Path) -> None:
    """Another process of the host changes something."""
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True)


def all_until_now(lines: Reported, export: Path, prefix: bytes = b"") -> list[bytes]:
    """The lines of all changes so far."""
    (export / "fence").unlink(missing_ok=True)
    lines.lines = [line for line in lines.read() if b"fence" not in line]
    (export / "fence").write_bytes(b"")
    found = lines.until(b"created " + prefix + b"fence")
    return [line for line in found if b"fence" not in line]


# ---- what is reported ----------------------------------------------------------------------------


def test_each_change_of_the_host(export: Path) -> None:
    (export / "a").mkdir()
    (export / "a/f").write_text("x")
    with watched(export) as (_, lines):
        change("echo more >>a/f", export)
        lines.until(b"changed a/f 6")
        change("chmod 600 a/f", export)
        lines.until(b"attributes a/f")
        change("touch a/g; mkdir a/d", export)
        lines.until(b"created a/g", b"created a/d/")
        change("mv a/g a/d/h", export)
        lines.until(b"renamed a/g a/d/h")
        change("mv a b; echo y >b/d/h", export)
        lines.until(b"renamed a/ b/", b"changed b/d/h 2")
        change("rm b/d/h; rmdir b/d", export)
        lines.until(b"removed b/d/h", b"removed b/d/")
        change("chmod 700 .", export)
        lines.until(b"attributes ./")


def test_the_kernel_makes_no_events_of_what_a_guest_writes(export: Path) -> None:
    """Each would cost the guest's request, to be thrown away later. The file system is the test's
    own, since all of its events are counted."""
    wrapper = [*UNSHARE, "sh", "-c", f'mount -t tmpfs own {export} && exec "$@"', "sh"]
    daemon = Daemon("--path", str(export), *SECURITY, "--notify", wrapper=wrapper)
    with daemon, mounted(daemon, export) as share, Inside(share) as inside, reported(daemon) as all:
        (lines,) = all
        inside.run("sh", "-c", ": >f")  # one event
        lines.until(b"created f")
        fid = share.client.open(share.top, b"f", os.O_RDWR)
        pid = watcher_of(daemon)
        with fanotify_group(pid) as group, stopped(pid):
            share.client.write(fid, 0, b"guest")
            assert queued(group) == 0
            inside.run("sh", "-c", "echo hosts >f")
            assert queued(group) > 0
        lines.until(b"changed f 6")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Another process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def fanotify_group(pid: int) -> Iterator[int]:
    """A descriptor of that of another process."""
    found = (int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir() if is_group(each))
    pidfd = os.pidfd_open(pid)
    group = process.take_descriptor(pidfd, next(found))
    yield group
    os.close(group)
    os.close(pidfd)


def is_group(link: Path) -> bool:
    return "fanotify" in os.readlink(link)


def queued(group: int) -> int:
    """How many bytes of events there are (fanotify(7))."""
    size = struct.pack("i", 0)
    return int(struct.unpack("i", fcntl.ioctl(group, termios.FIONREAD, size))[0])


def test_a_name_that_is_there_again_has_its_line_at_the_end(export: Path) -> None:
    """Whoever reads later than all this happens: the kernel has put the shell's events together."""
    for name in "fg":
        (export / name).write_text("x")
    with watched(export) as (share, lines):
        with stopped(watcher_of(share.daemon)):
            change("echo a >f; mv f old; echo b >f; echo a >g; (rm g; true); echo b >g", export)
        found = all_until_now(lines, export)
        assert b"created f" in found[found.index(b"renamed f old") :]
        assert b"created g" in found[found.index(b"removed g") :]


def test_a_file_that_has_no_name_yet(export: Path) -> None:
    with watched(export) as (_, lines):
        file = os.open(export, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(file, b"text")
        os.fchmod(file, 0o644)
        assert all_until_now(lines, export) == []
        os.link(f"/proc/self/fd/{file}", export / "f", src_dir_fd=file)  # has it follow the link
        assert all_until_now(lines, export) == [b"created f"]
        os.close(file)


def test_names_of_any_bytes(export: Path) -> None:
    name = b" \n\t\\\x7f\xff\xc3\xa4-"
    with watched(export) as (_, lines):
        Path(os.fsdecode(os.fsencode(export) + b"/" + name)).write_text("")
        lines.until(b"created \\0040\\0012\\0011\\0134\\0177\xff\xc3\xa4-")


def test_what_comes_from_elsewhere_and_goes_there(export: Path) -> None:
    """Within one file system."""
    outside = export.with_name(f"elsewhere-{export.name}")
    outside.mkdir()
    (outside / "f").write_text("x")
    with watched(export) as (_, lines):
        (outside / "g").write_text("not reported")
        (outside / "f").rename(export / "f")
        lines.until(b"created f")
        (export / "f").rename(outside / "f")
        lines.until(b"removed f")
        (export / "d").mkdir()
        lines.until(b"created d/")
        (export / "d").rename(outside / "d")
        lines.until(b"removed d/")
        (outside / "d").rename(export / "e")
        lines.until(b"created e/")
        (export / "e/f").write_text("more")
        found = all_until_now(lines, export)
        assert found[:5] == [
            b"created f",
            b"removed f",
            b"created d/",
            b"removed d/",
            b"created e/",
        ]
        assert {*found[5:]} <= {b"created e/f", b"changed e/f 4"}


def test_an_export_that_the_host_renames(export: Path) -> None:
    moved = export.with_name("moved")
    with watched(export) as (_, lines):
        (export / "a").mkdir()
        lines.until(b"created a/")
        export.rename(moved)
        try:
            (moved / "a/f").write_text("x")
            lines.until(b"created a/f")
        finally:
            moved.rename(export)


def test_hidden_paths_are_not_reported(export: Path) -> None:
    (export / "secrets").mkdir()
    with watched(export, "--hide", "*.key", "--hide", "secrets") as (_, lines):
        change(
            ": >a.key; : >secrets/f; : >g; mv a.key shown; mv g h.key; chmod 700 secrets", export
        )
        assert all_until_now(lines, export) == [b"created g", b"created shown", b"removed g"]


def test_metadata_of_mapped_file_are_attributes(export: Path) -> None:
    with watched(export, "--security-model", "mapped-file") as (share, lines):
        client = share.client
        client.clunk(client.create(share.root, b"f"))
        client.mkdir(share.root, b"d")
        change("echo x >>.virtfs_metadata/f; echo x >>.virtfs_metadata/d", export)
        assert all_until_now(lines, export) == [b"attributes f", b"attributes d/"]


def test_a_write_without_end_costs_few_lines(export: Path) -> None:
    with watched(export) as (_, lines):
        change("dd if=/dev/zero of=f bs=512 count=20000 2>/dev/null", export)
        assert len(all_until_now(lines, export)) < 2000


def test_events_that_the_kernel_has_lost(export: Path) -> None:
    """While the watcher cannot read: the guest hears of it, and nothing later is lost."""
    with watched(export) as (share, lines):
        watcher = watcher_of(share.daemon)
        limit = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
        os.kill(watcher, signal.SIGSTOP)
        try:
            for number in range(limit + 10):
                (export / f"f{number}").write_bytes(b"")
        finally:
            os.kill(watcher, signal.SIGCONT)
        lines.until(b"overflow")
        (export / "later").write_bytes(b"")
        lines.until(b"created later")


# ---- whose changes are reported ------------------------------------------------------------------


def test_what_the_guest_does_is_not_reported(export: Path) -> None:
    with watched(export) as (share, lines):
        client = share.client
        fid = client.create(share.root, b"f")
        client.write(fid, 0, b"data")
        client.clunk(fid)
        client.mkdir(share.root, b"d")
        client.renameat(share.root, b"f", share.root, b"g")
        client.unlinkat(share.root, b"g")
        assert all_until_now(lines, export) == []


def test_a_worker_that_has_died_was_the_guest(export: Path) -> None:
    with watched(export) as (share, lines):
        for number in range(3):
            client = share.client
            client.clunk(client.create(share.root, b"f%d" % number))
            kill(share.daemon.worker)
            client.clunk(client.create(share.root, b"g%d" % number))
        assert all_until_now(lines, export) == []


def create_as(pid: int, path: Path) -> bool:
    """Whether a process with this pid was to be had, which has created a file."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(20):
        last.write_text(str(pid - 1))
        child = os.fork()
        if child == 0:
            if os.getpid() == pid:
                path.touch()
            os._exit(0)
        os.waitpid(child, 0)
        if child == pid:
            return True
    return False


def test_a_process_that_gets_the_pid_of_a_worker_that_died_is_not_the_guest(export: Path) -> None:
    with watched(export) as (share, lines):
        client = share.client
        client.clunk(client.create(share.root, b"f"))
        assert all_until_now(lines, export) == []
        for _ in range(10):
            worker = share.daemon.worker
            kill(worker)
            client.getattr(share.root)
            time.sleep(0.5)  # until the watcher has heard of it
            if create_as(worker, export / "g"):
                break  # else another process has got the pid: the next worker has another one
        lines.until(b"created g")


@contextmanager
def two_vms(export: Path) -> Iterator[tuple[Daemon, str, list[Reported]]]:
    """A daemon, the socket of its first device, and what is reported of three devices that share a
    directory, two of them of one VM."""
    with tempfile.TemporaryDirectory(prefix="v9-") as name:
        folder, rest = Path(name), f"path: {export}, force: true, notify: true"
        (folder / "vms").mkdir()
        ours = [f"{{socket: {folder}/{tag}, tag: {tag}, {rest}}}" for tag in "ab"]
        (folder / "vms/ours.yaml").write_text(f"devices: [{', '.join(ours)}]")
        (folder / "vms/theirs.yaml").write_text(f"{{socket: {folder}/c, tag: c, {rest}}}")
        daemon = Daemon("--config-dir", str(folder / "vms"), socket=False)
        daemon.ready = "theirs: serving "
        with daemon:
            daemon.wait_until(lambda: len(watchers(daemon)) == 2, "not all are watched")
            with reported(daemon) as all:
                yield daemon, str(folder / "a"), all


def bell_of(daemon: Daemon, ring: Ring) -> int:
    """A copy of the bell of a ring; main has opened it next to the memory."""
    folder, wanted = Path(f"/proc/{daemon.pid}/fd"), os.fstat(ring.fd)
    memory = min(
        int(each.name) for each in folder.iterdir() if os.path.samestat(each.stat(), wanted)
    )
    pidfd = os.pidfd_open(daemon.pid)
    try:
        return process.take_descriptor(pidfd, memory + 1)
    finally:
        os.close(pidfd)


def test_devices_of_one_vm_are_one_guest_and_other_vms_are_not(export: Path) -> None:
    with two_vms(export) as (_, socket, (first, second, other)):
        with Machine(socket) as machine:
            client = Client(machine.boot())
            client.version()
            client.attach(0)
            client.clunk(client.create(0, b"f"))
        other.until(b"created f")
        for lines in (first, second):
            assert all_until_now(lines, export) == []


def test_what_a_worker_writes_to_its_rings_harms_nobody_else(export: Path) -> None:
    """It was taken over, and writes anything at any time, and makes the bell wait."""
    chance = random.Random(9)
    with two_vms(export) as (daemon, _, (first, second, other)):
        before = watchers(daemon)
        size = os.fstat(first.ring.fd).st_size
        with mmap.mmap(first.ring.fd, size) as memory:
            for number in range(300):
                if number % 10 == 0:
                    memory[mmap.PAGESIZE :] = chance.randbytes(size - mmap.PAGESIZE)
                positions = chance.choice([chance.randbytes(16), b"\xff" * 16, bytes(16)])
                memory[: len(positions)] = positions
                (export / f"f{number}").touch()
        for lines in (second, other):
            lines.until(*(b"created f%d" % number for number in range(300)))
        assert watchers(daemon) == before
        first.forget()
        (export / "later").touch()
        for lines in (first, second, other):
            lines.until(b"created later")
        bell = bell_of(daemon, second.ring)
        with suppress(BlockingIOError):
            os.eventfd_read(bell)
        os.set_blocking(bell, True)
        os.eventfd_write(bell, 2**64 - 2)
        os.close(bell)
        (export / "last").touch()
        other.until(b"created last")
        daemon.check_output()


# ---- exports -------------------------------------------------------------------------------------


def test_exports_have_their_names(base: Path) -> None:
    with Site(base, more="notify: true\n") as site, reported(site.daemon) as (lines,):
        (base / "a/f").write_text("")
        lines.until(b"created a/f")
        (base / "a/f").rename(base / "b/g")
        lines.until(b"removed a/f", b"created b/g")
        (base / "a").chmod(0o700)
        lines.until(b"attributes a/")
        (base / "c/f").write_text("")
        assert not [line for line in all_until_now(lines, base / "a", b"a/") if b"c" in line[8:]]


def test_a_reload_adds_and_removes_exports(base: Path) -> None:
    with Site(base, more="notify: true\n") as site, reported(site.daemon) as (lines,):
        site.reload("b", "c")
        lines.until(b"overflow")
        (base / "c/f").write_text("")
        lines.until(b"created c/f")
        lines.forget()
        (base / "a/f").write_text("")
        assert all_until_now(lines, base / "b", b"b/") == []


def test_a_reload_lists_the_directory_of_notices_but_cannot_rename_it(base: Path) -> None:
    """Nor can it begin or end reports (docs/changes.md)."""
    with Site(base, more="notify: true\n") as site:
        assert b".vhost9p" not in site.names()
        site.reload("a", "b", more="notify: true\nnotify_listed: true\n")
        assert b".vhost9p" in site.names()
        for more in ("", "notify: true\nnotify_name: other\n"):
            site.write("a", "b", more=more)
            site.hang_up("cannot change while the guest runs")


@pytest.mark.parametrize("level", ["namespace", "chroot", "none"])
def test_a_path_that_leads_elsewhere_by_now(export: Path, level: str) -> None:
    """What is watched is what the guest sees, also by the next watcher, and by the next worker."""
    moved = export.with_name("moved")
    with watched(export, "--sandbox", level) as (share, lines):
        export.rename(moved)
        export.mkdir(mode=0o777)
        watcher = watcher_of(share.daemon)
        kill(watcher)
        lines.until(b"overflow")
        (export / "wrong").touch()
        (moved / "right").touch()
        lines.until(b"created right")
        assert b"created wrong" not in lines.lines
        lines.forget()
        kill(share.daemon.worker)
        share.client.getattr(share.root)
        if level != "namespace":
            lines.until(b"overflow")
        served = moved if level == "namespace" else export
        (served / "also right").touch()
        lines.until(b"created also\\0040right")
        shutil.rmtree(moved)


@pytest.mark.parametrize("level", ["namespace", "chroot", "none"])
def test_mounts_below_an_export(export: Path, level: str) -> None:
    (export / "m").mkdir(exist_ok=True)
    args = "--multidevs", "remap", "--notify", "--sandbox", level
    daemon = Daemon("--path", str(export), *SECURITY, *args, wrapper=UNSHARE)
    with daemon, mounted(daemon, export) as share, Inside(share) as inside, reported(daemon) as all:
        (lines,) = all
        inside.mount("m")
        lines.until(b"overflow")
        inside.run("touch", "m/f")
        lines.until(b"created m/f")
        inside.run("sh", "-c", "mkdir m/d && echo x >m/d/f && mv m/d m/e && rm m/e/f")
        lines.until(b"renamed m/d/ m/e/")
        lines.forget()
        inside.umount("m")
        lines.until(b"overflow")
        change("rm -f f; touch f", export)
        lines.until(b"created f")


# ---- what outlives what --------------------------------------------------------------------------


def test_a_watcher_that_dies_is_followed_by_another(export: Path) -> None:
    with watched(export) as (share, lines):
        for _ in range(2):
            watcher = watcher_of(share.daemon)
            kill(watcher)
            lines.until(b"overflow")
            lines.forget()
            (export / "f").write_text("")
            lines.until(b"created f")
            (export / "f").unlink()
            lines.until(b"removed f")


def test_a_keeper_that_dies(export: Path) -> None:
    with watched(export) as (share, lines):
        lose_keeper(share.daemon)
        lines.until(b"overflow")
        (export / "f").write_text("")
        lines.until(b"created f")
        share.client.clunk(share.client.create(share.root, b"g"))
        assert b"created g" not in all_until_now(lines, export)
        watcher_of(share.daemon)


def test_an_upgrade_goes_on_with_the_same_ring(export: Path) -> None:
    with watched(export) as (share, lines):
        before = watcher_of(share.daemon)
        upgraded(share.daemon)
        lines.until(b"overflow")
        assert not is_alive(before)
        (export / "f").write_text("")
        lines.until(b"created f")


def test_it_ends_with_main(export: Path) -> None:
    daemon = serve(export, "--notify").start()
    try:
        with reported(daemon):
            pidfd = os.pidfd_open(watcher_of(daemon))
        daemon.die()
        assert select.select([pidfd], [], [], PATIENCE)[0]
        os.close(pidfd)
    finally:
        daemon.kill()


# ---- rights --------------------------------------------------------------------------------------


def test_the_watcher_keeps_one_right(export: Path) -> None:
    with watched(export) as (share, _):
        watcher = watcher_of(share.daemon)
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{watcher}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
        assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")} == {1 << 2}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_without_notify_nobody_watches(export: Path) -> None:
    with serve(export) as daemon, mounted(daemon, export):
        assert watchers(daemon) == []
