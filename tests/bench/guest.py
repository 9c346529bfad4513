"""The benchmark in a real guest: `python -m tests.bench.guest`.

Belongs here: what a guest's programs do on each server's mount, and the table of how long they
took. One guest under emulation (TCG) mounts all servers at once, each on a tree of its own, and
works through the jobs in turn: every job on every server, round after round, beginning with another
server each time. So the guest's own cost, which emulation makes large, is in every figure; run.py
measures the servers without it.

A 9p client without a cache cuts bulk data into requests of 4 KiB, whatever the msize; so the bulk
jobs run once more with cache=mmap. virtiofsd has cache=never both times. Each job checks what it
has done and fails if that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import servers
from tests.bench.report import OURS, PEER, QEMU
from tests.frontend.daemon import Daemon
from tests.guest import fetch
from tests.guest.channel import CommandFailed
from tests.guest.image import Image
from tests.guest.vm import VM, Virtfs

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "6.12"
MOUNTS = {QEMU: "/qemu", PEER: "/virtiofsd", OURS: "/vhost9p"}
TAGS = {QEMU: "builtin", PEER: "fs", OURS: "host0"}


@dataclass(frozen=True)
class Size:
    """How much the jobs do."""

    stats: int
    small: int  # files of 4 KiB
    listed: int  # files, 100 to a directory
    packed: int  # files in the archive
    bulk: int  # MiB without a cache
    cached: int  # MiB with cache=mmap


FULL = Size(stats=2000, small=500, listed=2000, packed=400, bulk=16, cached=64)
SHORT = Size(stats=20, small=20, listed=100, packed=10, bulk=1, cached=4)


@dataclass(frozen=True)
class Job:
    """A script for the mount's root; `before` runs first and is not measured."""

    title: str
    script: str
    before: str = ""


def jobs(size: Size) -> list[Job]:
    """What is done without a cache."""
    stat = f"import os; assert sum(os.stat('f').st_size for i in range({size.stats})) == "
    return [
        Job(f"{size.stats} stats", f'python3 -c "{stat}5 * {size.stats}"'),
        Job(
            f"{size.small} small files read",
            f"test $(cat small/* | wc -c) = {4096 * size.small}",
        ),
        Job(f"ls -lR of {size.listed} files", f"test $(ls -lR list | grep -c ^-) = {size.listed}"),
        Job(
            f"tar x of {size.packed} files",
            f"mkdir out; tar xf /tmp/a.tar -C out; test $(ls out/packed | wc -l) = {size.packed}",
            "rm -rf out",
        ),
        *bulk_jobs(size.bulk, "cache=none"),
    ]


def bulk_jobs(mebibytes: int, how: str) -> list[Job]:
    """Sequential writing and reading."""
    count = mebibytes << 20
    return [
        Job(
            f"{mebibytes} MiB written, {how}",
            f"dd if=/dev/zero of=bulk bs=1M count={mebibytes} conv=fsync status=none",
            "rm -f bulk",
        ),
        Job(
            f"{mebibytes} MiB read, {how}",
            f"test $(dd if=bulk bs=1M status=none | wc -c) = {count}",
            "echo 3 > /proc/sys/vm/drop_caches",
        ),
    ]


def make_tree(tree: Path, size: Size) -> None:
    """What the jobs find in an export."""
    tree.mkdir(mode=0o755)
    (tree / "f").write_bytes(b"five\n")
    (tree / "small").mkdir()
    for i in range(size.small):
        (tree / "small" / f"f{i}").write_bytes(os.urandom(4096))
    for i in range(size.listed):
        (tree / "list" / f"d{i // 100}").mkdir(parents=True, exist_ok=True)
        (tree / "list" / f"d{i // 100}" / f"f{i}").touch()


def make_archive(path: Path, size: Size) -> None:
    """An archive of `packed` small files of several sizes."""
    folder = path.parent / "packed"
    folder.mkdir()
    for i in range(size.packed):
        (folder / f"f{i}").write_bytes(os.urandom(i * 37 % 5000))
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "packed")


