"""Puts whole runs of `make bench` and `make bench-guest` into the documents:
`python -m tests.bench.publish [FOLDER]`.

Between `<!-- measured -->` and `<!-- end -->` docs/bench.md gets the times of all, the README the
machine, the programs, and the first table of `make bench` and of the native guest, and
docs/performance.md the native guest's requests; docs/bench-tmpfs.svg is the chart. Of `make
bench-changes`, docs/changes.md gets how soon guests see changes by the host, and docs/guests.md
what that costs them. Belongs here:
where the figures go. What they are, and how they look, is the business of report.py, guest.py and
uml/.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile("(^<!-- measured -->\n).*?(^<!-- end -->$)", re.MULTILINE | re.DOTALL)
CHART = "bench-tmpfs.svg"
EMULATED = "In a guest under emulation:"
NATIVE = "In a native guest:"
"""What comes before the figures of `make bench-guest`."""
DETAILS = (
    *("setattr: size", "setattr: times", "symlink, unlink", "readlink", "statfs"),
    *("create", "lstat all", "read all", "ls -lR", "rename all", "unlink all"),
)
"""How lines begin that the README leaves to docs/bench.md: requests that differ little from others,
and what a native guest does one by one."""
TABLE = re.compile(r"(?:^\|.*\n?)+", re.MULTILINE)
FOOTNOTES = re.compile(r"(?:^\[\^\w+\]: .*\n?)+", re.MULTILINE)


def _first(pattern: re.Pattern[str], text: str) -> list[str]:
    found = pattern.search(text)
    return [found[0].strip()] if found else []


def _overview(table: list[str]) -> list[str]:
    lines = "\n".join(table).splitlines(keepends=True)
    details = tuple(
        f"| {name}{end}" for name in DETAILS for end in (" |", ", ops/s |", ", cold |", ", again |")
    )
    return ["".join(line for line in lines if not line.startswith(details)).strip()]


def excerpt(run: str) -> str:
    """The part of a run for the README: the machine, the programs that the first table compares,
    that table with its footnotes, and the first table of what was measured in a native guest,
    without the details."""
    run, _, guests = run.partition(f"\n{EMULATED}\n")
    native = guests.partition(f"\n{NATIVE}\n")[2]
    head, _, rest = run.partition("\n\n")
    about = [line for line in head.splitlines() if " mapped: " not in line]
    parts = ["\n".join(about), *_overview(_first(TABLE, rest)), *_first(FOOTNOTES, rest)]
    if native:
        parts += [NATIVE, *_overview(_first(TABLE, native))]
    return "\n\n".join(parts)


def fill(document: str, text: str) -> str:
    """A document with another text in its block."""
    filled, count = BLOCK.subn(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", document)
    if count != 1:
        raise ValueError(f"{count} blocks of figures instead of one")
    return filled


def whole(folder: Path, names: Sequence[str], command: str) -> list[str]:
    """Runs of a folder that belong together; ends where one is missing or not whole."""
    for name in names:
        if not (folder / name).exists():
            sys.exit(f"{folder / name} is missing: {command} has not run")
    texts = [(folder / name).read_text().strip() for name in names]
    lines = r"^- (?:FAILED |PARTS: )| was left out: "
    if any(re.search(lines, text, re.MULTILINE) for text in texts):
        sys.exit(f"{folder}: the runs are not whole")
    return texts


def speed(texts: Sequence[str]) -> dict[str, str]:
    """What goes where of `make bench` and `make bench-guest`."""
    bench, emulated, native, requests = texts
    run = "\n\n".join((bench, EMULATED, emulated, NATIVE, native))
    return {"README.md": excerpt(run), "docs/bench.md": run, "docs/performance.md": requests}


def changes(texts: Sequence[str]) -> dict[str, str]:
    """What goes where of `make bench-changes`."""
    seen, cost = texts
    return {"docs/changes.md": seen, "docs/guests.md": cost}


SPEED = ("bench.md", "guest.md", "uml.md", "uml-requests.md")
CHANGES = ("changes.md", "agent.md")
"""The files of each."""


def publish(folder: Path, root: Path = ROOT) -> None:
    """Takes the runs from their folder into the documents of a tree: those of speed, those of the
    host's changes, or both. Ends where they are not whole."""
    texts: dict[str, str] = {}
    found = [any((folder / name).exists() for name in names) for names in (SPEED, CHANGES)]
    if found[1]:
        texts |= changes(whole(folder, CHANGES, "make bench-changes"))
    if found[0] or not found[1]:
        texts |= speed(whole(folder, SPEED, "make bench, or make bench-guest,"))
        shutil.copyfile(folder / CHART, root / "docs" / CHART)
    for name, text in texts.items():
        document = root / name
        document.write_text(fill(document.read_text(), text))


if __name__ == "__main__":
    publish(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench")
