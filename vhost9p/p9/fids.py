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

    number: int
    path_fd: int
    """O_PATH; -1 for a fid of an extended attribute."""
    io_fd: int
    """What Tlopen or Tlcreate opened."""
    io_flags: int
    """open(2) flags of io_fd."""
    uid: int
    """n_uname of the attach that it descends from."""
    flags: int
    st_dev: int
    st_ino: int


class FidTable(Protocol):
    """What the guest's fids stand for. Every method raises OSError and is thread-safe."""

    def get(self, number: int) -> AbstractContextManager[Any]:
        """Pins a fid (a `Fid`) for the length of a `with` block; EBADF if there is none."""

    def add(self, number: int, path_fd: int, uid: int, flags: int, attr: Attr | None) -> None:
        """Enters a fid; takes `path_fd` over unless it raises."""

    def become(self, fid: Any, path_fd: int, io_fd: int, io_flags: int, attr: Attr) -> None:
        """Makes the number of a pinned fid stand for a created, open file."""

    def set_flags(self, fid: Any, flags: int) -> None:
        """Replaces the FID_* flags."""

    def clunk(self, number: int) -> None:
        """Removes a fid."""

    def clear(self) -> None:
        """Removes all fids."""
