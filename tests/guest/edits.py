"""Host edits under a guest that is at work: what changes on the host, and a program in the guest
that holds what is changed and tells what it sees by name.

The guest stands in `build`, has files open, runs `program` and follows `log`, so its kernel has
their directory entries in use and asks for nothing by name.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.guest.channel import Process
from tests.guest.guest import Guest

MARK = b"version 0000000000"

PROGRAM = """
#include <stdio.h>
#include <unistd.h>
int main(int count, char **words)
{
    static volatile char text[] = "%s";
    puts((char *)text);
    fflush(stdout);
    if (count > 1)
        sleep(1000000);
    return words == 0;
}
"""

HOLDER = """
import json, os, subprocess, sys

def see(path, found, top):
    try:
        status = os.lstat(path)
    except OSError as error:
        found[path[len(top):]] = ["error", error.errno]
        return
    kinds = {0o040000: "directory", 0o100000: "file", 0o120000: "link"}
    kind = kinds.get(status.st_mode & 0o170000)
    what = [kind]
    try:
        if kind == "file" and not path.endswith("program"):
            with open(path) as file:
                what += [file.read(), status.st_size]
        elif kind == "file":
            what += [subprocess.run([path], capture_output=True, text=True).stdout.strip()]
        elif kind == "link":
            what += [os.readlink(path)]
        elif kind == "directory":
            names = sorted(os.listdir(path))
            what += [names]
            for name in names:
                see(path + "/" + name, found, top)
    except OSError as error:
        what += [error.errno]
    found[path[len(top):]] = what

def hold(path):
    try:
        return open(path)
    except OSError:
        return None

top = sys.argv[1]
os.chdir(top + "/build")
held = []
files = "--no-files" not in sys.argv
for name in ("f", "build/new", "log") if files else ():
    fd = os.open(top + "/" + name, os.O_RDONLY)
    held.append((name, fd, os.read(fd, 10000)))
def start():
    return subprocess.Popen([top + "/program", "stay"], stdout=subprocess.DEVNULL)

running = start()
places = [os.open(top + "/" + name, os.O_PATH) for name in ("build", "src", "src/d")]
recent = []
print("ready", flush=True)
for line in sys.stdin:
    found = {}
    # It was replaced while it ran, and is started again. While it runs nothing helps: its pages are
    # in the guest's cache, under the directory entry that it keeps in use.
    running.kill()
    running.wait()
    for name in line.split():
        see(top + "/" + name, found, top + "/")
    for name, fd, text in held: # not beyond its end: there Linux 6.12's client does not end
        found["held " + name] = [os.pread(fd, len(text), 0) == text]
    running = start()
    print(json.dumps(found), flush=True)
    # What is held changes, so that there are entries in use which the host has replaced already.
    if files:
        recent = recent[-3:] + [hold(top + "/" + name) for name in ("f", "build/new", "src/d/a")]

