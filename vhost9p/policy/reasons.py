"""Why the host, or the daemon itself, refuses something to a guest: in words.

What is written here is what the log says of a request that fails (failures.py), and `vhost9p why`
of a path (verdicts.py). Nothing here looks at a file: the callers know how long they may wait.

The daemon does not check what the guest's user may do: the guest's kernel has done that. The host
checks what the daemon may do, by its user, groups and capabilities (path_resolution(7)).
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vhost9p.config import ExportConfig
from vhost9p.native.fids import Facts
from vhost9p.native.refusals import Refusal, Why
from vhost9p.policy import acl
from vhost9p.policy.rights import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    effective,
    namespace,
)

OVERFLOW_ID = 65534
"""How the kernel shows an id that the user namespace does not have (user_namespaces(7))."""
IMMUTABLE, APPEND = 0x10, 0x20
"""STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND (statx(2))."""


class Act(StrEnum):
    """What is done to a file; the value follows "may not"."""

    READ = "read it"
    WRITE = "write to it"
    READ_WRITE = "read and write it"
    SEARCH = "search the directory"
    EXECUTE = "execute it"
    CREATE = "create entries in the directory"
    DELETE = "remove entries of the directory"
    ATTRIBUTES = "change its attributes"
    OTHER = "do that"


NEEDED = {
    Act.READ: os.R_OK,
    Act.WRITE: os.W_OK,
    Act.READ_WRITE: os.R_OK | os.W_OK,
    Act.SEARCH: os.X_OK,
    Act.EXECUTE: os.X_OK,
    Act.CREATE: os.W_OK | os.X_OK,
    Act.DELETE: os.W_OK | os.X_OK,
}
"""Permissions that an act needs (access(2))."""


def _bits(mode: int, uid: int, gid: int, user: int, groups: frozenset[int]) -> int:
    """The permissions of a user by the mode."""
    if user == uid:
        return mode >> 6 & 7
    return mode >> 3 & 7 if gid in groups else mode & 7


def mode_allows(
    mode: int, owner: tuple[int, int], user: int, groups: frozenset[int], act: Act
) -> bool:
    """Whether the mode of a file of this owner (uid, gid) lets a user without privilege act."""
    need = NEEDED.get(act, 0)
    return _bits(mode, *owner, user, groups) & need == need


def acl_of(file: Facts) -> acl.Acl | None:
    """The ACL by which the host decides; None if it decides by the mode. So it does where the mask,
    which the mode shows as the group's, is empty (acl_permission_check in Linux's fs/namei.c)."""
    return acl.parse(file.acl) if file.acl and file.mode & stat.S_IRWXG else None


@dataclass(frozen=True, slots=True)
class Daemon:
    """Who serves, as the host sees it."""

    uid: int
    groups: frozenset[int]
    capabilities: int
    """A bit for each (linux/capability.h)."""
    ids: Mapping[str, list[tuple[int, int]]]
    """Ranges (first, last) of the uids and gids that its user namespace has."""

    @classmethod
    def here(cls) -> "Daemon":
        """This process. Raises OSError."""
        return cls(
            os.geteuid(),
            frozenset((os.getegid(), *os.getgroups())),
            effective(),
            {kind: namespace(kind) for kind in ("uid", "gid")},
        )

    def _knows(self, kind: str, number: int) -> bool:
        return any(first <= number <= last for first, last in self.ids[kind])

    def has(self, capability: int, file: Facts) -> bool:
        """Whether it has a capability over a file: not where its namespace lacks the owner."""
        return (
            bool(self.capabilities >> capability & 1)
            and self._knows("uid", file.uid)
            and self._knows("gid", file.gid)
        )

    def may(self, file: Facts, act: Act) -> bool:
        """Whether the file's ACL or mode, or privilege, lets it act. Security modules of the host
        may say otherwise, and an ACL that is not known."""
        owner = (file.uid, file.gid)
        if found := acl_of(file):
            if acl.allows(
                found, acl.applying(found, owner, self.uid, self.groups), NEEDED.get(act, 0)
            ):
                return True
        elif mode_allows(file.mode, owner, self.uid, self.groups, act):
            return True
        need, is_dir = NEEDED.get(act, 0), stat.S_ISDIR(file.mode)
        if self.has(CAP_DAC_OVERRIDE, file):
            return is_dir or not need & os.X_OK or bool(file.mode & 0o111)
        return self.has(CAP_DAC_READ_SEARCH, file) and not need & (
            os.W_OK if is_dir else os.W_OK | os.X_OK
        )

    def owner_of(self, file: Facts) -> str:
        """The owner and the mode of a file."""
        stranger = file.uid == OVERFLOW_ID and not self._knows("uid", OVERFLOW_ID)
        owner = "another user" if stranger else f"{file.uid}:{file.gid}"
        return f"owner {owner}, mode {stat.S_IMODE(file.mode):04o}"

    def rights_of(self, file: Facts) -> str:
        """The owner and the mode of a file, and what its ACL has to do with it."""
        found, owner = acl_of(file), self.owner_of(file)
        if file.acl and not file.mode & stat.S_IRWXG:
            return f"{owner}, and its ACL does not count, since its mask is ---"
        if not found or file.uid == self.uid:
            return owner
        deciding = acl.applying(found, (file.uid, file.gid), self.uid, self.groups)
        return f"{owner}, and its ACL {acl.gives(found, deciding)}"

    def __str__(self) -> str:
        return f"the daemon's user {self.uid}"


# ---- what the host refuses -----------------------------------------------------------------------


def _no_access(daemon: Daemon, file: Facts, act: Act) -> str:
    if not file.known:
        return f"the host does not let {daemon} {act}"
    if daemon.may(file, act):
        its_acl = "its ACL, at " if file.acl is None else ""
        return (
            f"the host does not let {daemon} {act}, although the {daemon.owner_of(file)} would: "
            f"look at {its_acl}security modules, and at the file server"
        )
    return f"{daemon} may not {act}: {daemon.rights_of(file)}"


def flags_problem(file: Facts, act: Act) -> str | None:
    """Why a file's flags (chattr(1)) forbid to change it; None if they do not."""
    if act in {Act.READ, Act.SEARCH, Act.EXECUTE} or not file.known:
        return None
    if file.attributes & IMMUTABLE:
        return "it is immutable on the host (chattr -i)"
    if file.attributes & APPEND and act is not Act.CREATE:
        return "it is append-only on the host (chattr -a)"
    return None


