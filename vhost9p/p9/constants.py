"""Numbers of 9P2000.L and 9P2000.u as they stand on the wire (Linux: include/net/9p/9p.h)."""

from enum import Enum


class Dialect(Enum):
    """A session's protocol; the value is its name in Tversion."""

    L = b"9P2000.L"
    U = b"9P2000.u"


NOFID = 0xFFFFFFFF
NONUNAME = 0xFFFFFFFF

HEADER_SIZE = 7
MSIZE_MIN = 4096
"""Linux's client refuses a smaller msize in Rversion."""
NAME_MAX = 255
PATH_MAX = 4096

# Tsetattr: valid
SETATTR_MODE = 0x001
SETATTR_UID = 0x002
SETATTR_GID = 0x004
SETATTR_SIZE = 0x008
SETATTR_ATIME = 0x010
SETATTR_MTIME = 0x020
SETATTR_CTIME = 0x040
SETATTR_ATIME_SET = 0x080
SETATTR_MTIME_SET = 0x100

# Tlock: flags, status
LOCK_FLAGS_BLOCK = 1
LOCK_FLAGS_RECLAIM = 2
LOCK_SUCCESS = 0
LOCK_BLOCKED = 1


# 9P2000.u: permissions of Tcreate and mode of a stat structure, above the nine bits of all Unixes
DMDIR = 0x80000000
DMSYMLINK = 0x02000000
DMLINK = 0x01000000
DMDEVICE = 0x00800000
DMNAMEDPIPE = 0x00200000
DMSOCKET = 0x00100000
DMSETUID = 0x00080000
DMSETGID = 0x00040000
DMSETVTX = 0x00010000
