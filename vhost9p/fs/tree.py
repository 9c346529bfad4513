"""What one guest sees: the drivers of its exports.

A device has one export, or several which appear as directories of a first one that holds nothing
else. Files know the export that they belong to by its index; C crosses from one to the other where
a walk does (csrc/attr.c, v9_export_step).
"""

from collections.abc import Mapping, Sequence

from vhost9p.fs.driver import Attr, Driver


class Tree:
    """Drivers by the index of their export; `names` tells under which names of the first one's
    root the others appear."""

    def __init__(self, drivers: Sequence[Driver], names: Mapping[bytes, int] | None = None) -> None:
        self._drivers = drivers
        self._names = names or {}

    def driver(self, export: int) -> Driver:
        """The driver that serves the files of an export."""
        return self._drivers[export]

    def attach(self, path: bytes, uid: int) -> tuple[int, int, Attr]:
        """Where a user (0xFFFFFFFF: one whom the guest does not name) begins: the root (an empty
        path), an export, or a directory below one.

        Returns the export's index, an O_PATH descriptor and its attributes; raises OSError.
        """
        first, _, rest = path.lstrip(b"/").partition(b"/")
        export = self._names.get(first, 0)
        driver = self._drivers[export]
        driver.admit(uid)
        return export, *driver.attach(rest if export else path)
