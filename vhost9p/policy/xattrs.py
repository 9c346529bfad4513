"""Rules for a guest's extended attributes: which it may use, their names on the host, and limits.

An attribute's name begins with its namespace, which determines who may use it. On the host
`security.*` and `trusted.*` need privilege, `system.posix_acl_*` affects the host's access checks,
and `user.*` is open to everyone who may write the file. The guest's kernel applies the same checks
to its own users. So an attribute that is privileged in the guest can be stored on the host under an
unprivileged name. Rules say which names are passed on, refused, or stored under other names.

Two names of the guest never mean one attribute of the host:

- Names below a rule's store prefix are reached through that rule only; the guest cannot use these
  host names directly. So no guest user can write `user.…security.capability` to gain what only the
  guest's root may grant.
- No store prefix may begin another one (`rules_problem`). So a host name belongs to at most one
  rule, and the text after the prefix is the rest of the guest's name.
- A host name is listed only if its guest name maps back to it.

The host's kernel drops a program's real capabilities when it is written, truncated or given away
(capabilities(7)). Stored ones are plain data to the kernel, so C drops them
(csrc/export/file_caps.h). Stored ACLs are plain data as well: the guest's kernel, mounted with
`posixacl`, checks and inherits them.
"""

import errno
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from vhost9p.config import SecurityModel, XattrAction
from vhost9p.fs.driver import Driver
from vhost9p.fs.layer import Layer
from vhost9p.native.xattr_names import XattrNames
from vhost9p.policy.idvalues import ACLS, CAPABILITY

LIST_MAX = 65536
"""Bytes of names, each with its NUL, that listxattr(2) can return (XATTR_LIST_MAX)."""


class Rule(NamedTuple):
    """A rule for the guest's names that begin with `match`.

    keep: the host's name is the same. refuse: reading fails with ENODATA, setting with EPERM. hide:
    both fail with EOPNOTSUPP, as on a file system without this namespace. store: the host's name is
    `store` followed by the rest after `match`.
    """

    match: bytes
    action: XattrAction
    store: bytes = b""


class Limits(NamedTuple):
    """Limits of one file: bytes of one value, number of attributes, bytes of all names and
    values."""

    value: int
    names: int
    total: int


QEMU_PREFIX = b"user.virtfs."
"""The prefix of owners, modes and ACLs under mapped-xattr, as in QEMU."""

MAPPED = (
    Rule(QEMU_PREFIX, "refuse"),
    *(
        Rule(match, "store", QEMU_PREFIX + match)
        for match in (b"system.posix_acl_", b"security.", b"trusted.")
    ),
)
"""The rules of mapped-xattr: the daemon's user on the host can set user.* only."""

MAPPED_FILE = tuple(rule for rule in MAPPED if rule.match != b"system.posix_acl_")
"""The rules of mapped-file, which passes ACLs on to the host, as QEMU does."""

UNLIMITED = Limits(65536, 65536, 2**31)
"""Nothing but the host's own limits (xattr(7))."""


MODELS: dict[SecurityModel, tuple[Rule, ...]] = {"mapped-xattr": MAPPED, "mapped-file": MAPPED_FILE}
"""The rules that a security model adds to those of an export."""


def rules_of(security_model: SecurityModel, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Combines an export's rules and its model's: the model's metadata stay out of reach; its other
    rules apply where no rule of the export does."""
    own = MODELS.get(security_model, ())
    return (*own[:1], *rules, *own[1:])


def _related(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def rules_problem(rules: Sequence[Rule], security_model: SecurityModel = "none") -> str | None:
    """Returns why two attributes of the guest could become the same one of the host, or one of the
    model's own; None if they cannot."""
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
    """Translates names by rules; the first match counts."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Raises ValueError if `rules_problem` finds one."""
        self._rules = tuple(rules)
        self.native = XattrNames(self._rules)
        self._stores = tuple(rule for rule in self._rules if rule.action == "store")
        if problem := rules_problem(self._rules):
            raise ValueError(problem)

    def host(self, name: bytes, refused: int) -> bytes:
        """Returns the host's name. OSError EOPNOTSUPP if it is hidden, `refused` if it is
        refused, ERANGE if it is too long."""
        return self.native.host(name, refused)

    def _store_of(self, host: bytes) -> Rule | None:
        return next((rule for rule in self._stores if host.startswith(rule.store)), None)

    def guest(self, host: bytes) -> bytes | None:
        """Returns the guest's name of a host attribute; None if it is hidden."""
        rule = self._store_of(host)
        name = rule.match + host[len(rule.store) :] if rule else host
        with suppress(OSError):
            if self.host(name, errno.EPERM) == host:
                return name
        return None


class ExportXattrs(Protocol):
    """What C does with attributes (native.export.Export)."""

    def watch_capabilities(self, name: bytes) -> None:
        """Watches the host attribute of this name, which stores them."""

    def capabilities_set(self) -> None:
        """Reports that some file has them now."""

    def set_xattr_names(self, names: XattrNames) -> None:
        """Lets C translate names, too."""


class XattrLayer(Layer):
    """Translates names and enforces the limits."""

    def __init__(
        self, below: Driver, rules: Iterable[Rule], limits: Limits, export: ExportXattrs
    ) -> None:
        """Raises ValueError if `rules_problem` finds one."""
        super().__init__(below)
        self._names = Names(rules)
        export.set_xattr_names(self._names.native)
        self._limits = limits
        self._lock = threading.Lock()
        """Held from reading a file's attributes to the change, so that parallel requests cannot
        exceed the limits together. Not taken under other locks."""
        self._export = export
        self._capability = self._stored_capability()
        if self._capability:
            export.watch_capabilities(self._capability)

    def _stored_capability(self) -> bytes | None:
        """Returns the host's name of stored capabilities; None if they are real ones of the host's
        kernel."""
        try:
            name = self._names.host(CAPABILITY, errno.EPERM)
        except OSError:
            return None
        return name if name != CAPABILITY else None

    # ---- attributes -------------------------------------------------------------------------

    def list_xattrs(self, fd: int) -> list[bytes]:
        """See Driver. E2BIG if the list exceeds listxattr(2)'s limit."""
        names = [self._names.guest(host) for host in self.below.list_xattrs(fd)]
        shown = [name for name in names if name is not None]
        if sum(len(name) + 1 for name in shown) > LIST_MAX:
            raise OSError(errno.E2BIG, f"a list of {len(shown)} attributes")
        return shown

    def get_xattr(self, fd: int, name: bytes) -> bytes:
        """See Driver."""
        return self.below.get_xattr(fd, self._names.host(name, errno.ENODATA))

    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        """See Driver. Setting an empty ACL removes it, as in the kernel (acl(5))."""
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
            self._export.capabilities_set()

    def remove_xattr(self, fd: int, name: bytes) -> None:
        """See Driver."""
        host = self._names.host(name, errno.EPERM)
        if name in ACLS:
            self._remove_acl(fd, host)
        else:
            self.below.remove_xattr(fd, host)

    def _remove_acl(self, fd: int, host: bytes) -> None:
        """Removing the ACL of a file without one succeeds."""
        try:
            self.below.remove_xattr(fd, host)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    def _require_room(self, fd: int, name: bytes, size: int) -> None:
        """ENOSPC if an attribute of this size would exceed the limits, unless it replaces one that
        is not smaller."""
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
        """Returns a value's size; 0 if it is gone or unreadable."""
        try:
            return len(self.get_xattr(fd, name))
        except OSError:
            return 0
