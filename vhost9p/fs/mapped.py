"""The driver of the mapped security models: the guest has owners, modes, symlinks and device nodes
that the daemon may not create on the host.

C creates and unlinks files (csrc/fs/create.c), changes their attributes (csrc/fs/setattr.c), and
implements the metadata's formats (csrc/mapped/mapped.h). This module changes names (fs/sidecar.py).
"""

from vhost9p.fs.driver import File
from vhost9p.fs.local import LocalDriver
from vhost9p.fs.sidecar import FileSidecar, Sidecar, XattrSidecar
from vhost9p.native.export import MODEL_FILE, Export


class MappedDriver(LocalDriver):
    """Serves `export`, whose model is mapped."""

    def __init__(self, export: Export, root_fd: int, *, readonly: bool) -> None:
        super().__init__(export, root_fd, readonly=readonly)
        self._sidecar: Sidecar = (
            FileSidecar(export) if export.model == MODEL_FILE else XattrSidecar(export)
        )

    def _mode(self, fd: int) -> int:
        return self.attr(fd).mode

    # ---- names ------------------------------------------------------------------------------

    def link(self, file: File, dir_fd: int, name: bytes) -> None:
        """See Driver."""
        self._sidecar.admit(dir_fd, name)
        with self._sidecar.linked(file, dir_fd, name):
            super().link(file, dir_fd, name)

    def rename(self, old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
        """See Driver."""
        self._sidecar.admit(old_dir, old)
        self._sidecar.admit(new_dir, new)
        with self._sidecar.moved(old_dir, old, new_dir, new):
            super().rename(old_dir, old, new_dir, new)
