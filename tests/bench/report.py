"""What was measured, as a table, as JSON and as a chart.

Every figure is the median of its rounds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.driver import Point, Sample
from tests.bench.plan import Workload

OURS, PEER, QEMU, HOST = "vhost9p", "virtiofsd", "QEMU 9p", "host"
MAPPED, OTHER = "vhost9p mapped", "other"


@dataclass
class Row:
    """A point on one medium, and each server's runs of it."""

    medium: str
    workload: Workload
    point: Point
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def value(self, server: str) -> float | None:
        runs = self.samples.get(server)
        return statistics.median(map(self.workload.value, runs)) if runs else None

    def cpu_us(self, server: str) -> float | None:
        """CPU time of the server's processes for an operation, in µs."""
        runs = [run for run in self.samples.get(server, ()) if run.ops]
        return statistics.median(r.cpu_ns / r.ops / 1000 for r in runs) if runs else None

    def quantile_us(self, server: str, name: str) -> float | None:
        runs = self.samples.get(server)
        return statistics.median(getattr(run, name) / 1000 for run in runs) if runs else None

    def ratio(self, server: str, other: str) -> float | None:
        """How many times as fast as the other a server is."""
        mine, theirs = self.value(server), self.value(other)
        return self.workload.ratio(mine, theirs) if mine and theirs else None

    @property
    def missed(self) -> bool:
        reached = self.ratio(OURS, PEER)
        return bool(reached and self.workload.goal and reached < self.workload.goal)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table(rows: Iterable[Row], servers: list[str]) -> str:
    """The rows as a Markdown table; of each server the rate, CPU for an operation, p50 and p99."""
    head = ["medium", "workload", "unit", "depth", "wait", *servers]
    head += [f"{OURS}/{PEER}", "goal", f"{OURS}/{QEMU}"]
    timed = [name for name in servers if name != HOST]
    head += [f"{what}: {', '.join(timed)}" for what in ("CPU µs/op", "p50 µs", "p99 µs")]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        goal = row.workload.goal
        cells = [row.medium, row.workload.title, row.workload.unit, str(row.point.depth)]
        cells += [row.point.wait, *(_number(row.value(name)) for name in servers)]
        cells += [_ratio(row.ratio(OURS, PEER))]
        cells += [f"{goal:.2f}{' missed' if row.missed else ''}" if goal else "-"]
        cells += [_ratio(row.ratio(OURS, QEMU))]
        cells += [", ".join(_number(row.cpu_us(name)) for name in timed)]
        for name in ("p50_ns", "p99_ns"):
            cells.append(", ".join(_number(row.quantile_us(server, name)) for server in timed))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def summary(rows: Iterable[Row], medium: str, depths: tuple[int, int] = (1, 32)) -> str:
    """One line for each workload, waiting by polling: QEMU, virtiofsd and vhost9p at both depths,
    and how many times as fast as virtiofsd vhost9p is."""
    servers = (QEMU, PEER, OURS)
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.medium == medium and row.point.wait == "poll" and row.value(OURS):
            found.setdefault(f"{row.workload.title}, {row.workload.unit}", {})[row.point.depth] = (
                row
            )
    head = ["workload, unit"]
    for depth in depths:
        head += [f"depth {depth}: {servers[0]}", *servers[1:], "ratio"]
    lines = [head, ["---"] * len(head)]
    for title, at in found.items():
        cells = [title]
        for depth in depths:
            there = at.get(depth)
            cells += [_number(there.value(name)) if there else "-" for name in servers]
            cells.append(_ratio(there.ratio(OURS, PEER)) if there else "-")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def mapped_table(rows: Iterable[Row], ours: str, theirs: str) -> str:
    """The rows that compare two servers."""
    lines = [["workload", "depth", "wait", theirs, ours, "ratio"], ["---"] * 6]
    for row in rows:
        cells = [row.workload.title, str(row.point.depth), row.point.wait]
        cells += [_number(row.value(theirs)), _number(row.value(ours))]
        lines.append([*cells, _ratio(row.ratio(ours, theirs))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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
        lines.append([*cells, row.point.wait, _number(row.value(OTHER)), _number(row.value(ours))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_json(rows: Iterable[Row], about: dict[str, object]) -> str:
    """Everything: `about`, and for each row each server's median and runs."""
    points = [
        {
            "medium": row.medium,
            "title": row.workload.title,
            "unit": row.workload.unit,
            "goal": row.workload.goal,
            **row.point._asdict(),
            "servers": {
                name: {
                    "median": row.value(name),
                    "cpu_us_per_op": row.cpu_us(name),
                    "p50_us": row.quantile_us(name, "p50_ns"),
                    "p99_us": row.quantile_us(name, "p99_ns"),
                    "runs": [sample._asdict() for sample in samples],
                }
                for name, samples in row.samples.items()
            },
        }
        for row in rows
    ]
    return json.dumps({**about, "points": points}, indent=1, ensure_ascii=False) + "\n"


# ---- the chart

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 270, 480, 11, 12, 56
_COLOURS = {OURS: "#1b6ca8", PEER: "#9aa5ae", QEMU: "#d08c2e"}


def chart(rows: Iterable[Row], medium: str, depths: tuple[int, ...] = (1, 32)) -> str:
    """An SVG of how fast each server is, virtiofsd being 1, waiting by polling.

    Without virtiofsd QEMU is 1. Rows where neither was measured are left out.
    """
    shown = [r for r in rows if r.medium == medium and r.point.wait == "poll"]
    shown = [r for r in shown if r.point.depth in depths and r.value(OURS)]
    base = PEER if any(r.value(PEER) for r in shown) else QEMU
    shown = [r for r in shown if r.value(base)]
    names = [n for n in _COLOURS if any(r.value(n) for r in shown)]
    ratios = [r.ratio(n, base) or 0 for r in shown for n in names]
    scale = _WIDTH / max([1.0, *ratios])
    step = _BAR * len(names) + _GAP
    height = _TOP + step * len(shown) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 60}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="18" font-size="14">Speed on {medium} relative to {base}</text>',
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


def _chart_row(row: Row, y: float, names: list[str], base: str, scale: float) -> list[str]:
    middle = y + _BAR * len(names) / 2 + 4
    title = escape(f"{row.workload.title}, depth {row.point.depth}")
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
        parts.append(f'<text x="{x:.1f}" y="{top + 9}" font-size="9">{ratio:.2f}</text>')
    return parts


def write(folder: Path, rows: list[Row], text: str, about: dict[str, object]) -> None:
    """Writes bench.md, bench.json, and bench-MEDIUM.svg for each medium where vhost9p ran."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(text)
    (folder / "bench.json").write_text(as_json(rows, about))
    for medium in dict.fromkeys(row.medium for row in rows if row.value(OURS)):
        (folder / f"bench-{medium}.svg").write_text(chart(rows, medium))
