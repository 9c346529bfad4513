"""Puts whole runs of `make bench` and `make bench-guest` into the documents:
`python -m tests.bench.publish [FOLDER]`.

Between `<!-- measured -->` and `<!-- end -->` docs/bench.md gets the times of all, the README the
machine, the programs, and the first table of `make bench` and of the native guest, and
docs/performance.md the native guest's requests, and docs/changes.md how soon guests see changes by
the host; docs/bench-tmpfs.svg is the chart. Belongs here:
where the figures go. What they are, and how they look, is the business of report.py, guest.py and
uml/.
"""

import re
import shutil
import sys
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


def whole(folder: Path) -> list[str]:
    """The runs of a folder: `make bench`, the guest under emulation, the native guest, its
    requests, and the host's changes; ends where one is missing or not whole."""
    names = ("bench.md", "guest.md", "uml.md", "uml-requests.md", "changes.md")
    for name in names:
        command = "make bench" if name == names[0] else "make bench-guest"
        if not (folder / name).exists():
            sys.exit(f"{folder / name} is missing: {command} has not run")
    texts = [(folder / name).read_text().strip() for name in names]
    lines = r"^- (?:FAILED |PARTS: )| was left out: "
    if any(re.search(lines, text, re.MULTILINE) for text in texts):
        sys.exit(f"{folder}: the runs are not whole")
    return texts


def publish(folder: Path, root: Path = ROOT) -> None:
    """Takes the runs from their folder into the documents of a tree; ends where they are not
    whole."""
    bench, emulated, native, requests, changes = whole(folder)
    run = "\n\n".join((bench, EMULATED, emulated, NATIVE, native))
    texts = {
        "README.md": excerpt(run),
        "docs/bench.md": run,
        "docs/performance.md": requests,
        "docs/changes.md": changes,
    }
    for name, text in texts.items():
        document = root / name
        document.write_text(fill(document.read_text(), text))
    shutil.copyfile(folder / CHART, root / "docs" / CHART)


if __name__ == "__main__":
    publish(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench")
