"""The cache folder: what is fetched and built once and used by every later run.

Belongs here: where the folder is, how something enters it, and the progress line. The folder lies
outside the source tree ($XDG_CACHE_HOME/vhost9p, else ~/.cache/vhost9p), belongs to one user and
may be deleted at any time.

An entry is complete or absent: it is made in a folder beside its final place and renamed. Each
entry has a lock file of its own, so that of two runs that want the same entry one makes it and the
other waits; a run that was killed leaves only a folder that the next one removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

Maker = Callable[[Path], None]
"""What makes an entry: it gets an absent path and creates it as a file or a folder."""

_QUIET_SECONDS = 1.0
"""What takes less than this is not announced."""
_DAYS_KEPT = 7.0


def folder() -> Path:
    """The cache folder, made when it is absent. Raises OSError when it cannot be made."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base).absolute() / "vhost9p"
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock called `name` against other threads and processes of this user."""
    path = folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file, Progress(f"waiting for another run ({name})") as progress:
        fcntl.flock(file, fcntl.LOCK_EX)
        progress.close()
        yield


def entry(name: str, make: Maker) -> Path:
    """The path of entry `name`, which may contain slashes; made by `make` when it is absent.

    What `make` raises is passed on, and nothing is left behind.
    """
    final = folder() / name
    if final.exists():
        return final
    with locked(name.replace("/", "-")):
        if final.exists():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished = final.with_name(final.name + ".unfinished")
        _remove(unfinished)
        try:
            make(unfinished)
            unfinished.rename(final)
        finally:
            _remove(unfinished)
    return final


def kept(name: str, make: Maker) -> Path:
    """As `entry`; deletes the files beside it that nobody has used for a week.

    For what is built from sources that change.
    """
    while True:
        path = entry(name, make)
        with suppress(FileNotFoundError):  # another run has just deleted it as unused
            os.utime(path)
            break
    forget_unused(path.parent, _DAYS_KEPT)
    return path


def forget_unused(path: Path, days: float) -> None:
    """Delete the files in `path` that have not been touched for `days` days."""
    oldest = time.time() - days * 86400
    for file in path.iterdir():
        with suppress(FileNotFoundError):  # another run has renamed or deleted it
            if file.is_file() and file.stat().st_mtime < oldest:
                file.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Progress:
    """A line on standard error about something that takes longer than a second.

    On a terminal the line is rewritten in place twice a second; elsewhere it is printed once at
    the start, once at the end and every ten seconds between them.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._detail = ""
        self._start = time.monotonic()
        self._shown = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close("failed" if kind else "done")

    def update(self, detail: str) -> None:
        """Say how far it has come, in a few words."""
        self._detail = detail

    def close(self, outcome: str = "done") -> None:
        """End the line. Idempotent."""
        if self._done.is_set():
            return
        self._done.set()
        self._thread.join()
        if self._shown:
            self._print(outcome, end="\n")

    def _tick(self) -> None:
        terminal = sys.stderr.isatty()
        pause = _QUIET_SECONDS
        while not self._done.wait(pause):
            self._shown = True
            self._print(self._detail, end="" if terminal else "\n")
            pause = 0.5 if terminal else 10.0

    def _print(self, text: str, end: str) -> None:
        seconds = time.monotonic() - self._start
        start = "\r\033[K" if sys.stderr.isatty() else ""
        parts = ", ".join(part for part in (text, f"{seconds:.0f} s") if part)
        print(f"{start}{self._what}: {parts}", end=end, file=sys.stderr, flush=True)
