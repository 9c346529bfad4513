"""POSIX ACLs of the host (acl(5)): what they say, and what they let a user do.

Belongs here: the form of their attributes (linux/posix_acl_xattr.h), and the order in which the
kernel looks at entries (fs/posix_acl.c). Nothing here reads a file, or decides for a guest.
"""

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
"""Attributes; a directory's default ACL becomes the access ACL of what is created in it."""

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Tags of entries."""
_WORDS = {OWNER: "owner", USER: "user", OWNING_GROUP: "owning group", GROUP: "group"} | {
    MASK: "mask",
    OTHERS: "others",
}
_LIMITED = {USER, OWNING_GROUP, GROUP}
"""Those from which the mask takes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one user or group may."""

    tag: int
    allowed: int
    """As the bits of a class of a mode."""
    number: int
    """Of the user or the group, where the tag names one."""

    def __str__(self) -> str:
        number = f" {self.number}" if self.tag in {USER, GROUP} else ""
        return f"{_WORDS[self.tag]}{number} {spelled(self.allowed)}"


Acl = tuple[Entry, ...]


def spelled(allowed: int) -> str:
    """Three bits of a mode as ls(1) writes them."""
    return stat.filemode(allowed << 6)[1:4]


def parse(value: bytes) -> Acl | None:
    """The entries of an attribute; None if it is none that this understands."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        return None
    if _HEADER.unpack_from(value) != (_VERSION,):
        return None
    found = tuple(
        Entry(tag, allowed & 7, number)
        for tag, allowed, number in _ENTRY.iter_unpack(value[_HEADER.size :])
    )
    return found if all(each.tag in _WORDS for each in found) else None


def words(acl: Acl) -> str:
    """All entries."""
    return ", ".join(map(str, acl))


def mask_of(acl: Acl) -> int:
    """What users and groups that are named, and the owning group, may have at most."""
    return next((each.allowed for each in acl if each.tag == MASK), 7)


def applying(acl: Acl, owner: tuple[int, int], user: int, groups: frozenset[int]) -> Acl:
    """The entries that decide about a user. For one who is in several groups of the ACL, any of
    them may let him act, each by itself."""
    if user == owner[0]:
        return tuple(each for each in acl if each.tag == OWNER)
    if own := tuple(each for each in acl if each.tag == USER and each.number == user):
        return own
    return tuple(_of_groups(acl, owner[1], groups)) or tuple(
        each for each in acl if each.tag == OTHERS
    )


def _of_groups(acl: Acl, owning: int, groups: frozenset[int]) -> Iterator[Entry]:
    for each in acl:
        number = {OWNING_GROUP: owning, GROUP: each.number}.get(each.tag)
        if number is not None and number in groups:
            yield each


def allows(acl: Acl, deciding: Acl, need: int) -> bool:
    """Whether the entries that decide let somebody do what takes these bits."""
    return any(
        each.allowed & (mask_of(acl) if each.tag in _LIMITED else 7) & need == need
        for each in deciding
    )


def gives(acl: Acl, deciding: Acl) -> str:
    """What the entries that decide give, and what the mask leaves of that; as it follows "ACL"."""
    mask = mask_of(acl)
    cut = any(each.tag in _LIMITED and each.allowed & ~mask for each in deciding)
    given = " and ".join(map(str, deciding)) or "nothing"
    return f"gives {given}" + (f", its mask leaves at most {spelled(mask)}" if cut else "")
