"""9P2000.u's encoding of modes, devices and attributes.

Bits of a mode above the permissions give the kind of file. The extension string gives the rest: a
symlink's target, a device's numbers ("c 1 3"), in Tcreate also the fid of a link's target. Ids are
numbers, and strings with the same numbers in decimal: the host's names would mean nothing to a
guest. See stat(5) of Plan 9, and the notes on 9P2000.u.
"""

import errno
import os
import re
import stat

from vhost9p.fs.driver import Attr
from vhost9p.p9 import constants as c
from vhost9p.p9 import dialect_u_messages as u
from vhost9p.p9.codec import P9Error
from vhost9p.p9.context import qid_of

KINDS = {
    stat.S_IFDIR: c.DMDIR,
    stat.S_IFLNK: c.DMSYMLINK,
    stat.S_IFCHR: c.DMDEVICE,
    stat.S_IFBLK: c.DMDEVICE,
    stat.S_IFIFO: c.DMNAMEDPIPE,
    stat.S_IFSOCK: c.DMSOCKET,
}
"""The bit of each kind of file; a regular file has none of them."""
KIND_BITS = c.DMDIR | c.DMSYMLINK | c.DMLINK | c.DMDEVICE | c.DMNAMEDPIPE | c.DMSOCKET
SET_BITS = {
    c.DMSETUID: stat.S_ISUID,
    c.DMSETGID: stat.S_ISGID,
    c.DMSETVTX: stat.S_ISVTX,
}
KNOWN = KIND_BITS | sum(SET_BITS) | 0o7777
U32_MAX = 2**32 - 1
MAJOR_MAX, MINOR_MAX = 2**12 - 1, 2**20 - 1


def permissions(mode: int) -> int:
    """Returns the bits of chmod(2) in a mode. EOPNOTSUPP for Plan 9's bits that no file here can
    have: append-only, exclusive use, temporary."""
    if mode & ~KNOWN:
        raise P9Error(errno.EOPNOTSUPP, f"mode {mode:#x}")
    return mode & 0o7777 | sum(bit for flag, bit in SET_BITS.items() if mode & flag)


def dialect_u_mode(mode: int) -> int:
    """Returns 9P2000.u's mode for an st_mode."""
    bits = mode & 0o777 | sum(flag for flag, bit in SET_BITS.items() if mode & bit)
    return bits | KINDS.get(stat.S_IFMT(mode), 0)


def device_of(extension: bytes) -> tuple[int, int, int]:
    """Returns kind (S_IFCHR, S_IFBLK), major and minor number of "c 1 3"."""
    match = re.fullmatch(rb"([bc]) (\d{1,10}) (\d{1,10})\n?", extension)
    if not match:
        raise P9Error(errno.EINVAL, f"{extension!r} is no device; b'c 1 3' is one")
    major, minor = int(match[2]), int(match[3])
    if major > MAJOR_MAX or minor > MINOR_MAX:
        raise P9Error(errno.EINVAL, f"{extension!r}: at most {MAJOR_MAX} and {MINOR_MAX}")
    return stat.S_IFCHR if match[1] == b"c" else stat.S_IFBLK, major, minor


def device_text(attr: Attr) -> bytes:
    """Returns the extension of a device."""
    kind = b"c" if stat.S_ISCHR(attr.mode) else b"b"
    return b"%s %d %d" % (kind, os.major(attr.rdev), os.minor(attr.rdev))


def fid_of(extension: bytes) -> int:
    """Returns the fid of a link's target, from its number in decimal."""
    match = re.fullmatch(rb"(\d{1,10})\n?", extension)
    if not match or int(match[1]) > U32_MAX:
        raise P9Error(errno.EINVAL, f"{extension!r} is no fid")
    return int(match[1])


def stat_of(attr: Attr, name: bytes, extension: bytes) -> u.Stat:
    """Returns a file's stat structure. Only a Plan 9 kernel uses type and dev; the host does not
    know who changed a file last (muid)."""
    return u.Stat(
        type=0,
        dev=0,
        qid=qid_of(attr),
        mode=dialect_u_mode(attr.mode),
        atime=attr.atime & U32_MAX,
        mtime=attr.mtime & U32_MAX,
        length=attr.size,
        name=name,
        uid=b"%d" % attr.uid,
        gid=b"%d" % attr.gid,
        muid=b"",
        extension=extension,
        n_uid=attr.uid,
        n_gid=attr.gid,
        n_muid=c.NONUNAME,
    )