running.kill()
running.wait()
"""


@dataclass
class Workplace:
    """A directory of the host in which somebody works; the guest sees it as `top`."""

    host: Path
    turn: int = 0
    program: bytes = b""
    names: tuple[str, ...] = ("f", "log", "log.1", "current", "program", "build", "src")
    kinds: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.program = self._compile()
        self.kinds = [
            self.save,
            self.save_with_backup,
            self.rebuild,
            self.replace_tree,
            self.make_anew,
            self.checkout,
            self.point_elsewhere,
            self.rotate,
        ]
        self.write("log", "log\n")
        self.rotate()
        self.save()
        self.rebuild()
        self.point_elsewhere()
        for branch in ("one", "two"):
            self._commit(branch)
        self.checkout()
        (self.host / "build").mkdir()
        self.replace_tree()

    def _compile(self) -> bytes:
        source = self.host / "program.c"
        source.write_text(PROGRAM % MARK.decode())
        subprocess.run(
            ["cc", "-O1", "-static", "-s", "-o", self.host / "a.out", source], check=True
        )
        source.unlink()
        binary = (self.host / "a.out").read_bytes()
        (self.host / "a.out").unlink()
        assert binary.count(MARK) == 1
        return binary

    def write(self, name: str, text: str) -> None:
        (self.host / name).write_text(text)

    def text(self) -> str:
        """Other text each time, of another length."""
        return f"turn {self.turn}\n" * (1 + self.turn % 7)

    # ---- edits ------------------------------------------------------------------------------

    def save(self) -> None:
        """An editor: writes beside, and renames over."""
        self.write("f~", self.text())
        os.rename(self.host / "f~", self.host / "f")

    def save_with_backup(self) -> None:
        """Another editor: moves the old file away first."""
        os.rename(self.host / "f", self.host / "f.bak")
        self.write("f", self.text())

    def rebuild(self) -> None:
        """A linker: removes what runs, and writes anew."""
        path = self.host / "program"
        path.unlink(missing_ok=True)
        path.write_bytes(self.program.replace(MARK, b"version %010d" % self.turn))
        path.chmod(0o755)

    def replace_tree(self) -> None:
        """A build directory that is put in the other's place."""
        new, build, old = (self.host / name for name in ("build.new", "build", "build.old"))
        new.mkdir()
        (new / "new").write_text(self.text())
        (new / f"only-{self.turn}").write_text(self.text())
        (new / "sub").mkdir()
        (new / "sub" / "file").write_text(self.text())
        os.rename(build, old)
        os.rename(new, build)
        shutil.rmtree(old)

    def make_anew(self) -> None:
        """`rm -rf build; mkdir build`."""
        shutil.rmtree(self.host / "build")
        (self.host / "build").mkdir()
        (self.host / "build" / "new").write_text(self.text())

    def point_elsewhere(self) -> None:
        """A symlink that leads to the newest release."""
        (self.host / "next").symlink_to(f"release-{self.turn}")
        os.rename(self.host / "next", self.host / "current")

    def _git(self, *words: str) -> None:
        config = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=none"]
        folder = [f"--git-dir={self.host.parent / 'git'}", f"--work-tree={self.host / 'src'}"]
        subprocess.run(["git", *folder, *config, *words], check=True, capture_output=True)

    def _commit(self, branch: str) -> None:
        source = self.host / "src"
        if branch == "one":
            source.mkdir()
            self._git("init", "-q")
        self._git("checkout", "-q", "--orphan", branch)
        shutil.rmtree(source)
        (source / "d").mkdir(parents=True)
        (source / "d" / "a").write_text(f"{branch}\n" * (1 + len(branch)))
        (source / branch).write_text(branch)
        if branch == "one":
            (source / "e").write_text("a file")
        else:
            (source / "e").mkdir()
            (source / "e" / "f").write_text("a file in a directory")
        self._git("add", "-A")
        self._git("commit", "-q", "-m", branch)

    def checkout(self) -> None:
        """The other branch."""
        self._git("checkout", "-q", ("one", "two")[self.turn // 2 % 2])

    def rotate(self) -> None:
        """`logrotate`."""
        os.rename(self.host / "log", self.host / "log.1")
        self.write("log", f"log {self.turn}\n")

    def edit(self) -> str:
        """The next edit; its name."""
        self.turn += 1
        kind = self.kinds[self.turn % len(self.kinds)]
        kind()
        return kind.__name__

    # ---- what there is ----------------------------------------------------------------------

    def see(self) -> dict[str, Any]:
        """What the guest ought to see."""
        found: dict[str, Any] = {}
        for name in self.names:
            self._see(self.host / name, found)
        return found

    def _see(self, path: Path, found: dict[str, Any]) -> None:
        status = path.lstat()
        name = str(path.relative_to(self.host))
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(path))
            found[name] = ["directory", names]
            for each in names:
                self._see(path / each, found)
        elif stat.S_ISLNK(status.st_mode):
            found[name] = ["link", os.readlink(path)]
        elif name == "program":
            at = self.program.index(MARK)
            found[name] = ["file", path.read_bytes()[at : at + len(MARK)].decode()]
        else:
            text = path.read_text()
            found[name] = ["file", text, len(text)]


class Holder:
    """The program in the guest."""

    def __init__(self, vm: Guest, top: str, *options: str) -> None:
        self.process: Process = vm.popen(["python3", "-c", HOLDER, top, *options], stdin=None)
        self.process.expect(b"ready\n")
        self.lines = 1

    def see(self, names: tuple[str, ...]) -> dict[str, Any]:
        """What it sees by these names; whether what it holds is what it was."""
        self.process.write(" ".join(names).encode() + b"\n")
        self.lines += 1
        while self.process.stdout.count(b"\n") < self.lines:
            before = len(self.process.stdout)
            self.process._until(
                lambda before=before: (
                    len(self.process.stdout) > before  # type: ignore[misc]
                    or self.process.returncode is not None
                ),
                120,
                "has not told what it sees",
            )
            if self.process.returncode is not None:
                self.process.wait()
        found: dict[str, Any] = json.loads(self.process.stdout.splitlines()[self.lines - 1])
        return found


def differences(seen: dict[str, Any], there: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the guest sees otherwise: what it sees, and what there is."""
    held = {name: value for name, value in seen.items() if name.startswith("held ")}
    by_name = {name: value for name, value in seen.items() if not name.startswith("held ")}
    wrong = {
        name: (by_name.get(name), there.get(name))
        for name in by_name.keys() | there.keys()
        if by_name.get(name) != there.get(name)
    }
    wrong |= {name: (value, [True]) for name, value in held.items() if value != [True]}
    return wrong
