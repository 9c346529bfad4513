"""The translation of attributes' names (csrc/export/xattr_names.c)."""

from collections.abc import Sequence

from vhost9p.native.library import check, ffi, lib

ACTIONS: dict[str, int] = {
    "keep": lib.V9_XATTR_KEEP,
    "refuse": lib.V9_XATTR_REFUSE,
    "hide": lib.V9_XATTR_HIDE,
    "store": lib.V9_XATTR_STORE,
}


class XattrNames:
    """Rules (match, action, store), of which the first that matches counts: see
    vhost9p.policy.xattrs."""

    def __init__(self, rules: Sequence[tuple[bytes, str, bytes]]) -> None:
        """Raises ValueError for a text with a NUL, which no name has; MemoryError."""
        if any(b"\0" in match + store for match, _, store in rules):
            raise ValueError("a rule for extended attributes with a NUL")
        texts = [(ffi.new("char[]", match), ffi.new("char[]", store)) for match, _, store in rules]
        native = ffi.new("struct v9_xattr_rule[]", len(texts))
        for each, (match, store), (_, action, _) in zip(native, texts, rules, strict=True):
            each.match, each.store, each.action = match, store, ACTIONS[action]
        found = lib.v9_xattr_names_new(native, len(texts))
        if not found:
            raise MemoryError("rules for extended attributes")
        self.native = ffi.gc(found, lib.v9_xattr_names_free)

    def host(self, name: bytes, refused: int) -> bytes:
        """Returns the host's name for a guest's. OSError EOPNOTSUPP if it is hidden, `refused` if
        it is refused, ERANGE if it is too long."""
        host = ffi.new("char[]", lib.V9_XATTR_NAME)
        size = check(lib.v9_xattr_names_host(self.native, name, refused, host))
        return bytes(ffi.buffer(host, size))

    def guest(self, host: bytes) -> bytes:
        """Returns the guest's name of a host attribute. OSError ENODATA if it is hidden."""
        name = ffi.new("char[]", lib.V9_XATTR_NAME)
        size = check(lib.v9_xattr_names_guest(self.native, host, name))
        return bytes(ffi.buffer(name, size))
