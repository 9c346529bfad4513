"""Where marked directories are, whatever the order in which notes and events come."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from vhost9p.changes.records import DELETE, ONDIR, RENAME, Entry, Event
from vhost9p.marked import places
from vhost9p.marked.places import Places, Unclear
from vhost9p.native.dir_marks import Note


def note(
    number: int, path: bytes, above: int = 0, *, ident: bytes = b"", is_root: bool = False
) -> Note:
    return Note(number, 0, 0, above, is_root, ident or b"id of %d" % number, path)


def made(*notes: Note) -> tuple[Places, list[int]]:
    dropped: list[int] = []
    made = Places(dropped.append)
    for each in notes:
        made.note(each)
    return made, dropped


ROOT = note(1, b"", is_root=True)
A, B, C = note(2, b"a", 1), note(3, b"a/b", 2), note(4, b"c", 1)


def test_a_directory_has_the_path_of_its_note() -> None:
    found, _ = made(ROOT, A, B)
    assert found.find(ROOT.id) == [(0, b"")]
    assert found.find(B.id) == [(0, b"a/b/")]
    assert found.find(b"another") == []
    assert B.id in found
    assert b"another" not in found


def test_a_directory_moves_with_those_above_it() -> None:
    found, _ = made(ROOT, A, B, C)
    found.renamed(A.id, Entry(ROOT.id, b"a"), Entry(C.id, b"x"))
    assert found.find(B.id) == [(0, b"c/x/b/")]


def test_a_directory_that_cannot_be_identified_moves_by_its_name() -> None:
    """What is in it is known by its path only."""
    found, _ = made(ROOT, note(3, b"secret/b"), C)
    found.renamed(b"not known", Entry(ROOT.id, b"secret"), Entry(C.id, b"x"))
    assert found.find(B.id) == [(0, b"c/x/b/")]


def test_what_has_left_is_noted_again() -> None:
    found, dropped = made(ROOT, A, B)
    found.renamed(A.id, Entry(ROOT.id, b"a"), None)
    assert found.find(A.id) == found.find(B.id) == []
    assert dropped == [A.number]
    assert A.id not in found
    found.note(note(7, b"d", 1, ident=A.id))
    assert found.find(B.id) == [(0, b"d/b/")]


def test_what_has_left_unseen() -> None:
    found, dropped = made(ROOT, A, B)
    found.leave(A.id, lambda _, path: path == b"a/")
    assert found.find(B.id) == [(0, b"a/b/")]
    found.leave(A.id, lambda _, path: path != b"a/")
    assert found.find(A.id) == found.find(B.id) == []
    assert dropped == [A.number]


def test_a_directory_is_followed_if_all_above_have_events() -> None:
    found, _ = made(ROOT, A, B, note(5, b"d/e"))
    assert found.is_followed(B.id)
    assert not found.is_followed(b"id of 5")
    found.has_no_events(B.number)
    assert found.is_followed(B.id)
    found.has_no_events(A.number)
    assert not found.is_followed(B.id)


def test_what_is_removed_is_forgotten_with_all_below() -> None:
    found, dropped = made(ROOT, A, B)
    found.removed(A.id, Entry(ROOT.id, b"a"))
    assert sorted(dropped) == [A.number, B.number]
    assert found.find(B.id) == []


def test_another_directory_by_the_same_name_takes_the_place() -> None:
    found, _ = made(ROOT, A, B)
    found.note(note(5, b"a", 1))
    assert found.find(A.id) == found.find(B.id) == []
    found.renamed(A.id, Entry(ROOT.id, b"a"), Entry(ROOT.id, b"z"))  # which was before the note
    assert found.find(B.id) == [(0, b"z/b/")]
    assert found.find(b"id of 5") == [(0, b"a/")]


def test_lost_directories_are_not_remembered_without_end() -> None:
    found, dropped = made(ROOT)
    for number in range(2, places.LOST_MAX + 12):
        found.note(note(number, b"a", 1))
        found.note(note(100_000 + number, b"a/b", number))
    assert dropped.count(2) == dropped.count(100_002) == 1
    assert 100_000 + places.LOST_MAX + 10 not in dropped


def test_a_directory_that_is_seen_in_two_places_does_not_move() -> None:
    found, _ = made(ROOT, A, note(8, b"c/a", 0, ident=A.id), C)
    assert found.find(A.id) == [(0, b"a/"), (0, b"c/a/")]
    with pytest.raises(Unclear):
        found.renamed(A.id, Entry(ROOT.id, b"a"), Entry(ROOT.id, b"x"))


def test_a_directory_does_not_get_into_itself() -> None:
    found, _ = made(ROOT, A, B)
    with pytest.raises(Unclear):
        found.renamed(A.id, Entry(ROOT.id, b"a"), Entry(B.id, b"x"))


# ---- any order -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Directory:
    """One of the host."""

    id: bytes
    name: bytes = b""
    above: Directory | None = None
    below: dict[bytes, Directory] = field(default_factory=dict)

    @property
    def line(self) -> list[Directory]:
        """From the root to it."""
        return [*(self.above.line if self.above else ()), self]

    @property
    def path(self) -> bytes:
        return b"".join(each.name + b"/" for each in self.line[1:])


class Host:
    """A tree of directories that changes, the marks in it, and who follows."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = Directory(b"root")
        self.all = [self.root]
        self.count = 0
        self.marks: set[bytes] = set()
        self.numbers: dict[bytes, int] = {}
        self.notes: deque[Note] = deque()
        self.events: deque[Event] = deque()
        self.places = Places(self.drop)

    def drop(self, number: int) -> None:
        self.numbers = {ident: each for ident, each in self.numbers.items() if each != number}

    def entry(self, directory: Directory) -> Entry | None:
        above = directory.above
        return Entry(above.id, directory.name) if above and above.id in self.marks else None

    def make(self) -> None:
        above, name = self.random.choice(self.all), b"%d" % self.random.randrange(3)
        if name not in above.below and len(self.all) < 12:
            self.count += 1
            made = above.below[name] = Directory(b"d%d" % self.count, name, above)
            self.all.append(made)

    def remove(self) -> None:
        which = self.random.choice(self.all)
        if which is self.root or which.below:
            return
        if entry := self.entry(which):
            self.events.append(Event(DELETE | ONDIR, 0, entry, None, which.id))
        self.take_out(which)
        self.all.remove(which)
        self.marks.discard(which.id)

    def rename(self) -> None:
        which, into = self.random.choice(self.all), self.random.choice(self.all)
        name = b"%d" % self.random.randrange(3)
        if which in into.line or name in into.below:
            return
        old = self.entry(which)
        self.take_out(which)
        which.name, which.above = name, into
        into.below[name] = which
        if old or self.entry(which):
            self.events.append(Event(RENAME | ONDIR, 0, old, self.entry(which), which.id))

    @staticmethod
    def take_out(which: Directory) -> None:
        assert which.above
        del which.above.below[which.name]

    def walk(self) -> None:
        """The guest looks at a directory. Numbers are used again, as in C."""
        for each in self.random.choice(self.all).line:
            if each.id not in self.numbers:
                self.count += 1
                self.marks.add(each.id)
                number = next(n for n in itertools.count(1) if n not in self.numbers.values())
                self.numbers[each.id] = number
                above = self.numbers[each.above.id] if each.above else 0
                is_root = each is self.root
                found = Note(number, 0, 0, above, is_root, each.id, each.path.rstrip(b"/"))
                self.notes.append(found)

    def take_notes(self) -> None:
        while self.notes:
            self.attempt(self.places.note, self.notes.popleft())

    def follow(self) -> None:
        """As Reader does."""
        if not self.events:
            return
        event = self.events.popleft()
        needed = [each.directory for each in (event.entry, event.to) if each]
        if not all(each in self.places for each in filter(None, (*needed, event.what))):
            self.take_notes()
        if event.mask & RENAME:
            self.attempt(self.places.renamed, event.what, event.entry, event.to)
        else:
            self.attempt(self.places.removed, event.what, event.entry)

    def attempt(self, what: object, *args: object) -> None:
        try:
            what(*args)  # type: ignore[operator]
        except Unclear:
            self.marks.clear()
            self.numbers.clear()
            self.notes.clear()
            self.places.clear()

    def check(self) -> None:
        for each in self.all:
            if all(above.id in self.numbers for above in each.line):
                assert self.places.find(each.id) == [(0, each.path)], each.id


@pytest.mark.parametrize("seed", range(300))
def test_notes_and_events_in_any_order(seed: int) -> None:
    host = Host(seed)
    steps = [host.make, host.remove, host.rename, host.walk, host.follow, host.follow]
    for _ in range(4):
        for _ in range(60):
            host.random.choice([*steps, host.take_notes] if seed % 2 else steps)()
        while host.events:
            host.follow()
        host.take_notes()
        host.check()
    assert host.count > 20
