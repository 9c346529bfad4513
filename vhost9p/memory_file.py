"""Files in memory (memfd_create(2)), which processes share by their descriptors."""

import errno
import os

_NOEXEC_SEAL = 8
"""MFD_NOEXEC_SEAL, since Linux 6.3: nobody executes it. Some hosts refuse files without that."""


def create(name: str) -> int:
    """Returns the descriptor of a new one; proc(5) shows the name. Raises OSError."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, os.MFD_CLOEXEC)
