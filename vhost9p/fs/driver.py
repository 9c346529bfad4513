"""What the 9P server asks of a file system.

Files are named by O_PATH descriptors, or by an O_PATH descriptor of their directory and one
component, which the server has validated; never by a path. Every method raises OSError with the
errno that the guest is to see, changes nothing in that case, and may be called from several threads
at once; the file system itself orders concurrent changes.
"""

from typing import NamedTuple, Protocol

from vhost9p.native.descriptors import close as close_fd
from vhost9p.native.export import Attr
from vhost9p.native.fids import Entry
from vhost9p.native.sys import TIME_NOW, TIME_OMIT, name_error, open_mode

__all__ = ["OWN_ID", "TIME_NOW", "TIME_OMIT", "Attr", "Created", "Driver", "Entry", "File"]
__all__ += ["Owner", "Times", "close_fd", "name_error", "open_mode"]

OWN_ID = 0xFFFFFFFF


class File(NamedTuple):
    """A file whose owner, mode or names are to change: an O_PATH descriptor, and one of the file
    that holds its metadata (csrc/mapped/mapped.h), -1 where there is none or it is not known."""

    fd: int
    meta_fd: int = -1


class Owner(NamedTuple):
    """Whose a created file is to be. A uid of OWN_ID stands for the daemon's own; a gid of OWN_ID
    for the directory's where that is set-gid, else the daemon's own."""

    uid: int
    gid: int


class Created(NamedTuple):
    """A file that was created and opened, or only created (io_fd -1). The caller owns the
    descriptors."""

    path_fd: int
    io_fd: int
    io_flags: int
    attr: Attr


class Times(NamedTuple):
    """(seconds, nanoseconds) each; nanoseconds may be TIME_NOW or TIME_OMIT."""

    atime: tuple[int, int]
    mtime: tuple[int, int]


class Driver(Protocol):
    """One exported tree."""

    readonly: bool

    def admit(self, uid: int) -> None:
        """Lets a user attach (0xFFFFFFFF: one whom the guest does not name); EPERM for one whom
        the export does not know."""

    def attach(self, path: bytes) -> tuple[int, Attr]:
        """An O_PATH descriptor of the root, or of a directory below it."""

    def attr(
        self, fd: int, name: bytes = b"", meta_fd: int = -1, shown_as: int | None = None
    ) -> Attr:
        """Attributes of a file, whose metadata are in the file `meta_fd` if that is known, or of an
        entry of a directory. ENODEV for what multidevs=forbid denies, unless it is to be shown with
        the qid.path `shown_as`, as listings show it."""

    def walk(self, dir_fd: int, name: bytes) -> tuple[int, Attr]:
        """An O_PATH descriptor of an entry. A symlink is not followed."""

    def step(self, uid: int, dir_fd: int, name: bytes) -> tuple[int, int]:
        """A user's step to an entry or to "..", which may lead to another export: the index of the
        one that it leads to, and an O_PATH descriptor. A symlink is not followed. EPERM where that
        export does not know the user."""

    def read_link(self, fd: int) -> bytes:
        """A symlink's target."""

    def name_of(self, fd: int) -> bytes | None:
        """The last component of the name by which a file was reached, or that it got or had since;
        b"" where the host cannot tell, None for the export's root."""

    def open(self, fd: int, flags: int) -> tuple[int, int]:
        """Opens a regular file or directory with 9P2000.L `flags`; descriptor and host flags."""

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """Creates a regular file and opens it with 9P2000.L `flags`; opens an existing one unless
        they contain O_EXCL."""

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> None:
        """Creates a directory."""

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> None:
        """Creates a FIFO, socket, device node or regular file."""

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> None:
        """Creates a symlink."""

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        """Gives a file one more name."""

    def unlink(self, dir_fd: int, name: bytes, *, directory: bool) -> None:
        """Removes an entry."""

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        """Renames an entry, over an existing one where rename(2) does."""

    def chmod(self, file: File, mode: int) -> None:
        """Changes permission bits."""

    def chown(self, file: File, uid: int, gid: int) -> None:
        """Changes owner and group; -1 leaves one alone."""

    def truncate(self, fd: int, io_fd: int, size: int) -> None:
        """Changes the size, through `io_fd` where that is a descriptor open for writing. Sets the
        time of modification, whether the size was another or not."""

    def utimens(self, fd: int, times: Times) -> None:
        """Changes the times."""

    def touch(self, fd: int) -> None:
        """Sets the time of change (ctime) and changes nothing else."""

    def fsync(self, io_fd: int, *, data_only: bool) -> None:
        """Makes an open file durable. May take long."""

    def list_xattrs(self, fd: int) -> list[bytes]:
        """Names of extended attributes."""

    def get_xattr(self, fd: int, name: bytes) -> bytes:
        """An extended attribute's value."""

    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        """Sets one; flags as of setxattr(2)."""

    def remove_xattr(self, fd: int, name: bytes) -> None:
        """Removes one."""

    def open_for_locks(self, fd: int) -> tuple[int, int]:
        """A descriptor of its own for holding locks on a regular file or directory, and its access
        mode (os.O_ACCMODE)."""
