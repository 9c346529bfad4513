"""The benchmark gets right replies from every server, and notices wrong ones. Nothing is timed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import driver, guest, plan, run, scale, servers
from tests.bench.driver import Driver, Point, WrongReply
from tests.bench.report import HOST
from tests.guest import fetch
from tests.guest.apt import FetchError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: serves passthrough")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver.build(tmp_path_factory.mktemp("driver"))


def test_every_workload_runs_on_every_server_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every workload on every server that can be had here, and the three kinds of report."""
    assert run.main(["--short", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    expected = {HOST, *(server.name for server in run.PEERS)} - set(found["left_out"])
    assert servers.VHOST9P.name in expected
    assert {point["medium"] for point in found["points"]} == {"tmpfs", "tmpfs, mapped-xattr"}
    for point in found["points"]:
        if point["medium"] == "tmpfs":
            here = expected if point["depth"] == 1 else expected - {HOST}
            assert set(point["servers"]) == here, point["title"]
        for name, server in point["servers"].items():
            assert all(sample["ops"] for sample in server["runs"]), (point["title"], name)
    table = (tmp_path / "bench.md").read_text()
    assert table in capsys.readouterr().out
    assert "| create, unlink |" in table
    ElementTree.parse(tmp_path / "bench-tmpfs.svg")


def test_two_builds_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The comparison of two builds names each point once; here both are this one."""
    words = ["--short", "--workload", "getattr", "--no-mapped", "--against", str(run.ROOT)]
    assert run.main([*words, "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    *_, table = (tmp_path / "bench.md").read_text().split("Beside the other checkout:")
    assert table.count("getattr on a fid") == len(plan.SHORT)


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
    try:
        server.version()
    except FetchError as error:
        pytest.skip(f"{server.name} cannot be had: {error}")
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
def test_every_job_runs_in_a_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every job does its work on every server's mount."""
    try:
        fetch.qemu(), fetch.kernel(guest.KERNEL)
    except FetchError as error:
        pytest.skip(f"no guest can be had: {error}")
    assert guest.main(["--short", "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    times = json.loads((tmp_path / "guest.json").read_text())
    wanted = [*guest.jobs(guest.SHORT), *guest.bulk_jobs(guest.SHORT.cached, "cache=mmap")]
    assert list(times) == [job.title for job in wanted]
    assert all(set(found) == set(guest.MOUNTS) for found in times.values())
