"""README and docs/ are true where a test without a VM can check it.

The tables of options are made from the schema, the examples are configurations, links lead
somewhere, files that are named exist, and the messages that troubleshooting quotes are in the
source.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import json_schema, key_tables
from tests import test_rooms as rooms
from tests.bench import publish
from vhost9p import config_file, limits, log_pipe
from vhost9p.config import DeviceConfig, ExportConfig, Quota

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
README_LINES_MAX = 200
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CONFIGURATION = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
TROUBLESHOOTING, UPGRADE = (
    (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    for name in ("troubleshooting", "upgrade")
)


def code(cell: str) -> list[str]:
    """What a cell has in backquotes."""
    return re.findall("`(.*?)`", cell)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" |")]


def test_the_tables_of_options_are_those_of_the_schema() -> None:
    """`python -m tests.key_tables` writes them."""
    assert key_tables.fill(CONFIGURATION) == CONFIGURATION


# ---- the examples --------------------------------------------------------------------------------


def examples() -> list[str]:
    texts = (document.read_text(encoding="utf-8") for document in DOCUMENTS)
    return [each for text in texts for each in re.findall("```yaml\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("text", examples(), ids=lambda text: text.split("\n")[0])
def test_an_example_is_a_configuration(text: str, tmp_path: Path) -> None:
    """It is read with directories of this machine in the place of its own; one that shows a part
    gets the rest."""
    if "path:" not in text:
        text = "socket: s\npath: /srv\n" + text
    text = re.sub(r"path: [^,}\n]*", f"path: {tmp_path}", text)
    file = tmp_path / "vm.yaml"
    file.write_text(text, encoding="utf-8")
    assert config_file.load(str(file)).devices
    assert json_schema.problems(text) == []


def test_there_are_examples() -> None:
    assert len(examples()) >= 8


# ---- links ---------------------------------------------------------------------------------------


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    text = document.read_text(encoding="utf-8")
    return re.sub("^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ +(.*)$", prose(document), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(words.replace(" ", "-"))
    return found


def links() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
            if not re.match("[a-z]+:", target):
                yield document, target


@pytest.mark.parametrize(
    "document,target", [*links()], ids=lambda each: getattr(each, "name", None) or str(each)
)
def test_a_link_leads_somewhere(document: Path, target: str) -> None:
    name, _, fragment = target.partition("#")
    there = (document.parent / name).resolve() if name else document
    assert there.exists(), f"{document.name}: {target}"
    if fragment:
        assert fragment in anchors(there), f"{document.name}: {target}"


def named_files() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for name in re.findall(r"`((?:csrc|docs|tests|vhost9p)/[\w./-]*)", prose(document)):
            yield document.name, name


@pytest.mark.parametrize("document,name", [*named_files()])
def test_a_file_that_is_named_exists(document: str, name: str) -> None:
    assert (ROOT / name).exists(), document


def test_the_readme_is_short_and_names_every_document() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES_MAX
    for document in (*ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        assert f"]({document.relative_to(ROOT)})" in text, document.name


def test_the_readmes_figures_are_those_of_the_whole_run() -> None:
    """And a script finds both."""
    text = README.read_text(encoding="utf-8")
    whole = publish.BLOCK.search((ROOT / "docs/bench.md").read_text(encoding="utf-8"))
    assert whole
    assert publish.fill(text, publish.excerpt("\n".join(whole[0].splitlines()[1:-1]))) == text


RUN = """- a machine
- vhost9p: vhost9p 1
- vhost9p mapped: vhost9p 1

tmpfs is tmpfs.

| workload, unit | ratio |
| --- | --- |
| stat | 2.00 |
| lock | -[^ENOSYS] |

[^ENOSYS]: The server answers ENOSYS.

Everything:

| workload | ratio |
| --- | --- |
"""
GUEST_RUN = """| step | ratio |
| --- | --- |
| create | 1.00 |

Requests:

| request | count |
| --- | --- |
"""
NATIVE_RUN = """- a kernel

| time | none ~ never |
| --- | --- |
| create | 2.00 |
| lstat all, cold | 2.00 |
| git clone | 2.00 |

