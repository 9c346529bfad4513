"""Patterns of paths, as hidden paths are written: their syntax and its meaning.

A pattern is a path below an export's root, in bytes, whose components match names of files as in a
shell or in .gitignore:

- `*` matches any bytes of a name, also none; `?` one byte; `[abc]` and `[a-z]` one of these bytes;
  `[!abc]` and `[^abc]` any other byte. A backslash takes the meaning from the byte behind it. A
  dot at the beginning of a name is like any byte.
- `**` as a component matches any number of names: none, too. At the end it matches one at least.
- A pattern without a slash is a name at any depth. One with a slash begins at the root, so that
  `./NAME` is a name in the root only.

C compares patterns with names (csrc/export/hidden_paths.c).
"""

from typing import NamedTuple

SIZE_MAX = 1024
"""Bytes of a pattern."""
COMPONENTS_MAX = 63
"""Components of a pattern (V9_HIDDEN_COMPONENTS_MAX in csrc/export/api.h counts one for each)."""
PATTERNS_MAX = 256
"""Patterns of an export (V9_HIDDEN_PATTERNS_MAX)."""

STAR = "*"
ByteSet = frozenset[int]
Token = ByteSet | str
"""One of these bytes, or STAR: any bytes."""
Name = tuple[Token, ...]
ANY: ByteSet = frozenset(range(256))
DIRS: Name = ()
"""`**`: any number of names."""


class Pattern(NamedTuple):
    """What each component of a path must match; the last one is never DIRS."""

    components: tuple[Name, ...]


def parse(pattern: bytes) -> Pattern:
    """Raises ValueError with a text that continues a sentence that begins with the pattern."""
    if not pattern:
        raise ValueError("is empty; a name or a path below the export's root is expected")
    if len(pattern) > SIZE_MAX:
        raise ValueError(f"has {len(pattern)} bytes; a pattern has at most {SIZE_MAX}")
    if pattern.startswith(b"!"):
        raise ValueError(
            "begins with !, but what is hidden cannot be shown again; write \\! for a name that "
            "begins so"
        )
    if pattern.startswith(b"/"):
        raise ValueError(
            "begins with a slash, but patterns are below the export's root; write ./NAME for a "
            "name in the root itself"
        )
    if pattern.endswith(b"/"):
        raise ValueError("ends with a slash; leave it out: a directory is hidden with all below it")
    texts = pattern.split(b"/")
    if texts[0] == b"." and len(texts) > 1:
        del texts[0]
    elif len(texts) == 1:
        texts.insert(0, b"**")
    return Pattern(_simplified([_name(text) for text in texts]))


def _simplified(names: list[Name]) -> tuple[Name, ...]:
    """Returns components that mean the same. All below a match is hidden with it, so that `**` at
    the end is any name."""
    if names[-1] == DIRS:
        names[-1] = (STAR,)
    kept = [name for i, name in enumerate(names) if name != DIRS or names[i + 1 : i + 2] != [DIRS]]
    if len(kept) > COMPONENTS_MAX:
        raise ValueError(f"has {len(kept)} components; a pattern has at most {COMPONENTS_MAX}")
    return tuple(kept)


def _name(text: bytes) -> Name:
    if text == b"**":
        return DIRS
    if not text:
        raise ValueError("has two slashes in a row; between them a name is expected")
    if text in (b".", b".."):
        raise ValueError(f"has {text.decode()} as a component, which is the name of no file")
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        token, at = _token(text, at)
        if token == STAR and tokens[-1:] == [STAR]:
            raise ValueError(
                "has ** within a name; it stands alone between slashes, * within a name"
            )
        tokens.append(token)
    return tuple(tokens)


def _token(text: bytes, at: int) -> tuple[Token, int]:
    """Returns the token that begins at an index, and the index behind it."""
    byte = text[at : at + 1]
    if byte == b"*":
        return STAR, at + 1
    if byte == b"?":
        return ANY, at + 1
    if byte == b"[":
        return _set(text, at + 1)
    literal, at = _literal(text, at)
    return frozenset((literal,)), at


def _literal(text: bytes, at: int) -> tuple[int, int]:
    """Returns a byte that stands for itself, and the index behind it."""
    if text[at : at + 1] == b"\\":
        at += 1
        if at == len(text):
            raise ValueError("has a backslash at the end of a name; write \\\\ for one")
    return text[at], at + 1


def _set(text: bytes, at: int) -> tuple[ByteSet, int]:
    """Returns the bytes of a bracket expression that begins before an index, and the index behind
    it. A closing bracket that comes first is one of its bytes."""
    negated = text[at : at + 1] in (b"!", b"^")
    at += negated
    found: set[int] = set()
    first = at
    while text[at : at + 1] != b"]" or at == first:
        if at >= len(text):
            raise ValueError("has a [ without a ]; write \\[ for the bracket itself")
        low, at = _literal(text, at)
        high = low
        if text[at : at + 1] == b"-" and text[at + 1 : at + 2] not in (b"]", b""):
            high, at = _literal(text, at + 1)
        if high < low:
            raise ValueError("has a range in brackets whose end is before its beginning")
        found.update(range(low, high + 1))
    return (ANY - found if negated else frozenset(found)), at + 1
