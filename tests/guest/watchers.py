"""Programs in a native guest that wait for changes: what starts each, and what it needs.

Belongs here: how they are had, by npm, pip and apt, once, into the folder of cache.py; and how each
is made to say what it sees, a line for each change, after the line `ready`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from pathlib import Path

from tests.guest import cache, fetch
from tests.guest.apt import FetchError

CHOKIDAR = ("3", "4")
"""Major versions: Vite has the first."""
_CHOKIDAR = """
const watcher = require("FOLDER/node_modules/chokidarVERSION").watch(
    process.argv.at(-1), {ignoreInitial: true});
watcher.on("all", (kind, path) => console.log(kind, path));
watcher.on("ready", () => console.log("ready"));
"""
_WATCHDOG = """
import sys
sys.path.insert(0, "FOLDER")
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

class Printer(FileSystemEventHandler):
    def on_any_event(self, event):
        print(event.event_type, event.src_path, flush=True)

observer = Observer()
observer.schedule(Printer(), sys.argv[1], recursive=True)
observer.start()
print("ready", flush=True)
observer.join()
"""


@dataclass(frozen=True)
class Watcher:
    """A program that watches a directory and all below it, which is its last argument."""

    command: Sequence[str]
    changed: str
    """What it says of a file whose contents have changed; {} is its path."""
    created: str
    removed: str
    """What it says of names; {} is the path, {0.parent} that of the directory."""
    ready: bytes = b"ready\n"


def lacking() -> str:
    """Why the programs cannot be had; empty if they may."""
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    return f"the host has no {' and no '.join(missing)}" if missing else ""


def chokidar(version: str) -> Watcher:
    """What most of Node.js's tools watch with. Raises FetchError."""
    code = _CHOKIDAR.replace("FOLDER", str(_npm_packages())).replace("VERSION", version)
    return Watcher(("node", "-e", code, "--"), "change {}", "add {}", "unlink {}")


def watchdog() -> Watcher:
    """Python's. It takes a new name for a change of the directory's attributes, or the name's."""
    code = _WATCHDOG.replace("FOLDER", str(_site_packages()))
    return Watcher(("python3", "-c", code), "modified {}", "attrib {}", "attrib {0.parent}")


def inotifywait() -> Watcher:
    """As shell scripts do it. It prints its readiness on standard error; see `started`."""
    kinds = ("modify", "attrib", "create", "delete", "move")
    words = [word for kind in kinds for word in ("-e", kind)]
    command = (*fetch.inotifywait().command, "-m", "-r", "--format", "%e %w%f", *words)
    return Watcher(command, "MODIFY {}", "ATTRIB {}", "ATTRIB,ISDIR {0.parent}/", b"established")


WATCHERS: dict[str, Callable[[], Watcher]] = {
    **{f"chokidar {version}": partial(chokidar, version) for version in CHOKIDAR},
    "watchdog": watchdog,
    "inotifywait": inotifywait,
}


@once
def _npm_packages() -> Path:
    """A folder with node_modules in it."""

    def make(target: Path) -> None:
        target.mkdir()
        packages = (f"chokidar{version}@npm:chokidar@{version}" for version in CHOKIDAR)
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(target))
        _fetch(("npm", "install", *options, *packages))

    return cache.entry(f"chokidar-{'-'.join(CHOKIDAR)}", make)


@once
def _site_packages() -> Path:
    def make(target: Path) -> None:
        command = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target))
        _fetch((*command, "watchdog"))

    return cache.entry("watchdog", make)


def _fetch(command: Sequence[str]) -> None:
    with cache.Progress(f"fetching {command[-1]}"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
