"""The driver of the mapped security models: the guest's owners, modes, symlinks and device nodes on
a host that grants the daemon nothing of the kind.

What the guest creates, and removes, is C's (csrc/fs/create.c), as are the formats of what is kept
beside the files (csrc/mapped/mapped.h). Here is what changes that later: modes, owners, names
(fs/keepers.py).
"""

from contextlib import suppress

from vhost9p.fs.driver import File
from vhost9p.fs.keepers import FileKeeper, Keeper, XattrKeeper
from vhost9p.fs.local import PERMISSIONS, LocalDriver
from vhost9p.native.export import MODEL_FILE, Export, Mapped


class MappedDriver(LocalDriver):
    """Serves `export`, whose model is mapped."""

    def __init__(self, export: Export, root_fd: int, *, readonly: bool) -> None:
        super().__init__(export, root_fd, readonly=readonly)
        self._keeper: Keeper = (
            FileKeeper(export, root_fd, self.parent_of)
            if export.model == MODEL_FILE
            else XattrKeeper(export)
        )

    def _mode(self, fd: int) -> int:
        return self.attr(fd).mode

    # ---- names ------------------------------------------------------------------------------

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        """See Driver."""
        self._keeper.admit(dir_fd, name)
        with self._keeper.linked(file, dir_fd, name):
            super().link(file, dir_fd, name)

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        """See Driver."""
        self._keeper.admit(old_dir, old)
        self._keeper.admit(new_dir, new)
        with self._keeper.moved(old_dir, old, new_dir, new):
            super().rename(old_dir, old, new_dir, new)

    # ---- metadata ---------------------------------------------------------------------------

    def chmod(self, file: File, mode: int) -> None:
        """See Driver."""
        self._change(file, Mapped(mode=mode & PERMISSIONS))

    def chown(self, file: File, uid: int, gid: int) -> None:
        """See Driver. As chown(2): a program that is given away loses its set-id bits."""
        owner, group = uid if uid != -1 else None, gid if gid != -1 else None
        self._change(file, Mapped(owner, group, no_set_ids=True))

    def _change(self, file: File, change: Mapped) -> None:
        """A change of metadata is one of the file, though not for the host: it gets its time of
        change where the host lets the daemon set that."""
        self._keeper.write(file, change)
        with suppress(PermissionError):
            self.touch(file.fd)
