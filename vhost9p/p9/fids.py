"""The fid table as the handlers see it. The device's C layer provides it.

Handlers of one device run in parallel with each other and with C. Python stores data for a fid
under its handle, not its number, since the guest may reuse the number at any time. The order is:
store the data, then mark the fid (`mark`); if that fails, remove the data. Python clunks a marked
fid: first its number (`clunk`), then its data. So no data is left over, in whatever order threads
run.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from vhost9p.fs.driver import Attr, Entry, SetAttr, Stream

FID_LOCKS = 2
"""Python answers Tclunk of the fid: it has taken locks."""
FID_STREAM = 8
"""The same: a read of it, which is of the stream, has waited."""


class Fid(Protocol):
    """A pinned fid: its descriptors stay open while it is held. -1 stands for no descriptor."""

    @property
    def handle(self) -> int:
        """Identifies this fid, unlike its number, which the guest reuses."""

    @property
    def path_fd(self) -> int:
        """An O_PATH descriptor; -1 for the fid of an extended attribute."""

    @property
    def meta_fd(self) -> int:
        """The sidecar with the file's metadata; -1 if there is none, or none yet."""

    @property
    def io_fd(self) -> int:
        """The descriptor that Tlopen or Tlcreate opened."""

    @property
    def io_flags(self) -> int:
        """open(2) flags of io_fd."""

    @property
    def export(self) -> int:
        """Index of the export that the file belongs to."""

    @property
    def uid(self) -> int:
        """n_uname of the Tattach that the fid comes from."""

    @property
    def flags(self) -> int:
        """FID_* flags."""

    @property
    def st_dev(self) -> int:
        """The file's device on the host."""

    @property
    def st_ino(self) -> int:
        """The file's inode on the host."""

    def setattr(self, to: SetAttr) -> None:
        """Changes attributes of the file. EROFS if its export is read-only, EINVAL for invalid
        values, EPERM for an owner that the guest may not use."""

    def link(self, directory: Any, name: bytes) -> None:
        """Gives the file one more name, in a directory. EROFS if its export is read-only, EXDEV
        if the directory belongs to another one."""

    def rename(self, name: bytes) -> None:
        """Renames the file within the directory in which the guest reached it. EROFS; ENOENT if
        the file has lost its name, EBUSY for an export's root."""

    def unlink(self) -> None:
        """Removes the name by which the guest reached the file. Errors as of `rename`; EBADF for
        the fid of an extended attribute."""

    def sync(self) -> None:
        """Makes the file durable, whether it is open or not. May take long."""


class FidTable(Protocol):
    """Maps the guest's fids to files. Every method may raise OSError and is thread-safe.

    `become`, `stream`, `set_stream` and `read_dir` take a fid from `get`.
    """

    def get(self, number: int) -> AbstractContextManager[Fid]:
        """Pins a fid during a `with` block. EBADF if there is none."""

    def find(self, number: int) -> int:
        """Returns a fid's handle, even if its file cannot be reopened. EBADF if there is none."""

    def remember(self, number: int) -> None:
        """Remembers what is known of a fid, for the log: a request fails, and ends it."""

    def add(
        self,
        number: int,
        path_fd: int,
        export: int,
        uid: int,
        attr: Attr,
    ) -> int:
        """Adds a fid and returns its handle. Takes ownership of `path_fd` unless it raises. EBADF
        if the number is in use."""

    def become(
        self, fid: Any, name: bytes, path_fd: int, io_fd: int, io_flags: int, attr: Attr
    ) -> None:
        """Makes a directory's fid number refer to the file that was created there, which may be
        open. Takes ownership of the descriptors unless it raises."""

    def mark(self, handle: int, flags: int) -> None:
        """Adds FID_* flags. EBADF if the fid has lost its number, or is not open."""

    def stream(self, fid: Any) -> Stream:
        """What is known of a fid that has the stream open. EBADF for any other."""

    def set_stream(self, fid: Any, to: Stream) -> None:
        """Stores that."""

    def open_for_locks(self, handle: int) -> tuple[int, int]:
        """Opens a separate descriptor of a pinned fid's file, which is open. Returns it and its
        access mode (os.O_ACCMODE). ENOLCK if no descriptor is left."""

    def clunk(self, handle: int) -> None:
        """Frees a fid's number. EBADF if it was free already."""

    def read_dir(self, fid: Any, position: int, size: int) -> list[Entry]:
        """Returns entries of a fid's open directory from a position on (0: the first), about `size`
        bytes of them; none at the end. ENOTDIR if it is no directory."""

    def clear(self) -> None:
        """Removes all fids, since a session begins. ESTALE if the next session has begun already:
        its fids must stay."""
