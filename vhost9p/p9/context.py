"""What all request families share: the request, the tables, and the checks of names."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from vhost9p.fs.driver import Attr, Driver, File, name_error
from vhost9p.fs.tree import Tree
from vhost9p.p9.codec import Message, P9Error, Qid
from vhost9p.p9.constants import NONUNAME, Dialect
from vhost9p.p9.fids import Fid, FidTable

ID_DIGITS = 10


class Request(Protocol):
    """A request of the guest, answered once."""

    @property
    def tag(self) -> int:
        """The guest's name for it."""

    @property
    def key(self) -> tuple[int, int]:
        """Names the request while it is in flight."""

    def reply(self, data: bytes) -> None:
        """Sends a whole R-message, later than the handler; from any thread."""

    def payload(self, offset: int, size: int) -> bytes:
        """Bytes of the message that `Server.handle` was not given: a Twrite's data."""


@dataclass
class Context:
    """One device's 9P state."""

    fids: FidTable
    tree: Tree
    msize_max: int
    set_msize: Callable[[int], None]
    set_dialect: Callable[[Dialect], None]
    msize: int = 0
    dialect: Dialect = Dialect.L

    def begin(self, dialect: Dialect) -> None:
        """A session of this dialect begins."""
        self.dialect = dialect
        self.set_dialect(dialect)

    def driver(self, fid: Fid) -> Driver:
        """The driver of a fid's export."""
        return self.tree.driver(fid.export)

    def writable(self, fid: Fid, *others: Fid) -> Driver:
        """The driver of a fid's export, to change something there; EROFS where that is read-only.

        EXDEV where another fid that has a part in the change belongs to another export: first, as
        between mounts (rename(2)), since tools then copy.
        """
        for other in others:
            if other.export != fid.export:
                raise P9Error(errno.EXDEV, "the files belong to different exports")
        driver = self.tree.driver(fid.export)
        if driver.readonly:
            raise P9Error(errno.EROFS)
        return driver


LATER = None
"""What a handler returns that answers through its request, from another thread."""

Handler = Callable[[Request, Any], Message | None]


def qid_of(attr: Attr) -> Qid:
    """The qid of a file."""
    return Qid(attr.qid_type, attr.qid_version, attr.qid_path)


def check_name(name: bytes, dots: int) -> bytes:
    """Lets one directory entry's name pass; P9Error for what can be none, and with the errno `dots`
    for "." and "..", which every directory has and keeps."""
    code = name_error(name, dots)
    if code:
        raise P9Error(code, f"{name!r} is no name for a file")
    return name


def id_of(name: bytes) -> int | None:
    """The user or group whose name is a decimal number, the only names that mean something here."""
    number = int(name) if name.isdigit() and len(name) <= ID_DIGITS else NONUNAME
    return number if number < NONUNAME else None


def check_target(target: bytes) -> bytes:
    """Lets a symlink's target pass, which may be anything but contain NUL."""
    if b"\0" in target:
        raise P9Error(errno.EINVAL, "a symlink's target with a NUL")
    return target


def file_fd(path_fd: int) -> int:
    """Lets the descriptor of a file's fid pass; EBADF for an extended attribute's."""
    if path_fd < 0:
        raise P9Error(errno.EBADF, "the fid stands for an extended attribute")
    return path_fd


def file_of(fid: Fid) -> File:
    """The file of a fid, to change its owner, mode or names; EBADF for an extended attribute's."""
    return File(file_fd(fid.path_fd), fid.meta_fd)