@contextmanager
def guest(folder: Path, size: Size) -> Iterator[VM]:
    """A guest with the archive in it, and everything mounted without a cache."""
    for number, _ in enumerate(MOUNTS):
        make_tree(folder / str(number), size)
    trees = {name: folder / str(number) for number, name in enumerate(MOUNTS)}
    make_archive(folder / "a.tar", size)
    image = Image.build(fetch.kernel(KERNEL), "full", {"/tmp/a.tar": folder / "a.tar"})
    options = ("--path", str(trees[OURS]), "--multidevs", "remap")
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(*options))
        fs_socket, _ = stack.enter_context(servers.virtiofsd_process(trees[PEER]))
        device = (
            *("-chardev", f"socket,id=fs,path={fs_socket}"),
            *("-device", f"vhost-user-fs-pci,chardev=fs,tag={TAGS[PEER]}"),
        )
        builtin = Virtfs(trees[QEMU], TAGS[QEMU], "passthrough")
        vm = VM(image, [Path(daemon.socket)], [builtin], args=device)
        with vm:
            vm.run("python3 -c pass; tar --help; ls -l /; cat /dev/null; dd if=/dev/null")  # warm
            vm.run(("mkdir", *MOUNTS.values()))
            vm.run(("mount", "-t", "virtiofs", TAGS[PEER], MOUNTS[PEER]))
            for name in (QEMU, OURS):
                vm.mount(TAGS[name], MOUNTS[name])
            yield vm
            vm.kill()  # before the daemon: QEMU does not survive its backend


def timed(vm: VM, server: str, job: Job) -> float:
    """Runs a job on a server's mount; how long it took by the guest's clock, in ms."""
    script = (
        f"set -e; cd {MOUNTS[server]}; {job.before}\n"
        f"start=$EPOCHREALTIME; {job.script}; end=$EPOCHREALTIME\n"
        "echo $((${end/./} - ${start/./}))"
    )
    return int(vm.run(("/usr/bin/bash", "-c", script), timeout=600).text) / 1000


def measure(
    vm: VM, work: Sequence[Job], rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Each job's times on each server, in ms."""
    times: dict[str, dict[str, list[float]]] = {
        job.title: {name: [] for name in MOUNTS} for job in work
    }
    names = list(MOUNTS)
    for job in work:
        for turn in range(rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                times[job.title][name].append(timed(vm, name, job))
        say(job.title)
    return times


def table(times: dict[str, dict[str, list[float]]]) -> str:
    """The medians in ms, and how many times as fast as the others vhost9p is."""
    names = list(MOUNTS)
    lines = [["job, ms", *names, f"{OURS}/{PEER}", f"{OURS}/{QEMU}"], ["---"] * 6]
    for title, servers_times in times.items():
        medians = {name: statistics.median(servers_times[name]) for name in names}
        cells = [title, *(f"{medians[name]:,.0f}" for name in names)]
        cells += [f"{medians[other] / medians[OURS]:.2f}" for other in (PEER, QEMU)]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(words: Sequence[str] | None = None) -> int:
    """Runs the jobs; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.guest", description="Measures vhost9p and its peers in a guest."
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each job (default: 3)")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="where the exports are")
    parser.add_argument("--short", action="store_true", help="one small round, to check replies")
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")
    size, rounds = (SHORT, 1) if arguments.short else (FULL, arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="vhost9p-bench-", dir=arguments.tmpfs) as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            with guest(folder, size) as vm:
                times = _all(vm, size, rounds)
        except CommandFailed as error:
            print(f"FAILED {error}", file=sys.stderr)
            return 1
    text = table(times) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "guest.md").write_text(text)
    (arguments.out / "guest.json").write_text(json.dumps(times, indent=1) + "\n")
    print(text)
    return 0


def _all(vm: VM, size: Size, rounds: int) -> dict[str, dict[str, list[float]]]:
    def say(text: str) -> None:
        print(f"guest: {text}", file=sys.stderr, flush=True)

    times = measure(vm, jobs(size), rounds, say)
    for name in (QEMU, OURS):
        vm.umount(MOUNTS[name])
        vm.mount(TAGS[name], MOUNTS[name], cache="mmap")
    return times | measure(vm, bulk_jobs(size.cached, "cache=mmap"), rounds, say)


if __name__ == "__main__":
    sys.exit(main())
