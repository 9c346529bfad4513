"""What the host must allow for an export's options to have an effect.

The host is asked at start, so that a guest does not find out one file at a time: may the daemon
give files to other users, may it write, and does the file system have the attributes in which a
mapped security model stores owners and modes?

If no security model is set, the right to set owners decides between passthrough and none. It needs
capabilities (listed in csrc/base/sys.c), a user namespace with other users than the daemon's, and a
file system on which owners can be set: not NFS with squashed root, an idmapped mount or FAT. An
id_map names ids of the host, so only the right to set those is needed.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator

from vhost9p import procfs
from vhost9p.config import ExportConfig, IdMap
from vhost9p.fs.local import UNOWNABLE
from vhost9p.native.sys import lacking_capabilities
from vhost9p.policy import export_options, xattrs

PROBE = "user.virtfs.mode"
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
OTHERS = (1, 1000, 65534)
"""A file system on which owners can be set accepts at least one of these ids."""


# ---- capabilities --------------------------------------------------------------------------------

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_FOWNER = 3
CAP_FSETID = 4
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SYS_ADMIN = 21
CAP_MKNOD = 27
CAP_SETFCAP = 31
READING = frozenset({CAP_DAC_READ_SEARCH, CAP_FOWNER})
"""Every model: files of any owner, without a change of their access times; files by handle."""
CHANGING = READING | {CAP_DAC_OVERRIDE}
OWNING = CHANGING | {CAP_CHOWN, CAP_FSETID, CAP_SETGID, CAP_SETUID, CAP_MKNOD}


def capabilities(exports: Iterable[ExportConfig]) -> frozenset[int]:
    """Returns the capabilities that serving uses if the daemon has them: root reaches the files of
    all users, whatever the security model. The mapped models give nothing away, so they own nothing
    and make no device nodes."""
    needed: set[int] = set()
    for export in exports:
        if export.readonly:
            needed |= READING
        else:
            needed |= CHANGING if export.model in xattrs.MODELS else OWNING
        needed.update(_for_xattrs(export))
    return frozenset(needed)


def without_handles(needed: frozenset[int]) -> frozenset[int]:
    """Returns capabilities with which no file is opened by handle, and else as much is reached as
    with these, where something else keeps it from being changed."""
    return needed - {CAP_DAC_READ_SEARCH} | {CAP_DAC_OVERRIDE}


def _for_xattrs(export: ExportConfig) -> Iterator[int]:
    """Attributes that only privilege reaches on the host (xattr(7)), where no rule keeps the guest
    from them."""
    rules = export_options.xattr_rules_of(export)
    if xattrs.reach(rules, b"trusted."):
        yield CAP_SYS_ADMIN
    if export.readonly:
        return
    if xattrs.reach(rules, b"security."):
        yield CAP_SYS_ADMIN
    if xattrs.reach(rules, xattrs.CAPABILITY):
        yield CAP_SETFCAP


def effective() -> int:
    """Returns the capabilities that this process has; a bit for each. Raises OSError."""
    with open(procfs.path("self/status"), "rb") as lines:
        return next(int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:"))


# ---- owners --------------------------------------------------------------------------------------


def why_not_owners(export: ExportConfig) -> str | None:
    """Returns why files in an export cannot get the guest's owners (passthrough); None if they
    can."""
    if lacking := lacking_capabilities():
        return f"the daemon lacks {_listed(lacking)}"
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        if namespace(kind) == [(own, own)]:
            return f"the daemon's user namespace has no {kind} but its own (/proc/self/{kind}_map)"
    return None if export.readonly else _why_not_chown(export.path)


def _why_not_chown(path: str) -> str | None:
    """Tries a chown on an unnamed file. If the file system has no unnamed files, assumes that
    owners can be set."""
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
    """Creates a file without a name."""
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
    """Yields which host ids in a map the daemon cannot set as owners: without capabilities all but
    its own; with them, those outside its user namespace."""
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
    """Returns why the daemon cannot give its socket to a user or group; None if it can."""
    if number is None:
        return None
    lacking = [each for each in lacking_capabilities() if each == "CAP_CHOWN"]
    return _why_not_give(kind, number, number, lacking)


def _why_not_give(kind: str, first: int, last: int, lacking: list[str]) -> str | None:
    own = [os.geteuid()] if kind == "uid" else sorted({os.getegid(), *os.getgroups()})
    allowed = [(each, each) for each in own] if lacking else namespace(kind)
    if any(low <= first and last <= high for low, high in allowed):
        return None
    ids = f"host ids {first} to {last}" if last > first else f"host id {first}"
    if not lacking:
        return f"{ids}: not all are in the daemon's user namespace (/proc/self/{kind}_map)"
    return (
        f"{ids}: without {_listed(lacking)} the daemon gives files to its own {kind} only "
        f"({', '.join(map(str, own))})"
    )


def namespace(kind: str) -> list[tuple[int, int]]:
    """Returns the ranges (first, last) of ids in the daemon's user namespace (user_namespaces(7));
    adjacent ranges are merged."""
    with open(procfs.path(f"self/{kind}_map"), "rb") as lines:
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
    """Returns why the daemon cannot create files in a directory; None if it can."""
    if os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        if _nameless_error(path) == errno.EOVERFLOW:
            return "it is on an idmapped mount without the daemon's own id"
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
    """Returns why a directory cannot be exported with mapped-xattr: its file system has no user.*
    attributes."""
    if has_xattrs(path, readonly=readonly):
        return None
    return (
        f"{path} is on a file system without user.* attributes, in which security_model "
        "mapped-xattr keeps owners and modes; set security_model to mapped-file"
    )


def has_xattrs(path: str, *, readonly: bool) -> bool:
    """Whether the file system of a directory has user.* attributes, as far as can be seen. Tries
    them on an unnamed file, which leaves nothing behind; with `readonly` only looks."""
    try:
        _probe(path, readonly=readonly)
    except OSError as error:
        return error.errno not in UNSUPPORTED
    return True


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
