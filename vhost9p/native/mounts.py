"""C's view of the host's mounts (csrc/export/mounts.h): which entries of a directory a listing has
to stat, since they may lie on another device than the directory."""

import os
from collections.abc import Iterable
from enum import IntEnum

from vhost9p.native.library import check, ffi, lib


class Look(IntEnum):
    """Which entries are looked at; whatever else something is mounted on, too."""

    NAMED = lib.V9_LOOK_NAMED
    """Only what something is mounted on."""
    DIRS = lib.V9_LOOK_DIRS
    """Directories."""
    ALL = lib.V9_LOOK_ALL


class MountViews:
    """The answers for the mounts that have been asked about."""

    def __init__(self, mountinfo: int) -> None:
        """`mountinfo` is an open /proc/self/mountinfo, which is duplicated and which nobody else
        polls. Raises OSError."""
        err = ffi.new("int32_t *")
        native = lib.v9_mounts_new(mountinfo, err)
        if not native:
            raise OSError(-err[0], os.strerror(-err[0]))
        self.native = ffi.gc(native, lib.v9_mounts_free)

    def close(self) -> None:
        """Frees it. No export may be using it."""
        ffi.release(self.native)

    def set(self, mnt_id: int, generation: int, look: Look, names: Iterable[bytes] = ()) -> None:
        """Installs which entries of the mount's directories need a stat: `look`, and those with one
        of these names. Ignored unless `generation`, from the question, is still the newest. Raises
        OSError (ENOMEM)."""
        text = b"".join(name + b"\0" for name in names)
        check(lib.v9_mounts_set(self.native, mnt_id, generation, look, text, len(text)))
