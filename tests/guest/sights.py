"""What a program sees of a tree, by name and through what it holds open: `python3 sights.py FOLDER`
in a guest, with an order on each line; the host's own view is made by the same code.

Belongs here: how it looks. It runs under whatever Python the guest has, so it imports nothing of
ours.

    look [KEY ...]      a digest of all that is seen
    tell [KEY ...]      all that is seen, as JSON
    hold KEY PATH       keeps a file or directory open; looks see its contents, and its attributes,
                        too, if they name it
    release KEY
"""

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterable

TRIES = 1000
Sight = dict[str, list[object]]


class Sights:
    """Those of a program: FOLDER is `top`; `names` are looked up though a listing lacks them, so
    that the kernel remembers that they are not there."""

    def __init__(self, top: str, names: Iterable[str] = ()) -> None:
        self._top = top
        self._names = [*names]
        self._held: dict[str, int] = {}
        self._path_of: dict[str, str] = {}

    def look(self, held: Iterable[str]) -> Sight:
        """What is seen now: by path, and by key, for such keys as `keys` returns."""
        found: Sight = {}
        for name in self._names:
            self._see(name, found)
        self._see("", found)
        for word in held:
            key, _, size = word.partition("=")
            fd = self._held[key]
            try:
                if size:
                    found[f"held {key}"] = content_of(fd, int(size))
                else:
                    found[f"held {key}"] = seen_of(os.fstat(fd)) + content_of(fd)
            except OSError as error:
                found[f"held {key}"] = ["error", error.errno]
        return found

    def keys(self, *, old: bool) -> list[str]:
        """Those of what still has the name under which it was opened; with `old` of other files,
        too, with their sizes: only their contents are looked at."""
        found = []
        for key, fd in self._held.items():
            status = os.fstat(fd)
            if self._is(self._path_of[key], fd):
                found.append(key)
            elif old and stat.S_ISREG(status.st_mode):
                found.append(f"{key}={status.st_size}")
        return found

    def hold(self, key: str, path: str) -> None:
        """Keeps a file or a directory open, which may be missing for a moment, while an agent has
        its name looked up anew. Raises OSError."""
        tries = 0
        while key not in self._held:
            try:
                self._held[key] = os.open(os.path.join(self._top, path), os.O_RDONLY)
            except FileNotFoundError:
                tries += 1
                if tries > TRIES:
                    raise
                time.sleep(0.01)
        self._path_of[key] = path

    def lose(self, moved: Iterable[str]) -> None:
        """These names have been taken away, though they may be back."""
        for key, path in self._path_of.items():
            if any(f"{path}/".startswith(f"{each}/") for each in moved):
                self._path_of[key] = "lost"

    def release(self, key: str) -> None:
        """Closes it."""
        os.close(self._held.pop(key))
        del self._path_of[key]

    def _is(self, path: str, fd: int) -> bool:
        try:
            return os.path.samestat(os.lstat(os.path.join(self._top, path)), os.fstat(fd))
        except OSError:
            return False

    def _see(self, name: str, found: Sight) -> None:
        if name in found:
            return
        path = os.path.join(self._top, name)
        try:
            status = os.lstat(path)
            seen = seen_of(status)
            if stat.S_ISLNK(status.st_mode):
                seen.append(os.readlink(path))
            else:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    seen += content_of(fd)
                finally:
                    os.close(fd)
        except OSError as error:
            found[name] = ["error", error.errno]
            return
        found[name] = seen
        if stat.S_ISDIR(status.st_mode):
            for below in sorted(os.listdir(path)):
                if not below.startswith("."):
                    self._see(os.path.join(name, below), found)


def seen_of(status: os.stat_result) -> list[object]:
    """What stat(2) tells of a file; of a directory's size and links nobody should expect much."""
    seen: list[object] = [stat.filemode(status.st_mode), status.st_mtime_ns]
    return seen if stat.S_ISDIR(status.st_mode) else [*seen, status.st_size, status.st_nlink]


def content_of(fd: int, size: int = 1 << 20) -> list[object]:
    """The text of a file up to a size, shortened, or the names in a directory."""
    data = b""
    try:
        while chunk := os.pread(fd, size - len(data), len(data)):
            data += chunk
    except IsADirectoryError:
        return [sorted(name for name in os.listdir(fd) if not name.startswith("."))]
    return [len(data), data[:20].decode(errors="replace"), hashlib.sha1(data).hexdigest()[:8]]


def digest_of(sight: Sight) -> str:
    """The same for equal sights only."""
    return hashlib.sha1(json.dumps(sight, sort_keys=True).encode()).hexdigest()


def main(top: str, *names: str) -> None:
    """Obeys until there are no more orders."""
    sights = Sights(top, names)
    for line in sys.stdin:
        word, *rest = line.split()
        answer = "done"
        if word == "look":
            answer = digest_of(sights.look(rest))
        elif word == "tell":
            answer = json.dumps(sights.look(rest))
        elif word == "hold":
            sights.hold(*rest)
        else:
            sights.release(*rest)
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
