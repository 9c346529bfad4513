"""Quotas: limits on the space and inodes that an export's files use on the host.

C accounts for its own changes: writes, opens that truncate a file (csrc/quota/quota.h), creation,
removal, changes of attributes and extended attributes (csrc/fs/). This layer accounts for the
changes that Python makes. It is directly in front of the driver, so it sees requests as the other
policies have translated them.

Before each change its maximum cost is reserved, or the request is refused with EDQUOT or ENOSPC. A
new name may make its directory grow by a block. A change that uses nothing new (a new name in the
same directory) is never refused; if it uses something after all, that is counted.

Usage is exact as long as only the daemon changes the tree. Changes by others are noticed when the
guest changes the same files; the rest at the next scan.
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
"""Number of files whose accounts are remembered after a change (64 bytes each)."""
BLOCK_MAX = 1 << 20


@contextmanager
def _opened(dir_fd: int, name: bytes) -> Iterator[int | None]:
    """Yields an entry's O_PATH descriptor; None if there is no entry, or it cannot be opened: then
    the change itself reports the error."""
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
    """Accounts a driver's changes to `quota`. See Driver for the methods."""

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

    def fsync(self, io_fd: int, *, data_only: bool) -> None:
        """fsync allocates delayed blocks, and metadata blocks."""
        self.below.fsync(io_fd, data_only=data_only)
        with self._quota.change(io_fd):
            pass


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
    """Counts an export's files, or reads the stored usage in the folder, and sets its limits.
    Cleanup is added to `undo`. `hidden` are names that the guest never sees.

    Raises StateError if another daemon counts this export, OSError.
    """
    usage_file = UsageFile(
        folder_fd, path, root_fd=root_fd, btime=export.probe(root_fd).btime, hidden=hidden
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
