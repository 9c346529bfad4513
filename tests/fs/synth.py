"""A driver that shows what files of several devices look like to a guest.

The files are real ones, in a scratch directory; their device and inode numbers are whatever a table
says. The table is installed in the one attribute reader, so walking, listing and reading attributes
run the same code as for `local`.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

from vhost9p.fs.local import LocalDriver
from vhost9p.native.export import Export
from vhost9p.native.library import check, lib


class Numbers(NamedTuple):
    """What the guest's side gets to see of a file in place of the host's numbers."""

    st_dev: int
    st_ino: int


class SynthDriver(LocalDriver):
    """Serves a scratch directory on one file system.

    `numbers`: by path below the export (b"" the export itself), what existing files appear as. The
    others keep their own numbers.
    """

    def __init__(
        self,
        export: Export,
        root_fd: int,
        *,
        numbers: Mapping[bytes, Numbers],
    ) -> None:
        """Raises OSError where a path does not exist."""
        super().__init__(export, root_fd)
        for path, appearance in numbers.items():
            self.override_stat(path, appearance)

    def override_stat(self, path: bytes, numbers: Numbers) -> None:
        """Makes one existing file appear with other numbers from now on. Raises OSError."""
        status = os.stat(path or b".", dir_fd=self._root_fd, follow_symlinks=False)
        check(lib.v9_export_override_stat(self.export.native, status.st_ino, *numbers))
