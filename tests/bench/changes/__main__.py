"""How soon a guest sees what the host changes: `python -m tests.bench.changes`.

Belongs here: which guests there are, and the tables. Each is a native guest (User Mode Linux) with
the agent at work: it has one CPU, the server another one. In each the host edits a file again and
again; then, in another guest, a burst of changes hits many files at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench import placement
from tests.bench.changes import measure
from tests.bench.changes.measure import FILE, FOLDER, WAYS, Burst, Eyes
from tests.bench.uml.report import markdown
from tests.guest import uml_kernel
from tests.guest.apt import FetchError
from tests.guest.channel import CommandFailed, CommandTimeout, GuestLost
from tests.guest.following import Following, following

ROOT = Path(__file__).resolve().parents[3]
CACHES = ("none", "mmap", "loose")
MODELS = ("passthrough", "mapped-xattr")
AGENTS = {"program": (), "script": ("-s",)}
FILES = 100
"""In a directory."""
SEVERAL = (FOLDER, "other")
"""Exports in one mount."""


@contextmanager
def guest(
    arguments: argparse.Namespace,
    cache: str,
    model: str,
    agent: str,
    files: int,
    exports: Sequence[str] = (),
) -> Iterator[tuple[Following, Eyes]]:
    """One, whose export has so many files."""
    where = placement.choose(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="vhost9p-bench-", dir=arguments.tmpfs) as name:
        export = Path(name)
        export.chmod(0o755)
        for folder in SEVERAL:
            (export / folder).mkdir()
        (export / FOLDER / FILE).write_text("old")
        for number in range(files // FILES):
            (export / FOLDER / f"d{number}").mkdir()
            for each in range(FILES):
                (export / FOLDER / f"d{number}" / f"f{each}").write_text("old")
        with following(
            export,
            cache,
            *("--security-model", model),
            agent=AGENTS[agent],
            exports=exports,
            where=where,
        ) as found:
            yield found, Eyes(found)


def measure_edits(arguments: argparse.Namespace) -> str:
    """The table of single edits."""
    lines = [
        [
            "cache, security model, agent, exports, files",
            *(f"{way}, ms" for way in WAYS),
            "clocks, ms",
        ]
    ]
    for cache in arguments.cache:
        kinds: list[tuple[str, str, Sequence[str], int]]
        kinds = [(model, "program", (), 0) for model in MODELS]
        kinds += [("passthrough", "program", SEVERAL, 0), ("passthrough", "script", (), 0)]
        kinds += [("passthrough", "program", (), arguments.files)]
        for model, agent, exports, files in kinds:
            title = f"{cache}, {model}, {agent}, {len(exports) or 1}, {files + 1:,}"
            _say(title)
            with guest(arguments, cache, model, agent, files, exports) as (_, eyes):
                found = measure.edits(eyes, arguments.edits)
                cells = [str(found[way]) for way in WAYS]
                lines.append([title, *cells, f"± {eyes.uncertainty / 1e6:.1f}"])
    return markdown(lines)


def measure_bursts(arguments: argparse.Namespace) -> str:
    """The table of bursts."""
    lines = [["cache, agent", "files", "written in, s", "all right after, s", "overflows"]]
    for cache in arguments.cache:
        for agent in AGENTS:
            _say(f"{cache}, {agent}, a burst")
            files = arguments.burst
            with guest(arguments, cache, "passthrough", agent, files) as (found, eyes):
                lines.append(
                    [
                        f"{cache}, {agent}",
                        *_burst(measure.burst(found, eyes, files // FILES, FILES)),
                    ]
                )
    return markdown(lines)


def _burst(found: Burst) -> list[str]:
    right = "never" if found.right is None else f"{found.right:.1f}"
    return [f"{found.files:,}", f"{found.written:.1f}", right, f"{found.overflows}"]


def main(words: Sequence[str] | None = None) -> int:
    """Measures; returns the exit status."""
    arguments = _arguments(words)
    try:
        head = (
            f"- User Mode Linux {uml_kernel.version(uml_kernel.kernel())};"
            f" medians / 99th percentiles of {arguments.edits} edits"
        )
        parts = [head, measure_edits(arguments), measure_bursts(arguments)]
    except (CommandFailed, CommandTimeout, FetchError, GuestLost) as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    text = "\n\n".join(parts) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "changes.md").write_text(text)
    print(text)
    return 0


def _say(text: str) -> None:
    print(f"changes: {text}", file=sys.stderr, flush=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.changes",
        description="Measures how soon a guest sees what the host changes.",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--edits", type=int, default=50, help="of each kind (default: 50)")
    parser.add_argument(
        "--files", type=int, default=100_000, help="below a large export (default: 100000)"
    )
    parser.add_argument(
        "--burst", type=int, default=10_000, help="files changed in a second (default: 10000)"
    )
    parser.add_argument("--cache", action="append", choices=CACHES, help="only this; repeatable")
    parser.add_argument("--tmpfs", default="/dev/shm", metavar="DIR", help="where the exports are")
    arguments = parser.parse_args(words)
    if min(arguments.edits, arguments.files // FILES, arguments.burst // FILES) < 1:
        parser.error(f"--edits is at least 1, --files and --burst at least {FILES}")
    arguments.cache = arguments.cache or list(CACHES)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
