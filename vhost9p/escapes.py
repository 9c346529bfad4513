r"""How names of files are shown, which are bytes, and how what was shown is read again.

A byte that is no part of UTF-8, or of no character that can be printed, is `\x` and two digits, and
a backslash is two; all else stands as it is. Within quotes, `\x27` is a quote. So a shell takes
what is between quotes as it is, and so does $'…' of bash. Commands take it where they ask for a
path.

In this program such bytes are surrogates (os.fsdecode). Text that goes out may have none: it would
be no UTF-8, and no JSON to most readers. In JSON a name is written in the same way as elsewhere
(`to_json` takes it as bytes), whether it needs that or not: else a reader could not know which
backslashes are the name's.
"""

import json
import os
import re
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPES = re.compile(r"\\\\|\\x[0-9a-f]{2}")


def escape(name: str) -> str:
    """Returns a name, or a path, as one line of UTF-8."""
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_shown, name))


def _shown(char: str) -> str:
    if char == "\\":
        return "\\\\"
    return char if char.isprintable() else escape_char(char)


def escape_char(char: str) -> str:
    """Returns the bytes of a character as escapes."""
    data = char.encode(errors="surrogateescape" if "\udc80" <= char <= "\udcff" else "replace")
    return "".join(f"\\x{byte:02x}" for byte in data)


def quoted(name: str | bytes) -> str:
    """Returns the same between quotes."""
    return "'" + escape(os.fsdecode(name)).replace("'", r"\x27") + "'"


def unescape(text: str) -> str:
    """Takes that back, of what was between the quotes."""

    def byte(found: re.Match[str]) -> bytes:
        return b"\\" if found[0] == "\\\\" else bytes((int(found[0][2:], 16),))

    pieces, at = [], 0
    for found in _ESCAPES.finditer(text):
        pieces += [name_bytes(text[at : found.start()]), byte(found)]
        at = found.end()
    return os.fsdecode(b"".join([*pieces, name_bytes(text[at:])]))


def name_bytes(text: str) -> bytes:
    """Returns the bytes of a name, or of a part of what a person has typed. Never fails."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # other surrogates: a damaged capture, or a worker that lies
        return text.encode(errors="replace")


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON that is valid UTF-8. Bytes are names, or other bytes of a guest: strings that
    `unescape` takes back. Strings are text for people, in which nothing is escaped but what is no
    UTF-8."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return escape(os.fsdecode(value))
    if isinstance(value, str):
        return escape(value) if _SURROGATES.search(value) else value
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return [*map(_plain, value)] if isinstance(value, (list, tuple)) else value
