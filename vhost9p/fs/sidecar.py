"""The metadata of the mapped security models: extended attributes (mapped-xattr), or sidecars,
which are files of their own (mapped-file). C implements the formats, reading and writing
(csrc/mapped/mapped.h), and sidecars of new and unlinked files (csrc/mapped/sidecar.c). This module
handles changes of names.

Attributes move with their file. A sidecar is found by its file's name, so each change of names has
two halves, ordered around the host's call. The rules, besides those of csrc/mapped/sidecar.c, whose
functions do the work:

- A renamed file has a sidecar under both names until it has moved. (Only under the new name if the
  host's file system has no hard links.)
- All names of a file share one sidecar, so that their metadata never differ.

During a change C does not trust sidecars that it finds by name (Export.changing_names). Only one
daemon may change a tree at a time: other writers, such as QEMU, are not synchronized.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Protocol

from vhost9p.fs.driver import File
from vhost9p.native import descriptors
from vhost9p.native.export import META_DIR, Export

SPARE = META_DIR
"""A name that no sidecar can have, since the guest may not use it."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
"""Errors of link(2) if a file cannot have one more name."""


class Sidecar(Protocol):
    """Stores metadata. The context managers bracket the host's call of the same meaning, and undo
    their changes if it fails."""

    def admit(self, dir_fd: int, name: bytes) -> None:
        """Checks a name of the guest. EINVAL if it is reserved for metadata."""

    def linked(self, file: File, dir_fd: int, name: bytes) -> AbstractContextManager[None]:
        """Brackets the creation of one more name."""

    def moved(
        self, old_dir: int, old: bytes, new_dir: int, new: bytes
    ) -> AbstractContextManager[None]:
        """Brackets a rename, which may replace another file."""


class XattrSidecar:
    """mapped-xattr. See Sidecar."""

    def __init__(self, export: Export) -> None:
        self._export = export

    def admit(self, dir_fd: int, name: bytes) -> None:
        """See Sidecar."""

    def linked(self, file: File, dir_fd: int, name: bytes) -> AbstractContextManager[None]:
        """See Sidecar."""
        return nullcontext()

    def moved(
        self, old_dir: int, old: bytes, new_dir: int, new: bytes
    ) -> AbstractContextManager[None]:
        """See Sidecar."""
        return nullcontext()


def _status(name: bytes, dir_fd: int) -> os.stat_result | None:
    """Returns the status of an entry; None if there is none."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_directory(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _forget(name: bytes, dir_fd: int) -> None:
    """Removes a name from a metadata directory, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)


class FileSidecar:
    """mapped-file. See Sidecar."""

    def __init__(self, export: Export) -> None:
        self._export = export

    def admit(self, dir_fd: int, name: bytes) -> None:
        """See Sidecar."""
        if self._export.hides(dir_fd, name):
            raise OSError(errno.EINVAL, f"{name!r} is reserved for metadata")

    # ---- metadata files ---------------------------------------------------------------------

    @contextmanager
    def _metadata_dir(self, dir_fd: int) -> Iterator[int]:
        """Yields the metadata directory of a directory; creates it if it is missing."""
        fd = self._export.metadata_dir(dir_fd)
        try:
            yield fd
        finally:
            descriptors.close(fd)

    @contextmanager
    def _opened_sidecar(self, file: File) -> Iterator[int]:
        """Yields a file's sidecar; creates an empty one if it is missing.

        ENOENT for a file that has neither a name nor metadata.
        """
        if file.meta_fd >= 0:
            yield file.meta_fd
            return
        meta_fd = self._export.open_sidecar(file.fd)
        try:
            yield meta_fd
        finally:
            descriptors.close(meta_fd)

    # ---- changes ----------------------------------------------------------------------------

    @contextmanager
    def linked(self, file: File, dir_fd: int, name: bytes) -> Iterator[None]:
        """See Sidecar. A file without metadata gets an empty sidecar, which its names share."""
        with self._export.names_locked():
            with self._opened_sidecar(file) as meta_fd:
                meta_dir = self._export.share_metadata(dir_fd, name, meta_fd)
            failed = True
            try:
                yield
                failed = False
            finally:
                self._export.placed(meta_dir, name, failed=failed)

    @contextmanager
    def moved(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> Iterator[None]:
        """See Sidecar."""
        with self._export.names_locked():
            source, target = _status(old, old_dir), _status(new, new_dir)
            if source and target and os.path.samestat(source, target):
                yield  # the rename does nothing (rename(2))
                return
            both = _is_directory(source) and _is_directory(target)
            with self._metadata_moved(old_dir, old, new_dir, new, directories=both):
                yield

    @contextmanager
    def _metadata_moved(
        self, old_dir: int, old: bytes, new_dir: int, new: bytes, *, directories: bool
    ) -> Iterator[None]:
        """Brackets a rename: moves the sidecar with the name, and removes that of a replaced
        file."""
        with self._export.changing_names(), self._metadata_dir(new_dir) as meta_dir:
            if directories:
                self._export.clear_metadata(new_dir, new)
            replaced = self._set_aside(new, meta_dir)
            take_back: Callable[[], None] = partial(_forget, new, meta_dir)
            try:
                if not self._share_or_move(old_dir, old, new, meta_dir):
                    take_back = partial(self._move_back, old_dir, old, new, meta_dir)
                yield
            except BaseException:
                take_back()
                if replaced:
                    os.rename(SPARE, new, src_dir_fd=meta_dir, dst_dir_fd=meta_dir)
                raise
            with suppress(OSError):  # what stays belongs to no file
                _forget(SPARE, meta_dir)
                self._export.discard_metadata(old_dir, old)

    def _set_aside(self, name: bytes, meta_dir: int) -> bool:
        """Moves the sidecar of a file that may be replaced to a spare name. Returns whether there
        was one."""
        try:
            os.rename(name, SPARE, src_dir_fd=meta_dir, dst_dir_fd=meta_dir)
        except FileNotFoundError:
            return False
        return True

    def _share_or_move(self, old_dir: int, old: bytes, new: bytes, meta_dir: int) -> bool:
        """Gives a sidecar, if any, one more name. Without hard links (link(2)) it gets the new name
        instead of the old one; returns False then."""
        with suppress(FileNotFoundError):
            source = self._export.find_metadata_dir(old_dir)
            try:
                os.link(old, new, src_dir_fd=source, dst_dir_fd=meta_dir, follow_symlinks=False)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                os.rename(old, new, src_dir_fd=source, dst_dir_fd=meta_dir)
                return False
            finally:
                descriptors.close(source)
        return True

    def _move_back(self, old_dir: int, old: bytes, new: bytes, meta_dir: int) -> None:
        """Gives a sidecar its old name back."""
        source = self._export.find_metadata_dir(old_dir)
        try:
            os.rename(new, old, src_dir_fd=meta_dir, dst_dir_fd=source)
        finally:
            descriptors.close(source)
