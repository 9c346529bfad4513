"""Where marked directories are in the exports, kept right while they are renamed.

Events name a directory by an *id*. A note (native/dir_marks.py) says which directory that is, and
in which one it lies by then; later renames are events themselves. Notes may be ahead of events:
what a note says is of the time when the mark was set, and events of earlier times may still come.
So a directory is placed in the directory that it was found in, and not below a path: if that moves,
it moves along. And a rename counts only if it begins where the directory is by now: the note has
seen the others.

No event says that a directory has moved whose parent has no mark, nor that a mount has gone. So
whoever tells of a directory looks whether it is there, and says if it has left.

A directory that has left what is seen, or lost its place to another one, is *lost*: it has no path,
and what is below it has none, until an event or another note says where it is.
"""

from collections.abc import Callable, Iterator
from typing import Self

from vhost9p.changes.records import ITSELF, Entry
from vhost9p.native.dir_marks import Note

LOST_MAX = 1024
"""Lost directories that are remembered."""


class Unclear(Exception):
    """Nobody can tell where the directories are now."""


class _Directory:
    """A directory. One without an id is known by its name only. One without a number will be noted
    when the guest looks at it next."""

    __slots__ = ("_below", "above", "export", "has_events", "id", "name", "number")

    def __init__(self, export: int, ident: bytes = b"") -> None:
        self.export = export
        self.number = 0
        self.has_events = True
        """Whether the kernel reports what happens to its entries, if it has a number."""
        self.id = ident
        self.name = b""
        self.above: Self | None = None
        self._below: dict[bytes, Self] | None = None

    def entry(self, name: bytes) -> Self | None:
        """The directory that has a name here."""
        return self._below.get(name) if self._below else None

    def enter(self, name: bytes, other: Self) -> None:
        """Gives a directory without a place one here that is free."""
        if self._below is None:
            self._below = {}
        self._below[name] = other
        other.name, other.above = name, self

    def detach(self) -> None:
        """It has no place any more."""
        if self.above and self.above._below:
            del self.above._below[self.name]
        self.above = None

    def adopt(self, other: Self) -> None:
        """What is below the other one is below this one."""
        for each in list((other._below or {}).values()):
            if not self.entry(each.name):
                each.detach()
                self.enter(each.name, each)

    def is_elsewhere(self, entry: Entry) -> bool:
        """Whether it is known to have another name than this one, or in another directory."""
        above = self.above
        return above is not None and above.id != b"" and (above.id, self.name) != entry

    def all(self) -> Iterator[Self]:
        """It, and all below it."""
        waiting = [self]
        while waiting:
            each = waiting.pop()
            waiting += (each._below or {}).values()
            yield each

    def is_below(self, other: Self) -> bool:
        """Whether it is the other one, or below it."""
        at: Self | None = self
        while at and at is not other:
            at = at.above
        return at is other


