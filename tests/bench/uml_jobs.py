"""What a native guest does on a mount: a tree of small files, and real programs.

Belongs here: the jobs, and what they find in the folder that the guest has beside the mount. Each
job checks what it has done and fails if that is wrong. Its script prints, last, how long it took,
in µs; `before` runs first and is not measured. With `cold` the guest forgets all files before it,
then starts the programs once, so that only what is on the mount is read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SHARED = "/mnt"
"""Where a guest finds the host's folder (tests/guest/uml.py)."""

COLD = "sync; echo 3 > /proc/sys/vm/drop_caches\n{ python3 -c 'import os'; ls -l /; } >/dev/null"


@dataclass(frozen=True)
class Size:
    """How much the jobs do."""

    directories: int
    files: int  # in each of them
    bulk: int  # MiB


FULL = Size(directories=40, files=50, bulk=64)
SHORT = Size(directories=2, files=5, bulk=2)


@dataclass(frozen=True)
class Job:
    """One thing that is measured."""

    title: str
    script: str
    before: str = ""
    cold: bool = False


def measured(script: str) -> str:
    """A script that prints how long another one took."""
    return (
        f"start=$EPOCHREALTIME\n{script}\nend=$EPOCHREALTIME\necho $((${{end/./}} - ${{start/./}}))"
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


def prepare(shared: Path) -> None:
    """Puts what the jobs need into the folder beside the mount."""
    (shared / "tree_steps.py").write_bytes((HERE / "tree_steps.py").read_bytes())
