"""Files in memory (memfd_create(2)), which processes share by their descriptors."""

import errno
import fcntl
import os

_NOEXEC_SEAL = 8
"""MFD_NOEXEC_SEAL, since Linux 6.3: nobody executes it. Some hosts refuse files without that."""


def create(name: str) -> int:
    """Returns the descriptor of a new one; proc(5) shows the name. Raises OSError."""
    return _create(name, os.MFD_CLOEXEC)


def create_sealed(name: str, size: int) -> int:
    """The same of so many bytes, which nobody can change any more. Raises OSError."""
    fd = _create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def _create(name: str, flags: int) -> int:
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)
