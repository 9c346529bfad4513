"""Hidden paths as C compares them with names (csrc/export/hidden_paths.h)."""

from collections.abc import Iterable

from vhost9p.native.library import ffi, lib
from vhost9p.path_patterns import ANY, COMPONENTS_MAX, PATTERNS_MAX, STAR, ByteSet, Pattern, Token

assert lib.V9_HIDDEN_COMPONENTS_MAX == COMPONENTS_MAX
assert lib.V9_HIDDEN_PATTERNS_MAX == PATTERNS_MAX


class HiddenPaths:
    """Patterns for C; what one of them matches is hidden, with all below it."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        """Raises MemoryError, also for more than PATTERNS_MAX patterns."""
        self._sets: dict[ByteSet, int] = {}
        components, tokens = [], []
        for each in patterns:
            for i, name in enumerate(each.components, 1):
                components.append((len(name), i == len(each.components)))
                tokens += [self._code(token) for token in name]
        of_sets = b"".join(map(_bits, self._sets))
        arrays = (
            ffi.new("struct v9_hidden_component[]", components),
            ffi.new("uint16_t[]", tokens),
            ffi.new("uint8_t[]", of_sets),
        )
        counts = (len(components), len(tokens), len(self._sets))
        found = lib.v9_hidden_paths_new(ffi.new("struct v9_hidden_patterns *", (*arrays, *counts)))
        if not found:
            raise MemoryError("hidden paths")
        self.native = ffi.gc(found, lib.v9_hidden_paths_free)

    def hide(self, path: bytes) -> bool:
        """Returns whether a path below the root is hidden: it, or one above it, matches."""
        return bool(lib.v9_hidden_paths_hide(self.native, path))

    def _code(self, token: Token) -> int:
        if isinstance(token, str):
            assert token == STAR
            return int(lib.V9_HIDDEN_STAR)
        if token == ANY:
            return int(lib.V9_HIDDEN_ANY)
        if len(token) == 1:
            return next(iter(token))
        return int(lib.V9_HIDDEN_SET) + self._sets.setdefault(token, len(self._sets))


def _bits(found: ByteSet) -> bytes:
    return sum(1 << byte for byte in found).to_bytes(lib.V9_HIDDEN_SET_BYTES, "little")
