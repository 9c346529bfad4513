"""The qid map of the C layer (csrc/export/qidmap.c): lookups of qid.path, and what policies install
in it.

A lookup that finds nothing raises `Unknown`; then a policy has to install an entry. Device numbers
are `st_dev` as os.stat has it, inodes and paths unsigned 64-bit numbers.
"""

from dataclasses import dataclass
from enum import IntFlag

from vhost9p.native.library import check, ffi, lib


class DeviceFlag(IntFlag):
    """How the files of a device get their qid.path; 0: through groups."""

    IDENTITY = lib.V9_DEV_IDENTITY
    """qid.path = st_ino."""
    DENY = lib.V9_DEV_DENY
    """No path: ENODEV."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """The identity of an open file: its device and inode, and what distinguishes it from later
    files with the same inode number.

    `mnt_id` is unique for the host's uptime since Linux 6.8, before it is reused; `btime` is the
    birth time in nanoseconds, 0 where the file system keeps none.
    """

    mnt_id: int
    ino: int
    btime: int


class QidMap:
    """Maps (host device, inode) to the guest's qid.path."""

    def __init__(self) -> None:
        native = lib.v9_qidmap_new()
        if not native:
            raise MemoryError("no memory for a qid map")
        self.native = ffi.gc(native, lib.v9_qidmap_free)

    def close(self) -> None:
        """Frees it. No export may be using it."""
        ffi.release(self.native)

    def set_device(self, st_dev: int, mnt_id: int, device: int, flags: DeviceFlag) -> None:
        """Installs what (st_dev, mount id) stands for. Raises OSError (ENOMEM)."""
        check(lib.v9_qidmap_set_device(self.native, st_dev, mnt_id, device, flags))

    def forget_devices(self) -> None:
        """Takes back every `set_device`; groups and files stay. Raises OSError (ENOMEM)."""
        check(lib.v9_qidmap_forget_devices(self.native))

    def add_group(self, device: int, bits: int, top: int, suffix: int) -> None:
        """Files of `device` whose inode's top `bits` bits are `top` get (ino << bits) | suffix.

        Raises OSError: EINVAL where `top` or `suffix` does not fit `bits` (1 to 63), ENOMEM.
        """
        check(lib.v9_qidmap_add_group(self.native, device, bits, top, suffix))

    def add_file(self, device: int, ino: int, path: int) -> None:
        """Gives one file of `device`, which no group fits, its path. Raises OSError (ENOMEM)."""
        check(lib.v9_qidmap_add_file(self.native, device, ino, path))

    def has(self, device: int, ino: int) -> bool:
        """Whether a group or a single entry fits this inode of a device index."""
        path = ffi.new("uint64_t *")
        return bool(lib.v9_qidmap_find(self.native, device, ino, path) == 0)
