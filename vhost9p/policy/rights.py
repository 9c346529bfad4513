"""What the host must allow for an export's options to mean something.

These are questions to the host at start, so that a guest does not find out one file at a time: may
the daemon give files to other users, may it write, and does the file system keep the attributes in
which a mapped security model stores owners and modes?

Whether it may set owners decides between passthrough and none where neither is asked for. It takes
capabilities (csrc/base/sys.c says which), a user namespace with other users than the daemon's own,
and a file system that lets owners be set: NFS with squashed root, a mount whose ids are mapped and
FAT do not. An id_map names the host's ids itself, so there it takes those only.
"""

import errno
import os
import stat
from collections.abc import Iterator

from vhost9p.config import ExportConfig, IdMap
from vhost9p.fs.local import UNOWNABLE
from vhost9p.native.sys import lacking_capabilities

PROBE = "user.virtfs.mode"
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
OTHERS = (1, 1000, 65534)
"""Ids of which a file system that lets owners be set has one at least."""


# ---- owners --------------------------------------------------------------------------------------


def why_not_owners(export: ExportConfig) -> str | None:
    """Why what the guest creates in an export could not get the guest's owner (passthrough)."""
    if lacking := lacking_capabilities():
        return f"the daemon lacks {_listed(lacking)}"
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        if _namespace(kind) == [(own, own)]:
            return f"the daemon's user namespace has no {kind} but its own (/proc/self/{kind}_map)"
    return None if export.readonly else _why_not_chown(export.path)


def _why_not_chown(path: str) -> str | None:
    """Asks the file system by a file that never gets a name. One that has no such files is taken to
    let owners be set."""
    try:
        fd = _open_nameless(path)
    except OSError:
        return None
    try:
        said = [_chown_error(fd, each) for each in OTHERS]
    finally:
        os.close(fd)
    if all(said):
        return f"the file system of {path} does not let it set owners ({said[0]})"
    return None


def _open_nameless(path: str) -> int:
    """A file that never gets a name."""
    return os.open(path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)


def _nameless_error(path: str) -> int:
    try:
        os.close(_open_nameless(path))
    except OSError as error:
        return error.errno or 0
    return 0


def _chown_error(fd: int, number: int) -> str | None:
    try:
        os.fchown(fd, number, number)
    except OSError as error:
        return error.strerror if error.errno in (*UNOWNABLE, *UNSUPPORTED) else None
    return None


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def why_not_own(ids: IdMap) -> Iterator[str]:
    """Which of the host's ids in a map the daemon cannot give a file to: without the capabilities
    all but its own, with them those that its user namespace does not have."""
    lacking = lacking_capabilities()
    advice = "; map to that, or take security_model mapped-xattr" if lacking else ""
    for kind, ranges, squash in (
        ("uid", ids.uid, ids.squash_uid),
        ("gid", ids.gid, ids.squash_gid),
    ):
        wanted = [(each.host, each.host + each.count - 1) for each in ranges]
        wanted += [(squash, squash)] if squash is not None else []
        for first, last in wanted:
            if problem := _why_not_give(kind, first, last, lacking):
                yield f"id_map: {kind}: {problem}{advice}"


def why_not_socket_id(kind: str, number: int | None) -> str | None:
    """Why the daemon cannot give its socket to a user or group."""
    if number is None:
        return None
    lacking = [each for each in lacking_capabilities() if each == "CAP_CHOWN"]
    return _why_not_give(kind, number, number, lacking)


def _why_not_give(kind: str, first: int, last: int, lacking: list[str]) -> str | None:
    own = [os.geteuid()] if kind == "uid" else sorted({os.getegid(), *os.getgroups()})
    allowed = [(each, each) for each in own] if lacking else _namespace(kind)
    if any(low <= first and last <= high for low, high in allowed):
        return None
    ids = f"host ids {first} to {last}" if last > first else f"host id {first}"
    if not lacking:
        return f"{ids}: not all are in the daemon's user namespace (/proc/self/{kind}_map)"
    return (
        f"{ids}: without {_listed(lacking)} the daemon gives files to its own {kind} only "
        f"({', '.join(map(str, own))})"
    )


def _namespace(kind: str) -> list[tuple[int, int]]:
    """First and last of the ids that the daemon's user namespace has (user_namespaces(7));
    neighbouring ranges are one."""
    with open(f"/proc/self/{kind}_map", "rb") as lines:
        ranges = sorted((int(line.split()[0]), int(line.split()[2])) for line in lines)
    found: list[tuple[int, int]] = []
    for first, count in ranges:
        last = first + count - 1
        if found and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


# ---- writing -------------------------------------------------------------------------------------


def why_not_write(path: str) -> str | None:
    """Why the daemon can create nothing in a directory."""
    if os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        if _nameless_error(path) == errno.EOVERFLOW:
            return "its mount's ids are mapped, and the daemon's own is not among them"
        return None
    found = os.stat(path)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only"
    return (
        f"it belongs to {found.st_uid}:{found.st_gid} with mode {stat.S_IMODE(found.st_mode):#o}, "
        f"and the daemon runs as {os.geteuid()}:{os.getegid()}"
    )


# ---- attributes ----------------------------------------------------------------------------------


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
        fd = _open_nameless(path)
    except OSError:  # no such files here, or none for this user
        return
    try:
        os.setxattr(fd, PROBE, bytes(4))
    finally:
        os.close(fd)
