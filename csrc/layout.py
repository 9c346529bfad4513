"""Part of the build: the layout of what one version of the code leaves to the next.

The successor of a worker goes on in the same memory (server/recover.c), also if it belongs to
another version of the code. So the build lists each field of the structs that lie there, with its
offset and size, as the compiler has them. vhost9p/saved_state.py makes a fingerprint of the list:
code with another fingerprint must not touch that memory. Nobody writes the list by hand, since a
field that was forgotten would be missed just when it matters.

The structs are those of ROOTS, and what they contain by value, with the enums of their fields. They
are found by parsing the headers with pycparser, which cffi needs as well. System headers are left
out: of a type of theirs only the size counts.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HEADERS = ("request/state.h", "fid/dentry.h", "fid/xattr_value.h", "server/connection.h")
ROOTS = (
    *("v9_device", "v9_request", "v9_fid", "v9_fid_more", "v9_inode", "v9_dentry"),
    *("v9_xattr_value", "v9_shared_connection", "v9_counts"),
)
WITHOUT = ("_Alignas(x)=", "__extension__=", "__attribute__(x)=", "__int128=int")
"""What the parser does not know. None of it changes the names of fields."""

DECLARATION = """
struct v9_layout_field { const char *name; uint64_t offset, size; };
extern const struct v9_layout_field v9_layout[];
extern const uint32_t v9_layout_count;
"""


def _preprocess(csrc: Path, compiler: Sequence[str]) -> str:
    """The headers with all that they include of csrc, and with their types declared as int."""
    texts = [file.read_text(encoding="utf-8") for file in csrc.rglob("*.h")]
    types = {"bool", *(t for text in texts for t in re.findall(r"\b[a-z]\w*_(?:t|bool)\b", text))}
    source = [*(f"typedef int {name};" for name in sorted(types))]
    source += [f'#include "{name}"' for name in HEADERS]
    with tempfile.TemporaryDirectory() as empty:
        for name in {name for text in texts for name in re.findall(r"#include <(.+)>", text)}:
            (Path(empty) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(empty) / name).touch()
        command = [*compiler, "-E", "-P", "-nostdinc", "-I", empty, "-I", str(csrc)]
        command += [f"-D{each}" for each in WITHOUT]
        return subprocess.run(
            [*command, "-"], input="\n".join(source), check=True, capture_output=True, text=True
        ).stdout


def _definitions(csrc: Path, compiler: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The structs and the enums that have a name, by that."""
    from pycparser import c_ast, c_parser

    structs: dict[str, Any] = {}
    enums: dict[str, Any] = {}

    class Visitor(c_ast.NodeVisitor):  # type: ignore[misc]
        def visit_Struct(self, node: Any) -> None:
            if node.name and node.decls:
                structs[node.name] = node
            self.generic_visit(node)

        def visit_Enum(self, node: Any) -> None:
            if node.name and node.values:
                enums[node.name] = node

    Visitor().visit(c_parser.CParser().parse(_preprocess(csrc, compiler)))
    return structs, enums


class _Field(NamedTuple):
    name: str
    has_address: bool
    is_flexible: bool
    kind: Any
    """The type, without pointers: what a pointer leads to is not in the struct."""


def _fields(declarations: Any) -> Iterator[_Field]:
    for each in declarations:
        kind, is_flexible = each.type, False
        while type(kind).__name__ in ("ArrayDecl", "TypeDecl"):
            is_flexible |= type(kind).__name__ == "ArrayDecl" and kind.dim is None
            kind = kind.type
        if each.name is None:  # a union without a name
            yield from _fields(kind.decls)
        else:
            yield _Field(each.name, each.bitsize is None, is_flexible, kind)


def _entry(struct: str, field: _Field) -> str:
    if not field.has_address:
        return f'{{"{struct}.{field.name}", 0, 0}},'
    size = "0" if field.is_flexible else f"sizeof(((struct {struct} *)0)->{field.name})"
    return f'{{"{struct}.{field.name}", offsetof(struct {struct}, {field.name}), {size}}},'


def _entries(csrc: Path, compiler: Sequence[str]) -> Iterator[str]:
    """Each struct, its fields, and the values of enums that fields have."""
    structs, enums = _definitions(csrc, compiler)
    due, seen = [*ROOTS], set(ROOTS)
    for name in due:
        if name in enums:
            for value in enums[name].values.enumerators:
                yield f'{{"{name}.{value.name}", {value.name}, 0}},'
            continue
        yield f'{{"{name}", 0, sizeof(struct {name})}},'
        for field in _fields(structs[name].decls):
            yield _entry(name, field)
            contained = getattr(field.kind, "name", None)
            is_kind = type(field.kind).__name__ in ("Struct", "Enum")
            if is_kind and contained in {*structs, *enums} and contained not in seen:
                seen.add(contained)
                due.append(contained)


def generate(csrc: Path, compiler: Sequence[str]) -> str:
    """C that defines what DECLARATION declares."""
    entries = list(_entries(csrc, compiler))
    return "\n".join(
        [
            "#include <stddef.h>",
            *(f'#include "{name}"' for name in HEADERS),
            "struct v9_layout_field { const char *name; uint64_t offset, size; };",
            "static const struct v9_layout_field v9_layout[] = {",
            *entries,
            "};",
            f"static const uint32_t v9_layout_count = {len(entries)};",
        ]
    )
