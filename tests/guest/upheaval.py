"""Changes of a small tree by the host: each kind that programs make, at random.

Belongs here: the kinds. Names come from a small stock, so that what is removed comes again as
something else, and a guest has looked each name up when nothing had it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

DIRECTORIES, FILES = 4, 4
DEPTH = 2


def stock(prefix: str = "", depth: int = DEPTH) -> Iterator[str]:
    """All names that there may be."""
    for number in range(FILES):
        yield f"{prefix}f{number}"
        yield f"{prefix}s{number}"
    for number in range(DIRECTORIES if depth else 0):
        yield f"{prefix}d{number}"
        yield from stock(f"{prefix}d{number}/", depth - 1)


class Upheaval:
    """Changes below `top`, chosen by `seed`."""

    def __init__(self, top: Path, seed: int, *, links: bool, types: bool) -> None:
        """With `links` files get second names; with `types` a name may lead to a file, then to a
        symlink."""
        self._top = top
        self._random = random.Random(seed)
        self._turn = 0
        self._symlink = "f" if types else "s"
        self.moved: set[str] = set()
        """The names that files or directories have had, and lost by a rename."""
        self.kinds: list[Callable[[], object]] = [
            *(self.append, self.overwrite, self.truncate, self.empty, self.rewrite, self.grow),
            *(self.replace, self.save_with_backup, self.remove, self.create, self.move),
            *(self.make_directory, self.remove_directory, self.move_directory),
            *(self.replace_directory, self.chmod, self.chmod_directory, self.touch, self.symlink),
            *((self.link,) if links else ()),
        ]
        for _ in range(10):
            self.create()
            self.make_directory()

    def change(self) -> str:
        """Makes a change; its name."""
        while True:
            kind = self._random.choice(self.kinds)
            if kind() is not False:
                return kind.__name__

    def one(self) -> str | None:
        """The path of something that there is below the top; None if there is nothing."""
        found = [*self._files(), *self._directories()]
        return str(self._random.choice(found).relative_to(self._top)) if found else None

    # ---- what there is ----------------------------------------------------------------------

    def _files(self) -> list[Path]:
        return [p for p in sorted(self._top.rglob("*")) if p.is_file() and not p.is_symlink()]

    def _directories(self) -> list[Path]:
        return [p for p in sorted(self._top.rglob("*")) if p.is_dir() and not p.is_symlink()]

    def _file(self) -> Path:
        return self._random.choice(self._files() or [self.create()])

    def _directory(self) -> Path:
        return self._random.choice([self._top, *self._directories()])

    def _new(self, letter: str) -> Path | None:
        """A name that nothing has, in a directory that is not too deep."""
        folder = self._directory()
        if letter == "d" and len(folder.relative_to(self._top).parts) >= DEPTH:
            return None
        free = [path for n in range(4) if not os.path.lexists(path := folder / f"{letter}{n}")]
        return self._random.choice(free) if free else None

    def _text(self) -> bytes:
        """Another one each time, from some bytes to some pages."""
        self._turn += 1
        line = b"turn %d\n" % self._turn
        return line * self._random.choice((1, 2, 3, 50, 600, 1500))

    # ---- contents ---------------------------------------------------------------------------

    def append(self) -> None:
        with self._file().open("ab") as file:
            file.write(self._text())

    def overwrite(self) -> None:
        """In place, without another size."""
        path = self._file()
        text = self._text()
        with path.open("r+b") as file:
            file.write(text[: path.stat().st_size])

    def truncate(self) -> None:
        path = self._file()
        os.truncate(path, path.stat().st_size // 2)

    def empty(self) -> None:
        os.truncate(self._file(), 0)

    def rewrite(self) -> None:
        """A shell's `>`."""
        self._file().write_bytes(self._text())

    def grow(self) -> None:
        """A hole."""
        path = self._file()
        os.truncate(path, path.stat().st_size + self._random.choice((1, 4096, 10000)))

    # ---- names ------------------------------------------------------------------------------

    def _move(self, path: Path, to: Path) -> None:
        self.moved.add(str(path.relative_to(self._top)))
        path.rename(to)

    def replace(self) -> None:
        """An editor: writes beside, and renames over."""
        path = self._file()
        beside = path.with_name(".beside")
        beside.write_bytes(self._text())
        self._move(beside, path)

    def save_with_backup(self) -> None:
        """Another editor: moves the old file away first."""
        path = self._file()
        self._move(path, path.with_name("f0"))
        path.write_bytes(self._text())

    def remove(self) -> None:
        self._file().unlink()

    def create(self) -> Path:
        path = self._new("f") or self._top / "f-more"
        path.write_bytes(self._text())
        return path

    def move(self) -> None:
        """Perhaps over another file."""
        path, folder = self._file(), self._directory()
        name = f"f{self._random.randrange(FILES)}"
        if (folder / name).is_dir():
            return
        self._move(path, folder / name)

    def link(self) -> bool:
        path = self._new("f")
        if path:
            path.hardlink_to(self._file())
        return path is not None

    def symlink(self) -> bool:
        path = self._new(self._symlink)
        if path:
            path.symlink_to(f"release-{self._turn}")
        return path is not None

    # ---- directories ------------------------------------------------------------------------

    def make_directory(self) -> bool:
        """With something in it."""
        path = self._new("d")
        if path:
            path.mkdir()
            (path / "f1").write_bytes(self._text())
        return path is not None

    def remove_directory(self) -> bool:
        if not (found := self._directories()):
            return False
        shutil.rmtree(self._random.choice(found))
        return True

    def move_directory(self) -> bool:
        """To where nothing is, perhaps into another directory."""
        found, new = self._directories(), self._new("d")
        if not found or not new:
            return False
        path = self._random.choice(found)
        deep = any(each.is_dir() for each in path.iterdir())
        if new.is_relative_to(path) or (deep and new.parent != self._top):
            return False
        self._move(path, new)
        return True

    def replace_directory(self) -> bool:
        """A build's: another one in its place."""
        if not (found := self._directories()):
            return False
        path = self._random.choice(found)
        beside, old = path.with_name(".new"), path.with_name(".old")
        beside.mkdir()
        (beside / "f2").write_bytes(self._text())
        self._move(path, old)
        self._move(beside, path)
        shutil.rmtree(old)
        return True

    # ---- attributes -------------------------------------------------------------------------

    def chmod(self) -> None:
        self._file().chmod(self._random.choice((0o600, 0o640, 0o666)))

    def chmod_directory(self) -> None:
        self._directory().chmod(self._random.choice((0o700, 0o750, 0o777)))

    def touch(self) -> None:
        """A moment long ago."""
        time = self._random.randrange(10**9) * 10**9 + 5
        os.utime(self._file(), ns=(time, time))
