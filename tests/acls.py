"""POSIX ACLs for tests, on hosts without setfacl(1): linux/posix_acl_xattr.h, acl(5)."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

Key = tuple[int, int]
"""A tag, and the number of the user or group."""
NOBODY = 0xFFFFFFFF
USER, GROUP = 0x02, 0x08
OWNER, OWNING_GROUP, MASK, OTHERS = ((tag, NOBODY) for tag in (0x01, 0x04, 0x10, 0x20))


def acl_value(entries: Mapping[Key, int]) -> bytes:
    """The attribute with these permissions, in the order that the kernel demands."""
    packed = (
        struct.pack("<HHI", tag, entries[tag, number], number) for tag, number in sorted(entries)
    )
    return struct.pack("<I", 2) + b"".join(packed)


def set_acl(path: Path, entries: Mapping[Key, int], *, default: bool = False) -> None:
    """Gives a file an ACL; skips the test where its file system has none."""
    name = "system.posix_acl_default" if default else "system.posix_acl_access"
    try:
        os.setxattr(path, name, acl_value(entries))
    except OSError as error:
        pytest.skip(f"no ACLs in {path.parent}: {error.strerror}")
