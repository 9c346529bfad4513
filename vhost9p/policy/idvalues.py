"""Maps ids within the values of extended attributes: ACLs and file capabilities.

An ACL (acl(5), linux/posix_acl_xattr.h) is le32 version 2 and entries of le16 tag, le16
permissions, le32 id. The id has a meaning in entries of named users and groups only.

Capabilities (capabilities(7), linux/capability.h) are le32 revision and flags, and two pairs of
le32 sets. Revision 3 adds a le32: the user id of root of the user namespace in which they are
valid. Revision 2 is valid for the host's root. So capabilities that a guest's root sets become
valid, on the host, for the id that the guest's root maps to, and not for the host's root.
"""

import errno
import struct
from collections.abc import Callable

CAPABILITY = b"security.capability"
ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")

_ACL_VERSION = 2
_ACL_USER = 0x02
_ACL_GROUP = 0x08
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_CAPS = struct.Struct("<I16s")
_ROOT_ID = struct.Struct("<I")
_REVISION = 0xFF000000
_REVISION_2 = 0x02000000
_REVISION_3 = 0x03000000

Map = Callable[[int], int]


def map_value(name: bytes, value: bytes, uid: Map, gid: Map) -> bytes:
    """Returns an attribute's value with its ids mapped. Raises what the maps raise, and OSError
    EINVAL for a malformed value."""
    if name in ACLS:
        return _map_acl(value, uid, gid) if value else value
    return _map_capability(value, uid) if name == CAPABILITY and value else value


def _map_acl(value: bytes, uid: Map, gid: Map) -> bytes:
    if len(value) % _ENTRY.size != _HEADER.size or value[:4] != _HEADER.pack(_ACL_VERSION):
        raise OSError(errno.EINVAL, f"malformed ACL: {value[:16].hex(' ')}")
    maps = {_ACL_USER: uid, _ACL_GROUP: gid}
    return value[:4] + b"".join(
        _ENTRY.pack(tag, permissions, maps[tag](number) if tag in maps else number)
        for tag, permissions, number in _ENTRY.iter_unpack(value[4:])
    )


def _map_capability(value: bytes, uid: Map) -> bytes:
    revision = int.from_bytes(value[:4], "little") & _REVISION
    if (revision, len(value)) not in ((_REVISION_2, 20), (_REVISION_3, 24)):
        raise OSError(errno.EINVAL, f"malformed capabilities: {value[:24].hex(' ')}")
    magic, sets = _CAPS.unpack_from(value)
    flags = magic & ~_REVISION
    root = uid(_ROOT_ID.unpack_from(value, _CAPS.size)[0] if revision == _REVISION_3 else 0)
    if root == 0:
        return _CAPS.pack(flags | _REVISION_2, sets)
    return _CAPS.pack(flags | _REVISION_3, sets) + _ROOT_ID.pack(root)