| job | CPU |
| --- | --- |
"""
REQUESTS = "- a kernel\n\n| job | requests |\n| --- | --- |\n"
CHANGES = "- a kernel\n\n| cache | inotify |\n| --- | --- |\n"
AGENT = "- a kernel\n\n| job, ms | other |\n| --- | --- |\n"
RUNS = {
    "bench.md": RUN,
    "guest.md": f"- a guest\n\n{GUEST_RUN}",
    "uml.md": NATIVE_RUN,
    "uml-requests.md": REQUESTS,
    "changes.md": CHANGES,
    "agent.md": AGENT,
}


def runs(folder: Path) -> Path:
    """A folder as the benchmarks leave it."""
    for name, text in RUNS.items():
        (folder / name).write_text(text)
    (folder / publish.CHART).write_text("chart")
    return folder


def test_runs_are_published(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    documents = ["README.md"]
    documents += [f"docs/{name}.md" for name in ("bench", "performance", "changes", "guests")]
    for name in documents:
        (tmp_path / name).write_text("Before.\n<!-- measured -->\nold\n<!-- end -->\nAfter.\n")
    publish.publish(runs(tmp_path), tmp_path)
    excerpt = (
        "- a machine\n- vhost9p: vhost9p 1\n\n"
        "| workload, unit | ratio |\n| --- | --- |\n| stat | 2.00 |\n| lock | -[^ENOSYS] |\n\n"
        "[^ENOSYS]: The server answers ENOSYS.\n\n"
        "In a native guest:\n\n| time | none ~ never |\n| --- | --- |\n| git clone | 2.00 |"
    )
    all_times = (
        f"{RUN}\nIn a guest under emulation:\n\n{RUNS['guest.md']}\n"
        f"In a native guest:\n\n{NATIVE_RUN.strip()}"
    )
    blocks = (excerpt, all_times, REQUESTS.strip(), CHANGES.strip(), AGENT.strip())
    for name, block in zip(documents, blocks, strict=True):
        expected = f"Before.\n<!-- measured -->\n{block}\n<!-- end -->\nAfter.\n"
        assert (tmp_path / name).read_text() == expected
    assert publish.excerpt(all_times) == excerpt
    assert (tmp_path / "docs" / publish.CHART).read_text() == "chart"


def test_runs_of_one_kind_are_published_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("changes", "guests"):
        (tmp_path / f"docs/{name}.md").write_text("<!-- measured -->\n<!-- end -->\n")
        (tmp_path / {"changes": "changes.md", "guests": "agent.md"}[name]).write_text(name)
    publish.publish(tmp_path, tmp_path)
    for name in ("changes", "guests"):
        filled = f"<!-- measured -->\n{name}\n<!-- end -->\n"
        assert (tmp_path / f"docs/{name}.md").read_text() == filled


@pytest.mark.parametrize(
    "line", ["FAILED stat", "PARTS: --short", "virtiofsd was left out: it is missing"]
)
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_not_whole_is_not_published(line: str, name: str, tmp_path: Path) -> None:
    file = runs(tmp_path) / name
    file.write_text(file.read_text().replace("\n\n", f"\n- {line}\n\n", 1))
    with pytest.raises(SystemExit, match="not whole"):
        publish.publish(tmp_path, tmp_path)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    (runs(tmp_path) / name).unlink()
    with pytest.raises(SystemExit, match=f"{name} is missing: make bench"):
        publish.publish(tmp_path, tmp_path)


# ---- limits --------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_code() -> None:
    text = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
    block = text.split("<!-- limits -->")[1].split("<!-- end -->")[0].strip()
    export = ExportConfig("/srv", quota=Quota(bytes=1))
    device = DeviceConfig((export,), multidevs="remap")
    expected = [
        [limit.what.removesuffix(" (/srv)"), f"{limit.most:,}", limit.took, limit.beyond]
        for limit in limits.of_device(device, 1)
        if "guest memory" not in limit.what  # that is the host's
    ]
    assert [cells(line) for line in block.splitlines()[2:]] == expected
    assert f"{log_pipe.LINES_PER_SECOND} lines a second, and {log_pipe.BURST} at once" in text


# ---- architecture --------------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
WALKS = ("Twrite", "Tlcreate", "Trenameat", "Tlock")
"""Requests whose way through the files is written down, in tables. What all requests have in common
(the ways in, up and back) is told once, in prose."""
PACKAGES = ("device.py", "p9", "policy", "fs", "native")
"""The order of a walk in Python."""
LOCKS = {
    "c": re.compile(r"^ *(?:static )?pthread_(?:mutex|rwlock)_t \w+(?:;| =)", re.MULTILINE),
    "py": re.compile(r"threading\.(?:Lock|RLock|Condition)\b"),
}


def section(heading: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    _, _, text = ARCHITECTURE.partition(f"\n{heading}\n")
    level = heading.index(" ")
    return re.split(f"^#{{1,{level}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables, as rows of cells, without their heads."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [cells(line) for line in table.splitlines()[2:]]


def short_names(text: str) -> list[str]:
    """Files that are named by room or package."""
    return [name for name in code(text) if re.fullmatch(r"[\w/]+\.(?:c|h|py)", name)]


def place(name: str) -> Path:
    """Where a file lies that is named by room or package, or from the root."""
    if name.startswith(("csrc/", "tests/", "vhost9p/")):
        return ROOT / name
    return ROOT / ("vhost9p" if name.endswith(".py") else "csrc") / name


def walk(request: str) -> list[list[str]]:
    """The files of a walk, table by table."""
    found = list(tables(section(f"### {request}")))
    assert found, f"no table shows the walk of a {request}"
    return [[name for row in rows for name in short_names(row[0])] for rows in found]


def test_each_file_of_the_architecture_exists() -> None:
    names = short_names(ARCHITECTURE)
    assert len(names) > 100
    assert [name for name in names if not place(name).exists()] == []


def test_the_rooms_are_listed_in_their_order_with_their_sizes() -> None:
    rows = next(tables(section("## Rooms of csrc")))
    assert [code(row[0])[0] for row in rows] == [f"csrc/{room}/" for room in rooms.ROOMS]
    for (_, _, stated), room in zip(rows, rooms.ROOMS, strict=True):
        files = (ROOT / "csrc" / room).glob("*.[ch]")
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert lines == pytest.approx(int(stated), rel=0.25), room


@pytest.mark.parametrize("request_name", WALKS)
def test_a_walk_goes_down(request_name: str) -> None:
    """In C from room to room, in Python from package to package."""
    for files in walk(request_name):
        in_python = files[0].endswith(".py")
        order = PACKAGES if in_python else rooms.ROOMS
        at = [order.index(name.split("/")[0]) for name in files]
        assert at == sorted(at), files


@pytest.mark.parametrize("request_name", WALKS)
def test_who_is_passed_in_a_walk_is_called(request_name: str) -> None:
    """By one above it in its table; or by Python, in what comes after Python."""
    needs, native = rooms.needs(), ""
    for files in walk(request_name):
        if files[0].endswith(".py"):
            native = "".join(place(name).read_text() for name in files if "native/" in name)
            continue
        called = {rooms.unit(place(files[0]))}
        called |= {unit for name, unit in rooms.definitions().items() if f"lib.{name}(" in native}
        for name in files:
            this = rooms.unit(place(name))
            assert this in called, f"{name} is called by none of them"
            called |= needs[this]


def test_each_lock_has_its_place_in_the_order() -> None:
    """Its file is in the table of locks, and its declaration in C refers to the order."""
    listed = {
        name for rows in tables(section("## Lock order")) for row in rows for name in code(row[1])
    }
    declared = set()
    for file in (*ROOT.glob("csrc/*/*.[ch]"), *ROOT.glob("vhost9p/**/*.py")):
        text = file.read_text(encoding="utf-8")
        for found in LOCKS["py" if file.suffix == ".py" else "c"].finditer(text):
            declared.add(str(Path(*file.relative_to(ROOT).parts[1:])))
            around = "".join(text[: found.end()].splitlines(keepends=True)[-2:])
            around += text[found.end() :].split("\n")[0]
            if file.suffix != ".py":
                assert "ock order: docs/architecture.md" in around, f"{file.name}: {found[0]}"
    assert listed == declared


# ---- threat model --------------------------------------------------------------------------------


def test_each_claim_of_the_threat_model_has_a_test() -> None:
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    claims = [cells(line) for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(claims) >= 8
    for *_, test in claims:
        (name,) = code(test)
        file, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), name


# ---- quoted messages -----------------------------------------------------------------------------

ANYTHING = "…"
"""Stands for what differs from message to message."""
PLACEHOLDER = re.compile(r"%[-+0-9.]*[a-z]")


def joined(node: ast.AST) -> str | None:
    """A string as it is written, with `…` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return PLACEHOLDER.sub(ANYTHING, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(joined(part) or ANYTHING for part in node.values)
    return None


@functools.cache
def strings_of_the_source() -> list[str]:
    """The strings of the daemon's Python, without docstrings, and of its C."""
    found = []
    for file in ROOT.glob("vhost9p/**/*.py"):
        nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        found += [text for node in nodes if node not in docstrings and (text := joined(node))]
    for file in ROOT.glob("csrc/**/*.c"):
        found += re.findall(r'"((?:[^"\\\n]|\\.)*)"', file.read_text(encoding="utf-8"))
    return found


def quoted_messages() -> list[str]:
    """What the first column has in each table of what the daemon says."""
    found, here = [], False
    for line in (TROUBLESHOOTING + UPGRADE).splitlines():
        here = (here and line.startswith("|")) or line.startswith("| the daemon says |")
        if here:
            found += code(cells(line)[0])
    return found


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_the_daemons(message: str) -> None:
    """Each piece between two `…` is in a string of the source. What one string says in several
    pieces is not looked for as a whole, since messages are put together from several."""
    pieces = [piece.strip() for piece in message.split(ANYTHING)]
    assert max(map(len, pieces)) >= 8, "too little to be looked for"
    for piece in filter(None, pieces):
        assert any(piece in text for text in strings_of_the_source()), piece


def test_there_are_quoted_messages() -> None:
    assert len(quoted_messages()) >= 30
