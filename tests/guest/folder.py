"""A guest's root as a folder of the host, made by the same steps as an archive (cpio.py)."""

from __future__ import annotations

import shutil
from pathlib import Path


class Folder:
    """Writes into a folder what Writer writes into an archive: what comes later takes the place
    of what was there. It has no devices: a guest's /dev is made at boot."""

    def __init__(self, top: Path) -> None:
        self._top = top
        top.mkdir()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Adds a folder, and its parents where they are missing. `name` is relative to /."""
        path = self._top / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Adds a regular file."""
        path = self._free(name)
        path.write_bytes(data)
        path.chmod(mode)

    def link(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        self._free(name).symlink_to(target)

    def tree(self, root: Path) -> None:
        """Adds all that is in the folder `root`."""
        shutil.copytree(root, self._top, symlinks=True, dirs_exist_ok=True)

    def _free(self, name: str) -> Path:
        path = self._top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        return path