def sticky_problem(daemon: Daemon, directory: Facts, entry: Facts | None) -> str | None:
    """Why a sticky directory does not let the daemon remove an entry; None if it does. `entry` is
    None if the entry's owner is not known, but the host has refused."""
    if not directory.known or not directory.mode & stat.S_ISVTX or directory.uid == daemon.uid:
        return None
    if entry and (entry.uid == daemon.uid or daemon.has(CAP_FOWNER, entry)):
        return None
    return f"the directory is sticky: only the owner of an entry may remove it, not {daemon}"


def _not_permitted(daemon: Daemon, file: Facts, act: Act) -> str:
    if problem := flags_problem(file, act):
        return problem
    if act is Act.DELETE and (problem := sticky_problem(daemon, file, None)):
        return problem
    if act is Act.ATTRIBUTES and file.known and file.uid != daemon.uid:
        return f"the host lets only its owner change that, not {daemon}: {daemon.owner_of(file)}"
    return f"the host does not permit {daemon} to do that"


OF_HOST = {
    errno.EROFS: "the host has it mounted read-only",
    errno.EMFILE: "the device's descriptors, or the host's, are used up",
    errno.ENOLCK: "the device's locks, or descriptors for them, are used up",
    errno.ESTALE: "the host has moved or removed it since the guest reached it",
    errno.EBADF: "the request's fid is unknown, or not open for that",
    errno.EXDEV: "it lies on another file system of the host",
    errno.EINVAL: "the request, or what it asks of the host, is invalid",
}
"""Errors of the host that mean one thing to who asks for a guest's file."""


