"""What the handlers need of the fid table, which the device's C layer provides."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from vhost9p.fs.driver import Attr

FID_UPCALL = 1
"""Tread, Twrite and Tclunk of the fid come to Python: it stands for an extended attribute."""
FID_LOCKS = 2
"""Tclunk of the fid comes to Python: it has placed locks."""


class Fid(Protocol):
    """A pinned fid: its descriptors stay open while it is held. -1 stands for no descriptor."""

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

    `become`, `set_flags`, `removing` and `renaming` take what `get` gave.
    """

    def get(self, number: int) -> AbstractContextManager[Fid]:
        """Pins a fid for the length of a `with` block; EBADF if there is none."""

    def add(
        self, number: int, path_fd: int, export: int, uid: int, flags: int, attr: Attr | None
    ) -> None:
        """Enters a fid; takes `path_fd` over unless it raises."""

    def become(self, fid: Any, path_fd: int, io_fd: int, io_flags: int, attr: Attr) -> None:
        """Makes the number of a pinned fid stand for a created, open file."""

    def set_flags(self, fid: Any, flags: int) -> None:
        """Replaces the FID_* flags."""

    def clunk(self, number: int) -> None:
        """Removes a fid."""

    def removing(self, fid: Any, name: bytes = b"") -> AbstractContextManager[None]:
        """For the length of a `with` block in which entry `name` of a directory is removed, or b""
        the name by which the file itself was reached. Fids of that file stay good."""

    def renaming(
        self, fid: Any, name: bytes, directory: Any | None, new: bytes
    ) -> AbstractContextManager[None]:
        """For the length of a `with` block in which entry `name` of a directory is renamed, or b""
        the file itself, to `new` in `directory` (None: its own). All fids stay good."""

    def clear(self) -> None:
        """Removes all fids."""
