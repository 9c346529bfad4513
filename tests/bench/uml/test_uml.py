"""The benchmark in User Mode Linux does all its jobs, counts, and notices wrong results."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.bench.report import OTHER, OURS, PEER
from tests.bench.uml import __main__ as bench
from tests.bench.uml import counting, jobs, report, request_trace
from tests.bench.uml.counting import Count, Requests
from tests.bench.uml.jobs import Job
from tests.bench.uml.setup import PAIRS, Sample
from tests.guest import fetch
from tests.marks import fetched, needs_root, needs_uml


@needs_root
@needs_uml
@pytest.mark.guest
@pytest.mark.parametrize(
    ("cache", "part"),
    [
        ("none", "create"),
        *(
            pytest.param(name, part, marks=pytest.mark.full)
            for part in ("tree", "programs")
            for name in PAIRS
        ),
    ],
)
def test_every_job_runs_natively(
    cache: str,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On both servers, with every pair of cache modes; and its requests are counted. Outside of the
    full matrix one job stands for all."""
    fetched(fetch.virtiofsd), fetched(fetch.rsync)
    if part == "create":
        part = "tree"
        alone = [job for job in jobs.tree(jobs.SHORT) if job.title == "create"]
        monkeypatch.setattr(jobs, "tree", lambda size: alone)
    words = ["--short", "--cache", cache, "--jobs", part, "--out", str(tmp_path)]
    assert bench.main(words) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "uml.json").read_text())
    work = (jobs.tree if part == "tree" else jobs.real)(jobs.SHORT)
    wanted = {job.title for job in work} - {*jobs.left_out(work)}
    assert {*found["samples"][cache]} == {*found["counted"][cache]} == wanted
    for title in wanted:
        assert {*found["samples"][cache][title]} == {PEER, OURS}
    size = jobs.SHORT
    title, files = ("tar x", size.sources)
    if part == "tree":
        title, files = ("create", size.directories * size.files)
    created = found["counted"][cache][title]
    assert created[OURS]["requests"]["counts"]["Tlcreate"] == files
    assert created[PEER]["requests"]["counts"]["CREATE"] == files
    said = capsys.readouterr().out
    for name in ("uml.md", "uml-requests.md"):
        text = (tmp_path / name).read_text()
        assert text in said
        assert all(f"\n| {title} |" in text for title in wanted)


@needs_root
@needs_uml
@pytest.mark.guest
@pytest.mark.full
def test_what_an_agent_costs_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the same daemon without; the tables of the other runs stay."""
    words = ["--agent", "--short", "--cache", "loose", "--jobs", "tree", "--out", str(tmp_path)]
    assert bench.main(words) == 0, capsys.readouterr().err
    assert os.listdir(tmp_path) == ["agent.md"]
    text = (tmp_path / "agent.md").read_text()
    assert "- PARTS: --short\n" in text
    assert f"| job, ms | {OTHER} | {OURS} | {OTHER}/{OURS} |" in text
    assert all(f"\n| {job.title} |" in text for job in jobs.tree(jobs.SHORT))


@needs_root
@needs_uml
@pytest.mark.guest
@pytest.mark.parametrize("part", ["script", "check"])
def test_a_wrong_result_is_noticed(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {"script": jobs.measured("echo text > file"), "check": "true"}
    scripts[part] += "\ntest $(cat file) = other"
    monkeypatch.setattr(
        jobs, "tree", lambda size: [Job("a job", scripts["script"], check=scripts["check"])]
    )
    words = ["--short", "--cache", "none", "--jobs", "tree", "--out", str(tmp_path)]
    assert bench.main(words) == 1
    assert "FAILED" in (said := capsys.readouterr().err) and "= other" in said
    assert not (tmp_path / "uml.md").exists()


TRACE = """\
# tracer: nop
 python3-31 [000] .....  9.000000: 9p_client_req: client 163 request P9_TCLUNK tag  0
 python3-31 [000] .....  9.000040: 9p_client_res: client 163 response P9_TCLUNK tag  0 err 0
 python3-31 [000] .....  9.500000: tracing_mark_write: begin
 python3-31 [000] ..... 10.000000: 9p_client_req: client 163 request P9_TWALK tag  0
 python3-31 [000] ..... 10.000040: 9p_client_res: client 163 response P9_TWALK tag  0 err -2
 python3-31 [000] ..... 10.000100: 9p_client_req: client 163 request P9_TGETATTR tag  0
 kworker-12 [000] ..... 10.000110: 9p_client_req: client 163 request P9_TGETATTR tag  1
 python3-31 [000] ..... 10.000120: 9p_client_res: client 163 response P9_TGETATTR tag  0 err 0
 kworker-12 [000] ..... 10.000150: 9p_client_res: client 163 response P9_TGETATTR tag  1 err 0
 sh-9 [000] ..... 11.000000: fuse_request_send: connection 40 req 2 opcode 1 (FUSE_LOOKUP) len 4
 sh-9 [000] ..... 11.000007: fuse_request_end: connection 40 req 2 len 16 error -2
 python3-31 [000] ..... 12.000000: tracing_mark_write: end
 python3-31 [000] ..... 13.000000: 9p_client_req: client 163 request P9_TCLUNK tag  0
 python3-31 [000] ..... 13.000040: 9p_client_res: client 163 response P9_TCLUNK tag  0 err 0
