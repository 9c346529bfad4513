"""An export's usage and its limits, as C keeps them (csrc/quota/quota.h)."""

from vhost9p.native.export import Export
from vhost9p.native.library import check, ffi, lib

FILE_SIZE: int = lib.V9_QUOTA_FILE
"""Bytes of the state file."""
USAGE_OFFSET: int = lib.V9_QUOTA_USAGE
"""Where in it C keeps struct v9_quota_usage."""
NO_LIMIT = (1 << 64) - 1
PATIENCE_MS = 1000
"""How long a change near the limit waits for others' reservations to be returned. A change that
hangs with its file is not waited for any longer."""


class Quota:
    """Keeps the usage in the file `state_fd`, which holds it already, and within limits: bytes and
    inodes, None for no limit. Beyond them it raises OSError `error`. `block` is what the file
    system allocates at once, in bytes; `max_accounts` how many files are held, or remembered."""

    def __init__(
        self,
        state_fd: int,
        *,
        bytes: int | None,
        inodes: int | None,
        error: int,
        block: int,
        max_accounts: int,
    ) -> None:
        conf = ffi.new(
            "struct v9_quota_conf *",
            {
                "bytes": NO_LIMIT if bytes is None else bytes,
                "inodes": NO_LIMIT if inodes is None else inodes,
                "fd": state_fd,
                "error": error,
                "block": block,
                "max_accounts": max_accounts,
                "patience_ms": PATIENCE_MS,
            },
        )
        err = ffi.new("int32_t *")
        self._native = lib.v9_quota_new(conf, err)
        check(err[0])

    def close(self) -> None:
        """Frees it. No export that is served may be using it."""
        if self._native:
            lib.v9_quota_free(self._native)
            self._native = None

    def limit(self, export: Export) -> None:
        """Makes it the quota of an export. Once, before that is served."""
        check(lib.v9_export_set_quota(export.native, self._native))
