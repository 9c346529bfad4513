"""Which host id a guest's user or group has.

Ranges map guest ids to host ids one to one, owners and groups apart. Two directions, two owners:

- host to guest (what a file shows) is C's, where attributes are read (csrc/idmap.c). A host id that
  no range has shows as 65534.
- guest to host (what a guest asks for) decides whether it may, and is here. An id of no range goes
  to the one that is named for squashing, or is refused: EPERM. A forbidden one is always refused.
  0xFFFFFFFF is no id: a user whom the guest does not name, an owner that is left alone. What such
  a user creates is the daemon's own where the map has its id, else the guest's root's: by naming
  nobody no guest becomes who the map keeps from it.

`IdLayer` is the one place where ids change sides: above it, to the guest, all are the guest's, as
are those that fids carry; below it, drivers know the host's only. Under the mapped security models
the ids that are stored are the host's, too.
"""

import errno
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from vhost9p.fs.driver import Attr, Created, Driver, File, Owner
from vhost9p.fs.layer import Layer
from vhost9p.native.export import GID, UID, Export
from vhost9p.policy.idvalues import map_value

GuestId = NewType("GuestId", int)
HostId = NewType("HostId", int)

NO_ID = 0xFFFFFFFF
LEFT_ALONE = -1
"""An owner that chown(2) does not change."""


@dataclass(frozen=True, slots=True)
class Range:
    """`count` ids from `guest` on are those from `host` on."""

    guest: GuestId
    host: HostId
    count: int


class Ids:
    """The map of one kind, users or groups."""

    def __init__(
        self,
        kind: str,
        ranges: Sequence[Range],
        squash: HostId | None = None,
        forbidden: Sequence[tuple[int, int]] = (),
    ) -> None:
        """`kind` names it in messages. `forbidden`: (first, count) of guest ids. The ranges do not
        overlap, neither in guest ids nor in host ids."""
        self.kind = kind
        self.ranges = sorted(ranges, key=lambda each: each.guest)
        self._squash = squash
        self._forbidden = tuple(range(first, first + count) for first, count in forbidden)

    def host(self, guest: GuestId) -> HostId:
        """The host's id. OSError EPERM where the guest may not use this one."""
        if guest == NO_ID:
            return HostId(NO_ID)
        if any(guest in each for each in self._forbidden):
            raise OSError(errno.EPERM, f"{self.kind} {guest} is forbidden")
        at = bisect_right(self.ranges, guest, key=lambda each: each.guest) - 1
        if at >= 0 and (ahead := guest - self.ranges[at].guest) < self.ranges[at].count:
            return HostId(self.ranges[at].host + ahead)
        if self._squash is None:
            raise OSError(errno.EPERM, f"{self.kind} {guest} has no id on the host")
        return self._squash

    def host_of_creator(self, guest: GuestId, own: int) -> HostId:
        """As `host`, for what is created; `own` is the daemon's id. See the module for who creates
        without a name."""
        if guest != NO_ID:
            return self.host(guest)
        for each in self.ranges:
            if 0 <= (ahead := own - each.host) < each.count:
                return self.host(GuestId(each.guest + ahead))
        return self.host(GuestId(0))


class IdLayer(Layer):
    """See the module."""

    def __init__(self, below: Driver, export: Export, uids: Ids, gids: Ids) -> None:
        """Installs the maps in the export, which must have none yet. Raises OSError."""
        super().__init__(below)
        self._export = export
        self._uids = uids
        self._gids = gids
        for kind, ids in ((UID, uids), (GID, gids)):
            export.set_ids(kind, [(each.guest, each.host, each.count) for each in ids.ranges])

    def admit(self, uid: int) -> None:
        """See Driver."""
        self.below.admit(self._uids.host(GuestId(uid)))

    # ---- owners -----------------------------------------------------------------------------

    def _owner(self, owner: Owner) -> Owner:
        return Owner(
            self._uids.host_of_creator(GuestId(owner.uid), os.geteuid()),
            self._gids.host_of_creator(GuestId(owner.gid), os.getegid()),
        )

    def _host_uid(self, uid: int) -> int:
        return self._uids.host(GuestId(uid))

    def _host_gid(self, gid: int) -> int:
        return self._gids.host(GuestId(gid))

    def _guest_uid(self, uid: int) -> int:
        return self._export.guest_id(UID, uid)

    def _guest_gid(self, gid: int) -> int:
        return self._export.guest_id(GID, gid)

    def create(self, dir_fd: int, name: bytes, flags: int, mode: int, owner: Owner) -> Created:
        """See Driver."""
        return self.below.create(dir_fd, name, flags, mode, self._owner(owner))

    def mkdir(self, dir_fd: int, name: bytes, mode: int, owner: Owner) -> Attr:
        """See Driver."""
        return self.below.mkdir(dir_fd, name, mode, self._owner(owner))

    def mknod(
        self, dir_fd: int, name: bytes, mode: int, device: tuple[int, int], owner: Owner
    ) -> Attr:
        """See Driver."""
        return self.below.mknod(dir_fd, name, mode, device, self._owner(owner))

    def symlink(self, dir_fd: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        """See Driver."""
        return self.below.symlink(dir_fd, name, target, self._owner(owner))

    def chown(self, file: File, uid: int, gid: int) -> None:
        """See Driver."""
        self.below.chown(
            file,
            uid if uid == LEFT_ALONE else self._host_uid(uid),
            gid if gid == LEFT_ALONE else self._host_gid(gid),
        )

    # ---- ids in attributes ------------------------------------------------------------------

    def get_xattr(self, fd: int, name: bytes) -> bytes:
        """See Driver. OSError EINVAL where the host's value is none of its kind."""
        value = self.below.get_xattr(fd, name)
        return map_value(name, value, self._guest_uid, self._guest_gid)

    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        """See Driver. OSError EPERM for an id that the guest may not use."""
        value = map_value(name, value, self._host_uid, self._host_gid)
        self.below.set_xattr(fd, name, value, flags)
