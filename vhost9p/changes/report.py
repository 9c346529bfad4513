"""What an event (records.py) is in a guest's eyes: lines (lines.py), or nothing.

A *view* is an export as the guest sees it. Hidden paths are no part of it, nor is what the host has
where the guest sees the directory of notices. Under mapped-file the names that hold metadata are
none either: a change of a file's metadata is a change of the file's attributes.

The kernel puts an event together with an earlier one of the same name and process that waits to be
read: of a file that is written, moved away and made anew, the first record has the new file, and
the move comes behind it. So what is there after all, where a name was taken away, is created once
more.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vhost9p.changes import lines
from vhost9p.changes.records import (
    ATTRIB,
    CREATE,
    DELETE,
    ITSELF,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    ONDIR,
    RENAME,
    Entry,
    Event,
)

APPEARS, GOES = CREATE | MOVED_TO, DELETE | MOVED_FROM
_NAMELESS = re.compile(rb"#[0-9]+")
"""What the kernel calls files without a name; others may be called so, too."""
Look = Callable[[Entry], os.stat_result | None]
"""Returns what an entry is now, without following it; None if it is gone."""


@dataclass(frozen=True)
class View:
    """An export."""

    base: bytes = b""
    """Where the guest sees it: its name and a slash; empty if it is the mount itself."""
    hides: Callable[[bytes], bool] = lambda path: False
    """Whether a path below the export is hidden."""
    meta_dir: bytes = b""
    """The name of the directories that hold metadata of the files beside them; empty: none do."""
    meta_root: bytes = b""
    """The name of the file in the export's root that holds the root's; empty: none does."""
    notices: bytes = b""
    """What the directory of notices is called in the export's root; empty: it is elsewhere."""

    def shows(self, path: bytes) -> bool:
        """Whether the guest sees a path below the export, which may end with a slash."""
        path = path.rstrip(b"/")
        if not path:
            return True
        return path.split(b"/", 1)[0] != self.notices and not self.hides(path)


class _Shown(NamedTuple):
    path: bytes
    is_metadata: bool
    """The event is about the metadata of what has this path."""


def report(
    view: View, event: Event, where: bytes | None, to: bytes | None, look: Look
) -> Iterator[bytes]:
    """Yields the lines of an event that names an entry. `where` is the path of the entry's
    directory below the export, with a slash at the end unless it is empty; None if it is not there.
    `to` is the same for the new entry of a RENAME."""
    is_dir = bool(event.mask & ONDIR)
    before = _show(view, where, event.entry, look, is_dir=is_dir)
    if event.mask & RENAME:
        yield from _renamed(before, _show(view, to, event.to, look, is_dir=is_dir))
        if before and event.entry and not before.is_metadata:
            yield from _is_there(before.path, event.entry, look)
    elif before and event.entry and not _is_nameless(event.mask, event.entry, look):
        yield from _happened(event.mask, before, event.entry, look)


def _is_nameless(mask: int, entry: Entry, look: Look) -> bool:
    """Whether something has happened to a file that has no name (O_TMPFILE)."""
    if mask & (APPEARS | GOES) or not _NAMELESS.fullmatch(entry.name):
        return False
    return look(entry) is None


def _renamed(before: _Shown | None, after: _Shown | None) -> Iterator[bytes]:
    for each in (before, after):
        if each and each.is_metadata:
            yield lines.attributes(each.path)
    old = before.path if before and not before.is_metadata else None
    new = after.path if after and not after.is_metadata else None
    if old and new:
        yield lines.renamed(old, new)
    elif old:
        yield lines.removed(old)
    elif new:
        yield lines.created(new)


def _happened(mask: int, shown: _Shown, entry: Entry, look: Look) -> Iterator[bytes]:
    """One record may stand for several events, whose order it does not say."""
    path = shown.path
    if shown.is_metadata:
        yield lines.attributes(path)
        return
    if mask & GOES:
        yield lines.removed(path)
        yield from _is_there(path, entry, look)
    elif mask & APPEARS:
        yield lines.created(path)
    if mask & (APPEARS | GOES):
        return
    if mask & MODIFY:
        found = look(entry)
        if not found or stat.S_ISREG(found.st_mode):
            yield lines.changed(path, found.st_size if found else None)
    if mask & ATTRIB:
        yield lines.attributes(path)


def _is_there(path: bytes, entry: Entry, look: Look) -> Iterator[bytes]:
    """What has a name that something else has lost."""
    if found := look(entry):
        slash = b"/" if stat.S_ISDIR(found.st_mode) else b""
        yield lines.created(path.rstrip(b"/") + slash)


def _show(
    view: View, where: bytes | None, entry: Entry | None, look: Look, *, is_dir: bool
) -> _Shown | None:
    """Returns the path of an entry in the mount; None if the guest does not see it."""
    if where is None or entry is None:
        return None
    path = where if entry.name == ITSELF else where + entry.name + (b"/" if is_dir else b"")
    is_metadata = False
    if view.meta_dir:
        owner = _owner(view, where, entry, look)
        if owner is None and not {view.meta_dir, view.meta_root}.isdisjoint(path.split(b"/")):
            return None
        path, is_metadata = path if owner is None else owner, owner is not None
    if not view.shows(path):
        return None
    return _Shown(view.base + path or lines.ROOT, is_metadata)


def _owner(view: View, where: bytes, entry: Entry, look: Look) -> bytes | None:
    """Returns the path of the file whose metadata an entry holds; None if it holds none."""
    if not where and entry.name == view.meta_root:
        return b""
    above = where.removesuffix(view.meta_dir + b"/")
    if entry.name == ITSELF or above == where or not (b"/" + above).endswith(b"/"):
        return None
    owner = look(Entry(entry.directory, b"../" + entry.name))
    is_dir = owner and stat.S_ISDIR(owner.st_mode)
    return above + entry.name + (b"/" if is_dir else b"")
