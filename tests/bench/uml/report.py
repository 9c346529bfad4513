"""The tables of the benchmark in a native guest.

Belongs here: what they hold and how they look. Ratios are above 1 where vhost9p is ahead.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple

from tests.bench.report import OTHER, OURS, PEER
from tests.bench.uml.counting import Count, Requests
from tests.bench.uml.setup import PAIRS, Sample

QUARTILES_MIN = 4
"""Fewer figures have none."""
Samples = dict[str, dict[str, list[Sample]]]
"""By job and server."""
Counted = dict[str, dict[str, Count]]


def title(cache: str) -> str:
    """The line above the tables of a pair of cache modes."""
    return f"{OURS} with `cache={cache}`, {PEER} with `--cache={PAIRS[cache]}`:"


def agent_title(cache: str) -> str:
    """The line above the times with an agent and without."""
    return (
        f"`cache={cache}`: `{OURS}` has `notify`, and its agent runs in the guest; `{OTHER}` has "
        "neither:"
    )


def summary(found: dict[str, Samples]) -> str:
    """The ratio of the times of each pair of cache modes."""
    lines = [[f"time: {PEER}/{OURS}", *(f"{mode} ~ {PAIRS[mode]}" for mode in found)]]
    for job in next(iter(found.values())):
        ratios = [statistics.median(_ratios(found[mode][job], PEER)) for mode in found]
        lines.append([job, *(f"{ratio:.2f}" for ratio in ratios)])
    return markdown(lines)


def _elapsed(runs: dict[str, list[Sample]], name: str) -> float:
    return statistics.median(sample.elapsed for sample in runs[name])


def _ratios(runs: dict[str, list[Sample]], name: str) -> list[float]:
    """Of a server's time to ours, in each round."""
    pairs = zip(runs[name], runs[OURS], strict=True)
    return [other.elapsed / ours.elapsed for other, ours in pairs]


def spread(ratios: list[float]) -> str:
    """The median, and between which quartiles it is."""
    middle = f"{statistics.median(ratios):.2f}"
    if len(ratios) < QUARTILES_MIN:
        return middle
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle} ({low:.2f}-{high:.2f})"


def times(samples: Samples) -> str:
    """Medians in ms: the time, and the server's CPU time; of the ratios also the quartiles."""
    names = list(next(iter(samples.values())))
    others = [name for name in names if name != OURS]
    rounds = len(next(iter(samples.values()))[OURS])
    what = f"/{OURS}" if rounds < QUARTILES_MIN else f"/{OURS} (quartiles)"
    head = ["job, ms", *names, *(f"{name}{what}" for name in others)]
    lines = [[*head, *(f"CPU: {name}" for name in names)]]
    for job, found in samples.items():
        elapsed = {name: _elapsed(found, name) for name in names}
        cpu = {name: statistics.median(s.cpu for s in found[name]) for name in names}
        cells = [job, *(f"{elapsed[name] / 1000:,.1f}" for name in names)]
        cells += [spread(_ratios(found, name)) for name in others]
        cells += [f"{cpu[name] / 1000:,.1f}" for name in names]
        lines.append(cells)
    return markdown(lines)


def round_trips(samples: Samples, counted: Counted) -> str:
    """The number of requests, the server's CPU time of each, and where the time of one goes."""
    names = list(next(iter(counted.values())))
    lines = [["job, µs of a round trip"]]
    for name in names:
        lines[0] += [f"{name}: requests", "CPU", "guest, ring, server, Python, host"]
    for job, found in counted.items():
        cells = [job]
        for name in names:
            number = found[name].requests.total
            cpu = statistics.median(s.cpu for s in samples[job][name])
            cells += [f"{number:,}", f"{cpu / number:.1f}" if number else "-"]
            cells.append(_split(found[name]))
        lines.append(cells)
    return markdown(lines)


def _split(count: Count) -> str:
    number = count.requests.total
    if not count.split or not number:
        return "-"
    parts = astuple(count.split)
    return ", ".join(f"{microseconds / number:.1f}" for microseconds in parts)


def requests(counted: Counted) -> str:
    """The requests by type."""
    names = list(next(iter(counted.values())))
    lines = [["job", *(f"{name}: requests" for name in names)]]
    lines += [
        [job, *(by_type(found[name].requests) for name in names)] for job, found in counted.items()
    ]
    return markdown(lines)


def by_type(sent: Requests) -> str:
    """The number of each type; of its error replies behind it."""
    if not sent.total:
        return "none"
    parts = []
    for name, number in Counter(sent.counts).most_common():
        errors = {k.split()[1]: v for k, v in sent.errors.items() if k.split()[0] == name}
        what = ", ".join(f"{v:,} {k}" for k, v in errors.items())
        parts.append(f"{name} {number:,}" + (f" ({what})" if what else ""))
    return ", ".join(parts)


def markdown(lines: Iterable[list[str]]) -> str:
    """A table whose first line is the head."""
    head, *rows = lines
    shown = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)
