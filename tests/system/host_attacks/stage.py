"""Where the attack happens: an export, what lies beside it, and the processes that attack.

    export/     what the guest is served
    outside/    has the names of an attacked directory; symlinks lead here
    elsewhere/  where a directory goes that is moved out of the export
    source/     its directory `inner` is mounted in the export, and nothing else of it
    backstage/  the symlinks that are exchanged for directories
    nodes/      what is put in a file's place

All that is outside bears MARK: as text in files, names, links and attributes, and as the time of
last modification.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.children import ending_with_tests
from tests.inotify import (
    IN_ACCESS,
    IN_ATTRIB,
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_MOVED,
    IN_OPEN,
    Event,
    Watch,
)
from tests.system.share import IS_ROOT

HERE = Path(__file__).parent
MARK = b"LEAK"
MARKED_TIME = int.from_bytes(MARK, "little")
INSIDE = b"inside"
XATTR = "user.text"
METADATA = ".virtfs_metadata"
ALLOWED = {"elsewhere": ("q",), "source": ("inner",)}
"""What of these directories is, or was, in the export."""
SIDECARS_OF = ("meta", "side")
"""Directories whose sidecars are attacked: the directory of them, and one itself."""
Step = tuple[str, str, str]


def compiled(name: str, folder: Path, *options: str) -> Path:
    """A program or library of this folder."""
    target = folder / name
    compiler = os.environ.get("CC", "cc")
    words = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-O2"]
    subprocess.run([*words, *options, "-o", target, HERE / f"{name}.c"], check=True)
    return target


@dataclass
class Stage:
    """The files. `owner` is who serves them."""

    top: Path
    owner: tuple[int, int]
    model: str
    mounts: bool = False
    crowd: int = 0
    """Files that the guest uses before each attack, so that others are evicted."""
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        self.export = self.top / "export"
        self.outside = self.top / "outside"
        self._make()
        self._make_nodes()
        self._marked = list(self._list_marked())
        self._own()
        self._mark()
        self.inodes = self._inodes()
        self._before = self._snapshot()
        self._start_watch()

    # ---- making -----------------------------------------------------------------------------

    def _make(self) -> None:
        for name in ("elsewhere", "source", "backstage", "nodes"):
            (self.top / name).mkdir()
        _fill(self.outside, MARK)
        for number, (name, target) in enumerate(self.links.items()):
            below = str(self.outside).lstrip("/") if target == "/" else ""
            _fill(self.export / name / below, INSIDE)
            os.symlink(target, self.top / "backstage" / str(number))
        _fill(self.export / "par" / "q", INSIDE)
        _fill(self.top / "source" / "inner", b"mounted")
        os.symlink("m", self.export / "within")
        (self.export / "crowd").mkdir()
        for number in range(self.crowd):
            (self.export / "crowd" / str(number)).touch()
        for name in ("m", *SIDECARS_OF):
            _fill(self.export / name, INSIDE)
            # With a second name it is not kept in memory.
            os.link(self.export / name / "file", self.top / "backstage" / name)
        (self.export / "side" / METADATA).mkdir()
        for name in ("elsewhere", "source"):
            (self.top / name / "file").write_bytes(MARK)
            (self.top / name / "victim").write_bytes(MARK)

    @property
    def attacked_otherwise(self) -> list[str]:
        """Directories of the export that stay where they are, but are mounted over, or have their
        sidecars attacked."""
        sidecars = SIDECARS_OF if self.model == "mapped-file" else ()
        return [*(["m"] if self.mounts else []), *sidecars]

    @property
    def links(self) -> dict[str, str]:
        """Directories in the export that are exchanged for symlinks, and where these lead."""
        return {
            "dir": str(self.outside),
            "up": "../outside",
            "root": "/",
            f"meta/{METADATA}": str(self.outside),
        }

    @property
    def places(self) -> tuple[Path, Path]:
        """Files in whose place others are put."""
        return self.export / "swapped", self.export / "side" / METADATA / "file"

    def _make_nodes(self) -> None:
        """What is put in a file's place. Each is always the same inode."""
        nodes = self.top / "nodes"
        (nodes / "file").write_bytes(INSIDE)
        for place in self.places:
            os.link(nodes / "file", place)
        os.symlink(self.outside / "file", nodes / "link")
        os.mkfifo(nodes / "fifo")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(nodes / "socket"))
        if IS_ROOT:
            os.mknod(nodes / "device", stat.S_IFCHR, os.makedev(1, 3))
        for node in nodes.iterdir():
            if not node.is_symlink():
                node.chmod(0o666)

    def _own(self) -> None:
        if os.geteuid() == self.owner[0]:
            return
        for path in (self.top, *self.top.rglob("*")):
            os.chown(path, *self.owner, follow_symlinks=False)

    def _mark(self) -> None:
        for path in self._marked:
            os.utime(path, (MARKED_TIME, MARKED_TIME), follow_symlinks=False)

    def _list_marked(self) -> Iterator[Path]:
        yield self.outside
        yield from sorted(self.outside.rglob("*"))
        for name in ("elsewhere", "source"):
            yield from (self.top / name / each for each in ("file", "victim"))

    # ---- attacking ----------------------------------------------------------------------------

    def renames(self) -> list[Step]:
        """A round of names that change."""
        nodes, backstage = self.top / "nodes", self.top / "backstage"
        swaps = [
            ("exchange", str(self.export / name), str(backstage / str(number)))
            for number, name in enumerate(self.links)
        ]
        home, away = str(self.export / "par" / "q"), str(self.top / "elsewhere" / "q")
        steps: list[Step] = []
        for other in sorted(set(os.listdir(nodes)) - {"file"}):
            for node, move in ((other, (home, away)), ("file", (away, home))):
                steps += [("put", str(nodes / node), str(place)) for place in self.places]
                steps += [*swaps, ("move", *move)]
        return steps

    def remounts(self) -> list[Step]:
        """A round of mounts that come and go: two, as there is none while the last one goes, which
        takes the kernel long."""
        where = str(self.top / "source" / "inner"), str(self.export / "m")
        return [*[("mount", *where)] * 2, *[("unmount", *where)] * 2]

    # ---- what came of it ------------------------------------------------------------------------

    def _inodes(self) -> set[int]:
        """The inode numbers of all that is outside."""
        directories = (self.top / name for name in ("", "elsewhere", "source", "backstage"))
        return {path.lstat().st_ino for path in (*self._marked, *directories)}

    def won(self) -> set[str]:
        """What has been done outside since the last time, and to which nodes."""
        nodes = self.top / "nodes"
        return {
            event.path.name if event.path.parent == nodes else event.what
            for event in self._events()
        }

    def changes(self) -> list[str]:
        """What was opened or changed outside, and which nodes were opened."""
        found = {f"{path}: {what}" for path, what in self._events()}
        now = self._snapshot()
        for path in sorted(now.keys() | self._before.keys()):
            if now.get(path) != self._before.get(path):
                found.add(f"{path}: {self._before.get(path)} became {now.get(path)}")
        return sorted(found)

    def _events(self) -> list[Event]:
        return [
            event
            for event in self.watch.seen()
            if event.path.name not in ALLOWED.get(event.path.parent.name, ())
        ]

    def _snapshot(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in self._marked:
            now = path.lstat()
            times = now.st_mtime_ns, now.st_ctime_ns
            found[str(path)] = (now.st_mode, now.st_uid, now.st_nlink, now.st_size, *times)
        for name in ("elsewhere", "source"):
            found[name] = tuple(sorted(set(os.listdir(self.top / name)) - {"q"}))
        return found

    def _start_watch(self) -> None:
        changes = IN_ACCESS | IN_MODIFY | IN_ATTRIB | IN_OPEN | IN_CREATE | IN_DELETE
        for directory in (self.outside, self.outside / "sub"):
            self.watch.add(directory, changes | IN_MOVED)
        for name in ("elsewhere", "source"):
            self.watch.add(self.top / name, changes)
        for node in (self.top / "nodes").iterdir():
            if node.name not in ("file", "link"):
                self.watch.add(node, IN_OPEN)


def _fill(directory: Path, text: bytes) -> None:
    """The names that are attacked: in the export, and outside of it."""
    (directory / "sub").mkdir(parents=True)
    for name in ("file", "victim", "sub/file"):
        (directory / name).write_bytes(text)
        os.setxattr(directory / name, XATTR, text)
    os.symlink(os.fsdecode(text), directory / "link")
    (directory / os.fsdecode(text)).write_bytes(b"")


class Attack:
    """Processes of the host that attack until the end of the block."""

    def __init__(self, program: Path, rounds: Sequence[Sequence[Step]], wrapper: Sequence[str]):
        words = [[str(program), *itertools.chain(*steps)] for steps in rounds]
        self._commands = [ending_with_tests(each, wrapper) for each in words]

    def __enter__(self) -> Attack:
        self._processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for command in self._commands
        ]
        for process in self._processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for process in self._processes:
            process.terminate()
        said = [process.communicate() for process in self._processes]
        if kind in (None, GeneratorExit):
            assert not any(process.returncode for process in self._processes), said
            assert all(int(rounds) for rounds, _ in said)


def _parent() -> str | None:
    """In memory if that knows attributes (Linux 6.6): what a disk does takes long."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        try:
            os.setxattr(file.fileno(), XATTR, b"")
        except OSError:
            return None
    return "/dev/shm"


@contextlib.contextmanager
def staged(
    owner: tuple[int, int], model: str = "", *, mounts: bool = False, crowd: int = 0
) -> Iterator[Stage]:
    """A stage that is taken down at the end."""
    top = Path(tempfile.mkdtemp(prefix="v9-stage-", dir=_parent()))
    try:
        stage = Stage(top, owner, model, mounts, crowd)
        yield stage
        stage.watch.close()
    finally:
        shutil.rmtree(top, ignore_errors=True)