"""


def test_requests_are_counted_by_type_and_paired_with_their_replies() -> None:
    """And those outside of what is measured are not."""
    found = request_trace.summary(TRACE.splitlines())
    assert found["counts"] == {"Twalk": 1, "Tgetattr": 2, "LOOKUP": 1}
    assert found["errors"] == {"Twalk ENOENT": 1, "LOOKUP ENOENT": 1}
    assert found["waits"] == {"Twalk": 40, "Tgetattr": 60, "LOOKUP": 7}
    assert found["busy"] == 40 + 50 + 7


def test_a_trace_that_is_not_whole_is_no_result() -> None:
    with pytest.raises(SystemExit, match="not whole"):
        request_trace.summary(["CPU:0 [LOST 12 EVENTS]"])


def test_a_jobs_time_is_divided_without_a_rest() -> None:
    """Of 1000 µs requests took 600; the server's 300 of CPU time are a third Python, a third the
    host, and its wake-ups are the ring's."""
    kinds = ["Python: the interpreter", "kernel: renameat2", "kernel: write"]
    counts = Counter(counting.part(kind) for kind in kinds)
    sent = Requests({"Trenameat": 6}, {}, {"Trenameat": 600}, 600)
    split = counting.divide(Sample(1000, 300), sent, counts)
    assert (split.guest, split.ring, split.code) == (400, 400, 0)
    assert (round(split.python), round(split.host)) == (100, 100)


def test_ratios_are_above_one_where_vhost9p_is_ahead() -> None:
    """By the median of what each round shows."""
    peer, ours = (3000, 4000, 9000), (1000, 2000, 3000)
    samples = {
        "create": {PEER: [Sample(t, 1) for t in peer], OURS: [Sample(t, 2000) for t in ours]}
    }
    assert report.summary({"none": samples}).splitlines()[-1] == "| create | 3.00 |"
    head, *_, last = report.times(samples).splitlines()
    assert f"{PEER}/{OURS} |" in head
    assert last == "| create | 4.0 | 2.0 | 3.00 | 0.0 | 2.0 |"


def test_more_rounds_have_quartiles() -> None:
    """Between which the middle half of the rounds is."""
    peer, ours = (1000, 1100, 1200, 1300, 1400), (1000,) * 5
    runs = {PEER: [Sample(t, 1) for t in peer], OURS: [Sample(t, 1) for t in ours]}
    head, *_, last = report.times({"create": runs}).splitlines()
    assert f"{PEER}/{OURS} (quartiles) |" in head
    assert "| 1.20 (1.10-1.30) |" in last


def test_round_trips_have_their_cpu_time_and_types() -> None:
    sent = Requests({"Twalk": 3, "Tclunk": 1}, {"Twalk ENOENT": 2}, {}, 0)
    none = Requests({}, {}, {}, 0)
    samples = {"create": {PEER: [Sample(1, 1)], OURS: [Sample(100, 40)]}}
    counted = {"create": {PEER: Count(none, None), OURS: Count(sent, None)}}
    last = report.round_trips(samples, counted).splitlines()[-1]
    assert last == "| create | 0 | - | - | 4 | 10.0 | - |"
    last = report.requests(counted).splitlines()[-1]
    assert last == "| create | none | Twalk 3 (2 ENOENT), Tclunk 1 |"
