"""Puts whole runs of `make bench` and `make bench-guest` into the documents:
`python -m tests.bench.publish [FOLDER]`.

Between `<!-- measured -->` and `<!-- end -->` docs/bench.md gets both runs, and the README the
machine, the programs, and the first table of each; docs/bench-tmpfs.svg is the chart. Belongs here:
where the figures go. What they are, and how they look, is the business of report.py and guest.py.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile("(^<!-- measured -->\n).*?(^<!-- end -->$)", re.MULTILINE | re.DOTALL)
CHART = "bench-tmpfs.svg"
GUEST = "In a real guest:"
"""What comes before the figures of `make bench-guest`."""
TABLE = re.compile(r"(?:^\|.*\n?)+", re.MULTILINE)
FOOTNOTES = re.compile(r"(?:^\[\^\w+\]: .*\n?)+", re.MULTILINE)


def _first(pattern: re.Pattern[str], text: str) -> list[str]:
    found = pattern.search(text)
    return [found[0].strip()] if found else []


def excerpt(run: str) -> str:
    """The part of a run for the README: the machine, the programs that the first table compares,
    that table with its footnotes, and the first table of what was measured in a guest."""
    run, _, guest = run.partition(f"\n{GUEST}\n")
    head, _, rest = run.partition("\n\n")
    about = [line for line in head.splitlines() if " mapped: " not in line]
    parts = ["\n".join(about), *_first(TABLE, rest), *_first(FOOTNOTES, rest)]
    if guest:
        parts += [GUEST, *_first(TABLE, guest)]
    return "\n\n".join(parts)


def fill(document: str, text: str) -> str:
    """A document with another text in its block."""
    filled, count = BLOCK.subn(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", document)
    if count != 1:
        raise ValueError(f"{count} blocks of figures instead of one")
    return filled


def whole(folder: Path) -> str:
    """Both runs of a folder as one text; ends where one is missing or not whole."""
    files = {"make bench": folder / "bench.md", "make bench-guest": folder / "guest.md"}
    for command, file in files.items():
        if not file.exists():
            sys.exit(f"{file} is missing: {command} has not run")
    run, guest = (file.read_text() for file in files.values())
    if re.search(r"^- (?:FAILED |PARTS: )| was left out: ", run + guest, re.MULTILINE):
        sys.exit(f"{folder}: the runs are not whole")
    return f"{run.strip()}\n\n{GUEST}\n\n{guest.strip()}\n"


def publish(folder: Path, root: Path = ROOT) -> None:
    """Takes the runs from their folder into the documents of a tree; ends where they are not
    whole."""
    run = whole(folder)
    for name, text in (("README.md", excerpt(run)), ("docs/bench.md", run)):
        document = root / name
        document.write_text(fill(document.read_text(), text))
    shutil.copyfile(folder / CHART, root / "docs" / CHART)


if __name__ == "__main__":
    publish(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench")
