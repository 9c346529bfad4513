"""What has refused a request, as C has noted it (csrc/base/refusal.h)."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from vhost9p.native.fids import Facts
from vhost9p.native.library import lib


class Why(Enum):
    """What has refused it."""

    HOST = lib.V9_REFUSED_BY_HOST
    """The host, or nothing else is known."""
    READONLY = lib.V9_REFUSED_READONLY
    ID = lib.V9_REFUSED_ID
    HIDDEN = lib.V9_REFUSED_HIDDEN
    BYTES = lib.V9_REFUSED_BYTES
    INODES = lib.V9_REFUSED_INODES
    FIDS = lib.V9_REFUSED_FIDS
    XATTRS_OPEN = lib.V9_REFUSED_XATTRS_OPEN
    XATTR_VALUE = lib.V9_REFUSED_XATTR_VALUE
    XATTR_ROOM = lib.V9_REFUSED_XATTR_ROOM
    XATTR_RULE = lib.V9_REFUSED_XATTR_RULE
    DEVICE = lib.V9_REFUSED_DEVICE
    EXPORTS = lib.V9_REFUSED_EXPORTS
    OWNER = lib.V9_REFUSED_OWNER
    KIND = lib.V9_REFUSED_KIND
    MOVED = lib.V9_REFUSED_MOVED
    USER = lib.V9_REFUSED_USER
    NOTICES = lib.V9_REFUSED_NOTICES
    FORGOTTEN = lib.V9_REFUSED_FORGOTTEN
    REFRESHER = lib.V9_REFUSED_REFRESHER
    BELOW = lib.V9_REFUSED_BELOW


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request fails with `error`."""

    why: Why
    value: int
    """An id or a limit, by `why`."""
    walked: int
    """Of a Twalk: the names that it has followed."""
    walk_error: int
    """Of a Twalk: the errno at the next name."""
    denied: Facts
    """The directory where that was."""


def refusal_of(native: Any) -> Refusal:
    """From the C struct."""
    return Refusal(
        Why(native.why),
        native.value,
        native.walked,
        native.walk_error,
        Facts.of(native.denied),
    )
