"""What a program does with a tree of small files, one step per run, inside a guest:
`python3 tree_steps.py STEP DIRECTORIES FILES MEBIBYTES` in a folder of the mount.

Belongs here: the steps, and the check of each. A step prints how long it took, in µs, without the
interpreter's own start. It runs under whatever Python the guest has, so it imports nothing of ours.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator

STEP, DIRECTORIES, FILES, MEBIBYTES = sys.argv[1], *map(int, sys.argv[2:])
SIZE = 4096
CHUNK = 1 << 20


def paths(prefix: str = "f") -> Iterator[str]:
    """The files, FILES to a directory."""
    for directory in range(DIRECTORIES):
        for number in range(FILES):
            yield f"tree/d{directory}/{prefix}{number}"


def content(path: str) -> bytes:
    """Another one for each file."""
    return path.encode().ljust(SIZE, b".")


def create() -> None:
    os.mkdir("tree")
    for directory in range(DIRECTORIES):
        os.mkdir(f"tree/d{directory}")
    for path in paths():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        assert os.write(fd, content(path)) == SIZE
        os.close(fd)


def lstat() -> None:
    for path in paths():
        assert os.lstat(path).st_size == SIZE, path


def read() -> None:
    for path in paths():
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, SIZE)
        os.close(fd)
        assert data[:40] == content(path)[:40] and len(data) == SIZE, path


def rename() -> None:
    for old, new in zip(paths(), paths("g"), strict=True):
        os.rename(old, new)
    assert sum(name[0] == "g" for name in os.listdir("tree/d0")) == FILES


def unlink() -> None:
    for path in paths("g"):
        os.unlink(path)
    assert os.listdir("tree/d0") == []


def write_bulk() -> None:
    fd = os.open("bulk", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for number in range(MEBIBYTES):
        assert os.write(fd, bytes([number % 251]) * CHUNK) == CHUNK
    os.fsync(fd)
    os.close(fd)


def read_bulk() -> None:
    fd = os.open("bulk", os.O_RDONLY)
    for number in range(MEBIBYTES):
        data = os.read(fd, CHUNK)
        assert len(data) == CHUNK and data[0] == data[-1] == number % 251, number
    os.close(fd)


STEPS: dict[str, Callable[[], None]] = {
    step.__name__: step for step in (create, lstat, read, rename, unlink, write_bulk, read_bulk)
}


def main() -> None:
    with open("/sys/kernel/tracing/trace_marker", "w", buffering=1) as marker:
        marker.write("begin\n")
        start = time.monotonic_ns()
        STEPS[STEP]()
        elapsed = time.monotonic_ns() - start
        marker.write("end\n")
    print(elapsed // 1000)


if __name__ == "__main__":
    main()
