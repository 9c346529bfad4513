"""The requests that meet faults: for each what is there before, and the one request.

What a request returns is compared with what it returns without a fault, so it must not depend on
the time or on inode numbers. `again` is what a guest does after the request has failed, where that
takes more than the same request: some end a fid even then (remove(5), clunk(5)).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.frontend import client as p9
from tests.frontend import dialect_u as u
from tests.frontend.wire import U
from tests.system.faults.scene import DIR, FILE, NEW, OPEN, OTHER, SUB, Scene, Send
from tests.system.share import IS_ROOT, remount


@dataclass(frozen=True)
class Case:
    """See the module."""

    name: str
    prepare: Callable[[Scene], object]
    send: Send
    again: Send | None = None
    times: bool = False
    """Whether it sets a file's mtime to second 9."""
    locks: bool = False
    """Whether it changes the locks of file f."""
    steps: bool = False
    """Whether it is a series of changes, those before the fault being made (fs/setattr.c)."""
    answers: Mapping[int, int] = field(default_factory=dict)
    """Errors that are not answered as they are."""


# ---- what is there before ------------------------------------------------------------------------


def nothing(s: Scene) -> None:
    """An empty directory; NEW may become what is created."""
    s.client.walk(DIR, NEW)


def file(s: Scene) -> None:
    """A file f with content, which FILE stands for."""
    s.client.walk(DIR, OPEN)
    s.client.lcreate(OPEN, b"f", os.O_RDWR, 0o640)
    s.client.write(OPEN, 0, b"content")
    s.client.clunk(OPEN)
    s.client.walk(DIR, FILE, b"f")


def existing(s: Scene) -> None:
    """A file, and a fid of the directory that may become it."""
    file(s)
    nothing(s)


def opened(s: Scene) -> None:
    """The same; OPEN is open."""
    file(s)
    s.client.walk(FILE, OPEN)
    s.client.lopen(OPEN, os.O_RDWR)


def attributed(s: Scene) -> None:
    """A file with an extended attribute."""
    file(s)
    s.client.setxattr(FILE, b"user.key", b"value")


def valued(s: Scene) -> None:
    """A new value for it that is complete, but not yet set."""
    attributed(s)
    new_value(s)


def new_value(s: Scene) -> None:
    """Txattrcreate and Twrite."""
    s.client.walk(FILE, NEW)
    s.client.xattrcreate(NEW, b"user.key", 9)
    s.client.write(NEW, 0, b"new value")


def removed_value(s: Scene) -> None:
    """The same for its removal."""
    attributed(s)
    removal(s)


def removal(s: Scene) -> None:
    s.client.walk(FILE, NEW)
    s.client.xattrcreate(NEW, b"user.key", 0, os.XATTR_REPLACE)


def two(s: Scene) -> None:
    """Files f and g."""
    file(s)
    s.client.walk(DIR, OTHER)
    s.client.lcreate(OTHER, b"g", os.O_RDWR, 0o600)
    s.client.write(OTHER, 0, b"other")
    s.client.clunk(OTHER)


def sub(s: Scene) -> None:
    """A directory s, which SUB stands for."""
    s.client.mkdir(DIR, b"s")
    s.client.walk(DIR, SUB, b"s")


def file_and_sub(s: Scene) -> None:
    file(s)
    sub(s)


def full_sub(s: Scene) -> None:
    """A directory s with a file in it."""
    sub(s)
    s.client.walk(SUB, OPEN)
    s.client.lcreate(OPEN, b"in", os.O_RDWR, 0o600)
    s.client.clunk(OPEN)


def emptied_sub(s: Scene) -> None:
    """A directory in which a file was."""
    full_sub(s)
    s.client.unlinkat(SUB, b"in")


def two_subs(s: Scene) -> None:
    """A directory with a file in it, and an empty one, t, in which one was."""
    emptied_sub(s)
    s.client.renameat(DIR, b"s", DIR, b"t")
    s.client.clunk(SUB)
    full_sub(s)


def symlink(s: Scene) -> None:
    s.client.symlink(DIR, b"l", b"target")
    s.client.walk(DIR, FILE, b"l")


def listed(s: Scene) -> None:
    """A directory with a file, a symlink and a directory, open."""
    file_and_sub(s)
    s.client.symlink(DIR, b"l", b"target")
    s.client.walk(DIR, OPEN)
    s.client.lopen(OPEN, os.O_RDONLY | os.O_DIRECTORY)


def forgotten(s: Scene) -> None:
    """A directory s with a file in it, of which nothing is cached."""
    full_sub(s)
    remount(s.share, n_uname=os.geteuid())
    s.client.walk(s.share.top, DIR, b"d")


def locked(s: Scene) -> None:
    opened(s)
    s.client.lock(OPEN, p9.WRLCK)


