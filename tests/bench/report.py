"""What was measured, as tables, as JSON and as a chart.

Every figure is the median of its rounds. Where a server says that it does not support a workload,
the cell is a dash with a footnote.
"""

from __future__ import annotations

import errno
import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.driver import Point, Sample
from tests.bench.plan import HEADLINE, Workload

OURS, PEER, QEMU, HOST = "vhost9p", "virtiofsd", "QEMU 9p", "host"
MAPPED, OTHER = "vhost9p mapped", "other"


@dataclass
class Row:
    """A point on one medium, and each server's runs of it."""

    medium: str
    workload: Workload
    point: Point
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """By which errno servers said that they do not support it."""

    def value(self, server: str) -> float | None:
        runs = self.samples.get(server)
        return statistics.median(map(self.workload.value, runs)) if runs else None

    def cpu_us(self, server: str) -> float | None:
        """CPU time of the server's processes for an operation, in µs."""
        runs = [run for run in self.samples.get(server, ()) if run.ops]
        return statistics.median(r.cpu_ns / r.ops / 1000 for r in runs) if runs else None

    def latency_us(self, server: str, name: str) -> float | None:
        """`name` is the mean's or a quantile's among the fields of Sample."""
        runs = self.samples.get(server)
        return statistics.median(getattr(run, name) / 1000 for run in runs) if runs else None

    def ratio(self, server: str, other: str) -> float | None:
        """How many times as fast as the other a server is."""
        mine, theirs = self.value(server), self.value(other)
        return self.workload.ratio(mine, theirs) if mine and theirs else None

    @property
    def goal(self) -> float | None:
        return self.workload.goal_at(self.point.depth)

    def cell(self, server: str) -> str:
        """A server's value, as the tables have it."""
        if server in self.refused:
            return f"-[^{errno.errorcode[self.refused[server]]}]"
        return _number(self.value(server))

    def ratio_cell(self, other: str, goal: float | None) -> str:
        """vhost9p's ratio to another server, and whether it misses a goal."""
        reached = self.ratio(OURS, other)
        return _ratio(reached) + (" missed" if reached and goal and reached < goal else "")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _markdown(lines: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


LATENCIES = {"mean µs": "mean_ns", "p50 µs": "p50_ns", "p99 µs": "p99_ns"}


def table(rows: Iterable[Row], servers: list[str]) -> str:
    """All rows: of each server the rate, and CPU time and latency of an operation."""
    head = ["medium", "workload", "unit", "depth", "wait", *servers]
    head += [f"{OURS}/{PEER}", "goal", f"{OURS}/{QEMU}"]
    timed = [name for name in servers if name != HOST]
    head += [f"{what}: {', '.join(timed)}" for what in ("CPU µs/op", *LATENCIES)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        cells = [row.medium, row.workload.title, row.workload.unit, str(row.point.depth)]
        cells += [row.point.wait, *map(row.cell, servers)]
        cells += [row.ratio_cell(PEER, row.goal), f"{row.goal:.2f}" if row.goal else "-"]
        cells += [row.ratio_cell(QEMU, 1 if row.workload.beats_qemu else None)]
        cells += [", ".join(_number(row.cpu_us(name)) for name in timed)]
        for name in LATENCIES.values():
            cells.append(", ".join(_number(row.latency_us(server, name)) for server in timed))
        lines.append(cells)
    return _markdown(lines)


def summary(rows: Iterable[Row], medium: str) -> str:
    """A line for each workload: QEMU, virtiofsd and vhost9p at the points of HEADLINE, and how
    many times as fast as virtiofsd vhost9p is. Nothing where those were not measured."""
    servers = (QEMU, PEER, OURS)
    found: dict[str, dict[tuple[str, int], Row]] = {}
    for row in rows:
        if row.medium == medium and _headline(row) and row.value(OURS):
            points = found.setdefault(f"{row.workload.title}, {row.workload.unit}", {})
            points[row.point.wait, row.point.depth] = row
    head = ["workload, unit"]
    for title, _, _ in HEADLINE:
        head += [f"{title}: {servers[0]}", *servers[1:], "ratio"]
    lines = [head, ["---"] * len(head)]
    for title, points in found.items():
        cells = [title]
        for _, wait, depth in HEADLINE:
            there = points.get((wait, depth))
            cells += map(there.cell, servers) if there else ["-"] * len(servers)
            cells.append(_ratio(there.ratio(OURS, PEER)) if there else "-")
        lines.append(cells)
    return _markdown(lines) if found else ""


def footnotes(rows: Iterable[Row]) -> str:
    """What the dashes of the other tables refer to."""
    numbers = sorted({number for row in rows for number in row.refused.values()})
    return "\n".join(
        f"[^{errno.errorcode[number]}]: The server answers {errno.errorcode[number]} "
        f"({os.strerror(number)})."
        for number in numbers
    )


def pair_table(rows: Iterable[Row], ours: str, theirs: str) -> str:
    """The rows that compare two servers."""
    lines = [["workload", "depth", "wait", theirs, ours, "ratio"], ["---"] * 6]
    for row in rows:
        cells = [row.workload.title, str(row.point.depth), row.point.wait]
        cells += [row.cell(theirs), row.cell(ours)]
        lines.append([*cells, _ratio(row.ratio(ours, theirs))])
    return _markdown(lines)


def other_table(rows: Iterable[Row]) -> str:
    """How many times as fast as another checkout's this vhost9p is, the worst first."""
    found = []
    for row in rows:
        for ours in (OURS, MAPPED):
            ratio = row.ratio(ours, OTHER)
            if ratio:
                found.append((ratio, row, ours))
    lines = [["ratio", "medium", "workload", "depth", "wait", OTHER, OURS], ["---"] * 7]
    for ratio, row, ours in sorted(found, key=lambda entry: entry[0]):
        cells = [_ratio(ratio), row.medium, row.workload.title, str(row.point.depth)]
        lines.append([*cells, row.point.wait, row.cell(OTHER), row.cell(ours)])
    return _markdown(lines)


def as_json(rows: Iterable[Row], about: dict[str, object]) -> str:
    """Everything: `about`, and for each row each server's median and runs."""
    points = [
        {
            "medium": row.medium,
            "title": row.workload.title,
            "unit": row.workload.unit,
            "goal": row.goal,
            "refused": row.refused,
            **row.point._asdict(),
            "servers": {
                name: {
                    "median": row.value(name),
                    "cpu_us_per_op": row.cpu_us(name),
                    "mean_us": row.latency_us(name, "mean_ns"),
                    "p50_us": row.latency_us(name, "p50_ns"),
                    "p99_us": row.latency_us(name, "p99_ns"),
                    "runs": [sample._asdict() for sample in samples],
                }
                for name, samples in row.samples.items()
            },
        }
        for row in rows
    ]
    return json.dumps({**about, "points": points}, indent=1, ensure_ascii=False) + "\n"


# ---- the chart

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 270, 480, 8, 6, 56
_COLOURS = {OURS: "#1b6ca8", QEMU: "#d08c2e"}


def chart(rows: Iterable[Row], medium: str) -> str:
    """An SVG of how fast each server is at the points of HEADLINE, virtiofsd being the dashed line.

    Without virtiofsd it is QEMU. Rows where neither was measured are left out.
    """
    shown = [r for r in rows if r.medium == medium and _headline(r) and r.value(OURS)]
    base = PEER if any(r.value(PEER) for r in shown) else QEMU
    shown = [r for r in shown if r.value(base)]
    names = [n for n in _COLOURS if n != base and any(r.value(n) for r in shown)]
    ratios = [r.ratio(n, base) or 0 for r in shown for n in names]
    scale = _WIDTH / max([1.0, *ratios])
    step = _BAR * len(names) + _GAP
    height = _TOP + step * len(shown) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 60}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="18" font-size="14">Speed on {medium} relative to {base} (dashed)</text>',
    ]
    for index, name in enumerate(names):
        x = _LEFT + 110 * index
        parts.append(f'<rect x="{x}" y="30" width="11" height="11" fill="{_COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 16}" y="40">{escape(name)}</text>')
    for index, row in enumerate(shown):
        parts += _chart_row(row, _TOP + index * step, names, base, scale)
    one = _LEFT + scale
    parts.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{_TOP - 6}" y2="{height - 6}" stroke="#444" '
        'stroke-dasharray="3 3"/>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _headline(row: Row) -> str | None:
    """Which of the headline's points it is."""
    at = (row.point.wait, row.point.depth)
    return next((title for title, *point in HEADLINE if tuple(point) == at), None)


