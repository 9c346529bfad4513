"""Which extended attributes a guest has, under what names the host keeps them, and how many.

An attribute's name begins with its namespace, and namespaces differ in who may use them: on the
host `security.*` and `trusted.*` take privilege, `system.posix_acl_*` acts on the host's own access
checks, `user.*` is for everybody who may write the file. A guest's kernel makes the same
distinctions about its own users. So what is privileged in the guest can be kept on the host under a
name that is not: rules say which names are passed on, refused, or stored under other names.

Two names of the guest never mean one attribute of the host:

- What lies below a prefix that a rule stores under is reached through that rule only. Its host name
  is never the guest's: no guest user writes `user.…security.capability` to gain what only the
  guest's root may give.
- No prefix that a rule stores under may begin another one's (`rules_problem`), so a host name
  belongs to one rule at most, and what follows the prefix is the rest of the guest's name.
- A host name is shown only if the guest's name for it leads back to it.

Real capabilities of a program go when it is written, truncated or given away: the host's kernel
sees to it (capabilities(7)). Stored ones are plain data to it, so the daemon takes them away: here,
and in C where files are written and emptied (csrc/export/file_caps.h). Access lists that are stored
are data as well: the guest's kernel, mounted with `posixacl`, checks and inherits them.
"""

import errno
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

from vhost9p.fs.driver import Driver, File
from vhost9p.fs.layer import Layer
from vhost9p.policy.idvalues import ACLS, CAPABILITY

LIST_MAX = 65536
"""Bytes of names, each with its NUL, that listxattr(2) can tell (XATTR_LIST_MAX)."""

Action = Literal["keep", "refuse", "hide", "store"]


class Rule(NamedTuple):
    """What becomes of the guest's names that begin with `match`.

    keep: the host's name is the same. refuse: there is none to get (ENODATA), none may be set
    (EPERM). hide: the file system knows no such namespace (EOPNOTSUPP). store: the host's name is
    `store` and what follows `match`.
    """

    match: bytes
    action: Action
    store: bytes = b""


class Limits(NamedTuple):
    """What one file may have: bytes of one value, attributes, bytes of names and values."""

    value: int
    names: int
    total: int


QEMU_PREFIX = b"user.virtfs."
"""Where security_model mapped-xattr keeps owners and modes, and access lists: QEMU's own names."""

MAPPED = (
    Rule(QEMU_PREFIX, "refuse"),
    *(
        Rule(match, "store", QEMU_PREFIX + match)
        for match in (b"system.posix_acl_", b"security.", b"trusted.")
    ),
)
"""The rules of mapped-xattr: the host's user of the daemon can set nothing but user.*."""

MAPPED_FILE = tuple(rule for rule in MAPPED if rule.match != b"system.posix_acl_")
"""The rules of mapped-file, where access lists are the host's own, as QEMU has them."""

UNLIMITED = Limits(65536, 65536, 2**31)
"""Nothing but the host's own limits (xattr(7))."""


MODELS = {"mapped-xattr": MAPPED, "mapped-file": MAPPED_FILE}
"""What security models add to the rules of an export."""