# ---- requests ------------------------------------------------------------------------------------


def attributes(s: Scene, fid: int = FILE) -> tuple[object, ...]:
    attr = s.client.getattr(fid)
    return (attr.valid, attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev, attr.size)


def names(s: Scene) -> list[bytes]:
    return sorted(entry.name for entry in s.client.readdir(OPEN, 0))


def lcreate(flags: int, mode: int = 0o644) -> Send:
    return lambda s: s.client.lcreate(NEW, b"f", flags, mode)[0].type


def setattr_(valid: int, **values: Any) -> Send:
    return lambda s: s.client.setattr(FILE, valid, **values)


def type_of(send: Callable[[Scene], Any]) -> Send:
    return lambda s: send(s).type


def walk(*path: bytes) -> Send:
    return lambda s: [qid.type for qid in s.client.walk(DIR, NEW, *path)]


def remove_again(s: Scene) -> object:
    s.client.walk(DIR, FILE, b"f")
    return s.client.remove(FILE)


def value_again(s: Scene) -> object:
    new_value(s)
    return s.client.clunk(NEW)


def removal_again(s: Scene) -> object:
    removal(s)
    return s.client.clunk(NEW)


def xattrwalk(name: bytes) -> Send:
    return lambda s: s.client.xattrwalk(FILE, NEW, name)


SETS_ALL = p9.SET_MODE | p9.SET_UID | p9.SET_GID | p9.SET_SIZE | p9.SET_MTIME | p9.SET_MTIME_VALUE
NO_LOCK = {errno.EMFILE: errno.ENOLCK}
ID, GROUP = (1234, 5678) if IS_ROOT else (os.geteuid(), os.getegid())

CASES = (
    Case("walk", file, walk(b"f")),
    Case("walk-clone", file, walk()),
    Case("walk-unknown", forgotten, walk(b"s", b"in")),
    Case("lopen", file, lambda s: s.client.lopen(FILE, os.O_RDWR)[0].type),
    Case("lopen-truncate", file, lambda s: s.client.lopen(FILE, os.O_WRONLY | os.O_TRUNC)[0].type),
    Case("lopen-directory", sub, lambda s: s.client.lopen(SUB, os.O_DIRECTORY)[0].type),
    Case("lcreate", nothing, lcreate(os.O_RDWR)),
    Case("lcreate-readonly", nothing, lcreate(os.O_RDONLY, 0o4755)),
    Case("lcreate-existing", existing, lcreate(os.O_RDWR | os.O_TRUNC)),
    Case("read", opened, lambda s: s.client.read(OPEN, 0, 100)),
    Case("write", opened, lambda s: s.client.write(OPEN, 3, b"words")),
    Case("readdir", listed, names),
    Case("getattr", file, attributes),
    Case("getattr-symlink", symlink, attributes),
    Case("setattr-mode", file, setattr_(p9.SET_MODE, mode=0o4711)),
    Case("setattr-owner", file, setattr_(p9.SET_UID | p9.SET_GID, uid=ID, gid=GROUP)),
    Case("setattr-size", file, setattr_(p9.SET_SIZE, size=3)),
    Case(
        "setattr-times", file, setattr_(p9.SET_MTIME | p9.SET_MTIME_VALUE, mtime=(9, 9)), times=True
    ),
    Case(
        "setattr-all",
        file,
        setattr_(SETS_ALL, mode=0o600, uid=ID, gid=GROUP, size=3, mtime=(9, 9)),
        steps=True,
    ),
    Case("mkdir", nothing, type_of(lambda s: s.client.mkdir(DIR, b"s", 0o2750))),
    Case("symlink", nothing, type_of(lambda s: s.client.symlink(DIR, b"l", b"target"))),
    Case("mknod", nothing, type_of(lambda s: s.client.mknod(DIR, b"p", stat.S_IFIFO | 0o640))),
    Case("mknod-file", nothing, type_of(lambda s: s.client.mknod(DIR, b"f", stat.S_IFREG | 0o640))),
    Case("link", file, lambda s: s.client.link(DIR, FILE, b"g")),
    Case("link-elsewhere", file_and_sub, lambda s: s.client.link(SUB, FILE, b"g")),
    Case("rename", file_and_sub, lambda s: s.client.rename(FILE, SUB, b"g")),
    Case("renameat", file, lambda s: s.client.renameat(DIR, b"f", DIR, b"g")),
    Case("renameat-replace", two, lambda s: s.client.renameat(DIR, b"f", DIR, b"g")),
    Case("renameat-elsewhere", file_and_sub, lambda s: s.client.renameat(DIR, b"f", SUB, b"g")),
    Case("renameat-directory", full_sub, lambda s: s.client.renameat(DIR, b"s", DIR, b"t")),
    Case("renameat-over-directory", two_subs, lambda s: s.client.renameat(DIR, b"s", DIR, b"t")),
    Case("unlinkat", file, lambda s: s.client.unlinkat(DIR, b"f")),
    Case("unlinkat-open", opened, lambda s: s.client.unlinkat(DIR, b"f")),
    Case("unlinkat-symlink", symlink, lambda s: s.client.unlinkat(DIR, b"l")),
    Case("rmdir", emptied_sub, lambda s: s.client.unlinkat(DIR, b"s", p9.AT_REMOVEDIR)),
    Case("remove", file, lambda s: s.client.remove(FILE), remove_again),
    Case("fsync", opened, lambda s: s.client.fsync(OPEN)),
    Case("fsync-directory", listed, lambda s: s.client.fsync(OPEN)),
    Case("xattrwalk", attributed, xattrwalk(b"user.key")),
    Case("xattrwalk-list", attributed, xattrwalk(b"")),
    Case("xattrcreate", attributed, lambda s: s.client.xattrcreate(FILE, b"user.key", 9)),
    Case("clunk-xattr", valued, lambda s: s.client.clunk(NEW), value_again),
    Case("clunk-xattr-removal", removed_value, lambda s: s.client.clunk(NEW), removal_again),
    Case("clunk", opened, lambda s: s.client.clunk(OPEN)),
    Case("lock", opened, lambda s: s.client.lock(OPEN, p9.WRLCK), locks=True, answers=NO_LOCK),
    Case("unlock", locked, lambda s: s.client.lock(OPEN, p9.UNLCK), locks=True),
    Case("getlock", opened, lambda s: s.client.getlock(OPEN, p9.WRLCK)),
    Case("statfs", file, lambda s: s.client.statfs(FILE).type),
    Case("readlink", symlink, lambda s: s.client.readlink(FILE)),
)


