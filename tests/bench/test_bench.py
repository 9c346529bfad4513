"""The benchmark gets right replies from every server, and notices wrong ones. Nothing is timed."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import driver, guest, options, placement, plan, run, scale, servers
from tests.bench.driver import Driver, Point, RefusedError, WrongReply
from tests.bench.report import HOST
from tests.guest import fetch
from tests.marks import fetched

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: serves passthrough")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("driver"))


def test_every_workload_runs_on_every_server_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every workload on every server that can be had here, and the three kinds of report. vhost9p
    refuses nothing but what the host does."""
    assert run.main(["--short", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    expected = {HOST, *(server.name for server in run.PEERS)} - set(found["left_out"])
    assert servers.VHOST9P.name in expected
    assert {point["medium"] for point in found["points"]} >= {"tmpfs", "tmpfs, mapped-xattr"}
    refused_here = {point["title"] for point in found["points"] if HOST in point["refused"]}
    for point in found["points"]:
        if point["medium"] == "tmpfs":
            alone = (point["depth"], point["wait"]) == (1, "poll")
            here = expected if alone else expected - {HOST}
            assert {*point["servers"], *point["refused"]} == here, point["title"]
        if servers.VHOST9P.name in point["refused"]:
            assert point["title"] in refused_here
        for name, server in point["servers"].items():
            assert all(sample["ops"] for sample in server["runs"]), (point["title"], name)
            assert server["mean_us"] and server["p50_us"] <= server["p99_us"]
    table = (tmp_path / "bench.md").read_text()
    assert table in capsys.readouterr().out
    assert "| create, unlink |" in table
    for note in re.findall(r"-\[\^(\w+)\]", table):
        assert f"\n[^{note}]: " in table
    ElementTree.parse(tmp_path / "bench-tmpfs.svg")


def test_the_figures_without_pinning_come_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with more than two CPUs."""
    where = placement.choose(os.sched_getaffinity(0))
    spare = dataclasses.replace(where, spare=True)
    monkeypatch.setattr(placement, "choose", lambda allowed: spare)
    words = ["--short", "--workload", "getattr", "--no-mapped", "--out", str(tmp_path)]
    assert run.main(words) == 0, capsys.readouterr().err
    text = (tmp_path / "bench.md").read_text()
    assert f"- {where}; " in text
    assert "\nOn tmpfs, nothing pinned:\n" in text
    assert f"| tmpfs{run.UNPINNED} | getattr on a fid |" in text
    assert (tmp_path / "bench-tmpfs-unpinned.svg").exists()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
def test_driver_and_servers_have_cpus_of_their_own(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All their threads, those included that a server starts while it is measured."""
    driver.make_tree(program, tmp_path)
    where = placement.choose(os.sched_getaffinity(0))
    pids: dict[int, int | None] = {}
    pin = placement.pin

    def noted(pid: int, cpu: int | None) -> None:
        pids[pid] = cpu
        pin(pid, cpu)

    monkeypatch.setattr(placement, "pin", noted)
    bench = run.Bench(program, quiet=True)
    with bench.drivers(tmp_path, run.PEERS, where) as drivers:
        for name in drivers:
            if name != HOST:
                assert bench.run(drivers, name, Point("stat", 32, "call"), 50)
        assert len(pids) == 2 * len(drivers) - 1
        assert set(pids.values()) == {where.driver, where.server}
        for pid, cpu in pids.items():
            assert all(found == {cpu} for found in placement.affinities(pid).values())


def test_what_a_server_does_not_support_is_no_wrong_reply(program: Path, tmp_path: Path) -> None:
    """virtiofsd has no locks, and goes on."""
    driver.make_tree(program, tmp_path)
    fetched(servers.VIRTIOFSD.version)
    with servers.virtiofsd(tmp_path) as queue, closing(Driver(program, tmp_path, queue)) as made:
        with pytest.raises(RefusedError) as caught:
            made.run(Point("lock", 2, "call"), 10, 1)
        assert caught.value.errno == errno.ENOSYS
        assert made.run(Point("chmod", 2, "call"), 10, 2).ops


def test_two_builds_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The comparison of two builds names each point once; here both are this one."""
    words = ["--short", "--workload", "getattr", "--no-mapped", "--against", str(run.ROOT)]
    assert run.main([*words, "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    *_, table = (tmp_path / "bench.md").read_text().split("Beside the other checkout:")
    assert table.count("getattr on a fid") == sum(len(depths) for _, depths in plan.SHORT)


def test_what_options_cost_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--short", "--workload", "write4k", "--no-mapped", "--out", str(tmp_path)]
    assert run.main(words) == 0, capsys.readouterr().err
    text = (tmp_path / "bench.md").read_text()
    for option in options.OPTIONS:
        table = text.partition(option.title)[2].split("Without")[0]
        (row,) = [each for each in table.splitlines() if each.startswith("| write, 4 KiB | 32 |")]
        without, with_it, ratio = (float(each.replace(",", "")) for each in row.split("|")[4:7])
        assert without > 0 and with_it > 0 and ratio > 0


def test_a_checkout_that_is_not_built_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.main(["--against", str(tmp_path)])
    assert f"{tmp_path} is no checkout in which make build has run" in capsys.readouterr().err


def _other_data(tree: Path) -> None:
    with (tree / "data").open("r+b") as file:
        for block in range(0, 16 << 20, 4096):
            file.seek(block + 512)
            file.write(b"x")


def _other_size(tree: Path) -> None:
    for path in (tree / "files").iterdir():
        path.write_bytes(b"")


def _other_file(tree: Path) -> None:
    for path in (tree / "files").iterdir():
        size = path.stat().st_size
        copy = path.with_name("copy")
        copy.write_bytes(bytes(size))
        copy.rename(path)


def _other_names(tree: Path) -> None:
    (tree / "list" / "e00000").rename(tree / "list" / "e1")


def _taken_name(tree: Path) -> None:
    (tree / "made" / "g000").mkdir()


def _fewer_names(tree: Path) -> None:
    (tree / "list" / "e09999").unlink()


@pytest.mark.parametrize(
    ("spoil", "workload"),
    [
        (_other_data, "read4k"),
        (_other_data, "read512k"),
        (_other_size, "getattr"),
        (_other_size, "stat"),
        (_other_file, "stat"),
        (_other_file, "open"),
        (_other_names, "list"),
        (_fewer_names, "list"),
        *((_taken_name, name) for name in ("rename", "link", "mkdir", "symlink", "readlink")),
    ],
)
@pytest.mark.parametrize("server", [servers.VHOST9P, servers.VIRTIOFSD], ids=lambda s: s.name)
def test_wrong_replies_are_noticed(
    program: Path,
    tmp_path: Path,
    server: servers.Server,
    spoil: Callable[[Path], None],
    workload: str,
) -> None:
    """What the files are is changed behind the driver's back; so right replies look wrong."""
    driver.make_tree(program, tmp_path)
    fetched(server.version)
    with server.start(tmp_path) as queue, closing(Driver(program, tmp_path, queue)) as made:
        assert made.run(Point(workload, 2, "call"), 10, 1).ops
        spoil(tmp_path)
        with pytest.raises(WrongReply, match=workload):
            made.run(Point(workload, 2, "call"), 10, 2)


def test_every_axis_is_measured_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every reply is right on every axis, and every table is printed."""
    assert scale.main(["--short", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    for title in ("Live fids", "Host devices", "Entries of a directory", "Requests in flight"):
        assert f"**{title}" in said
    each = re.search(r"each fid: (\d+)", said)
    assert each and int(each[1]) >= 64, said


def test_mistakes_are_no_wrong_replies(program: Path, tmp_path: Path) -> None:
    driver.make_tree(program, tmp_path)
    with (
        closing(Driver(program, tmp_path, None)) as made,
        pytest.raises(driver.DriverError, match="no workload is called nothing") as caught,
    ):
        made.run(Point("nothing", 1, "poll"), 10, 1)
    assert not isinstance(caught.value, WrongReply)


@pytest.mark.guest
@pytest.mark.full
def test_every_job_runs_in_a_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every job does its work on every server's mount."""
    fetched(lambda: (fetch.qemu(), fetch.kernel(guest.KERNEL)))
    assert guest.main(["--short", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    times = json.loads((tmp_path / "guest.json").read_text())
    wanted = [*guest.jobs(guest.SHORT), *guest.bulk_jobs(guest.SHORT.cached, "cache=mmap")]
    assert list(times) == [job.title for job in wanted]
    assert all(set(found) == set(guest.MOUNTS) for found in times.values())