def rules_of(security_model: str, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """An export's rules, and its model's: what keeps the metadata stays out of reach, the others
    hold where no rule of the export does."""
    own = MODELS.get(security_model, ())
    return (*own[:1], *rules, *own[1:])


def _related(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def rules_problem(rules: Sequence[Rule], security_model: str = "") -> str | None:
    """Why two attributes of the guest could come to be one of the host, or one that is the
    model's own; None where they cannot."""
    stored = [rule for rule in rules if rule.action == "store"]
    for i, rule in enumerate(stored):
        where = f"the rule for {os.fsdecode(rule.match)!r} stores under {os.fsdecode(rule.store)!r}"
        if b"." not in rule.store[1:]:
            return f"{where}, which is in no namespace; write it as 'user.guest.security.'"
        if security_model in MODELS and _related(rule.store, QEMU_PREFIX):
            return f"{where}, and {security_model} keeps owners and modes there ('user.virtfs.')"
        for other in stored[:i]:
            if _related(rule.store, other.store):
                return (
                    f"{where}, and the one for {os.fsdecode(other.match)!r} under "
                    f"{os.fsdecode(other.store)!r}: names of both would become one; "
                    "no store prefix may begin another"
                )
    return None


class Names:
    """Translates names by rules, of which the first that matches counts."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Raises ValueError where `rules_problem` finds one."""
        self._rules = tuple(rules)
        self._stores = tuple(rule for rule in self._rules if rule.action == "store")
        if problem := rules_problem(self._rules):
            raise ValueError(problem)

    def host(self, name: bytes, refused: int) -> bytes:
        """The host's name. OSError EOPNOTSUPP where it is hidden, `refused` where it is refused."""
        for rule in self._rules:
            if name.startswith(rule.match):
                return self._apply(rule, name, refused)
        return self._keep(name, refused)

    def _apply(self, rule: Rule, name: bytes, refused: int) -> bytes:
        if rule.action == "store":
            return rule.store + name[len(rule.match) :]
        if rule.action == "keep":
            return self._keep(name, refused)
        if rule.action == "refuse":
            raise OSError(refused, f"attribute {name!r} is refused by a rule")
        raise OSError(errno.EOPNOTSUPP, f"attribute {name!r} is hidden by a rule")

    def _keep(self, name: bytes, refused: int) -> bytes:
        if self._store_of(name):
            raise OSError(refused, f"attribute {name!r} is kept for another one")
        return name

    def _store_of(self, host: bytes) -> Rule | None:
        return next((rule for rule in self._stores if host.startswith(rule.store)), None)

    def guest(self, host: bytes) -> bytes | None:
        """The guest's name of an attribute that the host has; None where it is not to be seen."""
        rule = self._store_of(host)
        name = rule.match + host[len(rule.store) :] if rule else host
        with suppress(OSError):
            if self.host(name, errno.EPERM) == host:
                return name
        return None


class CapabilityWatch(Protocol):
    """Takes stored capabilities away where files are written (native.export.Export)."""

    def watch_capabilities(self, name: bytes) -> None:
        """They are kept under this name of the host."""

    def capabilities_set(self) -> None:
        """Some file has them now."""


class XattrLayer(Layer):
    """Translates names, holds the limits, and takes stored capabilities away."""

    def __init__(
        self, below: Driver, rules: Iterable[Rule], limits: Limits, watch: CapabilityWatch
    ) -> None:
        """Raises ValueError where `rules_problem` finds one."""
        super().__init__(below)
        self._names = Names(rules)
        self._limits = limits
        self._lock = threading.Lock()
        """Held from the look at a file's attributes to the change: the limits hold for all of an
        export's requests together. Not taken under other locks."""
        self._watch = watch
        self._capability = self._stored_capability()
        if self._capability:
            watch.watch_capabilities(self._capability)

    def _stored_capability(self) -> bytes | None:
        """Where capabilities are stored, unless the host's kernel knows them as such."""
        try:
            name = self._names.host(CAPABILITY, errno.EPERM)
        except OSError:
            return None
        return name if name != CAPABILITY else None

    # ---- attributes -------------------------------------------------------------------------

    def list_xattrs(self, fd: int) -> list[bytes]:
        """See Driver. E2BIG where a list as long as that could not be told (listxattr(2))."""
        names = [self._names.guest(host) for host in self.below.list_xattrs(fd)]
        shown = [name for name in names if name is not None]
        if sum(len(name) + 1 for name in shown) > LIST_MAX:
            raise OSError(errno.E2BIG, f"a list of {len(shown)} attributes")
        return shown

    def get_xattr(self, fd: int, name: bytes) -> bytes:
        """See Driver."""
        return self.below.get_xattr(fd, self._names.host(name, errno.ENODATA))

    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        """See Driver. An empty access list is none, as for the kernel (acl(5))."""
        host = self._names.host(name, errno.EPERM)
        if name in ACLS and not value:
            self._remove_acl(fd, host)
            return
        if len(value) > self._limits.value:
            raise OSError(errno.E2BIG, f"a value of {len(value)} bytes")
        with self._lock:
            if self._limits != UNLIMITED:
                self._require_room(fd, name, len(value))
            self.below.set_xattr(fd, host, value, flags)
        if host == self._capability:
            self._watch.capabilities_set()

    def remove_xattr(self, fd: int, name: bytes) -> None:
        """See Driver."""
        host = self._names.host(name, errno.EPERM)
        if name in ACLS:
            self._remove_acl(fd, host)
        else:
            self.below.remove_xattr(fd, host)

    def _remove_acl(self, fd: int, host: bytes) -> None:
        """A file that has no access list has it removed with success."""
        try:
            self.below.remove_xattr(fd, host)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    def _require_room(self, fd: int, name: bytes, size: int) -> None:
        """ENOSPC where an attribute of this size would be above the limits, unless it takes the
        place of one that is no smaller."""
        sizes = {each: len(each) + self._size(fd, each) for each in self.list_xattrs(fd)}
        mine = len(name) + size
        if mine <= sizes.get(name, -1):
            return
        sizes[name] = mine
        if len(sizes) > self._limits.names:
            raise OSError(errno.ENOSPC, f"more than {self._limits.names} attributes of one file")
        if (total := sum(sizes.values())) > self._limits.total:
            raise OSError(errno.ENOSPC, f"{total} bytes of attributes of one file")

    def _size(self, fd: int, name: bytes) -> int:
        """Of a value; 0 for one that has gone or that the daemon may not read."""
        try:
            return len(self.get_xattr(fd, name))
        except OSError:
            return 0

    # ---- capabilities -----------------------------------------------------------------------

    def _drop_capability(self, fd: int) -> None:
        """Of a regular file. Listing needs no permission; what is there and cannot be removed
        stops the change."""
        if (
            self._capability is not None
            and self._capability in self.below.list_xattrs(fd)
            and stat.S_ISREG(os.stat(fd).st_mode)
        ):
            self.below.remove_xattr(fd, self._capability)

    def truncate(self, fd: int, io_fd: int, size: int) -> None:
        """See Driver."""
        self._drop_capability(fd)
        self.below.truncate(fd, io_fd, size)

    def chown(self, file: File, uid: int, gid: int) -> None:
        """See Driver."""
        self.below.chown(file, uid, gid)
        self._drop_capability(file.fd)
