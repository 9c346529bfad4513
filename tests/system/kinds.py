"""Files of every kind, and what 9P2000.u tells of them."""

from __future__ import annotations

import os
import socket
import stat

from tests.frontend.dialect_u import (
    DMDEVICE,
    DMDIR,
    DMNAMEDPIPE,
    DMSETGID,
    DMSETUID,
    DMSETVTX,
    DMSOCKET,
    DMSYMLINK,
    Stat,
)
from tests.system.share import Share


def make_all(share: Share) -> None:
    """One of each kind that this user can make."""
    share.put("file", b"12345")
    os.link(share.path("file"), share.path("hard"))
    os.mkdir(share.path("dir"))
    os.symlink(b"\xff/target", share.path("link"))
    os.mkfifo(share.path("fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(share.path("sock"))
    os.chmod(share.path("file"), 0o6751)
    os.chmod(share.path("dir"), 0o1777)
    os.utime(share.path("file"), (1000, 2000))
    if os.geteuid() == 0:
        os.mknod(share.path("null"), stat.S_IFCHR | 0o644, os.makedev(1, 3))
        os.mknod(share.path("disk"), stat.S_IFBLK | 0o600, os.makedev(8, 300))


EXPECTED = {
    b"file": (DMSETUID | DMSETGID | 0o751, b"HARDLINKCOUNT 2"),
    b"hard": (DMSETUID | DMSETGID | 0o751, b"HARDLINKCOUNT 2"),
    b"dir": (DMDIR | DMSETVTX | 0o777, None),
    b"link": (DMSYMLINK | 0o777, b"\xff/target"),
    b"fifo": (DMNAMEDPIPE, b""),
    b"sock": (DMSOCKET, b""),
    b"null": (DMDEVICE | 0o644, b"c 1 3"),
    b"disk": (DMDEVICE | 0o600, b"b 8 300"),
}


def check_stat(share: Share, name: bytes, found: Stat) -> None:
    status = os.lstat(share.path(name))
    mode, extension = EXPECTED[name]
    assert found.name == name
    if name in (b"fifo", b"sock"):  # whose permissions the umask has a say in
        mode |= stat.S_IMODE(status.st_mode)
    assert found.mode == mode
    if extension is None:
        extension = b"HARDLINKCOUNT %d" % status.st_nlink
    assert found.extension == extension
    assert (found.atime, found.mtime) == (int(status.st_atime), int(status.st_mtime))
    assert found.length == status.st_size
    assert (found.n_uid, found.n_gid) == (status.st_uid, status.st_gid)
    assert (found.uid, found.gid) == (b"%d" % status.st_uid, b"%d" % status.st_gid)
    assert (found.type, found.dev, found.muid) == (0, 0, b"")
