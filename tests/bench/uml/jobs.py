"""What a native guest does on a mount: a tree of small files, and real programs.

Belongs here: the jobs, and what they find in the folder that the guest has beside the mount. Each
job checks what it has done and fails if that is wrong. Its script prints, last, how long it took,
in µs; `before` runs first and is not measured. With `cold` the guest forgets all files before it,
then starts the programs once, so that only what is on the mount is read anew.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.bench.uml import programs
from tests.guest import fetch

HERE = Path(__file__).parent
SHARED = "/mnt"
"""Where a guest finds the host's folder (tests/guest/uml.py)."""

COLD = (
    "sync; echo 3 > /proc/sys/vm/drop_caches\n"
    "{ python3 -c 'import os'; ls -l /; find /dev/null; ! which git || git --version; } >/dev/null"
)


@dataclass(frozen=True)
class Size:
    """How much the jobs do."""

    directories: int
    files: int  # in each of them
    bulk: int  # MiB
    sources: int  # files of the repository and the archive
    units: int  # of the C program
    packages: int  # of npm


FULL = Size(directories=40, files=50, bulk=64, sources=300, units=20, packages=15)
SHORT = Size(directories=2, files=5, bulk=2, sources=30, units=2, packages=2)


@dataclass(frozen=True)
class Job:
    """One thing that is measured."""

    title: str
    script: str
    before: str = ""
    check: str = ""
    """Runs afterwards, not measured either."""
    cold: bool = False
    program: str = ""
    """One of programs.NEEDED."""


MARK = "/sys/kernel/tracing/trace_marker"
"""Where a script says that what is measured begins and ends, for request_trace.py."""


def measured(script: str) -> str:
    """A script that prints how long another one took."""
    return (
        f"echo begin > {MARK}; start=$EPOCHREALTIME\n{script}\n"
        f"end=$EPOCHREALTIME; echo end > {MARK}\necho $((${{end/./}} - ${{start/./}}))"
    )


def tree(size: Size) -> list[Job]:
    """The tree: created, looked at and read twice each, renamed, removed; a large file."""
    numbers = f"{size.directories} {size.files} {size.bulk}"
    listed = measured(f"test $(ls -lR tree | grep -c ^-) = {size.directories * size.files}")

    def step(name: str) -> str:
        return f"python3 {SHARED}/tree_steps.py {name} {numbers}"

    return [
        Job("create", step("create")),
        Job("lstat all, cold", step("lstat"), cold=True),
        Job("lstat all, again", step("lstat")),
        Job("read all, cold", step("read"), cold=True),
        Job("read all, again", step("read")),
        Job("ls -lR, cold", listed, cold=True),
        Job("ls -lR, again", listed),
        Job("rename all", step("rename")),
        Job("unlink all", step("unlink")),
        Job(f"write {size.bulk} MiB", step("write_bulk")),
        Job(f"read {size.bulk} MiB", step("read_bulk"), cold=True),
    ]


def real(size: Size) -> list[Job]:
    """Real programs: a repository, an archive, a build, packages."""
    rsync = shlex.join(fetch.rsync().command)
    npm = "npm ci --offline --no-audit --no-fund --ignore-scripts --cache /tmp/cache"
    files, units = size.sources, size.units
    status, other = measured('test -z "$(git -C repo status --porcelain)"'), "git -C repo checkout"
    return [
        Job(
            "git clone",
            measured(f"git clone -q {SHARED}/repo.git repo"),
            check=f"test $(git -C repo ls-files | wc -l) = {files}",
            program="git",
        ),
        Job("git status, cold", status, cold=True, program="git"),
        Job("git status, again", status, program="git"),
        Job(
            "git checkout of a branch",
            measured(f"{other} -q other"),
            check="test $(grep -rl changed repo/d* | wc -l) = $(git -C repo diff --name-only main"
            f" | wc -l) && test $(git -C repo diff --name-only main | wc -l) = {(files + 2) // 3}",
            before="git -C repo branch -q other origin/other",
            program="git",
        ),
        Job(
            "tar x",
            measured(f"tar xf {SHARED}/a.tar"),
            check=f"test $(find packed -type f | wc -l) = {files}; tar df {SHARED}/a.tar",
        ),
        Job("rsync -a", measured(f"{rsync} -a packed/ copy"), check="diff -r packed copy"),
        Job(
            "find in the copy, cold",
            measured(f"test $(find copy -type f | wc -l) = {files}"),
            cold=True,
        ),
        Job(
            "ls -lR of the copy, cold",
            measured(f"test $(ls -lR copy | grep -c ^-) = {files}"),
            cold=True,
        ),
        Job("rm -r of the copy", measured("rm -r copy"), check="test ! -e copy"),
        Job(
            "C build with make",
            measured("make -s -C c"),
            before=f"cp -r {SHARED}/c .; gcc --version >/dev/null",
            check=f"test $(c/sum) = {units * (units - 1) // 2}",
            program="make",
        ),
        Job(
            "npm ci",
            measured(f"{npm} >/dev/null"),
            before=f"cp {SHARED}/npm/*.json .; cp -r {SHARED}/npm/cache /tmp; npm --version >&2",
            check=f"test $(find node_modules/p* -type f | wc -l) = {20 * size.packages}",
            program="npm",
        ),
    ]


def left_out(jobs: list[Job]) -> dict[str, str]:
    """Why jobs cannot be done on this host, by title."""
    found = {job.title: programs.lacking(job.program) for job in jobs}
    return {title: why for title, why in found.items() if why}


def prepare(shared: Path, size: Size) -> None:
    """Puts what the jobs need into the folder beside the mount."""
    (shared / "tree_steps.py").write_bytes((HERE / "tree_steps.py").read_bytes())
    (shared / "request_trace.py").write_bytes((HERE / "request_trace.py").read_bytes())
    programs.make_archive(shared / "a.tar", size.sources)
    if not programs.lacking("git"):
        programs.make_repository(shared / "repo.git", size.sources)
    if not programs.lacking("make"):
        programs.make_project(shared / "c", size.units)
    if not programs.lacking("npm"):
        programs.make_packages(shared / "npm", size.packages)
