"""Detects where a name has several spellings, so that hiding one of them does not hide the file.

Patterns of hidden paths are compared byte by byte. A file system on which case does not count, or
which has short names beside long ones, opens the file by other names, too. So an export with hidden
paths is refused on one. Directories below it that ignore case by themselves (chattr(1), +F) and
mounts that come later are not looked for.
"""

import fcntl
import os
from contextlib import closing, suppress

from vhost9p.policy.mounts import MountTable

IGNORES_CASE = frozenset(
    b"vfat msdos exfat ntfs ntfs3 fuseblk cifs smb3 smbfs vboxsf hfs hfsplus hpfs affs jfs "
    b"iso9660".split()
)
"""File system types on which names have, or may have, several spellings."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
FS_IOC_GETFLAGS = 0x80086601
FS_CASEFOLD_FL = 0x40000000
"""A directory that ignores case (linux/fs.h)."""


def why_not_hide(path: str) -> str | None:
    """Returns why paths below this directory cannot be hidden; None if they can. Raises OSError."""
    real = os.path.realpath(os.fsencode(path))
    fd = os.open(real, DIRECTORY)
    try:
        with closing(MountTable()) as table:
            mounts, own = table.read(), table.number_of(fd)
        below = real.rstrip(b"/") + b"/"
        for number, mount in mounts.items():
            is_shown = number == own or mount.point.startswith(below)
            if is_shown and mount.fs_type.split(b".")[0] in IGNORES_CASE:
                return _text(mount.point if number != own else real, mount.fs_type.decode())
        return _text(real, "a directory that ignores case") if _ignores_case(fd) else None
    finally:
        os.close(fd)


def _text(place: bytes, what: str) -> str:
    return (
        f"hide: cannot be used where names have several spellings, and {os.fsdecode(place)} is "
        f"{what}; export a file system that tells names apart by each byte, or leave hide out"
    )


def _ignores_case(fd: int) -> bool:
    with suppress(OSError):  # no flags
        flags = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
        return bool(int.from_bytes(flags[:4], "little") & FS_CASEFOLD_FL)
    return False
