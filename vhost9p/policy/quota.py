"""Quotas: limits on the space and inodes that an export's files use on the host.

C accounts for all changes: writes, opens that truncate a file (csrc/quota/quota.h), changes of
names, attributes and extended attributes (csrc/fs/), and fsync (csrc/p9/fsync.c).

Before each change its maximum cost is reserved, or the request is refused with EDQUOT or ENOSPC. A
change that uses nothing new (removal, a new name in the same directory) is never refused; if it
uses something after all, that is counted.

Usage is exact as long as only the daemon changes the tree. Changes by others are noticed when the
guest changes the same files; the rest at the next scan.
"""

import errno
import logging
import os
from collections.abc import Collection
from contextlib import ExitStack

from vhost9p.config import Quota as Limits
from vhost9p.native.export import Export
from vhost9p.native.quota import Quota
from vhost9p.policy.usage import UsageFile, ensure_counted, scan

log = logging.getLogger(__name__)

REMEMBERED = 65536
"""Number of files whose accounts are remembered after a change (64 bytes each)."""
BLOCK_MAX = 1 << 20


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
) -> None:
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
            log.warning(
                "%s: has %d %s, more than its quota of %d: nothing can be added until files are "
                "removed or the quota is raised",
                *(path, number, noun, limit),
            )
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
