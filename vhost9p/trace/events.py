"""What a record says in the guest's terms: on which device, about which paths, with what result;
and which events somebody wants to see.

A path is the guest's, from its mount on: with several exports, the first name is the export's. For
a request that makes, takes or changes an entry it is the path of that, and of a walk where it
leads. The bytes of names become text as Python's file system functions have it.
"""

import errno
import fnmatch
import os
import posixpath
from collections.abc import Collection, Sequence
from typing import NamedTuple

from vhost9p.trace import notation
from vhost9p.trace.notation import Message
from vhost9p.trace.reader import Path, Record

ENTRIES = frozenset(
    {"Tlcreate", "Tsymlink", "Tmknod", "Tmkdir", "Tunlinkat", "Tcreate", "Trenameat"}
)
"""Requests whose `name` is an entry of the fid's directory."""


ANY = "ANY"


class Source(NamedTuple):
    """A device."""

    tag: str
    """Its mount tag."""
    exports: tuple[str, ...]
    """Their names, by index; empty where there is none, as of a single export."""


class Event(NamedTuple):
    """A request and its reply, taken apart."""

    source: Source
    record: Record
    request: Message
    reply: Message
    paths: tuple[str, ...]
    """At most two: what the request is about, and where it leads."""

    @property
    def fid(self) -> int | None:
        """The fid that the request is about."""
        fid = self.request.fields.get("fid")
        return None if fid is None else int(fid)

    def fid_paths(self) -> dict[int, str]:
        """Where the fids were that the request names first, as far as that is known."""
        fields, found = self.request.fields, dict[int, str]()
        second = "dfid" if self.request.name == "Trename" else "newdirfid"
        keys = ("dfid", "fid") if self.request.name == "Tlink" else ("fid", second)
        for key, path in zip(keys, self.record.paths, strict=True):
            if path and not path.is_cut and key in fields:
                found[fields[key]] = _text(self.source, path)
        return found

    @property
    def error(self) -> str:
        """The name of the errno, empty if there is none."""
        return error_name(self.reply.error) if self.reply.error else ""

    @property
    def path(self) -> str:
        """The first path, or an empty text."""
        return self.paths[0] if self.paths else ""


def error_name(code: int) -> str:
    """Returns the name of an errno."""
    return errno.errorcode.get(code, str(code))


def event_of(source: Source, record: Record) -> Event:
    """Takes a record apart."""
    request, reply = notation.read(record.request), notation.read(record.reply)
    return Event(source, record, request, reply, tuple(_paths(source, record.paths, request)))


def _paths(source: Source, known: Sequence[Path | None], request: Message) -> list[str]:
    fields = request.fields
    first, second = (_text(source, each) for each in known)
    name = os.fsdecode(fields.get("name", b""))
    if request.name == "Tattach":
        return [posixpath.join("/", os.fsdecode(fields.get("aname", b"")).lstrip("/"))]
    if request.name == "Tlink":  # the fids are of a directory and a file, in this order
        return [second, _join(first, [name])]
    if request.name == "Trename":
        return [first, _join(second, [name])]
    if not first:
        return []
    if request.name == "Twstat" and (new := fields.get("stat", {}).get("name")):
        return [first, _join(posixpath.dirname(first), [os.fsdecode(new)])]
    if request.name == "Twalk":
        return [_join(first, [os.fsdecode(each) for each in fields.get("names", ())])]
    if request.name in ENTRIES and name:
        first = _join(first, [name])
    if request.name == "Trenameat":
        return [first, _join(second, [os.fsdecode(fields.get("newname", b""))])]
    return [first]


def _text(source: Source, path: Path | None) -> str:
    if path is None:
        return ""
    name = os.fsdecode(path.name)
    if path.is_cut:
        return f"...{name}"
    if path.export < len(source.exports) and source.exports[path.export]:
        name = f"/{source.exports[path.export]}{name}"
    return name or "/"


def _join(directory: str, names: Sequence[str]) -> str:
    """The path at the end of a walk."""
    if not directory or directory.startswith("..."):
        return "/".join([directory or "?", *names])
    return posixpath.normpath(posixpath.join(directory, *names)) if names else directory


class Filter(NamedTuple):
    """Which events somebody wants to see."""

    path: str | None = None
    """A pattern: of the path, or of a directory above it."""
    fids: frozenset[int] = frozenset()
    types: Collection[str] = ()
    """Names of requests."""
    errors: Collection[str] = ()
    """Names of errnos; "ANY" for all of them."""
    least: int = 0
    """Of the latency, in nanoseconds."""

    def takes(self, event: Event) -> bool:
        """Whether an event is one of them."""
        if self.path is not None and not any(matches(each, self.path) for each in event.paths):
            return False
        if self.types and event.request.name not in self.types:
            return False
        if self.fids and self.fids.isdisjoint(_fids(event)):
            return False
        if (
            self.errors
            and event.error not in self.errors
            and not (event.error and ANY in self.errors)
        ):
            return False
        return event.record.took >= self.least


def _fids(event: Event) -> set[int]:
    """All fids that a request names."""
    fields = event.request.fields
    return {fields[key] for key in ("fid", "newfid", "dfid", "newdirfid", "afid") if key in fields}


def matches(path: str, pattern: str) -> bool:
    """Whether a shell pattern, whose `*` takes slashes, too, fits a path or a directory above."""
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(
        path, f"{pattern.rstrip('/')}/*"
    )