class Places:
    """Those of the marked directories of a device. `drop` is called with the number of each
    that is gone."""

    def __init__(self, drop: Callable[[int], None]) -> None:
        self._drop = drop
        self.clear()

    def clear(self) -> None:
        """Forgets all."""
        self._roots: dict[int, _Directory] = {}
        self._numbers: dict[int, _Directory] = {}
        self._ids: dict[bytes, list[_Directory]] = {}
        self._lost: dict[_Directory, None] = {}

    def __contains__(self, ident: bytes) -> bool:
        return any(each.number for each in self._ids.get(ident, ()))

    @property
    def lost(self) -> int:
        """How many directories are lost."""
        return len(self._lost)

    def find(self, ident: bytes) -> list[tuple[int, bytes]]:
        """Returns the exports that a directory is in, by their index, each with the path below it:
        empty for the root, else with a slash at the end."""
        found = []
        for each in self._ids.get(ident, ()):
            path = self._path(each)
            if path is not None:
                found.append((each.export, path))
        return found

    def _path(self, directory: _Directory) -> bytes | None:
        names = [b""]
        at = directory
        while at.above:
            names.append(at.name)
            at = at.above
        return b"/".join(reversed(names)) if self._roots.get(at.export) is at else None

    def note(self, note: Note) -> None:
        """A directory is where the note says. Raises Unclear."""
        directory = self._numbers.get(note.number)
        if not directory or (directory.number, directory.id) != (note.number, note.id):
            directory = self._identify(note)
        if note.is_root:
            self._set_root(note.export, directory)
        elif note.path:
            above, _, name = note.path.rpartition(b"/")
            place = self._numbers.get(note.above) or self._by_path(note.export, above)
            self._move(directory, place, name)
        else:
            self._lose(directory)

    def _identify(self, note: Note) -> _Directory:
        """The directory of a number that is new."""
        same = self._ids.setdefault(note.id, [])
        known = [each for each in same if each.export == note.export and not each.number]
        directory = known[0] if known else _Directory(note.export, note.id)
        if not known:
            same.append(directory)
        directory.number, directory.has_events = note.number, True
        self._numbers[note.number] = directory
        return directory

    def _set_root(self, export: int, directory: _Directory) -> None:
        before = self._roots.get(export)
        if before and before is not directory:
            directory.adopt(before)
        self._roots[export] = directory

    def _by_path(self, export: int, path: bytes) -> _Directory:
        at = self._roots.setdefault(export, _Directory(export))
        for name in path.split(b"/") if path else ():
            below = at.entry(name)
            if not below:
                below = _Directory(export)
                at.enter(name, below)
            at = below
        return at

    def _move(self, directory: _Directory, above: _Directory, name: bytes) -> None:
        before = above.entry(name)
        if before is directory:
            return
        if above.is_below(directory):
            raise Unclear
        directory.detach()
        self._lost.pop(directory, None)
        if before:
            before.detach()
            if before.id:
                self._lose(before)
            else:
                directory.adopt(before)
        above.enter(name, directory)

    def _lose(self, directory: _Directory) -> None:
        directory.detach()
        self._drop_number(directory)
        self._lost[directory] = None
        if len(self._lost) > LOST_MAX:
            self._remove(next(iter(self._lost)))

    def has_no_events(self, number: int) -> None:
        """A directory could not be marked."""
        if directory := self._numbers.get(number):
            directory.has_events = False

    def is_followed(self, ident: bytes) -> bool:
        """Whether there is an event if a directory moves, or one above it."""
        return all(map(self._is_followed, self._ids.get(ident, ())))

    @staticmethod
    def _is_followed(directory: _Directory) -> bool:
        at = directory.above
        while at and at.number and at.has_events:
            at = at.above
        return at is None

    def leave(self, ident: bytes, is_there: Callable[[int, bytes], bool]) -> None:
        """A directory has left each place, by export and path, where it is not any more."""
        for each in list(self._ids.get(ident, ())):
            path = self._path(each)
            if path is not None and not is_there(each.export, path):
                self._lose(each)

    def renamed(self, what: bytes | None, old: Entry | None, new: Entry | None) -> None:
        """A directory with this id (None: not known) was renamed; an entry is None if its directory
        has no mark. Raises Unclear."""
        found = self._what(what, old)
        if len({each.export for each in found}) < len(found):
            raise Unclear  # it is seen in several places
        for directory in found:
            if old and directory.is_elsewhere(old):
                continue
            above = [
                each
                for each in self._ids.get(new.directory if new else b"", ())
                if each.export == directory.export
            ]
            if not above or not new:
                self._lose(directory)
            elif len(above) == 1:
                self._move(directory, above[0], new.name)
            else:
                raise Unclear

    def removed(self, what: bytes | None, entry: Entry | None) -> None:
        """A directory is gone."""
        for directory in self._what(what, entry):
            self._remove(directory)

    def _remove(self, directory: _Directory) -> None:
        directory.detach()
        for each in directory.all():
            self._lost.pop(each, None)
            self._drop_number(each)
            if each.id:
                self._unlist(each)

    def _drop_number(self, directory: _Directory) -> None:
        """Until another directory has it, notes that were made before may mean this one."""
        if directory.number:
            self._drop(directory.number)
            directory.number = 0

    def _unlist(self, directory: _Directory) -> None:
        same = self._ids[directory.id]
        same.remove(directory)
        if not same:
            del self._ids[directory.id]

    def _what(self, what: bytes | None, entry: Entry | None) -> list[_Directory]:
        """The directories with an id; without that, those by a name."""
        if what and what in self._ids:
            return list(self._ids[what])
        above = self._ids.get(entry.directory, ()) if entry and entry.name != ITSELF else ()
        found = [each.entry(entry.name) for each in above if entry]
        return [each for each in found if each and not (what and each.id)]
