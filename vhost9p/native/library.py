"""The loaded extension and the one place where a negative result becomes an OSError."""

import os

from vhost9p._native import ffi, lib

__all__ = ["check", "ffi", "lib"]


def check(result: int) -> int:
    """Passes a result of 0 or more on; raises OSError for -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
