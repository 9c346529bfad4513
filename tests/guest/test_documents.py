"""Each document that has its reader do something says what is true: its commands are run, in their
order, on this host and in a guest, and what they print is what it shows (documents.py says how)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.frontend.daemon import ROOT
from tests.guest import cache, guest_files
from tests.guest.conftest import Loud
from tests.guest.documents import NEWEST, Command, DocumentError, File, Reader, steps
from tests.ordinary_user import NEEDED, opening

DOCS = ROOT / "docs"
DOCUMENTS = ("migration", "tuning", "tutorial")
"""Done from the beginning to the end, by one reader."""
RECIPES = "recipes"
"""Each section is done by a reader of its own."""
UNPRIVILEGED = "An unprivileged user"
USUAL = (UNPRIVILEGED,)
"""What is not only in the full matrix."""
GUEST = ROOT / "build/guest"
HEADING = "\n## "


def text_of(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The sections of a document, by their headings."""
    found = (each.partition("\n") for each in text.split(HEADING)[1:])
    return {heading: body for heading, _, body in found}


@pytest.fixture
def home(loud: Loud) -> Iterator[Path]:
    """The reader's home, whose name is short, as sockets need."""
    built = subprocess.run(["make", "-q", "build"], cwd=ROOT, capture_output=True, check=False)
    if built.returncode:
        pytest.fail("the build is older than its sources: make build", pytrace=False)
    loud(lambda: guest_files.make(GUEST))
    with tempfile.TemporaryDirectory(prefix="v9-") as name:
        (Path(name) / "run").mkdir(mode=0o700)
        yield Path(name)


def environment(home: Path) -> dict[str, str]:
    """Of somebody who has done the first steps of the tutorial, but for what is fetched."""
    # Below `make`, another one would print more.
    inherited = {k: text for k, text in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return {
        **inherited,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(cache.folder().parent),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_STATE_HOME": str(home / "state"),
        "PATH": f"{ROOT}/.venv/bin:{GUEST}:{os.environ['PATH']}",
        "GUEST": str(GUEST),
        "CHECKOUT": str(ROOT),
    }


def read(text: str, folder: Path, home: Path, wrapper: Sequence[str] = ()) -> None:
    """Does all that a text says, beginning in a folder."""
    todo = steps(text)
    assert todo
    with Reader(folder, environment(home), wrapper) as reader:
        for step in todo:
            reader.do(step)
            if isinstance(step, File) and step.name.startswith(".github/"):
                for command in workflow(step.text):
                    reader.do(command)


def workflow(text: str) -> Iterator[Command]:
    """The commands of a workflow of GitHub, each of which fails if one of its lines does."""
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                yield Command(None, f"set -e\n{step['run']}")


def ordinary_user() -> list[str]:
    """The words that make the reader an ordinary user, who can reach the cache."""
    if os.geteuid():
        return []
    user = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    return [*opening((*NEEDED, cache.folder())), *user]


@pytest.mark.guest
def test_the_tutorial(home: Path) -> None:
    read(text_of("tutorial"), ROOT, home)


@pytest.mark.parametrize("name", [each for each in DOCUMENTS if each != "tutorial"])
def test_a_document(name: str, home: Path) -> None:
    read(text_of(name), home, home)


@pytest.mark.guest
@pytest.mark.parametrize(
    "heading",
    [
        each if each in USUAL else pytest.param(each, marks=pytest.mark.full)
        for each in sections(text_of(RECIPES))
    ],
)
def test_a_recipe(heading: str, home: Path) -> None:
    place = home / "place"  # without the daemon's own files, as one of them exports it
    place.mkdir()
    (place / "vhost9p").symlink_to(ROOT)  # a workflow's checkout
    wrapper = []
    if heading == UNPRIVILEGED:
        wrapper = ordinary_user()
        for each in (home, home / "run", place):
            os.chown(each, 1000, 1000) if wrapper else None
    read(sections(text_of(RECIPES))[heading], place, home, wrapper)


# ---- nothing is left out -------------------------------------------------------------------------


def test_every_document_with_commands_is_run() -> None:
    found = {path.stem for path in DOCS.glob("*.md") if "```console" in path.read_text()}
    assert found == {*DOCUMENTS, RECIPES}


def test_every_recipe_is_in_a_section() -> None:
    text = text_of(RECIPES)
    assert steps(text.split(HEADING)[0]) == []
    assert steps(text) == [step for each in sections(text).values() for step in steps(each)]


BLOCKS = """
```console
host$ one \\
    more
guest# two
shown …

guest2# three
at the end
```

```yaml a/vm.yaml
path: here
```
"""


def test_what_a_reader_does_is_found() -> None:
    assert steps(BLOCKS) == [
        Command(None, "one \\\n    more"),
        Command(NEWEST, "two", ["shown …", ""]),
        Command(2, "three", ["at the end"]),
        File("a/vm.yaml", "path: here\n"),
    ]


@pytest.mark.parametrize("head", ["", "sh", "yaml", "console name", "yaml ../a", "yaml /a"])
def test_a_block_that_nobody_would_run_is_an_error(head: str) -> None:
    with pytest.raises(DocumentError, match="is neither commands nor a file"):
        steps(f"```{head}\nx\n```\n")


def test_output_without_a_command_is_an_error() -> None:
    with pytest.raises(DocumentError, match="no command stands above 'x'"):
        steps("```console\nx\n```\n")


@pytest.mark.parametrize(
    "command,shown",
    [("false", []), ("echo a", ["b"]), ("echo a; echo b", ["a"]), ("echo a", ["a", "…", "b"])],
)
def test_what_is_not_true_is_an_error(command: str, shown: list[str], tmp_path: Path) -> None:
    with Reader(tmp_path, os.environ) as reader, pytest.raises(DocumentError):
        reader.do(Command(None, command, shown))


def test_a_reader_keeps_place_and_variables(tmp_path: Path) -> None:
    text = (
        "```console\nhost$ mkdir a; cd a; export X='1 2'\n```\n"
        "```txt b/c\nin c\n```\n"
        "```console\nhost$ cat b/c; echo $X; ls missing\nin c\n1 2\n…No such file…\n```\n"
    )
    with Reader(tmp_path, os.environ) as reader:
        for step in steps(text):
            reader.do(step)
    assert (tmp_path / "a/b/c").read_text() == "in c\n"
