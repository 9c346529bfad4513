"""Saved states of devices as released versions have left them, one for each format, and what is
needed to go on with one.

A state is a file formatN.xz, which `python -m tests.saved_states.record` writes for the format of
this version: a device whose guest has files open, a lock, a value in flight and a request that
waits. It holds what a keeper's successor would find: the pages of the saved state and of guest
memory that are in use, and what each descriptor is.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tests.frontend.machine import QEMU_PROTOCOL
from tests.frontend.vhost_user import Protocol

PAGE = 4096
HERE = Path(__file__).parent
PROTOCOL = QEMU_PROTOCOL & ~(1 << Protocol.BACKEND_REQ)
MAX_FIDS = 64
FILES = {"file": b"0123456789", "gone": b"unlinked", "locked": b"", "valued": b""}
FOLDER = [f"entry-{i:03}" for i in range(200)]


def populate(export: Path) -> None:
    """Makes the files that the guest works with."""
    for name, data in FILES.items():
        (export / name).write_bytes(data)
    (export / "folder").mkdir()
    for name in FOLDER:
        (export / "folder" / name).touch()


@dataclass
class Descriptor:
    """What a descriptor of the keeper is: "file", "memory", "socket", or "kick", "call", "err"."""

    kind: str
    path: str = ""
    """Below the export; of a file that was removed, what it was called."""
    flags: int = 0
    position: int = 0
    is_locked: bool = False
    st_dev: int = 0
    st_ino: int = 0


@dataclass
class Fixture:
    """What a version has left."""

    version: str
    state: dict[str, str]
    """Pages that are not all zero, in base64, by their number."""
    memory: dict[str, str]
    """Likewise of guest memory."""
    descriptors: dict[str, Descriptor]
    """By their numbers."""
    config: dict[str, Any]
    """As the version has written it down, of an export in /export."""
    noted: dict[str, Any]
    """What the guest knows: fids, and what they stand for."""

    @classmethod
    def read(cls, number: int) -> Self:
        """That of a format."""
        values = json.loads(lzma.decompress((HERE / f"format{number}.xz").read_bytes()))
        named = {fd: Descriptor(**each) for fd, each in values.pop("descriptors").items()}
        return cls(descriptors=named, **values)

    def write(self, number: int) -> None:
        data = json.dumps(asdict(self), sort_keys=True).encode()
        (HERE / f"format{number}.xz").write_bytes(lzma.compress(data, preset=9))

    @property
    def header(self) -> dict[str, Any]:
        """Of the saved state."""
        line = base64.b64decode(self.state["0"]).partition(b"\n")[0]
        return dict(json.loads(line))


def pages_of(fd: int) -> dict[str, str]:
    """The pages of a file in memory that hold anything."""
    found, at, size = {}, 0, os.fstat(fd).st_size
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            break
        page = os.pread(fd, PAGE, at)
        if any(page):
            found[str(at // PAGE)] = base64.b64encode(page.rstrip(b"\0")).decode()
        at += PAGE
    return found


def fill_pages(fd: int, pages: dict[str, str], replace: dict[bytes, bytes] | None = None) -> None:
    """Writes them, with each identity of a file replaced by the one that it has now."""
    for number, text in pages.items():
        data = base64.b64decode(text)
        for old, new in (replace or {}).items():
            data = data.replace(old, new)
        os.pwrite(fd, data, int(number) * PAGE)


def identity(st_dev: int, st_ino: int) -> bytes:
    """A file's identity as it lies in the saved state."""
    return struct.pack("=QQ", st_dev, st_ino)
