"""What the host must allow for an export's options to mean something.

These are questions to the host at start, so that a guest does not find out one file at a time: may
the daemon give files to the ids of a map, and does the file system keep the attributes in which a
mapped security model stores owners and modes?
"""

import errno
import os
from collections.abc import Iterator

from vhost9p.config import IdMap

CAP_CHOWN = 0
"""Its bit (linux/capability.h)."""
PROBE = "user.virtfs.mode"
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def why_not_own(ids: IdMap) -> Iterator[str]:
    """Which of the host's ids in a map the daemon cannot give a file to (chown(2)): without
    CAP_CHOWN all but its own, with it those that its user namespace does not have."""
    may_chown = _has(CAP_CHOWN)
    for kind, own, ranges, squash in (
        ("uid", [os.geteuid()], ids.uid, ids.squash_uid),
        ("gid", sorted({os.getegid(), *os.getgroups()}), ids.gid, ids.squash_gid),
    ):
        allowed = _namespace(kind) if may_chown else [(each, each) for each in own]
        wanted = [(each.host, each.host + each.count - 1) for each in ranges]
        wanted += [(squash, squash)] if squash is not None else []
        for first, last in wanted:
            if not any(low <= first and last <= high for low, high in allowed):
                yield f"id_map: {kind}: {_reason(kind, first, last, own, may_chown)}"


def _reason(kind: str, first: int, last: int, own: list[int], may_chown: bool) -> str:
    ids = f"host ids {first} to {last}" if last > first else f"host id {first}"
    if may_chown:
        return f"{ids}: not all are in the daemon's user namespace (/proc/self/{kind}_map)"
    return (
        f"{ids}: without CAP_CHOWN the daemon makes files of its own {kind} only "
        f"({', '.join(map(str, own))}); map to that, or take security_model mapped-xattr"
    )


def _has(capability: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> capability & 1)


def _namespace(kind: str) -> list[tuple[int, int]]:
    """First and last of the ids that the daemon's user namespace has (user_namespaces(7));
    neighbouring ranges are one."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as lines:
        ranges = sorted((int(line.split()[0]), int(line.split()[2])) for line in lines)
    found: list[tuple[int, int]] = []
    for first, count in ranges:
        last = first + count - 1
        if found and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def why_not_xattrs(path: str, *, readonly: bool) -> str | None:
    """Why a directory cannot be exported with security_model mapped-xattr: its file system has no
    attributes user.*. Asks without leaving anything behind, by a file that never gets a name."""
    try:
        _probe(path, readonly=readonly)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return (
                f"{path} is on a file system without user.* attributes, in which security_model "
                "mapped-xattr keeps owners and modes; set security_model to mapped-file"
            )
    return None


def _probe(path: str, *, readonly: bool) -> None:
    """Raises OSError."""
    try:
        os.getxattr(path, PROBE)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    if readonly:
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:  # no such files here, or none for this user
        return
    try:
        os.setxattr(fd, PROBE, bytes(4))
    finally:
        os.close(fd)
