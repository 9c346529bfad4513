"""The archive format of an initramfs: "newc" cpio, written without root and without cpio.

Belongs here: the format alone (Linux's Documentation/driver-api/early-userspace/buffer-format.rst).
An archive is a row of entries, each a header of 13 eight-digit hexadecimal fields after a magic,
the name with its NUL, and the data, both padded to four bytes; an entry TRAILER!!! ends it. The
kernel unpacks several archives that follow each other, the later ones over the earlier.

Everything belongs to root. Hard links share an inode number; the data stands with the last.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class Writer:
    """Writes one archive into a binary file; `close` ends it, the file stays open."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0
        self._folders: set[str] = set()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder, and its parents where they are missing. `name` is relative to /."""
        if name in {"", "."} or name in self._folders:
            return
        self.folder(os.path.dirname(name))
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self.folder(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.folder(os.path.dirname(name))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, mode: int, major: int, minor: int) -> None:
        """Add a character device."""
        self.folder(os.path.dirname(name))
        self._entry(name, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, root: Path) -> None:
        """Add all that is in the folder `root`: folders, files, links and hard links."""
        links: dict[tuple[int, int], list[str]] = {}
        for folder, folders, files in os.walk(root):
            for entry in sorted(folders + files):
                path = Path(folder, entry)
                name = str(path.relative_to(root))
                info = path.lstat()
                if stat.S_ISLNK(info.st_mode):
                    self.link(name, os.readlink(path))
                elif stat.S_ISDIR(info.st_mode):
                    self.folder(name, stat.S_IMODE(info.st_mode))
                elif info.st_nlink > 1:
                    links.setdefault((info.st_dev, info.st_ino), []).append(name)
                else:
                    self.file(name, path.read_bytes(), stat.S_IMODE(info.st_mode))
        for names in links.values():
            self._hard_links(root, names)

    def close(self) -> None:
        """Write what ends an archive."""
        self._entry("TRAILER!!!", 0)

    def _hard_links(self, root: Path, names: list[str]) -> None:
        path = root / names[0]
        inode, self._inode = self._inode + 1, self._inode + 1
        for name in names:
            data = path.read_bytes() if name == names[-1] else b""
            self._entry(name, path.stat().st_mode, data, inode=inode, links=len(names))

    def _entry(
        self,
        name: str,
        mode: int,
        data: bytes = b"",
        device: tuple[int, int] = (0, 0),
        inode: int = 0,
        links: int = 1,
    ) -> None:
        if not inode:
            self._inode += 1
            inode = self._inode
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self._out.write(header + bytes(-len(header) % 4))
        self._out.write(data)
        self._out.write(bytes(-len(data) % 4))
