"""What the tables say of given figures."""

from __future__ import annotations

import errno

from tests.bench import plan, report
from tests.bench.driver import Point, Sample
from tests.bench.report import HOST, OURS, PEER, QEMU, Row

CHMOD = next(workload for workload in plan.WORKLOADS if workload.name == "chmod")
LOCK = next(workload for workload in plan.WORKLOADS if workload.name == "lock")
STAT = next(workload for workload in plan.WORKLOADS if workload.think_us)


def sample(ops: int, mean: int = 0, p50: int = 0, p99: int = 0) -> Sample:
    """A run of a second; latencies in ns."""
    return Sample(ops, 10**9, ops * 2000, mean, p50, p99, 0, 0)


def row(
    workload: plan.Workload, depth: int, wait: plan.Wait, medium: str = "tmpfs", **ops: int
) -> Row:
    names = {"ours": OURS, "peer": PEER, "qemu": QEMU}
    samples = {names[name]: [sample(count)] for name, count in ops.items()}
    return Row(medium, workload, Point(workload.name, depth, wait, workload.think_us), samples)


def cells(table: str, title: str) -> list[list[str]]:
    """The rows of a table that have a title in one of the first two columns."""
    found = [line.strip("|").split("|") for line in table.splitlines()]
    stripped = [[cell.strip() for cell in line] for line in found]
    return [line for line in stripped if title in line[:2]]


def test_the_headline_has_many_in_flight_and_one_at_a_time() -> None:
    """And neither one at a time of a driver that polls, nor another medium."""
    rows = [
        row(CHMOD, 1, "poll", ours=9000, peer=1),
        row(CHMOD, 32, "poll", ours=400, peer=200, qemu=100),
        row(CHMOD, 1, "call", ours=30, peer=40, qemu=20),
        row(CHMOD, 32, "poll", "disk", ours=1, peer=1),
    ]
    (line,) = cells(report.summary(rows, "tmpfs"), "setattr: mode, ops/s")
    assert line[1:] == ["100", "200", "400", "2.00", "20.0", "40.0", "30.0", "0.75"]
    chart = report.chart(rows, "tmpfs")
    assert "setattr: mode, 32 in flight<" in chart and "setattr: mode, one at a time<" in chart
    assert "9000" not in report.summary(rows, "tmpfs")


def test_there_is_no_headline_without_its_points() -> None:
    assert report.summary([row(CHMOD, 1, "poll", ours=1)], "tmpfs") == ""


def test_a_goal_is_missed_at_its_depth_alone() -> None:
    rows = [
        row(CHMOD, 32, "poll", ours=49, peer=100, qemu=10),
        row(CHMOD, 1, "poll", ours=10, peer=100, qemu=11),
    ]
    many, one = cells(report.table(rows, [HOST, QEMU, PEER, OURS]), "setattr: mode")
    assert many[9:12] == ["0.49 missed", "1.50", "4.90"]
    assert one[9:12] == ["0.10", "-", "0.91 missed"]


def test_latencies_are_shown() -> None:
    """Of each server the medians of its rounds."""
    rows = [row(CHMOD, 1, "call", peer=1)]
    rows[0].samples[OURS] = [sample(1, mean, 2000, 3000) for mean in (1000, 7000, 1500)]
    (line,) = cells(report.table(rows, [HOST, QEMU, PEER, OURS]), "setattr: mode")
    assert line[12:] == ["-, 2.00, 2.00", "-, 0.00, 1.50", "-, 0.00, 2.00", "-, 0.00, 3.00"]


def test_a_dash_has_its_footnote() -> None:
    rows = [row(LOCK, 32, "poll", ours=5, qemu=5), row(CHMOD, 32, "poll", ours=5, peer=5)]
    rows[0].refused[PEER] = errno.ENOSYS
    (line,) = cells(report.summary(rows, "tmpfs"), "lock, unlock, ops/s")
    assert line[1:5] == ["5.00", "-[^ENOSYS]", "5.00", "-"]
    (line,) = cells(report.table(rows, [HOST, QEMU, PEER, OURS]), "lock, unlock")
    assert line[7] == "-[^ENOSYS]"
    assert (
        report.footnotes(rows) == "[^ENOSYS]: The server answers ENOSYS (Function not implemented)."
    )
    assert report.footnotes(rows[1:]) == ""


def test_less_is_more_for_a_latency() -> None:
    """The ratio is of speeds."""
    stat = row(STAT, 1, "call")
    stat.samples = {OURS: [sample(1, p50=2000)], PEER: [sample(1, p50=5000)]}
    (line,) = cells(report.summary([stat], "tmpfs"), f"{STAT.title}, µs")
    assert line[5:] == ["-", "5.00", "2.00", "2.50"]
