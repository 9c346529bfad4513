"""The tables of the benchmark in a native guest.

Belongs here: what they hold and how they look. Ratios are above 1 where vhost9p is ahead.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable

from tests.bench.report import OURS, PEER
from tests.bench.uml.setup import PAIRS, Requests, Sample

Samples = dict[str, dict[str, list[Sample]]]
"""By job and server."""
Counted = dict[str, dict[str, tuple[Sample, Requests]]]


def title(cache: str) -> str:
    """The line above the tables of a pair of cache modes."""
    return f"{OURS} with `cache={cache}`, {PEER} with `--cache={PAIRS[cache]}`:"


def times(samples: Samples) -> str:
    """Medians in ms: the time, and the server's CPU time."""
    names = list(next(iter(samples.values())))
    others = [name for name in names if name != OURS]
    head = ["job, ms", *names, *(f"{name}/{OURS}" for name in others)]
    lines = [[*head, *(f"CPU: {name}" for name in names)]]
    for job, found in samples.items():
        elapsed = {name: statistics.median(s.elapsed for s in found[name]) for name in names}
        cpu = {name: statistics.median(s.cpu for s in found[name]) for name in names}
        cells = [job, *(f"{elapsed[name] / 1000:,.1f}" for name in names)]
        cells += [f"{elapsed[name] / elapsed[OURS]:.2f}" for name in others]
        cells += [f"{cpu[name] / 1000:,.1f}" for name in names]
        lines.append(cells)
    return markdown(lines)


def requests(counted: Counted) -> str:
    """Round trips and their CPU time in µs, and the requests by type."""
    names = list(next(iter(counted.values())))
    lines = [
        ["job", *(f"{name}: {what}" for name in names for what in ("CPU µs each", "requests"))]
    ]
    for job, found in counted.items():
        cells = [job]
        for name in names:
            sample, sent = found[name]
            cells += [f"{sample.cpu / sent.total:.1f}" if sent.total else "-", by_type(sent)]
        lines.append(cells)
    return markdown(lines)


def by_type(sent: Requests) -> str:
    """The number of all requests, then of each type; error replies behind it."""
    if not sent.total:
        return "none"
    parts = []
    for name, number in Counter(sent.counts).most_common():
        errors = {k.split()[1]: v for k, v in sent.errors.items() if k.split()[0] == name}
        what = ", ".join(f"{v:,} {k}" for k, v in errors.items())
        parts.append(f"{name} {number:,}" + (f" ({what})" if what else ""))
    return f"{sent.total:,}: {', '.join(parts)}"


def markdown(lines: Iterable[list[str]]) -> str:
    """A table whose first line is the head."""
    head, *rows = lines
    shown = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)