def _chart_row(row: Row, y: float, names: list[str], base: str, scale: float) -> list[str]:
    middle = y + _BAR * len(names) / 2 + 4
    title = escape(f"{row.workload.title}, {_headline(row)}")
    parts = [f'<text x="{_LEFT - 8}" y="{middle:.1f}" text-anchor="end">{title}</text>']
    for index, name in enumerate(names):
        ratio = row.ratio(name, base)
        if ratio is None:
            continue
        top = y + _BAR * index
        parts.append(
            f'<rect x="{_LEFT}" y="{top}" width="{ratio * scale:.1f}" height="{_BAR - 1}" '
            f'fill="{_COLOURS[name]}"/>'
        )
        x = _LEFT + ratio * scale + 4
        parts.append(f'<text x="{x:.1f}" y="{top + 7}" font-size="8">{ratio:.2f}</text>')
    return parts


def write(folder: Path, rows: list[Row], text: str, about: dict[str, object]) -> None:
    """Writes bench.md, bench.json, and bench-MEDIUM.svg for each medium where vhost9p ran."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(text)
    (folder / "bench.json").write_text(as_json(rows, about))
    for medium in dict.fromkeys(row.medium for row in rows if row.value(OURS)):
        name = f"bench-{medium.replace(', ', '-')}.svg"
        (folder / name).write_text(chart(rows, medium))
