"""The lines that report changes: `KIND PATH [MORE]`, separated by one space, each with a newline.

    changed PATH SIZE      a file's contents; its size in bytes now, `-` if it is gone already
    attributes PATH        mode, owner, times, extended attributes, number of links
    created PATH           also what was moved here from elsewhere
    removed PATH           also what was moved elsewhere
    renamed FROM TO        within what the guest sees
    overflow               lines were lost: a reader has to look for itself

Paths begin at the mount's root, which is `./` itself; those of directories end with a slash. A
guest's shell takes such a line apart at spaces, and decodes a path with %b of its printf(1). So
space, backslash, control characters and DEL are written in octal, as `\\0ooo`: the form that dash,
busybox and bash all know. All other bytes stand as they are, UTF-8 or not.
"""

import re

OVERFLOW = b"overflow\n"
ROOT = b"./"
"""The path of the mount's root."""
_UNSAFE = re.compile(rb"[\x00-\x20\x7f\\]")


def escape(path: bytes) -> bytes:
    """Returns a path as it stands in a line."""
    return _UNSAFE.sub(lambda found: b"\\0%03o" % found[0][0], path)


def changed(path: bytes, size: int | None) -> bytes:
    """The contents of a file of so many bytes have changed; None if it is gone."""
    return b"changed %s %s\n" % (escape(path), b"-" if size is None else b"%d" % size)


def attributes(path: bytes) -> bytes:
    """What is known of a file beside its contents has changed."""
    return b"attributes %s\n" % escape(path)


def created(path: bytes) -> bytes:
    """A name has appeared."""
    return b"created %s\n" % escape(path)


def removed(path: bytes) -> bytes:
    """A name is gone."""
    return b"removed %s\n" % escape(path)


def renamed(before: bytes, after: bytes) -> bytes:
    """A name has become another one."""
    return b"renamed %s %s\n" % (escape(before), escape(after))


_NAMES = b"created", b"removed", b"renamed"


class Lines:
    """Those of a moment, without such as say nothing new."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._said: dict[bytes, bytes] = {}
        """By kind and path, those that say nothing new if they come once more."""

    def add(self, line: bytes) -> None:
        """Adds one, unless it says nothing new."""
        if line.startswith(_NAMES):
            self._said.clear()
        subject = b" ".join(line.split(b" ", 2)[:2])
        if self._said.get(subject) == line:
            return
        self._said[subject] = line
        self._lines.append(line)

    @property
    def text(self) -> bytes:
        """All of them."""
        return b"".join(self._lines)
