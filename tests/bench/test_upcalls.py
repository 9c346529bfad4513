"""Every request that Python answers gets right replies from the benchmark's driver. Nothing is
timed."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench import driver, servers, upcalls
from tests.bench.driver import Driver, Point, WrongReply

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: serves passthrough")


def test_every_upcall_is_measured_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rounds", "1", "--milliseconds", "10", "--out", str(tmp_path)]
    assert upcalls.main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for operation in upcalls.OPERATIONS:
        assert f"| {operation.title} |" in printed


def test_an_error_is_noticed(tmp_path: Path) -> None:
    """The name under which a lane makes its file is taken."""
    program = driver.build(tmp_path)
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    driver.make_tree(program, tree)
    (tree / "made" / "f000").touch()
    with (
        servers.vhost9p(tree) as queue,
        closing(Driver(program, tree, queue)) as made,
        pytest.raises(WrongReply, match=r"rename at depth 1.*: request 14 got error 17"),
    ):
        made.run(Point("rename", 1, "call"), 10, 1)
