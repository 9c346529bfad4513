"""Where the mapped security models keep what the host does not: beside the file's data, as extended
attributes (mapped-xattr), or in files of their own (mapped-file). The formats, reading and writing
are C's (csrc/mapped/mapped.h), and so are files that come and go (csrc/mapped/sidecar.c). Here
names change.

Attributes belong to the file and go where it goes. Files are found by name, so each change of names
has two halves, which a keeper orders around the host's call. Beside the rules of
csrc/mapped/sidecar.c, from whose parts these changes are made:

- A renamed file has its metadata under both names until it has moved. (Under the new one, where
  the host's file system knows no hard links.)
- Names of one file share one metadata file, so that they never differ.

While a change goes on, C does not trust what it finds by name (Export.changing_names). One daemon
changes a tree at a time: other writers, QEMU among them, are not waited for.
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
from vhost9p.native.export import META_DIR, META_ROOT, Export, Mapped

SPARE = META_DIR
"""A name that no file's metadata can have: the guest may not use it."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
"""How link(2) says that a file cannot have one more name."""


class Sidecar(Protocol):
    """Keeps metadata. The context managers go around the host's call of the same meaning; where it
    fails, all is as before."""

    def admit(self, dir_fd: int, name: bytes) -> None:
        """Lets a name of the guest's pass; EINVAL for one that is the keeper's own."""

    def linked(self, file: File, dir_fd: int, name: bytes) -> AbstractContextManager[None]:
        """A file gets one more name."""

    def moved(
        self, old_dir: int, old: bytes, new_dir: int, new: bytes
    ) -> AbstractContextManager[None]:
        """A name changes, and may take another file's place."""

    def write(self, file: File, change: Mapped) -> None:
        """Changes a file's metadata."""


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

    def write(self, file: File, change: Mapped) -> None:
        """See Sidecar. The host has no such attributes for a symlink or a device of its own: EPERM
        (xattr(7))."""
        self._export.write_metadata(file.fd, -1, change)


def _status(name: bytes, dir_fd: int) -> os.stat_result | None:
    """What a directory has by a name."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_directory(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _forget(name: bytes, dir_fd: int) -> None:
    """Removes what lies in a metadata directory by a name, if anything."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)


class FileSidecar:
    """mapped-file. See Sidecar. `parent_of` tells the directory, as a descriptor to be closed, and
    the name by which an open file was reached."""

    def __init__(
        self, export: Export, root_fd: int, parent_of: Callable[[int], tuple[int, bytes]]
    ) -> None:
        self._export = export
        self._root_fd = root_fd
        self._parent_of = parent_of

    def admit(self, dir_fd: int, name: bytes) -> None:
        """See Sidecar."""
        if self._export.hides(dir_fd, name):
            raise OSError(errno.EINVAL, f"{name!r} is kept for metadata")

    # ---- metadata files ---------------------------------------------------------------------

    @contextmanager
    def _made(self, dir_fd: int) -> Iterator[int]:
        """The metadata directory of a directory, which is made where there is none."""
        fd = self._export.metadata_dir(dir_fd)
        try:
            yield fd
        finally:
            descriptors.close(fd)

    @contextmanager
    def _for(self, file: File) -> Iterator[int]:
        """The metadata file of a file, made empty where there is none.

        ENOENT for a file that has neither a name nor metadata.
        """
        if file.meta_fd >= 0:
            yield file.meta_fd
            return
        with self._export.names_locked():
            meta_fd = self._find(file)
        try:
            yield meta_fd
        finally:
            descriptors.close(meta_fd)

    def _find(self, file: File) -> int:
        """The same, looked for by the file's name: a descriptor to be closed."""
        with suppress(FileNotFoundError):
            return self._export.find_metadata(file.fd)
        if os.path.sameopenfile(file.fd, self._root_fd):
            return self._export.new_metadata(self._root_fd, META_ROOT, Mapped())
        parent, name = self._parent_of(file.fd)
        try:
            with self._made(parent) as meta_dir:
                return self._export.new_metadata(meta_dir, name, Mapped())
        finally:
            descriptors.close(parent)

    # ---- changes ----------------------------------------------------------------------------

    def write(self, file: File, change: Mapped) -> None:
        """See Sidecar."""
        with self._for(file) as meta_fd:
            self._export.write_metadata(file.fd, meta_fd, change)

    @contextmanager
    def linked(self, file: File, dir_fd: int, name: bytes) -> Iterator[None]:
        """See Sidecar. A file that has no metadata gets an empty file, for its names to share."""
        with self._export.names_locked():
            with self._for(file) as meta_fd:
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
                yield  # which does nothing (rename(2))
                return
            both = _is_directory(source) and _is_directory(target)
            with self._replaced(old_dir, old, new_dir, new, directories=both):
                yield

    @contextmanager
    def _replaced(
        self, old_dir: int, old: bytes, new_dir: int, new: bytes, *, directories: bool
    ) -> Iterator[None]:
        """Moves metadata, and removes those of what may be replaced."""
        with self._export.changing_names(), self._made(new_dir) as meta_dir:
            if directories:
                self._export.clear_metadata(new_dir, new)
            replaced = self._set_aside(new, meta_dir)
            take_back: Callable[[], None] = partial(_forget, new, meta_dir)
            try:
                if not self._copy(old_dir, old, new, meta_dir):
                    take_back = partial(self._return, old_dir, old, new, meta_dir)
                yield
            except BaseException:
                take_back()
                if replaced:
                    os.rename(SPARE, new, src_dir_fd=meta_dir, dst_dir_fd=meta_dir)
                raise
            with suppress(OSError):  # what stays is metadata of nothing
                _forget(SPARE, meta_dir)
                self._export.discard_metadata(old_dir, old)

    def _set_aside(self, name: bytes, meta_dir: int) -> bool:
        """Puts metadata of a file that may be replaced under a spare name; if there are any."""
        try:
            os.rename(name, SPARE, src_dir_fd=meta_dir, dst_dir_fd=meta_dir)
        except FileNotFoundError:
            return False
        return True

    def _copy(self, old_dir: int, old: bytes, new: bytes, meta_dir: int) -> bool:
        """Gives metadata one more name, if there are any; False: a new one instead of the old, on a
        file system where files have one only (link(2))."""
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

    def _return(self, old_dir: int, old: bytes, new: bytes, meta_dir: int) -> None:
        """Gives metadata the name back that they had."""
        source = self._export.find_metadata_dir(old_dir)
        try:
            os.rename(new, old, src_dir_fd=meta_dir, dst_dir_fd=source)
        finally:
            descriptors.close(source)
