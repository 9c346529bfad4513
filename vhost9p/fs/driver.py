"""The interface between the 9P server and a file system.

Files are identified by O_PATH descriptors, or by an O_PATH descriptor of their directory and one
component, which the server has validated; never by a path. Every method may raise OSError with the
errno for the guest, and then has changed nothing. It may be called from several threads at once;
the file system itself orders concurrent changes.
"""

from typing import NamedTuple, Protocol

from vhost9p.native.descriptors import close as close_fd
from vhost9p.native.export import Attr
from vhost9p.native.fids import Entry, SetAttr, Stream
from vhost9p.native.sys import name_error, open_mode

__all__ = ["OWN_ID", "Attr", "Created", "Driver", "Entry"]
__all__ += ["Owner", "SetAttr", "Stream", "close_fd", "name_error", "open_mode"]

OWN_ID = 0xFFFFFFFF


class Owner(NamedTuple):
    """The owner of a new file. A uid of OWN_ID means the daemon's own; a gid of OWN_ID means the
    directory's if that is set-gid, else the daemon's own."""

    uid: int
    gid: int


class Created(NamedTuple):
    """A file that was created and opened, or only created (io_fd -1). The caller owns the
    descriptors."""

    path_fd: int
    io_fd: int
    io_flags: int
    attr: Attr


class Driver(Protocol):
    """One exported tree."""

    def admit(self, uid: int) -> None:
        """Allows a user to attach (0xFFFFFFFF: an unnamed user). EPERM if the export does not know
        the user."""

    def require_changes(self, uid: int) -> None:
        """Allows a user of the guest to change something. EROFS for a read-only export, and for the
        user whose requests only refresh."""

    def attach(self, path: bytes) -> tuple[int, Attr]:
        """An O_PATH descriptor of the root, or of a directory below it."""

    def attr(
        self, fd: int, name: bytes = b"", meta_fd: int = -1, shown_as: int | None = None
    ) -> Attr:
        """Returns attributes of a file, whose sidecar is `meta_fd` if known, or of an entry of a
        directory. ENODEV for a file that multidevs=forbid denies; with `shown_as`, as in listings,
        its attributes have that qid.path instead."""

    def walk(self, dir_fd: int, name: bytes) -> tuple[int, Attr]:
        """Returns an O_PATH descriptor of an entry. Does not follow a symlink."""

    def step(self, uid: int, dir_fd: int, name: bytes) -> tuple[int, int]:
        """Walks to an entry or to "..", which may lead to another export. Returns that export's
        index and an O_PATH descriptor. Does not follow a symlink. EPERM if that export does not
        know the user."""

    def read_link(self, fd: int) -> bytes:
        """A symlink's target."""

    def name_of(self, fd: int) -> bytes | None:
        """Returns the last component of the name by which the guest reached a file, or of a later
        name; b"" if the host cannot report it, None for the export's root."""

    def open(self, fd: int, flags: int) -> tuple[int, int]:
        """Opens a regular file or directory with 9P2000.L `flags`. Returns descriptor and host
        flags."""

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """Creates a regular file and opens it with 9P2000.L `flags`; opens an existing one unless
        they contain O_EXCL."""

    def take_back(self, dir_fd: int, name: bytes, path_fd: int, *, is_dir: bool) -> None:
        """Removes what was just created, as far as that is possible: the request has failed. It is
        the file of `path_fd`, where that is not -1; another one that has its name now stays."""

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> None:
        """Creates a directory."""

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> None:
        """Creates a FIFO, socket, device node or regular file."""

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> None:
        """Creates a symlink."""
