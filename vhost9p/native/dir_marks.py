"""Marks of the directories that a guest has looked at (csrc/export/dir_marks.c), whose changes the
kernel reports to an ordinary user, too."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from vhost9p.native.export import Export
from vhost9p.native.library import check, ffi, lib

BATCH = 64 * 1024
"""Bytes of events that are read at a time."""


class Note(NamedTuple):
    """A directory that was marked, or could not be; or that has moved while it was."""

    number: int
    """Of its mark, until `drop`."""
    export: int
    """The index of the export that it is in."""
    error: int
    """The errno for which it has no mark; 0: it has one."""
    above: int
    """The number of the directory that it is in; 0: that has none."""
    is_root: bool
    """Whether it is the export's root."""
    id: bytes
    """What events have for it (Entry.directory of changes/records.py)."""
    path: bytes
    """Below the export's root; empty for the root, and if it is not known."""


def allow_marking() -> None:
    """When the system calls of this process are limited, it may go on to mark directories."""
    lib.v9_syscalls_allow_marks()


def id_of(folder: int) -> bytes:
    """Returns what events have for an open directory (Note.id); O_PATH is enough. Raises
    OSError."""
    ident = ffi.new("uint8_t[]", lib.V9_DIR_ID_MAX)
    return bytes(ffi.buffer(ident, check(lib.v9_dir_id(folder, ident))))


class DirMarks:
    """At most so many marks of one device, and the notification group that they are for."""

    def __init__(self, max_marks: int) -> None:
        """Called before system calls are limited. Raises OSError: EINVAL, ENOSYS or EPERM if the
        kernel has no such groups for ordinary users, EMFILE if this user has too many."""
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when a directory could not be marked."""
        err = ffi.new("int32_t *")
        native = lib.v9_dir_marks_new(self.bell, max_marks, err)
        if not native:
            os.close(self.bell)
            check(err[0])
        self._native = ffi.gc(native, lib.v9_dir_marks_free)
        self.group: int = lib.v9_dir_marks_group(native)
        """Readable when there are events."""
        self._note = ffi.new("struct v9_dir_note *")
        self._events = ffi.new("uint8_t[]", BATCH)

    def close(self) -> None:
        """Frees it. No export may be using it."""
        ffi.release(self._native)
        os.close(self.bell)

    def install(self, export: Export) -> None:
        """From now on the directories of an export are marked; called before it is served."""
        lib.v9_export_set_dir_marks(export.native, self._native)

    def notes(self) -> Iterator[Note]:
        """Takes the notes that there are."""
        note = self._note
        while lib.v9_dir_marks_next(self._native, note):
            yield Note(
                note.number,
                note.export,
                note.error,
                note.above,
                bool(note.is_root),
                ffi.buffer(note.id, note.id_size)[:],
                ffi.buffer(note.path, note.path_size)[:],
            )

    def read(self) -> bytes:
        """Returns events, without waiting: those that others have caused, and changes of the tree
        of directories. Raises OSError."""
        size = check(lib.v9_dir_marks_read(self._native, self._events, BATCH))
        return bytes(ffi.buffer(self._events, size))

    def drop(self, number: int) -> None:
        """The directory is gone, and its number may come to mean another."""
        lib.v9_dir_marks_drop(self._native, number)

    def clear(self) -> None:
        """Removes all marks and notes."""
        check(lib.v9_dir_marks_clear(self._native))

    @property
    def is_full(self) -> bool:
        """Whether a mark was refused since `clear`, since there may be no more: then none is tried
        any more."""
        count, full = ffi.new("uint32_t *"), ffi.new("uint8_t *")
        lib.v9_dir_marks_view(self._native, count, full)
        return bool(full[0])