def host_refuses(code: int, daemon: Daemon, file: Facts, act: Act) -> str:
    """Why a system call for a guest has failed with this errno; `file` is what it was about, as far
    as that is known."""
    if code == errno.EACCES:
        return _no_access(daemon, file, act)
    if code == errno.EPERM:
        return _not_permitted(daemon, file, act)
    return OF_HOST.get(code, f"host: {os.strerror(code)}")


# ---- what the daemon refuses ---------------------------------------------------------------------


def size(number: int) -> str:
    """A number of bytes, in the largest unit that it is a multiple of."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number % 1024 or not number:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} TiB"


READONLY = "readonly export"
DEVICE = "it is on another file system of the host (multidevs: forbid)"
HIDDEN = "the name is hidden from the guest"
NOTICES = "it is the directory of notices (notify_name), which the guest can only read"


def forbidden(number: int) -> str:
    """An id that the guest may not use."""
    return f"id {number} is forbidden by id_map"


def no_owner(daemon: Daemon, number: int) -> str:
    """An owner whom the daemon cannot give a new file to."""
    return f"{daemon} may not create files of owner {number} (passthrough)"


def no_entry(number: int) -> str:
    """A user who may not enter an export."""
    return f"user {number} may not enter the export: forbidden by id_map"


def quota_used_up(export: ExportConfig | None, *, inodes: bool) -> str:
    """A quota that is used up."""
    quota = export.quota if export else None
    limit = (quota.inodes if inodes else quota.bytes) if quota else None
    if limit is None:
        return "the quota is used up"
    return f"quota of {f'{limit} inodes' if inodes else size(limit)} is used up"


def _of_xattrs(refusal: Refusal, export: ExportConfig | None) -> str:
    limits = export.xattrs if export else None
    if refusal.why is Why.XATTR_RULE or not limits:
        return "a rule for xattrs refuses the attribute's name"
    if refusal.why is Why.XATTR_VALUE:
        return f"limit xattrs.max_value {size(refusal.value)} is exceeded"
    names, total = limits.max_names, size(limits.max_total)
    return f"limit xattrs.max_names {names} or xattrs.max_total {total} is reached"


PLAIN = {
    Why.READONLY: READONLY,
    Why.HIDDEN: HIDDEN,
    Why.DEVICE: DEVICE,
    Why.EXPORTS: "from one export to another",
    Why.KIND: "a device node, FIFO or socket of the host is never opened",
    Why.MOVED: "the host has moved its directory away",
    Why.NOTICES: NOTICES,
    Why.FORGOTTEN: "the guest has asked to look its name up again",
    Why.BELOW: "other paths below the directory would be hidden then",
    Why.REFRESHER: "a user who only refreshes files, and changes none (notify)",
}


def daemon_refuses(refusal: Refusal, export: ExportConfig | None, daemon: Daemon) -> str | None:
    """Why the daemon itself refuses; None if it does not."""
    why, value = refusal.why, refusal.value
    if why in PLAIN:
        return PLAIN[why]
    if why in {Why.BYTES, Why.INODES}:
        return quota_used_up(export, inodes=why is Why.INODES)
    if why in {Why.XATTR_VALUE, Why.XATTR_ROOM, Why.XATTR_RULE}:
        return _of_xattrs(refusal, export)
    return {
        Why.ID: forbidden(value),
        Why.USER: no_entry(value),
        Why.FIDS: f"limit max_fids {value} is reached",
        Why.XATTRS_OPEN: f"limit max_xattr {value} is reached"
        if value
        else "the memory for values of attributes is used up",
        Why.OWNER: no_owner(daemon, value),
    }.get(why)
