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

This module decides and installs rules and limits. C translates names (csrc/export/xattr_names.c)
and enforces the limits (csrc/fs/xattr.c).

The host's kernel drops a program's real capabilities when it is written, truncated or given away
(capabilities(7)). Stored ones are plain data to the kernel, so C drops them
(csrc/export/file_caps.h). Stored ACLs are plain data as well: the guest's kernel, mounted with
`posixacl`, checks and inherits them.
"""

import errno
from collections.abc import Sequence
from typing import NamedTuple

from vhost9p.config import SecurityModel, XattrAction
from vhost9p.escapes import quoted
from vhost9p.native.export import Export
from vhost9p.native.xattr_names import XattrNames

CAPABILITY = b"security.capability"


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

MODELS: dict[SecurityModel, tuple[Rule, ...]] = {"mapped-xattr": MAPPED, "mapped-file": MAPPED_FILE}
"""The rules that a security model adds to those of an export."""


def rules_of(security_model: SecurityModel, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Combines an export's rules and its model's: the model's metadata stay out of reach; its other
    rules apply where no rule of the export does."""
    own = MODELS.get(security_model, ())
    return (*own[:1], *rules, *own[1:])


def reach(rules: Sequence[Rule], namespace: bytes) -> bool:
    """Returns whether some attribute of the guest is one of the host's whose name begins with
    `namespace`."""
    if any(each.action == "store" and each.store.startswith(namespace) for each in rules):
        return True
    for rule in rules:
        if namespace.startswith(rule.match):
            return rule.action == "keep"
        if rule.match.startswith(namespace) and rule.action == "keep":
            return True
    return True


def _related(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def rules_problem(rules: Sequence[Rule], security_model: SecurityModel = "none") -> str | None:
    """Returns why two attributes of the guest could become the same one of the host, or one of the
    model's own; None if they cannot."""
    stored = [rule for rule in rules if rule.action == "store"]
    for i, rule in enumerate(stored):
        where = f"the rule for {quoted(rule.match)} stores under {quoted(rule.store)}"
        if b"." not in rule.store[1:]:
            return f"{where}, which is in no namespace; write it as 'user.guest.security.'"
        if security_model in MODELS and _related(rule.store, QEMU_PREFIX):
            return f"{where}, and {security_model} keeps owners and modes there ('user.virtfs.')"
        for other in stored[:i]:
            if _related(rule.store, other.store):
                return (
                    f"{where}, and the one for {quoted(other.match)} under "
                    f"{quoted(other.store)}: names of both would become one; "
                    "no store prefix may begin another"
                )
    return None


def install(export: Export, rules: Sequence[Rule], limits: Limits | None) -> None:
    """Has an export apply rules and limits (None: only the host's own, xattr(7)). Once, before it
    is served. Raises OSError, and ValueError if `rules_problem` finds one."""
    if problem := rules_problem(rules):
        raise ValueError(problem)
    names = XattrNames(rules)
    export.set_xattr_names(names)
    if limits:
        export.limit_xattrs(*limits)
    if stored := _stored_capability(names):
        export.watch_capabilities(stored)


def _stored_capability(names: XattrNames) -> bytes | None:
    """Returns the host's name of stored capabilities; None if they are real ones of the host's
    kernel."""
    try:
        name = names.host(CAPABILITY, errno.EPERM)
    except OSError:
        return None
    return name if name != CAPABILITY else None
