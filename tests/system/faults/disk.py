"""A file system in an image file, mounted for a test: as root, where the host has loop devices."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 16 << 20


def run(*command: str | Path) -> None:
    """Skips the test where this host cannot do it."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{command[0]}: {error.stderr.strip()}")


def make_disk(image: Path, journal: str) -> None:
    """Makes an ext4 file system; its image takes room only as it is written."""
    with open(image, "wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-O", journal, "-E", "lazy_itable_init=0", image)


@contextlib.contextmanager
def mounted_disk(image: Path | str, *options: str, kind: str = "auto") -> Iterator[Path]:
    """Mounts an image, or what has none (`kind`); yields where."""
    top = Path(f"{image}.mounted")
    top.mkdir()
    run("mount", "-t", kind, "-o", ",".join(options), image, top)
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)
        top.rmdir()
