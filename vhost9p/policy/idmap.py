"""Maps users and groups of the guest to those of the host.

Ranges map guest ids to host ids one to one, users and groups separately. C implements both
directions (csrc/export/idmap.h): it maps attributes when it reads and changes them, owners of new
files, and ids in extended attributes (csrc/export/xattr_ids.h). 0xFFFFFFFF is no id: an unnamed
user, or an owner that stays unchanged.

`IdLayer` refuses users who attach. Above it, toward the guest, and in fids, all ids are the
guest's. Below it drivers know the host's ids only, except for owners of new files. Mapped security
models store the host's ids, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from vhost9p.native.export import Export

GuestId = NewType("GuestId", int)
HostId = NewType("HostId", int)


@dataclass(frozen=True, slots=True)
class Range:
    """Maps `count` guest ids from `guest` on to host ids from `host` on."""

    guest: GuestId
    host: HostId
    count: int


@dataclass(frozen=True, slots=True)
class Ids:
    """The map of users or of groups. Ranges overlap neither in guest ids nor in host ids.
    `forbidden`: (first, count) of guest ids."""

    ranges: Sequence[Range]
    squash: HostId | None = None
    forbidden: Sequence[tuple[int, int]] = ()

    def install(self, export: Export, kind: int) -> None:
        """Makes it the export's map of UID or GID. Raises OSError."""
        ranges = [(each.guest, each.host, each.count) for each in self.ranges]
        export.set_ids(kind, ranges, self.squash, self.forbidden)
