"""What a program in the guest sees of the host's changes, and when:
`python3 probe.py FOLDER PATIENCE`, with an order on each line of standard input.

    clock                       tells the time
    ready                       waits until inotify has nothing more to report
    watch PATH                  waits until inotify reports something of the file in FOLDER
    name PATH TEXT              waits until the file of this name has this text and size
    open PATH, close PATH       opens a file, and closes it
    descriptor PATH TEXT        waits until the file that is open has this text and size
    all DIRECTORIES FILES TEXT  waits until all files of FOLDER/dN/fN have this text

Belongs here: the orders. It answers each with a line: the time when it saw that (CLOCK_MONOTONIC of
the guest, in ns), or 0 if it has not seen it within PATIENCE seconds. It runs under whatever Python
the guest has, so it imports nothing of ours.
"""

import ctypes
import os
import select
import sys
import time
from collections.abc import Callable

PAUSE_S = 0.0002
"""Seconds between two looks, in which the agent can run: the guest has one CPU."""
QUIET_S = 0.1
ALL_PATIENCE_S = 120.0
"""Seconds for all files."""
IN_MODIFY, IN_ATTRIB, IN_MOVED_TO, IN_CREATE = 0x2, 0x4, 0x80, 0x100

libc = ctypes.CDLL(None, use_errno=True)


class Probe:
    """See above."""

    def __init__(self, folder: str, patience: float) -> None:
        os.chdir(folder)
        self.patience = patience
        self.opened: dict[str, int] = {}
        self.inotify = libc.inotify_init1(os.O_NONBLOCK)
        libc.inotify_add_watch(self.inotify, b".", IN_MODIFY | IN_ATTRIB | IN_CREATE)

    def run(self) -> None:
        """Obeys until there are no more orders."""
        for line in sys.stdin:
            word, *rest = line.split()
            print(getattr(self, f"do_{word}")(*rest), flush=True)

    def do_clock(self) -> int:
        return time.monotonic_ns()

    def do_ready(self) -> int:
        while select.select([self.inotify], [], [], QUIET_S)[0]:
            os.read(self.inotify, 65536)
        return 0

    def do_watch(self, path: str) -> int:
        end = time.monotonic() + self.patience
        while select.select([self.inotify], [], [], max(0.0, end - time.monotonic()))[0]:
            seen = time.monotonic_ns()
            if path.encode() + b"\0" in os.read(self.inotify, 65536):
                return seen
        return 0

    def do_name(self, path: str, text: str) -> int:
        return self.until(lambda: has_by_name(path, text))

    def do_open(self, path: str) -> int:
        self.opened[path] = os.open(path, os.O_RDONLY)
        return 0

    def do_close(self, path: str) -> int:
        os.close(self.opened.pop(path))
        return 0

    def do_descriptor(self, path: str, text: str) -> int:
        fd = self.opened[path]
        return self.until(lambda: has(fd, text))

    def do_all(self, directories: str, files: str, text: str) -> int:
        """A pass over many files takes long itself: what counts is the end of the last one that
        has found something else. Between two passes the agent can run."""
        left = [f"d{d}/f{f}" for d in range(int(directories)) for f in range(int(files))]
        end = time.monotonic() + ALL_PATIENCE_S
        begin = right = time.monotonic()
        while left := [path for path in left if not has_by_name(path, text)]:
            right = time.monotonic()
            time.sleep(right - begin)
            begin = time.monotonic()
            if begin > end:
                return 0
        return int(right * 1e9)

    def until(self, seen: Callable[[], bool]) -> int:
        """Looks until it is seen."""
        end = time.monotonic() + self.patience
        while not seen():
            if time.monotonic() > end:
                return 0
            time.sleep(PAUSE_S)
        return time.monotonic_ns()


def has_by_name(path: str, text: str) -> bool:
    """Whether the file of this name has this text, and its size."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return has(fd, text) and os.stat(path).st_size == len(text)
    finally:
        os.close(fd)


def has(fd: int, text: str) -> bool:
    """Whether the open file has this text, and its size."""
    return os.fstat(fd).st_size == len(text) and os.pread(fd, len(text) + 1, 0) == text.encode()


if __name__ == "__main__":
    Probe(sys.argv[1], float(sys.argv[2])).run()