# ---- 9P2000.u ------------------------------------------------------------------------------------


def file_u(s: Scene) -> None:
    s.client.walk(DIR, OPEN)
    s.client.call(U.CREATE, OPEN, b"f", 0o640, u.ORDWR, b"")
    s.client.write(OPEN, 0, b"content")
    s.client.clunk(OPEN)
    s.client.walk(DIR, FILE, b"f")


def existing_u(s: Scene) -> None:
    file_u(s)
    nothing(s)


def directory_u(s: Scene) -> None:
    file_u(s)
    s.client.walk(DIR, OPEN)
    s.client.open_fid(OPEN)


def create_u(name: bytes, perm: int, mode: int = u.OREAD, extension: bytes = b"") -> Send:
    return lambda s: s.client.call(U.CREATE, NEW, name, perm, mode, extension)[0].type


def link_u(s: Scene) -> object:
    return create_u(b"g", u.DMLINK | 0o640, u.OREAD, str(FILE).encode())(s)


def stat_u(s: Scene) -> object:
    got = s.client.stat(FILE)
    return got._replace(qid=got.qid.type, atime=0, mtime=0)


def names_u(s: Scene) -> object:
    found = [stat for _, stat in u.decode_stats(s.client.read(OPEN, 0, 8192))]
    return sorted((stat.name, stat.mode) for stat in found)


def wstat(**fields: Any) -> Send:
    return lambda s: s.client.wstat(FILE, **fields)


CASES_U = (
    Case("u-walk", file_u, walk(b"f")),
    Case("u-open", file_u, lambda s: s.client.open_fid(FILE, u.ORDWR)[0].type),
    Case("u-open-truncate", file_u, lambda s: s.client.open_fid(FILE, u.OWRITE | u.OTRUNC)[0].type),
    Case("u-create", nothing, create_u(b"f", 0o640, u.ORDWR)),
    Case("u-create-directory", nothing, create_u(b"s", u.DMDIR | 0o750)),
    Case("u-create-symlink", nothing, create_u(b"l", u.DMSYMLINK | 0o777, u.OREAD, b"target")),
    Case("u-create-fifo", nothing, create_u(b"p", u.DMNAMEDPIPE | 0o640)),
    Case("u-create-link", existing_u, link_u),
    Case("u-stat", file_u, stat_u),
    Case("u-read-directory", directory_u, names_u),
    Case("u-wstat-mode", file_u, wstat(mode=0o600)),
    Case("u-wstat-length", file_u, wstat(length=3)),
    Case("u-wstat-mtime", file_u, wstat(mtime=9), times=True),
    Case("u-wstat-name", file_u, wstat(name=b"g")),
    Case("u-wstat-all", file_u, wstat(mode=0o600, length=3, name=b"g"), steps=True),
    Case("u-remove", file_u, lambda s: s.client.remove(FILE), remove_again),
)
