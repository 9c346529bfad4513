"""Puts a whole run of `make bench` into the documents: `python -m tests.bench.publish [FOLDER]`.

Between `<!-- measured -->` and `<!-- end -->` docs/bench.md gets the run, and the README the
machine, the programs and the first table; docs/bench-tmpfs.svg is the chart. Belongs here: where
the figures go. What they are, and how they look, is report.py's business.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile("(^<!-- measured -->\n).*?(^<!-- end -->$)", re.MULTILINE | re.DOTALL)
CHART = "bench-tmpfs.svg"


def excerpt(run: str) -> str:
    """The part of a run for the README: the machine, the programs that the first table compares,
    and that table."""
    head, _, rest = run.partition("\n\n")
    table = rest[rest.index("| workload, unit |") :].partition("\n\n")[0]
    about = [line for line in head.splitlines() if " mapped: " not in line]
    return "\n".join([*about, "", table])


def fill(document: str, text: str) -> str:
    """A document with another text in its block."""
    filled, count = BLOCK.subn(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", document)
    if count != 1:
        raise ValueError(f"{count} blocks of figures instead of one")
    return filled


def publish(folder: Path, root: Path = ROOT) -> None:
    """Takes a run from its folder into the documents of a tree; ends where it is not whole."""
    run = (folder / "bench.md").read_text()
    if "\n- FAILED " in run or " was left out: " in run:
        sys.exit(f"{folder / 'bench.md'}: the run is not whole")
    for name, text in (("README.md", excerpt(run)), ("docs/bench.md", run)):
        document = root / name
        document.write_text(fill(document.read_text(), text))
    shutil.copyfile(folder / CHART, root / "docs" / CHART)


if __name__ == "__main__":
    publish(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench")
