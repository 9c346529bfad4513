"""What is asked once about the host, before the daemon confines itself: afterwards nothing but its
exports and its own part of /proc can be read."""

import functools
import os
import uuid

SELINUX = "/sys/fs/selinux"
"""Where a host's SELinux is, if it has one."""


@functools.cache
def boot_id() -> bytes:
    """Returns the host's boot id (random(4)), 16 bytes. Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return uuid.UUID(file.read().strip()).bytes


@functools.cache
def max_map_count() -> int:
    """Returns how many mappings a process may have (proc(5))."""
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65530


@functools.cache
def has_selinux() -> bool:
    """Returns whether the kernel labels files."""
    return os.path.exists(SELINUX)


def remember() -> None:
    """Asks everything. Raises OSError."""
    boot_id()
    max_map_count()
    has_selinux()
