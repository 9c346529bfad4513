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
def max_user_marks() -> int:
    """Returns how many marks a user may have in all of his groups (fanotify(7))."""
    try:
        with open("/proc/sys/fs/fanotify/max_user_marks", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 8192


@functools.cache
def has_selinux() -> bool:
    """Returns whether the kernel labels files."""
    return os.path.exists(SELINUX)


def remember() -> None:
    """Asks everything. Raises OSError."""
    boot_id()
    max_map_count()
    max_user_marks()
    has_selinux()
