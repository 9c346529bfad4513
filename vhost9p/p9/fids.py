"""What the handlers need of the fid table, which the device's C layer provides.

Handlers of one device run side by side, and beside C. What is kept here for a fid is kept by its
handle, since a number may stand for another fid at any moment: it is stored, then the fid is marked
(`mark`), and where that fails it is taken back. A marked fid is clunked here, number first
(`clunk`), and then what is kept for it goes: so nothing stays behind, whoever comes first.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from vhost9p.fs.driver import Attr, Entry

FID_UPCALL = 1
"""Tread, Twrite and Tclunk of the fid come to Python: it stands for an extended attribute."""
FID_LOCKS = 2
"""Tclunk of the fid comes to Python: it has placed locks."""


class Fid(Protocol):
    """A pinned fid: its descriptors stay open while it is held. -1 stands for no descriptor."""

    @property
    def handle(self) -> int:
        """Names this fid, and no other one that has its number before or after."""

    @property
    def path_fd(self) -> int:
        """O_PATH; -1 for a fid of an extended attribute."""

    @property
    def meta_fd(self) -> int:
        """The file that holds the file's metadata; -1: none, or none yet."""

    @property
    def io_fd(self) -> int:
        """What Tlopen or Tlcreate opened."""

    @property
    def io_flags(self) -> int:
        """open(2) flags of io_fd."""

    @property
    def export(self) -> int:
        """Index of the export that the file belongs to."""

    @property
    def uid(self) -> int:
        """n_uname of the attach that it descends from."""

    @property
    def flags(self) -> int:
        """FID_* flags."""

    @property
    def st_dev(self) -> int:
        """The file's device on the host."""

    @property
    def st_ino(self) -> int:
        """The file's inode on the host."""

    def resizing(self, size: int) -> AbstractContextManager[None]:
        """The block sets the file's size for the guest, which knows it then."""


class FidTable(Protocol):
    """What the guest's fids stand for. Every method raises OSError and is thread-safe.

    `become`, `own_name`, `read_dir`, `removing` and `renaming` take what `get` gave.
    """

    def get(self, number: int) -> AbstractContextManager[Fid]:
        """Pins a fid for the length of a `with` block; EBADF if there is none."""

    def find(self, number: int) -> int:
        """A fid's handle, whether its file can be had or not; EBADF if there is none."""

    def add(
        self,
        number: int,
        path_fd: int,
        export: int,
        uid: int,
        flags: int,
        attr: Attr | None,
    ) -> int:
        """Enters a fid; takes `path_fd` over unless it raises. Returns its handle. EBADF: the
        number is in use."""

    def become(
        self, fid: Any, name: bytes, path_fd: int, io_fd: int, io_flags: int, attr: Attr
    ) -> None:
        """Makes the number of a directory's fid stand for what was made there, which may be open.
        Takes the descriptors over unless it raises."""

    def mark(self, handle: int, flags: int) -> None:
        """Adds FID_* flags. EBADF: the fid has lost its number, or is in use for something that
        they do not go with."""

    def clunk(self, handle: int) -> None:
        """Takes the number away from a fid; EBADF if it had none any more."""

    def read_dir(self, fid: Any, position: int, size: int) -> list[Entry]:
        """Entries of a fid's open directory from a position on (0: from the first), out of about
        `size` bytes of it; none at its end. ENOTDIR for what is no directory."""

    def own_name(self, fid: Any) -> AbstractContextManager[tuple[int, bytes]]:
        """The directory, for the length of a `with` block, and the name in it by which the guest
        reached a file: that one of several. ENOENT where the file has lost it."""

    def removing(self, fid: Any, name: bytes = b"") -> AbstractContextManager[None]:
        """For the length of a `with` block in which entry `name` of a directory is removed, or b""
        the name by which the file itself was reached. Fids of that file stay good."""

    def renaming(
        self, fid: Any, name: bytes, directory: Any | None, new: bytes
    ) -> AbstractContextManager[None]:
        """For the length of a `with` block in which entry `name` of a directory is renamed, or b""
        the file itself, to `new` in `directory` (None: its own). All fids stay good."""

    def clear(self) -> None:
        """Removes all fids: a session begins. ESTALE where the next one has begun, of which nothing
        may be removed."""
