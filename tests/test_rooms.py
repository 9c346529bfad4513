"""The rooms of csrc: their order, no circle within one, the field's words, a test for each file.

What a file needs is read from its text: the headers that it includes, and the functions and tables
of other files that it names, whether to call them or to point at them.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.csrc.test_csrc import PROGRAMS, sources_of

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
ROOMS = (
    *("server", "p9", "request", "fid", "fs", "mapped", "export", "quota"),
    *("sandbox", "virtio", "base"),
)
"""From the top: a room needs those after it only."""
FILES = [path for path in sorted(CSRC.glob("*/*.[ch]")) if path.parent.name in ROOMS]


COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
INCLUDE = re.compile(r'^#include "([\w/]+)\.h"', re.MULTILINE)
FUNCTION = re.compile(r"^(?!static\b)\w[\w *]*?\b(v9_\w+)\([^;{}]*\)\n\{", re.MULTILINE)
VARIABLE = re.compile(r"^(?!static\b|extern\b)\w[\w *]*?\b(v9_\w+)(?:\[\w*\])* = ", re.MULTILINE)
BODY = re.compile(r"^(?!struct|enum|union)\w[^;={}]*?(\w+)\([^;{}]*\)\n\{\n.*?^\}", re.M | re.S)
MACRO = re.compile(r"^#define (?:.*\\\n)*.*", re.MULTILINE)
PROTOTYPE = re.compile(r"\b(v9_\w+)\([^;{}]*\);")
REPLACED = (
    r"\w*(?<![A-Za-z])(?:node|park|parked|linger|lingers|lingering|pressure|recall|hub|fast(?=_)|delays?"
    r"|delayed|pace|heap|epoch|bury|grave|disguises?|born|nudge|told|moment|ticket)(?![A-Za-z])\w*"
)
WORDS = re.compile(REPLACED + r"|\b(?:v9_)?(?:keep|make|unmake)_\w+", re.IGNORECASE)
WORDS_IN_PYTHON = re.compile(REPLACED + r"|unmake_\w+", re.IGNORECASE)
FOREIGN = re.compile(
    r"(?:Mapping|Scalar|Sequence|key_|value_|compose_|get_single_)?[Nn]ode|SO_LINGER"
)
"""Names of PyYAML, ast and the kernel."""
CLIENTS_TICKETS = {"Ticket", "ticket", "tickets"}
"""What the tests' client returns for a request, to wait for its reply."""


def unit(path: Path) -> str:
    """A file with its header: "room/name"."""
    return f"{path.parent.name}/{path.stem}"


def code(path: Path) -> str:
    return COMMENT_OR_STRING.sub("", path.read_text())


def uses(path: Path) -> set[str]:
    """What of ours a file may use: of a header, in its inline functions and macros."""
    text = code(path)
    if path.suffix == ".h":
        text = "\n".join(found[0] for found in (*BODY.finditer(text), *MACRO.finditer(text)))
    return set(re.findall(r"\bv9_\w+", text))


def definitions() -> dict[str, str]:
    """Where each function and table with external linkage is defined."""
    return {
        found[1]: unit(path)
        for path in FILES
        if path.suffix == ".c"
        for pattern in (FUNCTION, VARIABLE)
        for found in pattern.finditer(code(path))
    }


def included(path: Path) -> Iterator[str]:
    for name in INCLUDE.findall(path.read_text()):
        if "/" in name:
            yield name
        elif not (CSRC / f"{name}.h").exists():
            yield f"{path.parent.name}/{name}"


def needs() -> dict[str, set[str]]:
    """Of each unit, the others that it needs."""
    defined = definitions()
    assert len(defined) > 200, "the search finds nothing"
    found: dict[str, set[str]] = {unit(path): set() for path in FILES}
    for path in FILES:
        named = {defined[name] for name in uses(path) if name in defined}
        found[unit(path)] |= {*named, *included(path)} - {unit(path)}
    return found


def room_of(name: str) -> str:
    return name.partition("/")[0]


def test_needs_go_down() -> None:
    upwards = {
        f"{name} {other}"
        for name, others in needs().items()
        for other in others
        if ROOMS.index(room_of(other)) < ROOMS.index(room_of(name))
    }
    assert not upwards, sorted(upwards)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_circle(room: str) -> None:
    inside = {
        name: {other for other in others if room_of(other) == room}
        for name, others in needs().items()
        if room_of(name) == room
    }
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(" needs ".join(reversed(error.args[1])))


def declared_by(path: Path, definition: str) -> str:
    """The header that has to declare what `definition` defines: a room's api.h may, for Python."""
    is_api = path.stem == "api" and path.parent.name == room_of(definition)
    return unit(path) if is_api else definition


def test_a_header_declares_what_its_own_file_defines() -> None:
    defined = definitions()
    others = {
        unit(path)
        for path in FILES
        if path.suffix == ".h"
        for name in PROTOTYPE.findall(MACRO.sub("", code(path)))
        if declared_by(path, defined.get(name, unit(path))) != unit(path)
    }
    assert not others, sorted(others)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_the_words_of_the_field(room: str) -> None:
    paths = [*(CSRC / room).glob("*.[ch]"), *(ROOT / "tests" / "csrc" / room).glob("*.c")]
    found = {word for path in paths for word in WORDS.findall(code(path))}
    assert not found, sorted(found)


@pytest.mark.parametrize("folder", ["vhost9p", "tests"])
def test_python_uses_the_words_of_the_field(folder: str) -> None:
    found = {
        token.string
        for path in (ROOT / folder).rglob("*.py")
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type == tokenize.NAME and WORDS_IN_PYTHON.fullmatch(token.string)
    }
    found = {name for name in found if not FOREIGN.fullmatch(name)} - CLIENTS_TICKETS
    assert not found, sorted(found)


def test_each_file_has_a_test_in_its_room() -> None:
    """One that names it: a room among its sources is what the test needs, not what it shows."""
    tested = {
        unit(source)
        for program in PROGRAMS
        for source in sources_of(program, rooms=False)
        if source.parent.name == program.parent.name
    }
    untested = {unit(path) for path in FILES if path.suffix == ".c"} - tested
    assert not untested, sorted(untested)


def test_functions_are_short() -> None:
    long = {
        f"{path.name}: {found[1]}"
        for path in FILES
        for found in BODY.finditer(path.read_text())
        if found[0].count("\n") >= 45
    }
    assert not long
