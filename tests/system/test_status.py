"""`vhost9p status`, as a person and a program read it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.daemon import Daemon, run_cli
from tests.frontend.deaths import kill
from tests.system.share import SECURITY, mounted, remount, serve
from tests.system.test_config_dir import Folder
from tests.system.test_control import place_of
from vhost9p.commands import status


@pytest.fixture
def daemon(export: Path) -> Iterator[Daemon]:
    with serve(export) as daemon:
        yield daemon


def shown(daemon: Daemon, *args: str) -> str:
    """What is printed about it."""
    done = run_cli("status", "--control-socket", place_of(daemon).path, *args)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def vm_of(daemon: Daemon) -> dict[str, Any]:
    """Its only VM."""
    (found,) = json.loads(shown(daemon, "--json"))
    (vm,) = found["vms"]
    return dict(vm)


def test_a_guest_that_has_mounted_is_shown(daemon: Daemon, export: Path) -> None:
    assert vm_of(daemon)["devices"][0]["connected"] is False
    with mounted(daemon, export) as share:
        for name in range(5):
            (export / str(name)).touch()
            share.client.walk_to(share.top, b"%d" % name)
        found = vm_of(daemon)
        (device,) = found["devices"]
        assert (device["mounted"], device["dialect"], device["msize"]) == (True, "9P2000.L", 512000)
        assert device["fids"] == 7
        assert found["worker"]["pid"] == daemon.worker
        text = shown(daemon)
        assert f"daemon {daemon.pid}, version" in text
        assert "  mounted  9P2000.L  500 KiB     7" in text
        assert f"/       {SECURITY[1]}" in text and str(export) in text
        assert "!" not in text.replace("! " + daemon.socket + ": confined without", "")
    daemon.wait_until(lambda: "none" in shown(daemon), "a guest that has gone is shown")


def test_a_small_msize_is_pointed_out_with_its_remedy(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        remount(share, msize=8192)
        assert (
            "host0 is mounted with msize 8192, which makes reading and writing slow: mount it "
            "with -o msize=524288\n" in shown(daemon)
        )


def test_deaths_are_counted_and_the_last_one_is_explained(daemon: Daemon, export: Path) -> None:
    with mounted(daemon, export) as share:
        for count in (1, 2):
            kill(daemon.worker)
            share.client.getattr(share.top)
            assert vm_of(daemon)["deaths"]["count"] == count
        assert "the worker has died 2 times, last 20" in shown(daemon)
        assert ": it died of SIGKILL\n" in shown(daemon)


def test_what_a_quota_has_left_is_shown(export: Path) -> None:
    args = "--quota-bytes", "10MiB", "--quota-inodes", "100", "--readonly"
    with serve(export, *args) as daemon:
        text = shown(daemon)
        assert "read-only, " in text and " of 10 MiB used, " in text
        assert " of 100 files used" in text


def test_the_vms_of_a_folder_are_shown_or_one_of_them(scratch: Path) -> None:
    folder = Folder(scratch)
    for name in "abc":
        folder.add(name)
    with folder.daemon as daemon:
        for name in "abc":
            folder.is_served(name)
        head, _, _, *rows = shown(daemon).splitlines()
        assert head.endswith(": 3 VMs")
        assert [row.split()[0] for row in rows[:3]] == ["a", "b", "c"]
        text = shown(daemon, "b")
        assert ": 1 VM\n" in text and "\nb  " in text and "\na  " not in text


def test_all_daemons_are_found(daemon: Daemon, export: Path, scratch: Path) -> None:
    other = scratch / "other"
    other.mkdir()
    with serve(other) as second:
        done = run_cli("status", "--json")
        pids = {each["daemon"] for each in json.loads(done.stdout)}
        assert {daemon.pid, second.pid} <= pids


def test_what_is_not_there_gets_one_line(daemon: Daemon, tmp_path: Path) -> None:
    for args, said in (
        (["nope", "--control-socket", place_of(daemon).path], "no daemon has a VM 'nope'; there"),
        (["--control-socket", f"{tmp_path}/x"], f"{tmp_path}/x: no daemon listens there"),
        (["--control-socket", str(tmp_path)], f"{tmp_path}: no daemon listens there"),
    ):
        done = run_cli("status", *args)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert f"vhost9p: {said}" in done.stderr


def test_memory_that_a_worker_has_overwritten_is_only_shown(daemon: Daemon, export: Path) -> None:
    """As one does that was taken over. Main and the command go on, and print no control
    characters."""
    with mounted(daemon, export) as share:
        names = {
            fd: os.readlink(f"/proc/{daemon.pid}/fd/{fd}")
            for fd in os.listdir(f"/proc/{daemon.pid}/fd")
        }
        for fd, name in names.items():
            if "vhost9p-progress" in name:
                with open(f"/proc/{daemon.pid}/fd/{fd}", "r+b") as file:
                    file.seek(3)
                    file.write(b"\xff" * 16 + b"\x1b[2J\n" * 20)
        done = run_cli("status", "--control-socket", place_of(daemon).path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout and "last at an unknown time" in done.stdout
        share.client.getattr(share.top)


def test_tables_are_narrow_and_show_the_end_of_what_is_long() -> None:
    rows = [("a" * 300, "x", "", ""), ("b", "", "", 5)]
    assert [*status.table(("ONE", "TWO", "THREE", "N"), rows, right=[3])] == [
        f"{'ONE'.ljust(200)}  TWO  THREE  N",
        f"…{'a' * 199}  x",
        f"{'b'.ljust(200)}              5",
    ]


@pytest.mark.parametrize(
    "count,text",
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**64, "16 EiB")],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert status.size(count) == text
