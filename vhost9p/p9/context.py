"""What all request families share: the request, the tables, the checks of names."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from vhost9p.fs.driver import Attr, Driver, name_error
from vhost9p.fs.tree import Tree
from vhost9p.p9.codec import Message, P9Error, Qid
from vhost9p.p9.constants import NONUNAME, Dialect
from vhost9p.p9.fids import Fid, FidTable

ID_DIGITS = 10


class Request(Protocol):
    """A request of the guest. It gets exactly one reply."""

    @property
    def tag(self) -> int:
        """The 9P tag."""

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the request while it is in flight, also when it runs again in another
        worker: slot and sequence number, which is not 0."""

    def reply(self, data: bytes) -> None:
        """Sends a whole R-message after the handler has returned. May be called from any thread."""

    def fail(self, code: int) -> None:
        """The same with an errno, in the session's dialect."""


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
        """Begins a session of this dialect."""
        self.dialect = dialect
        self.set_dialect(dialect)

    def driver(self, fid: Fid) -> Driver:
        """The driver of a fid's export."""
        return self.tree.driver(fid.export)

    def writable(self, fid: Fid) -> Driver:
        """The driver of a fid's export, for a change. EROFS if its user may not change it."""
        driver = self.tree.driver(fid.export)
        driver.require_changes(fid.uid)
        return driver


LATER = None
"""A handler returns this if it replies through its request later, from another thread."""

Handler = Callable[[Request, Any], Message | None]


def qid_of(attr: Attr) -> Qid:
    """The qid of a file."""
    return Qid(attr.qid_type, attr.qid_version, attr.qid_path)


def check_name(name: bytes, dots: int) -> bytes:
    """Returns a valid name of a directory entry. Raises P9Error for others, with the errno `dots`
    for "." and ".."."""
    code = name_error(name, dots)
    if code:
        raise P9Error(code, f"{name!r} is no name for a file")
    return name


def id_of(name: bytes) -> int | None:
    """The id that a decimal name stands for; None for other names, which mean nothing here."""
    number = int(name) if name.isdigit() and len(name) <= ID_DIGITS else NONUNAME
    return number if number < NONUNAME else None


def check_target(target: bytes) -> bytes:
    """Returns a valid target of a symlink: it may contain anything but NUL."""
    if b"\0" in target:
        raise P9Error(errno.EINVAL, "a symlink's target with a NUL")
    return target


def file_fd(path_fd: int) -> int:
    """Returns the descriptor of a file's fid. EBADF for the fid of an extended attribute."""
    if path_fd < 0:
        raise P9Error(errno.EBADF, "the fid stands for an extended attribute")
    return path_fd
