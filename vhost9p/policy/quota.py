"""Quotas: limits on the space and inodes that an export's files use on the host.

C accounts for its own changes: writes, opens that truncate a file (csrc/quota/quota.h), changes of
names and attributes (csrc/fs/), and fsync (csrc/p9/fsync.c). This layer accounts for the changes
that Python makes. It is directly in front of the driver, so it sees requests as the other policies
have translated them.

Before each change its maximum cost is reserved, or the request is refused with EDQUOT or ENOSPC: an
attribute may use one block, and as many as its value fills. A change that uses nothing new (removal
of an attribute) is never refused; if it uses something after all, that is counted.

Usage is exact as long as only the daemon changes the tree. Changes by others are noticed when the
guest changes the same files; the rest at the next scan.
"""

import errno
import logging
import os
from collections.abc import Collection
from contextlib import ExitStack
from typing import TypeVar

from vhost9p.config import Quota as Limits
from vhost9p.fs.layer import Layer
from vhost9p.fs.local import LocalDriver
from vhost9p.native.export import Export
from vhost9p.native.quota import Quota
from vhost9p.policy.usage import UsageFile, ensure_counted, scan

log = logging.getLogger(__name__)

T = TypeVar("T")

REMEMBERED = 65536
"""Number of files whose accounts are remembered after a change (64 bytes each)."""
BLOCK_MAX = 1 << 20


class QuotaLayer(Layer):
    """Accounts a driver's changes to `quota`. See Driver for the methods."""

    def __init__(self, below: LocalDriver, quota: Quota) -> None:
        super().__init__(below)
        self._quota = quota

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
