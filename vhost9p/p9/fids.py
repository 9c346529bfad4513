"""The fid table as the handlers see it. The device's C layer provides it.

Handlers of one device run in parallel with each other and with C. Python stores data for a fid
under its handle, not its number, since the guest may reuse the number at any time. The order is:
store the data, then mark the fid (`mark`); if that fails, remove the data. Python clunks a marked
fid: first its number (`clunk`), then its data. So no data is left over, in whatever order threads
run.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from vhost9p.fs.driver import Attr, Entry, SetAttr

FID_XATTR = 1
"""The fid has the value of an extended attribute (csrc/fid/xattr_value.h)."""
FID_LOCKS = 2
"""Python answers Tclunk of the fid: it has taken locks."""


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


class FidTable(Protocol):
    """Maps the guest's fids to files. Every method may raise OSError and is thread-safe.

    `become`, `own_name`, `read_dir`, `removing` and `renaming` take a fid from `get`.
    """

    def get(self, number: int) -> AbstractContextManager[Fid]:
        """Pins a fid during a `with` block. EBADF if there is none."""

    def find(self, number: int) -> int:
        """Returns a fid's handle, even if its file cannot be reopened. EBADF if there is none."""

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

    def clunk(self, handle: int) -> None:
        """Frees a fid's number. EBADF if it was free already."""

    def read_dir(self, fid: Any, position: int, size: int) -> list[Entry]:
        """Returns entries of a fid's open directory from a position on (0: the first), about `size`
        bytes of them; none at the end. ENOTDIR if it is no directory."""

    def own_name(self, fid: Any) -> AbstractContextManager[tuple[int, bytes]]:
        """Yields a file's directory, valid during a `with` block, and the name in it by which the
        guest reached the file. ENOENT if the file has lost that name."""

    def removing(self, fid: Any, name: bytes = b"") -> AbstractContextManager[None]:
        """Brackets the removal of entry `name` of a directory; b"": of the name by which the guest
        reached the file. Fids of that file stay valid."""

    def renaming(
        self, fid: Any, name: bytes, directory: Any | None, new: bytes
    ) -> AbstractContextManager[None]:
        """Brackets the rename of entry `name` of a directory, or of the file itself (b""), to `new`
        in `directory` (None: its own). All fids stay valid."""

    def clear(self) -> None:
        """Removes all fids, since a session begins. ESTALE if the next session has begun already:
        its fids must stay."""
