"""Quotas: an export's files may take so much of the host and no more.

C accounts for what it does itself: writes, opens that empty a file (csrc/quota/quota.h), what is
made and removed (csrc/fs/create.c). This layer does it for all that Python changes. It stands right
in front of the driver, so what other policies make of a request has been made of it before.

Before each change the most that it may take is set aside, or the request is refused with EDQUOT or
ENOSPC. A new name may let its directory grow by a block; attributes may take one, and as many as
the value fills. What takes nothing new (removing,
emptying, changes of mode and owner, a new name in the same directory) is never refused; should it
take something all the same, that is counted.

Usage is right as long as the daemon alone changes the tree. What others do there is seen where the
guest touches the same files; the rest at the next scan.
"""

import errno
import logging
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from vhost9p.config import Quota as Limits
from vhost9p.fs.driver import File
from vhost9p.fs.layer import Layer
from vhost9p.fs.local import LocalDriver
from vhost9p.native import descriptors
from vhost9p.native.export import Export
from vhost9p.native.quota import Quota
from vhost9p.policy.usage import UsageFile, ensure_counted, scan

log = logging.getLogger(__name__)

T = TypeVar("T")

REMEMBERED = 65536
"""Files that were changed, and are let go, whose accounts are kept (64 bytes each)."""
BLOCK_MAX = 1 << 20


@contextmanager
def _opened(dir_fd: int, name: bytes) -> Iterator[int | None]:
    """An entry's O_PATH descriptor for the length of a `with` block; None where there is none, or
    none to be had, which the change itself will find out."""
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        yield None
        return
    try:
        yield fd
    finally:
        descriptors.close(fd)


def _is_directory(fd: int | None) -> bool:
    return fd is not None and stat.S_ISDIR(os.fstat(fd).st_mode)


def _same(one: int, other: int | None) -> bool:
    return other is not None and os.path.samestat(os.fstat(one), os.fstat(other))


class QuotaLayer(Layer):
    """Keeps `quota` true for a driver's changes. See Driver for the methods."""

    def __init__(self, below: LocalDriver, quota: Quota) -> None:
        super().__init__(below)
        self._names_locked = below.export.names_locked
        self._quota = quota

    # ---- names ------------------------------------------------------------------------------

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        with self._names_locked(), self._quota.change(dir_fd, bytes=self._quota.block):
            self.below.link(file, dir_fd, name)

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        growth = 0 if _same(old_dir, new_dir) else self._quota.block
        with (
            self._names_locked(),
            _opened(new_dir, new) as victim,
            self._quota.change(old_dir, new_dir, victim, bytes=growth) as change,
        ):
            self.below.rename(old_dir, old, new_dir, new)
            if victim is not None and _is_directory(victim):
                with _opened(new_dir, new) as now:
                    if not _same(victim, now):
                        change.gone(victim)

    # ---- files ------------------------------------------------------------------------------

    def truncate(self, fd: int, io_fd: int, size: int) -> None:
        with self._quota.change(fd):
            self.below.truncate(fd, io_fd, size)

    def chmod(self, file: File, mode: int) -> None:
        with self._quota.change(file.fd):
            self.below.chmod(file, mode)

    def chown(self, file: File, uid: int, gid: int) -> None:
        with self._quota.change(file.fd):
            self.below.chown(file, uid, gid)

    def fsync(self, io_fd: int, *, data_only: bool) -> None:
        """Delayed allocation ends here, and metadata blocks come."""
        self.below.fsync(io_fd, data_only=data_only)
        with self._quota.change(io_fd):
            pass

    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        block = self._quota.block
        with self._quota.change(fd, bytes=(len(value) // block + 1) * block):
            self.below.set_xattr(fd, name, value, flags)

    def remove_xattr(self, fd: int, name: bytes) -> None:
        with self._quota.change(fd):
            self.below.remove_xattr(fd, name)


def open_quota(
    limits: Limits,
    export: Export,
    root_fd: int,
    path: str,
    folder_fd: int,
    *,
    hidden: Collection[bytes],
    max_fids: int,
    undo: ExitStack,
) -> Quota:
    """Counts an export's files, or reads what is kept of that in the folder, and sets its limits.
    `undo` gets what frees it. `hidden` are names that the guest never sees.

    Raises StateError where another daemon does so for this export, OSError.
    """
    usage_file = UsageFile(
        folder_fd, path, root_fd=root_fd, born=export.probe(root_fd).born, hidden=hidden
    )
    undo.callback(usage_file.close)
    usage = ensure_counted(usage_file, path, lambda: scan(root_fd, hidden), rescan=limits.rescan)
    for number, limit, noun in (
        (usage.bytes, limits.bytes, "bytes"),
        (usage.inodes, limits.inodes, "inodes"),
    ):
        if limit is not None and number > limit:
            log.warning("%s: has %d %s, more than its quota of %d", path, number, noun, limit)
    quota = Quota(
        usage_file.fd,
        bytes=limits.bytes,
        inodes=limits.inodes,
        error=getattr(errno, limits.error),
        block=min(max(os.fstatvfs(root_fd).f_frsize, 512), BLOCK_MAX),
        max_accounts=max_fids + REMEMBERED,
    )
    undo.callback(quota.close)
    quota.limit(export)
    return quota
